"""Draw claims and their verdicts."""

from __future__ import annotations

import textwrap
from typing import Any

from llmlite.bench.article import FAILS, HOLDS, PARTLY, UNKNOWN, Claims
from llmlite.plots.base import COLOURS, FONT, Picture, figure, theme_named, title

# Each verdict has a mark and a colour, so that either is enough.
MARKS = {
    HOLDS: ("●", "green"),
    PARTLY: ("◐", "orange"),
    FAILS: ("○", "red"),
    UNKNOWN: ("–", "grey"),
}
WIDTH = 62  # letters in a line of a claim


def table(found: Claims, *, theme: str | None = None) -> Picture:
    """Draw one line per claim: its text, and its verdict with a mark.

    Args:
        theme: a key of plots.THEMES; None for the current one.
    """
    lines = [textwrap.wrap(each.claim, WIDTH) for each in found]
    heights = [max(len(each), 1) + 0.8 for each in lines]
    drawn, (ax,) = figure(12, 1.0 + 0.3 * sum(heights), theme=theme)
    look = theme_named(theme)
    ax.set_axis_off()
    ax.set_xlim(0, 1)
    ax.set_ylim(sum(heights), 0)
    top = 0.0
    for each, words, height in zip(found, lines, heights):
        mark, colour = MARKS[each.verdict]
        middle = top + height / 2
        options: dict[str, Any] = {"va": "center", "fontsize": FONT["label"]}
        ax.text(0, middle, "\n".join(words), color=look.text, **options)
        ax.text(0.72, middle, mark, color=COLOURS[colour], **options)
        ax.text(0.75, middle, each.verdict, color=look.text, **options)
        ax.axhline(top + height, color=look.grid, linewidth=0.8)
        top += height
    heading = "The article's claims, measured here"
    title(ax, heading, theme)
    said = " ".join(f"{each.claim} {each.verdict.capitalize()}: {each.figure}." for each in found)
    order = list(MARKS)
    return Picture(
        figure=drawn,
        alt=f"{heading}. {said}",
        labels={"title": heading, "x": "claim", "y": f"verdict: {', '.join(order)}, from 0"},
        x=[each.key for each in found],
        y={"verdict": [float(order.index(each.verdict)) for each in found]},
        rtol=1.0,
    )
