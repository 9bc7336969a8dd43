"""What the lessons use besides the engine: checks, hints and predictions, and one module per experiment.

Figures are in llmlite.plots, things to move in llmlite.widgets; here only `predict` shows its buttons.
"""

from importlib import import_module
from pathlib import Path

from llmlite.lessons import progress
from llmlite.lessons.check import check
from llmlite.lessons.hints import hint
from llmlite.lessons.large import SCALE, show, wished
from llmlite.lessons.predict import predict


def begin(lesson: str) -> None:
    """Say which lesson this kernel runs: its number, "04". The copies do it in their first cell."""
    progress.begin(lesson)
    if wished():
        show(SCALE)


def __getattr__(name: str) -> object:
    if (Path(__file__).parent / f"{name}.py").is_file():
        return import_module(f"llmlite.lessons.{name}")
    raise AttributeError(f"module 'llmlite.lessons' has no attribute {name!r}")
