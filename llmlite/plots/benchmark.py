"""Draw a comparison of backends: speed with every block as a point, memory by kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from llmlite.bench.backends import BACKENDS
from llmlite.bench.report import canary_words, describe_bars, describe_memory, short, undecided
from llmlite.bench.samples import Comparison
from llmlite.bench.summary import METRICS, MIN_BLOCKS, Summary, bootstrap_interval, summarize
from llmlite.plots.base import (
    COLOURS,
    Picture,
    figure,
    legend,
    names_down,
    narrow,
    number_at,
    theme_named,
    title,
)
from llmlite.terminal import printable

GREY = "#8c8c8c"
SMALL = 1e-3  # numbers on an axis below this get exponents, or their zeros would make them touch
THIRD = 28  # letters in a line of a title above a third of a figure
N_TICKS = 3  # ticks under a third of a figure: numbers of five digits must not touch
CANT_TELL = "\ngrey: can't tell the best"
BACKEND_COLOURS = {name: info.colour for name, info in BACKENDS.items()}
BACKEND_HATCHES = {name: info.hatch for name, info in BACKENDS.items()}


def metric_bars(
    comparison: Comparison,
    metric: str = "decode",
    *,
    backends: Sequence[str] | None = None,
    types: Sequence[str] | None = None,
    theme: str | None = None,
) -> Picture:
    """Draw one metric: a bar per backend and quantization, with its 95 % interval and its blocks as points.

    Args:
        metric: a key of llmlite.bench.METRICS.
        backends, types: draw only these; None for all.
        theme: "light", "dark" or "page"; None for the current one.

    Raises:
        ValueError: an unknown metric or theme.
    """
    found = [
        s
        for s in summarize(comparison, metric)
        if (backends is None or s.backend in backends) and (types is None or s.model_type in types)
    ]
    about = METRICS[metric]
    drawn, (ax,) = figure(9, 1.5 + (0.55 if len(found) <= 5 else 0.36) * max(len(found), 1), theme=theme)
    tied = undecided(comparison, found, metric)
    _bars(ax, found, theme, grey=tied)
    title(ax, about.title + CANT_TELL * bool(tied), theme)
    return Picture(
        figure=drawn,
        alt=describe_bars(found, metric, comparison),
        labels={"title": about.title, "x": "", "y": about.title},
        x=[s.label for s in found],
        y={about.title: [s.value for s in found]},
        rtol=0.02,
    )


def comparison(result: Comparison, *, theme: str | None = None) -> Picture:
    """Draw a comparison: prefill and decode speed with every block as a point, memory by kind.

    Args:
        theme: "light" or "dark"; None for the current one.
    """
    speeds = {key: summarize(result, key) for key in ("prefill", "decode")}
    rows = max(len(speeds["decode"]), 1)
    drawn, axes = figure(12.5, 2.2 + 0.5 * rows, 3, theme=theme)
    for ax, (key, found) in zip(axes, speeds.items()):
        tied = undecided(result, found, key)
        _bars(ax, found, theme, names=ax is axes[0], grey=tied)
        title(ax, narrow(METRICS[key].title.replace(", ", "\n") + CANT_TELL * bool(tied), THIRD), theme)
    memory = _memory_bars(axes[2], result, theme)
    title(axes[2], narrow("memory after decode, MB", THIRD), theme)
    for ax in axes:
        ax.locator_params(axis="x", nbins=N_TICKS)
    cpu = printable(str(result.environment.get("cpu_info"))).replace("$", r"\$")  # not mathematics
    model, quiet = result.environment.get("model"), canary_words(result)
    place = (
        f"{printable(model) + ' on ' if model else ''}{cpu}, {result.environment.get('n_threads')} threads"
    )
    below = f"{place}; bars: medians with 95 % intervals, points: blocks{'; ' + quiet if quiet else ''}"
    drawn.supxlabel(below, color=theme_named(theme).text, fontsize=12)
    alt = " ".join(
        [*(describe_bars(found, key, result) for key, found in speeds.items()), describe_memory(memory)]
    )
    y = {METRICS[key].title: [s.value for s in found] for key, found in speeds.items()}
    return Picture(
        figure=drawn,
        alt=alt,
        labels={"title": "comparison", "x": "", "y": "speed and memory"},
        x=[s.label for s in speeds["decode"]],
        y=y | {"private MB": [p for _, p, _ in memory], "file-backed MB": [f for _, _, f in memory]},
        rtol=1.0,
    )


def interval(found: Summary) -> tuple[float, float] | None:
    """Return the 95 % interval of a median over blocks; None if there are fewer than MIN_BLOCKS."""
    return bootstrap_interval(found.values) if len(found.values) >= MIN_BLOCKS else None


def _bars(
    ax: Axes,
    found: Sequence[Summary],
    theme: str | None,
    *,
    names: bool = True,
    grey: Sequence[Summary] = (),
) -> None:
    """Draw bars, points, and the 95 % intervals of medians; the bars of `grey` are grey."""
    for place, s in enumerate(found):
        colour = GREY if s in grey else COLOURS[BACKEND_COLOURS.get(s.backend, "purple")]
        ax.barh(
            place,
            s.value,
            0.66,
            color=colour,
            alpha=0.85,
            hatch=BACKEND_HATCHES.get(s.backend, ""),
            edgecolor=theme_named(theme).text if BACKEND_HATCHES.get(s.backend) else colour,
            linewidth=0,
        )
        offsets = np.linspace(-0.2, 0.2, len(s.values)) if len(s.values) > 1 else np.zeros(len(s.values))
        ax.plot(
            s.values,
            place + offsets,
            "o",
            markersize=5,
            color=theme_named(theme).text,
            markeredgecolor=colour,
            markeredgewidth=0.8,
        )
        ends = interval(s)
        if ends:
            ax.plot(
                ends,
                (place, place),
                "|-",
                color=theme_named(theme).text,
                linewidth=1.6,
                markersize=13,
                markeredgewidth=1.6,
            )
        number_at(ax, max(s.value, *s.values), place, theme, text=short(s.value))
    names_down(ax, [s.label for s in found] if names else [""] * len(found))
    ax.margins(x=0.18)
    ax.set_xlim(left=0)
    if found and max(s.value for s in found) < SMALL:
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.xaxis.set_major_formatter("{x:.3g}")


def _memory_bars(ax: Axes, result: Comparison, theme: str | None) -> list[tuple[str, float, float]]:
    """Draw one bar per entry, in the order of the speeds: file-backed memory on top of private memory."""
    file = {(s.backend, s.model_type): s.value for s in summarize(result, "file")}
    private = {(s.backend, s.model_type): s for s in summarize(result, "private")}
    rows = [(s.label, s.value, file.get(key, 0.0)) for key, s in private.items()]
    for place, (_, anonymous, mapped) in enumerate(rows):
        ax.barh(place, anonymous, 0.66, color=COLOURS["purple"], label="private" if place == 0 else None)
        ax.barh(
            place,
            mapped,
            0.66,
            left=anonymous,
            color=COLOURS["sky"],
            hatch="//",
            edgecolor=theme_named(theme).background,
            label="file-backed" if place == 0 else None,
        )
        number_at(ax, anonymous + mapped, place, theme)
    names_down(ax, [""] * len(rows))
    ax.margins(x=0.18)
    if rows:
        legend(ax, theme, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)
    return rows
