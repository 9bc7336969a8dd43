"""What the lessons use besides the engine: checks, hints and predictions, and one module per experiment.

Figures are in llmlite.plots, things to move in llmlite.widgets; here only `predict` shows its buttons.
"""

from importlib import import_module
from pathlib import Path

from llmlite.lessons.check import check
from llmlite.lessons.hints import hint
from llmlite.lessons.predict import predict
from llmlite.lessons.progress import begin


def __getattr__(name: str) -> object:
    if (Path(__file__).parent / f"{name}.py").is_file():
        return import_module(f"llmlite.lessons.{name}")
    raise AttributeError(f"module 'llmlite.lessons' has no attribute {name!r}")
