"""A comparison to play with: choose what to compare, between whom, at which quantization."""

from __future__ import annotations

import os
from html import escape
from typing import Any

import ipywidgets
from IPython.display import publish_display_data

from llmlite import plots
from llmlite.bench.backends import BACKENDS
from llmlite.bench.samples import Comparison
from llmlite.bench.summary import METRICS, summarize

HEADING_WIDTH = "7.5em"


def compare_dashboard(source: Comparison | str | os.PathLike[str]) -> ComparisonDashboard:
    """Return a dashboard over a comparison, or over the file of samples that `llmlite compare` wrote.

    Raises:
        OSError: the file can't be read. ValueError: it isn't a comparison, or nothing in it was measured.
    """
    return ComparisonDashboard(source if isinstance(source, Comparison) else Comparison.load(source))


class ComparisonDashboard(ipywidgets.VBox):
    """A choice of metric, a box to tick per backend and per quantization, and the figure they give.

    Everything works by keyboard: Tab moves on, the space bar presses or ticks. (A drop-down list would not:
    JupyterLab takes the arrow keys for itself.) The figure takes its text colour from the page, so it follows
    a dark theme; below it stands what it shows, in words.

    Attributes:
        picture: what is drawn now.
    """

    def __init__(self, comparison: Comparison) -> None:
        measured = {key: found for key in METRICS if (found := summarize(comparison, key))}
        if not measured:
            raise ValueError("nothing in this comparison was measured")
        self.comparison = comparison
        entries = comparison.entries()
        self.metric = ipywidgets.ToggleButtons(
            options=[(METRICS[key].short, key) for key in measured],
            tooltips=[METRICS[key].title for key in measured],
            description="Compare",
            style={"button_width": "auto", "description_width": HEADING_WIDTH},
        )
        self.backends = _boxes(dict.fromkeys(backend for backend, _ in entries), _backend_title)
        self.types = _boxes(dict.fromkeys(model_type for _, model_type in entries), str)
        self.figure = ipywidgets.HTML()
        self.words = ipywidgets.HTML()
        rows = [_row("Backends", self.backends), _row("Quantization", self.types)]
        super().__init__([self.metric, *rows, self.figure, self.words])
        for field in (self.metric, *self.backends.values(), *self.types.values()):
            field.observe(self._draw, names="value")
        self._draw()

    def _draw(self, _change: Any = None) -> None:
        self.picture = plots.metric_bars(
            self.comparison,
            self.metric.value,
            backends=[name for name, box in self.backends.items() if box.value],
            types=[name for name, box in self.types.items() if box.value],
            theme="page",
        )
        self.figure.value = plots.svg(self.picture) if self.picture.x else ""
        self.words.value = f'<p role="status" aria-live="polite">{escape(self.picture.alt)}</p>'

    def static_view(self) -> dict[str, Any]:
        """Return what stands under the widget and stays without a kernel: the comparison as a picture."""
        picture = plots.comparison(self.comparison)
        summary = "<summary>The whole comparison as a picture (it needs no running kernel)</summary>"
        shown = plots.bundle(picture)
        return shown | {"text/html": f"<details>{summary}{shown['text/html']}</details>"}

    def _ipython_display_(self) -> None:
        """Show the widget, then the picture: without a kernel JupyterLab shows an error for a widget."""
        data = self._repr_mimebundle_()
        publish_display_data(data[0] if isinstance(data, tuple) else data)
        publish_display_data(self.static_view())


def _backend_title(name: str) -> str:
    return BACKENDS[name].title if name in BACKENDS else name


def _boxes(names: Any, title: Any) -> dict[str, ipywidgets.Checkbox]:
    return {
        name: ipywidgets.Checkbox(
            value=True,
            description=title(name),
            indent=False,
            layout={"width": "auto", "margin": "2px 1.5em 2px 0"},
        )
        for name in names
    }


def _row(heading: str, boxes: dict[str, ipywidgets.Checkbox]) -> ipywidgets.HBox:
    label = ipywidgets.HTML(f"{escape(heading)}", layout={"width": HEADING_WIDTH})
    return ipywidgets.HBox([label, *boxes.values()], layout={"flex_flow": "row wrap"})
