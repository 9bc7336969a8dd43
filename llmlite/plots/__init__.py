"""Draw figures that everybody can read: colours for the colour-blind, large type, a description of each.

A builder returns a `Picture` (or a `Table`): the figure, its description and its data. `show(picture)`
displays all three in a notebook. `save(picture, path)` writes a PNG with the description inside it, and again
in a text file beside it. General builders are here. Builders for one subject are in a module named after it,
which is loaded on first use (`plots.benchmark.metric_bars`). Only this folder imports matplotlib.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from llmlite.plots.base import (
    COLOURS,
    CYCLE,
    FONT,
    MARKERS,
    MIME,
    THEMES,
    Picture,
    Table,
    Theme,
    bundle,
    figure,
    html,
    legend,
    names_down,
    number_at,
    png,
    save,
    set_type_size,
    show,
    svg,
    theme_named,
    title,
    use_theme,
)
from llmlite.plots.benchmark import BACKEND_COLOURS, comparison, metric_bars
from llmlite.plots.general import bars, lines
from llmlite.plots.series import series


def __getattr__(name: str) -> Any:  # a submodule, because its builders are not listed here
    if (Path(__file__).parent / f"{name}.py").is_file():
        return import_module(f"llmlite.plots.{name}")
    raise AttributeError(f"module 'llmlite.plots' has no attribute {name!r}")
