"""A comparison to explore: choose the metric, the backends and the quantizations."""

from __future__ import annotations

import os

import ipywidgets

from llmlite import plots
from llmlite.bench.backends import BACKENDS
from llmlite.bench.samples import Comparison
from llmlite.bench.summary import METRICS, summarize
from llmlite.widgets.base import Explorer, boxes, buttons, picture_html, row


def compare_dashboard(source: Comparison | str | os.PathLike[str]) -> ComparisonDashboard:
    """Return a dashboard for a comparison.

    Args:
        source: the comparison, or the path of the file of samples that `llmlite compare` wrote.

    Raises:
        OSError: the file can't be read.
        ValueError: the file isn't a comparison, or nothing in it was measured.
    """
    return ComparisonDashboard(source if isinstance(source, Comparison) else Comparison.load(source))


class ComparisonDashboard(Explorer):
    """A choice of metric, a box for each backend and each quantization, and the figure for the ticked ones.

    Attributes:
        comparison: the comparison.
        picture: the picture that is shown now.
    """

    static_summary = "The whole comparison as a picture (it needs no running kernel)"

    def __init__(self, comparison: Comparison) -> None:
        measured = {key: found for key in METRICS if (found := summarize(comparison, key))}
        if not measured:
            raise ValueError("nothing in this comparison was measured")
        self.comparison = comparison
        entries = comparison.entries()
        self.metric = buttons(
            [(METRICS[key].short, key) for key in measured],
            "Compare",
            tooltips=[METRICS[key].title for key in measured],
        )
        self.backends = boxes(dict.fromkeys(backend for backend, _ in entries), _backend_title)
        self.types = boxes(dict.fromkeys(model_type for _, model_type in entries))
        self.figure = ipywidgets.HTML()
        super().__init__(
            [self.metric, row("Backends", self.backends), row("Quantization", self.types), self.figure]
        )
        self.redraw_on((self.metric, *self.backends.values(), *self.types.values()))

    def redraw(self) -> None:
        self.picture = plots.metric_bars(
            self.comparison,
            self.metric.value,
            backends=[name for name, box in self.backends.items() if box.value],
            types=[name for name, box in self.types.items() if box.value],
            theme="page",
        )
        self.figure.value = picture_html(self.picture) if self.picture.x else ""
        self.say(self.picture.alt)

    def static_view(self) -> plots.Picture:
        """Return a picture of the whole comparison."""
        return plots.comparison(self.comparison)


def _backend_title(name: str) -> str:
    return BACKENDS[name].title if name in BACKENDS else name
