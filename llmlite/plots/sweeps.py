"""Draw lines of a comparison: speed over a model's size, and the time of each generated token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from llmlite.bench.backends import BACKENDS
from llmlite.bench.report import canary_words, short
from llmlite.bench.samples import Comparison
from llmlite.bench.sizes import called, n_params
from llmlite.bench.summary import METRICS, Summary, entry_label, summarize
from llmlite.plots.base import COLOURS, FONT, MARKERS, Picture, figure, legend, theme_named, title

LINES = ("-", "--", ":", "-.")


def _style(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return a colour, a marker and a dash for each entry, so that any one of them is enough."""
    return {
        name: {
            "color": COLOURS[BACKENDS[name].colour if name in BACKENDS else "purple"],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": LINES[i % len(LINES)],
            "markersize": 8,
            "linewidth": 2.2,
        }
        for i, name in enumerate(names)
    }


def _plain(ax: Axes, letters: str) -> None:
    for letter in letters:
        axis = getattr(ax, f"{letter}axis")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _doubt(found: Mapping[str, Comparison], metric: str) -> str:
    """Name the models that were measured in too few blocks to find a difference; "" if there are none."""
    few = [
        name
        for name, comparison in found.items()
        if not called(comparison, [(s.backend, s.model_type) for s in summarize(comparison, metric)])
    ]
    return f"fewer than five blocks, can't tell which is faster: {', '.join(few)}" if few else ""


def sizes(found: Mapping[str, Comparison], metric: str = "decode", *, theme: str | None = None) -> Picture:
    """Draw speed over the number of weights; both axes are logarithmic.

    Error bars show the middle half of the blocks.

    Args:
        found: the comparison of each model by name, as `bench.sizes.sweep` returns them.
        metric: a speed, one of the keys of METRICS.
        theme: a key of plots.THEMES; None for the current one.

    Raises:
        ValueError: `found` has no measurements.
    """
    points: dict[str, list[tuple[float, Summary]]] = {}
    for comparison in found.values():
        for each in summarize(comparison, metric):
            points.setdefault(each.backend, []).append((n_params(comparison) / 1e6, each))
    if not points:
        raise ValueError("nothing was measured at any size")
    look = theme_named(theme)
    drawn, (ax,) = figure(11, 5.6, theme=theme)
    ax.set_xscale("log")
    ax.set_yscale("log")
    styles = _style(list(points))
    names = {name: BACKENDS[name].title if name in BACKENDS else name for name in points}
    for name, rows in points.items():
        x, y = [n for n, _ in rows], [s.value for _, s in rows]
        spread = [[s.value - s.low for _, s in rows], [s.high - s.value for _, s in rows]]
        ax.errorbar(x, y, yerr=spread, capsize=4, label=names[name], **styles[name])
    measured = {n for rows in points.values() for n, _ in rows}
    at = {n_params(c) / 1e6: name for name, c in found.items() if n_params(c) / 1e6 in measured}
    ticks = sorted(at)
    ax.set_xticks(ticks, [f"{at[n]}\n{n:.0f} M" for n in ticks])
    ax.minorticks_off()
    _plain(ax, "y")
    ax.set_ylabel(METRICS[metric].title, color=look.text, fontsize=FONT["label"])
    ax.set_xlabel("weights (logarithmic)", color=look.text, fontsize=FONT["label"])
    heading = "Speed against size, both scales logarithmic"
    doubt = _doubt(found, metric)
    title(ax, heading + (f"\n{doubt}" if doubt else ""), theme)
    legend(ax, theme, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    said = "; ".join(
        f"{names[n]}: " + ", ".join(f"{short(s.value)} at {short(size)} M" for size, s in rows)
        for n, rows in points.items()
    )
    quiet = "; ".join(f"{n}: {canary_words(c)}" for n, c in found.items() if canary_words(c))
    remarks = [text for text in (doubt.capitalize(), quiet) if text]
    return Picture(
        figure=drawn,
        alt=" ".join(
            f"{text}."
            for text in (heading, f"{METRICS[metric].title}, by millions of weights", said, *remarks)
        ),
        labels={"title": heading, "x": "million weights", "y": METRICS[metric].title},
        x=ticks,
        y={
            names[n]: [next((s.value for size, s in rows if size == tick), float("nan")) for tick in ticks]
            for n, rows in points.items()
        },
        rtol=1.0,
    )


def token_times(result: Comparison, *, depth: int | None = None, theme: str | None = None) -> Picture:
    """Draw the time of each generated token: the median over the blocks, token by token.

    Args:
        depth: tokens in the cache before the first step; None for the smallest depth measured.
        theme: a key of plots.THEMES; None for the current one.

    Raises:
        ValueError: no backend recorded the times of its single steps at this depth.
    """
    rows = [m for m in result.measurements if m.phase == "decode" and m.steps_ns and not m.flagged]
    depths = sorted({m.n_depth for m in rows})
    depth = depths[0] if depth is None and depths else depth
    by_entry: dict[tuple[str, str], list[Sequence[int]]] = {}
    for m in rows:
        if m.n_depth == depth:
            by_entry.setdefault((m.backend, m.model_type), []).append(m.steps_ns)
    by_entry = {entry: by_entry[entry] for entry in result.entries() if entry in by_entry}  # as in tables
    if not by_entry:
        raise ValueError(f"no backend reported single steps at depth {depth}; there are: {depths}")
    y = {
        entry_label(*entry): [median(step) / 1e6 for step in zip(*blocks)]
        for entry, blocks in by_entry.items()
    }
    look = theme_named(theme)
    drawn, (ax,) = figure(11, 5.2, theme=theme)
    types = list(dict.fromkeys(model_type for _, model_type in by_entry))
    styles = _style(list(dict.fromkeys(name for name, _ in by_entry)))
    for entry, (label, values) in zip(by_entry, y.items()):
        style = styles[entry[0]] | {"linestyle": LINES[types.index(entry[1]) % len(LINES)], "markersize": 6}
        ax.plot(range(1, len(values) + 1), values, label=label, markevery=max(1, len(values) // 8), **style)
    ax.set_yscale("log")
    _plain(ax, "y")
    ax.set_xlabel(
        f"generated token, after {depth} tokens in the cache", color=look.text, fontsize=FONT["label"]
    )
    ax.set_ylabel("milliseconds (logarithmic)", color=look.text, fontsize=FONT["label"])
    heading = "Latency of each token, medians of the blocks"
    title(ax, heading, theme)
    legend(ax, theme, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    said = "; ".join(
        f"{label} median {short(median(v))} ms, at most {short(max(v))} ms" for label, v in y.items()
    )
    longest = max(map(len, y.values()))
    return Picture(
        figure=drawn,
        alt=f"{heading}, after {depth} tokens in the cache: {said}.",
        labels={"title": heading, "x": "token", "y": "milliseconds"},
        x=[float(i + 1) for i in range(longest)],
        y=y,
        rtol=1.0,
    )
