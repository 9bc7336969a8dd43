"""The memory of backends over time, with a slider to step through it."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets

from llmlite import plots
from llmlite.bench.timeline import Timeline
from llmlite.widgets.base import HEADING_WIDTH, Explorer, buttons


def memory_timeline(timelines: Sequence[Timeline]) -> MemoryTimeline:
    """Return a widget that steps through timelines of memory.

    Args:
        timelines: the timelines, one for each backend's process.

    Raises:
        ValueError: there are no timelines.
    """
    return MemoryTimeline(timelines)


class MemoryTimeline(Explorer):
    """A choice of process and a slider over time, with the private and file-backed memory at that moment.

    Attributes:
        timelines: the timelines.
        picture: the picture that is shown now.
    """

    static_summary = "All processes as a picture (it needs no running kernel)"

    def __init__(self, timelines: Sequence[Timeline]) -> None:
        if not timelines:
            raise ValueError("no timeline to show")
        self.timelines = list(timelines)
        names = [(f"{t.backend}, {t.model}", i) for i, t in enumerate(self.timelines)]
        self.which = buttons(names, "Process", tooltips=[t.machine for t in self.timelines])
        self.moment = ipywidgets.IntSlider(
            description="Moment", min=0, max=1, style={"description_width": HEADING_WIDTH}, readout=False
        )
        self.moment.layout.width = "46em"
        self.figure = ipywidgets.HTML()
        self._fit()
        super().__init__([self.which, self.moment, self.figure])
        self.which.observe(lambda _change: self._fit(), names="value")
        self.redraw_on((self.which, self.moment))

    def redraw(self) -> None:
        shown, i = self.timelines[self.which.value], self.moment.value
        i = min(i, len(shown.seconds) - 1)
        second = shown.seconds[i]
        self.picture = plots.memory.timeline(shown, cursor=second, among=self.timelines, theme="page")
        self.figure.value = plots.svg(self.picture)
        self.say(
            f"{shown.backend} after {second:.2f} s, {shown.stage_at(second)}: "
            f"{shown.private[i] / 1e6:.1f} MB private, {shown.file_backed[i] / 1e6:.1f} MB file-backed. "
            f"Measured on: {shown.machine}."
        )

    def static_view(self) -> plots.Picture:
        """Return a picture of all timelines, side by side."""
        return plots.memory.timelines(self.timelines)

    def _fit(self) -> None:
        self.moment.max = len(self.timelines[self.which.value].seconds) - 1
        self.moment.value = self.moment.max
