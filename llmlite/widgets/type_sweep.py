"""All types and mixes on the bundled model: choose a cost and a budget, and see which type to use."""

from __future__ import annotations

from collections.abc import Iterable

import ipywidgets

from llmlite import plots
from llmlite.lessons.type_sweep import FAMILIES, SCOPES, Point, shipped
from llmlite.plots.type_sweep import COSTS, scatter
from llmlite.widgets.base import Explorer, boxes, buttons, picture_html, row

SHORT = {"kl": "KL divergence", "rms": "RMS error", "perplexity": "perplexity"}


def type_picker(points: Iterable[Point] | None = None) -> TypePicker:
    """Return a widget that finds the best type within a budget of bits.

    Args:
        points: the points of a sweep; by default those of the sweep that is shipped with llmlite.

    Raises:
        LlmliteError: the shipped sweep is missing.
        ValueError: there are no points.
    """
    return TypePicker(shipped().points if points is None else points)


class TypePicker(Explorer):
    """A choice of cost, types and budget, with a figure of the points and the best one within the budget.

    Attributes:
        all: all points.
        points: the points that the controls choose.
        best: the chosen point of the lowest cost within the budget; None if no point is within it.
        picture: the picture that is shown now.
    """

    static_summary = "All types as a picture (it needs no running kernel)"

    def __init__(self, points: Iterable[Point]) -> None:
        self.all = tuple(points)
        if not self.all:
            raise ValueError("no points to pick from")
        self.cost = buttons([(SHORT[cost], cost) for cost in COSTS], "Cost", tooltips=list(COSTS.values()))
        self.scope = buttons(
            [("one type for all", "tensors"), ("mixes", "mix")], "Files", tooltips=list(SCOPES.values())
        )
        self.imatrix = buttons(
            [("without", (False,)), ("with", (True,)), ("both", (False, True))], "imatrix", value=(False,)
        )
        self.families = boxes(name for name in FAMILIES if any(p.family == name for p in self.all))
        self.budget = ipywidgets.FloatSlider(
            value=5.0, min=1.0, max=16.5, step=0.25, description="Budget", readout_format=".2f",
            continuous_update=False, style={"description_width": "7.5em"}, layout={"width": "520px"},
        )  # fmt: skip
        self.figure = ipywidgets.HTML()
        choices = ipywidgets.HBox([self.cost, self.scope, self.imatrix], layout={"flex_flow": "row wrap"})
        for each in choices.children:
            each.layout.width, each.style.description_width = "auto", "auto"
        super().__init__([choices, row("Families", self.families), self.budget, self.figure])
        self.redraw_on((self.cost, self.scope, self.imatrix, *self.families.values(), self.budget))

    def redraw(self) -> None:
        families = {name for name, box in self.families.items() if box.value}
        self.points = [
            p
            for p in self.all
            if p.scope == self.scope.value
            and p.family in families
            and (p.imatrix in self.imatrix.value or p.family == "plain")
        ]
        cost = self.cost.value
        affordable = [p for p in self.points if p.bits_per_weight <= self.budget.value]
        self.best = min(affordable, key=lambda p: getattr(p, cost), default=None)
        self.picture = scatter(self.points, cost, budget=self.budget.value, theme="page")
        self.figure.value = picture_html(self.picture)
        self.say(f"{self._advice()} {self.picture.alt}")

    def _advice(self) -> str:
        spend = f"Within {self.budget.value:g} bits per weight"
        if self.best is None:
            return f"{spend} there is nothing to choose from."
        cost = getattr(self.best, self.cost.value)
        return (
            f"{spend}, {self.best.label} costs least: {SHORT[self.cost.value]} {cost:.3g} "
            f"at {self.best.bits_per_weight:.3g} bits, {self.best.n_bytes / 1e6:.2f} MB."
        )

    def static_view(self) -> plots.Picture:
        """Return a figure of all types without an importance matrix: KL divergence over bits per weight."""
        plain = [p for p in self.all if p.scope == "tensors" and not p.imatrix]
        return scatter(plain or self.all)
