"""The parts of the lessons that aren't the engine: checks, hints, predictions, one module per experiment.

Figures are in llmlite.plots and interactive widgets in llmlite.widgets. In this package, only `predict` shows
buttons.
"""

from importlib import import_module
from pathlib import Path

from llmlite.lessons import progress
from llmlite.lessons.check import check
from llmlite.lessons.hints import hint
from llmlite.lessons.large import SCALE, show, wished
from llmlite.lessons.predict import predict


def begin(lesson: str) -> None:
    """Record which lesson this kernel runs, and turn on large type if it was asked for.

    The copies of the lessons call this in their first cell.

    Args:
        lesson: the lesson's number, such as "04".
    """
    progress.begin(lesson)
    if wished():
        show(SCALE)


def __getattr__(name: str) -> object:
    if (Path(__file__).parent / f"{name}.py").is_file():
        return import_module(f"llmlite.lessons.{name}")
    raise AttributeError(f"module 'llmlite.lessons' has no attribute {name!r}")
