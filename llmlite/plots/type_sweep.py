"""Draw the cost of types and mixes of types over their bits per weight."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from llmlite.bench.report import short
from llmlite.lessons.type_sweep import FAMILIES, Point, front
from llmlite.plots.base import CYCLE, FONT, MARKERS, Picture, figure, legend, theme_named, title
from llmlite.plots.labels import name_points

COSTS = {
    "kl": "KL divergence from float32, nats",
    "rms": "RMS error over RMS weight",
    "perplexity": "perplexity on the evaluation text",
}
FLOORS = {"kl": 1e-6, "rms": 1e-3, "perplexity": 1.0}  # a logarithmic scale can't show a cost of 0
NAMED = 14  # the most labels on the front that can still be read


def scatter(
    points: Sequence[Point],
    cost: str = "kl",
    *,
    budget: float | None = None,
    heading: str = "",
    theme: str | None = None,
) -> Picture:
    """Draw each point's cost over its bits per weight, and the front of points that no other point beats.

    Args:
        cost: a key of COSTS.
        budget: bits per weight, drawn as a line; None for no line.

    Raises:
        KeyError: `cost` isn't a key of COSTS.
    """
    heading = heading or "What the bits buy"
    label = COSTS[cost]
    drawn, (ax,) = figure(9.5, 5.6, theme=theme)
    look = theme_named(theme)
    ax.set_yscale("log")
    _draw_points(ax, points, cost)
    best = front(points, cost)
    if best:
        x, y = [p.bits_per_weight for p in best], [_cost(p, cost) for p in best]
        ax.plot(x, y, color=look.text, linewidth=1, linestyle=":", zorder=0)
    if budget is not None:
        ax.axvline(budget, color=look.text, linewidth=1.5, linestyle="--")
    _bits_axis(ax, look.text)
    ax.set_ylabel(label, color=look.text, fontsize=FONT["label"])
    title(ax, heading, theme)
    if points:
        legend(ax, theme, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _name_points(ax, best, points, cost, look.text)
    ordered = sorted(points, key=lambda p: (p.bits_per_weight, p.label))
    return Picture(
        figure=drawn,
        alt=_words(heading, label, ordered, best, cost),
        labels={"title": heading, "x": "type", "y": label},
        x=[p.label for p in ordered],
        y={
            "bits per weight": [p.bits_per_weight for p in ordered],
            label: [getattr(p, cost) for p in ordered],
        },
    )


def _draw_points(ax: Axes, points: Sequence[Point], cost: str) -> None:
    """Draw one colour and marker per family, filled if an importance matrix was used."""
    for family, colour, marker in zip(FAMILIES, CYCLE, MARKERS):
        for filled in (False, True):
            chosen = [p for p in points if p.family == family and p.imatrix == filled]
            name = family if not filled else f"{family}, imatrix"
            face = colour if filled else "none"
            x, y = [p.bits_per_weight for p in chosen], [_cost(p, cost) for p in chosen]
            if chosen:
                ax.plot(x, y, marker, color=colour, mfc=face, mew=2, markersize=9, linestyle="", label=name)


def _bits_axis(ax: Axes, colour: str) -> None:
    ticks = [1, 2, 3, 4, 6, 8, 16, 32]
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set_xlim(0.95, 40)
    ax.set_xlabel("bits per weight", color=colour, fontsize=FONT["label"])


def _cost(point: Point, cost: str) -> float:
    return max(getattr(point, cost), FLOORS[cost])


def _name_points(ax: Axes, best: Sequence[Point], points: Sequence[Point], cost: str, colour: str) -> None:
    """Name at most NAMED points of the front; the two ends get their places first."""
    every = max(1, -(-len(best) // NAMED))
    ends = [best[0], best[-1]] if best else []
    chosen = list(dict.fromkeys([*ends, *best[::every]]))
    name_points(
        ax,
        [point.name for point in chosen],
        [(point.bits_per_weight, _cost(point, cost)) for point in chosen],
        around=[(point.bits_per_weight, _cost(point, cost)) for point in points],
        colour=colour,
        size=FONT["tick"] - 2,
    )


def _words(heading: str, label: str, points: Sequence[Point], best: Sequence[Point], cost: str) -> str:
    if not points:
        return f"{heading}. Nothing is chosen."
    ends = (
        f"{points[0].label} at {points[0].bits_per_weight:.3g} bits costs {short(getattr(points[0], cost))}"
    )
    last = f"{points[-1].label} at {points[-1].bits_per_weight:.3g} bits {short(getattr(points[-1], cost))}"
    named = ", ".join(point.label for point in best)
    many = f"{len(points)} points: {ends}, {last}"
    return f"{heading}. {label} over bits per weight, {many}. On the front: {named}."
