"""Figures that can be read by everybody: colours for the colour-blind, large type, words beside them.

A builder returns a `Picture` (or a `Table`): what is drawn, its description in words, and its data.
`show(picture)` puts all of it into a notebook; `save(picture, path)` writes a PNG with the description inside
and beside it. General builders are here; those of one subject are in a module of its name, loaded on first
use (`plots.benchmark.metric_bars`). matplotlib is imported in this folder only.
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


def __getattr__(name: str) -> Any:  # a module: its builders are not known here
    if (Path(__file__).parent / f"{name}.py").is_file():
        return import_module(f"llmlite.plots.{name}")
    raise AttributeError(f"module 'llmlite.plots' has no attribute {name!r}")
