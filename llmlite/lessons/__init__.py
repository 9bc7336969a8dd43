"""What the lessons use besides the engine: checks of exercises, and one module per experiment.

Nothing here draws: figures are in llmlite.plots, things to move in llmlite.widgets.
"""

from importlib import import_module
from pathlib import Path

from llmlite.lessons.check import check


def __getattr__(name: str) -> object:
    if (Path(__file__).parent / f"{name}.py").is_file():
        return import_module(f"llmlite.lessons.{name}")
    raise AttributeError(f"module 'llmlite.lessons' has no attribute {name!r}")
