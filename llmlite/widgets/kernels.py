"""Widgets about kernels: the kernel ladder, rung by rung, and the roofline, operation by operation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ipywidgets

from llmlite import plots
from llmlite.bench.ladder import Ladder, rungs
from llmlite.bench.roofline import Point, Roofline
from llmlite.lessons.kernels import arithmetic, best_speed, bound, kind, reached
from llmlite.plots import kernels as figures
from llmlite.widgets.base import HEADING_WIDTH, Explorer, buttons, picture_html

SHORT = 1000  # nanoseconds, not much more than the threads need to synchronize


def kernel_ladder(ladder: Ladder | None = None) -> KernelLadder:
    """Return a widget that shows a kernel ladder.

    Args:
        ladder: a result of `bench.ladder.measure_ladder`; by default the shipped ladder.

    Raises:
        ValueError: the ladder has no rungs.
    """
    return KernelLadder(Ladder.sample() if ladder is None else ladder)


def roofline(*rooflines: Roofline) -> RooflineExplorer:
    """Return a widget that shows rooflines.

    Args:
        rooflines: results of `bench.roofline`, one for each model; by default the shipped roofline.
    """
    return RooflineExplorer(rooflines or (Roofline.sample(),))


class KernelLadder(Explorer):
    """A slider over the rungs of a ladder, which are several ways to compute one product.

    The words say how the chosen rung differs from the one below, and how much faster it is.

    Attributes:
        ladder: the ladder.
        picture: the picture that is shown now.
    """

    static_summary = "The whole ladder as a picture (it needs no running kernel)"

    def __init__(self, ladder: Ladder) -> None:
        self.ladder = ladder
        types = list(dict.fromkeys(step.type for step in ladder.steps))
        if not types:
            raise ValueError("this ladder has no rungs")
        self.type = buttons([(name, name) for name in types], "Type")
        n = len(ladder.of(types[0]))
        self.climb = ipywidgets.IntSlider(
            value=1, min=1, max=n, description="Rung", style={"description_width": HEADING_WIDTH}
        )
        self.figure = ipywidgets.HTML()
        super().__init__([self.type, self.climb, self.figure])
        self.redraw_on((self.type, self.climb))

    def redraw(self) -> None:
        n = self.climb.value
        self.picture = figures.ladder(self.ladder, self.type.value, n_rungs=n, theme="page")
        self.figure.value = picture_html(self.picture)
        self.say(self._words(n))

    def static_view(self) -> plots.Picture:
        """Return a picture of the whole ladder for the chosen type."""
        return figures.ladder(self.ladder, self.type.value)

    def _words(self, n: int) -> str:
        steps = self.ladder.of(self.type.value)[:n]
        about = {rung.name: rung for rung in rungs()}
        newest = steps[-1]
        speeds = [best_speed(step) for step in steps]
        text = f"Rung {n}, {about[newest.rung].title}: {about[newest.rung].about}"
        text += f" {speeds[-1]:.3g} GB of weights per second in the fastest run"
        if n > 1:
            gain, whole = speeds[-1] / speeds[-2], speeds[-1] / speeds[0]
            text += f", {gain:.2g} times the rung below, {whole:.3g} times the first"
        if self.ladder.roof:
            text += f"; {speeds[-1] * 1e9 / self.ladder.roof.bytes_per_second:.0%} of the speed of memory"
        return text + "."


class RooflineExplorer(Explorer):
    """A roofline with the chosen operation marked. Controls choose the model, the step and the operation.

    The words give the operation's bytes, its number of operations, and which roof bounds it.

    Attributes:
        rooflines: the rooflines, one for each model.
        picture: the picture that is shown now.
        point: the operation that is marked.
    """

    static_summary = "Decoding under the roofline, as a picture (it needs no running kernel)"

    def __init__(self, rooflines: tuple[Roofline, ...]) -> None:
        self.rooflines = rooflines
        self._held = False
        self.model = buttons([(r.model, i) for i, r in enumerate(rooflines)], "Model", value=0)
        self.step = buttons([(name, name) for name in rooflines[0].points], "Step")
        self.kind = buttons([(name, name) for name in self._kinds()], "Operation")
        self.layer = ipywidgets.IntSlider(
            value=0, min=0, max=1, description="Which one", style={"description_width": HEADING_WIDTH}
        )
        self.figure = ipywidgets.HTML()
        super().__init__([self.model, self.step, self.kind, self.layer, self.figure])
        self.model.observe(lambda _change: self._other_model(), names="value")
        self.redraw_on((self.step, self.kind, self.layer))

    @property
    def chosen(self) -> Roofline:
        """The roofline of the chosen model."""
        return self.rooflines[self.model.value]

    @property
    def point(self) -> Point:
        those = self._those()
        return those[min(self.layer.value, len(those) - 1)]

    def redraw(self) -> None:
        if self._held:
            return
        those = self._those()
        self.layer.disabled = len(those) == 1
        # never below the value: the slider would move by itself
        self.layer.max = max(len(those) - 1, self.layer.value, 1)
        self.picture = figures.roofline(self.chosen, self.step.value, chosen=self.point, theme="page")
        self.figure.value = picture_html(self.picture)
        self.say(self._words())

    def static_view(self) -> plots.Picture:
        """Return a picture of the chosen model's roofline for the chosen step."""
        return figures.roofline(self.chosen, self.step.value)

    def _kinds(self) -> list[str]:
        points = self.chosen.points[next(iter(self.chosen.points))]
        ordered = sorted(points, key=lambda p: not p.type)  # matrices first, else in the plan's order
        return list(dict.fromkeys(kind(p) for p in ordered))

    def _those(self) -> list[Point]:
        """Return the points of the chosen operation in all layers."""
        return [p for p in self.chosen.points[self.step.value] if kind(p) == self.kind.value]

    def _other_model(self) -> None:
        """Offer the steps and operations of the chosen model, and keep the present choices if it has them."""
        with self._mixed():
            _offer(self.step, list(self.chosen.points))
            _offer(self.kind, self._kinds())
        self.redraw()

    @contextmanager
    def _mixed(self) -> Iterator[None]:
        """Draw nothing until the block ends. Until then the choices may belong to different models."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def _words(self) -> str:
        p, roof = self.point, self.chosen.roof
        name = arithmetic(p.type)
        share, limit = reached(p, roof), bound(p, roof)
        what = (
            f"({p.type}), {self.step.value}: reads"
            if p.type
            else f"({self.kind.value}), {self.step.value}: moves"
        )
        text = (
            f"{p.label} {what} {_amount(p.bytes)}B{' of weights' if p.type else ''} and does "
            f"{_amount(p.operations)} operations, {p.intensity:.3g} per byte. It takes "
            f"{_duration(p.nanoseconds)}: {p.bytes_per_second / 1e9:.3g} GB/s and "
            f"{p.ops_per_second / 1e9:.3g} billion operations/s. Memory and arithmetic would be equally "
            f"fast at {roof.ridge(name):.0f} operations per byte, so it is bound by {limit}"
        )
        text += f"; it reaches {share:.0%} of its roof."
        if p.nanoseconds < SHORT:
            text += " It is so short that the time to start it matters."
        if share > 1 and p.type and limit == "memory":
            text += " That is faster than memory: its weights came from a cache, or the machine was busy"
            text += " when memory was measured."
        return text


def _offer(choice: ipywidgets.ToggleButtons, names: list[str]) -> None:
    kept = choice.value if choice.value in names else names[0]
    choice.options = [(name, name) for name in names]
    choice.value = kept


def _duration(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e3:.3g} µs" if nanoseconds < 1e6 else f"{nanoseconds / 1e6:.3g} ms"


def _amount(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g} "
