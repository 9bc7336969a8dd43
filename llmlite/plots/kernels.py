"""Draw kernels: the ladder of one product, and a model's operations under the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from llmlite.bench.ladder import Ladder, rungs
from llmlite.bench.report import short
from llmlite.bench.roofline import Point, Roof, Roofline
from llmlite.lessons.kernels import arithmetic, best_speed, bound, kind
from llmlite.plots.base import (
    COLOURS,
    FONT,
    Picture,
    figure,
    legend,
    names_down,
    number_at,
    theme_named,
    title,
)

TIMED = 1.0  # rtol of measured times: tests compare only their shape
ROOFS = {"int8": ("blue", "-"), "f32": ("orange", "--")}  # colour and line of each kind of arithmetic
MARKS = {
    "weights as bytes": ("o", "blue"),
    "weights as floats": ("s", "orange"),
    "no weights": ("^", "purple"),
}
BESIDE = 1.8  # the factor on a logarithmic axis that a number after its bar takes up
FEW = 0.01  # operations with a smaller share of a step get no bar of their own
SPAN = (0.05, 3000.0)  # operations per byte that the figure shows


def ladder(found: Ladder, type_name: str, *, n_rungs: int | None = None, theme: str | None = None) -> Picture:
    """Draw each rung's fastest run as a bar and every run as a point, on a logarithmic scale.

    Args:
        n_rungs: how many rungs to draw, from the first; None for all.
        theme: "light", "dark" or "page"; None for the current one.

    Raises:
        ValueError: the ladder wasn't measured for this type.
    """
    steps = found.of(type_name)
    if not steps:
        raise ValueError(f"this ladder has no {type_name}")
    titles = {rung.name: rung.title for rung in rungs()}
    shown = steps[:n_rungs]
    names = [titles[step.rung] for step in steps]
    drawn, (ax,) = figure(10, 1.9 + 0.62 * len(steps), theme=theme)
    wall = found.roof.bytes_per_second / 1e9 if found.roof else None
    for place, step in enumerate(shown):
        best, speeds = best_speed(step), step.bytes / np.asarray(step.samples_ns)
        ax.barh(place, best, 0.6, color=COLOURS["blue"], alpha=0.85)
        ax.plot(speeds, np.full(len(speeds), place), "o", markersize=5, color=theme_named(theme).text)
        # beyond the wall if its line would cross the number
        at = wall if wall and best < wall < BESIDE * best else best
        number_at(ax, at, place, theme, short(best))
    names_down(ax, names)
    _logarithmic(ax, "x")
    every = [step.bytes / ns for step in steps for ns in step.samples_ns]
    ax.set_xlim(min(every) / 2, max(every) * 4)
    if wall:
        ax.axvline(wall, color=COLOURS["red"], linewidth=2.2, linestyle="--")
        style: dict[str, Any] = {"textcoords": "offset points", "xytext": (6, 0)}
        style |= {"color": theme_named(theme).text}
        ax.annotate(f"memory: {short(wall)}", (wall, -0.36), fontsize=FONT["tick"], **style)
    x_label = "GB of weights per second (logarithmic); bar: the fastest run"
    ax.set_xlabel(x_label, color=theme_named(theme).text, fontsize=FONT["label"])
    heading = f"One {type_name} matrix times one vector"
    title(ax, heading, theme)
    said = [f"{titles[s.rung]} {short(best_speed(s))} GB/s" for s in shown]
    wall_said = f" Memory gives {short(wall)} GB/s." if wall else ""
    return Picture(
        figure=drawn,
        alt=f"{heading}, {steps[0].n_rows} by {steps[0].width}: {', '.join(said)}.{wall_said}",
        labels={"title": heading, "x": "", "y": "GB of weights per second"},
        x=names[: len(shown)],
        y={"GB/s": [best_speed(step) for step in shown]},
        rtol=TIMED,
    )


def roofline(found: Roofline, step: str, *, chosen: Point | None = None, theme: str | None = None) -> Picture:
    """Draw a machine's roofs and, below them, every operation of one step; both axes are logarithmic.

    Args:
        step: a key of `found.points`.
        chosen: the operation to mark; None for none.
        theme: "light", "dark" or "page"; None for the current one.

    Raises:
        ValueError: `step` is unknown.
    """
    if step not in found.points:
        raise ValueError(f"no step {step!r}; there are: {', '.join(found.points)}")
    points = found.points[step]
    drawn, (ax,) = figure(10, 5.6, theme=theme)
    _roofs(ax, found.roof, points)
    for label, (marker, colour) in MARKS.items():
        those = [p for p in points if _group(p) == label]
        if those:
            x, y = [p.intensity for p in those], [p.ops_per_second / 1e9 for p in those]
            ax.plot(x, y, marker, color=COLOURS[colour], markersize=8, alpha=0.6, label=label)
    if chosen:
        style: dict[str, Any] = {"markersize": 17, "markerfacecolor": "none", "markeredgewidth": 3}
        place = ([chosen.intensity], [chosen.ops_per_second / 1e9])
        ax.plot(*place, "o", color=COLOURS["red"], label=chosen.label, **style)
    _logarithmic(ax, "xy")
    ax.set_xlim(*SPAN)
    look = theme_named(theme)
    ax.set_xlabel("operations per byte", color=look.text, fontsize=FONT["label"])
    ax.set_ylabel("billion operations per second", color=look.text, fontsize=FONT["label"])
    heading = f"{found.model}: {step}"
    title(ax, heading, theme)
    legend(ax, theme, loc="lower right")
    return Picture(
        figure=drawn,
        alt=_roofline_in_words(found, step),
        labels={"title": heading, "x": "operations per byte", "y": "billion operations per second"},
        x=[p.label for p in points],
        y={
            "operations per byte": [p.intensity for p in points],
            "billion operations per second": [p.ops_per_second / 1e9 for p in points],
        },
        rtol=TIMED,
    )


def _group(point: Point) -> str:
    names = list(MARKS)
    return names[("int8", "f32").index(arithmetic(point.type))] if point.type else names[2]


def _logarithmic(ax: Axes, which: str) -> None:
    """Scale axes by powers of ten, written as plain numbers."""
    for letter in which:
        getattr(ax, f"set_{letter}scale")("log")
        axis = getattr(ax, f"{letter}axis")
        axis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _roofs(ax: Axes, roof: Roof, points: Sequence[Point]) -> None:
    x = np.geomspace(*SPAN, 200)
    for name in dict.fromkeys(arithmetic(p.type) for p in points):
        colour, line = ROOFS[name]
        y = [roof.limit(float(i), name) / 1e9 for i in x]
        ax.plot(
            x, y, line, color=COLOURS[colour], linewidth=2.5, label=f"roof: memory, then {name} arithmetic"
        )


def _roofline_in_words(found: Roofline, step: str) -> str:
    roof, points = found.roof, found.points[step]
    kinds = dict.fromkeys(arithmetic(p.type) for p in points)
    tops = " and ".join(f"{roof.peak(name) / 1e9:.0f} billion {name} operations/s" for name in kinds)
    by_kind: dict[str, list[Point]] = {}
    for point in points:
        by_kind.setdefault(kind(point), []).append(point)
    said = [
        f"{name} {those[0].intensity:.3g} per byte, {_middle(those) / 1e9:.0f} billion/s, "
        f"bound by {bound(those[0], roof)}"
        for name, those in by_kind.items()
    ]
    return (
        f"Roofline of {found.model}, {step}. Memory gives {roof.bytes_per_second / 1e9:.3g} GB/s, arithmetic "
        f"{tops}. Operations per byte and speed, the median over layers: {'; '.join(said)}."
    )


def _middle(points: Sequence[Point]) -> float:
    return float(np.median([p.ops_per_second for p in points]))


def profile(found: Roofline, step: str, *, theme: str | None = None) -> Picture:
    """Draw the share of one step's time that each kind of operation takes, the longest first.

    Args:
        step: a key of `found.points`.
        theme: "light", "dark" or "page"; None for the current one.

    Raises:
        ValueError: `step` is unknown.
    """
    if step not in found.points:
        raise ValueError(f"no step {step!r}; there are: {', '.join(found.points)}")
    spent: dict[str, float] = {}
    for point in found.points[step]:
        spent[kind(point)] = spent.get(kind(point), 0.0) + point.nanoseconds / 1e6
    total = sum(spent.values())
    small = [ms for ms in spent.values() if ms < FEW * total]
    rows = sorted(((n, ms) for n, ms in spent.items() if ms >= FEW * total), key=lambda row: -row[1])
    if small:
        rows.append((f"{len(small)} others", sum(small)))
    drawn, (ax,) = figure(10, 1.9 + 0.45 * len(rows), theme=theme)
    for place, (_, ms) in enumerate(rows):
        ax.barh(place, ms, 0.66, color=COLOURS["blue"], alpha=0.85)
        number_at(ax, ms, place, theme, f"{short(ms)} ms, {ms / total:.0%}")
    names_down(ax, [name for name, _ in rows])
    ax.margins(x=0.22)
    ax.set_xlim(left=0)
    ax.set_xlabel("milliseconds of one step", color=theme_named(theme).text, fontsize=FONT["label"])
    heading = f"{found.model}: where the time of {step} goes"
    title(ax, heading, theme)
    said = ", ".join(f"{name} {short(ms)} ms ({ms / total:.0%})" for name, ms in rows)
    return Picture(
        figure=drawn,
        alt=f"{heading}. {short(total)} ms in all: {said}.",
        labels={"title": heading, "x": "operation", "y": "milliseconds"},
        x=[name for name, _ in rows],
        y={"milliseconds": [ms for _, ms in rows]},
        rtol=TIMED,
    )
