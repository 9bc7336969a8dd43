"""Draw the time of one token over the bytes of weights that it needs, with the memory wall."""

from __future__ import annotations

from collections.abc import Iterable

from llmlite.lessons.sizes import Row, Sizes, titles
from llmlite.plots.base import COLOURS, FONT, Picture, figure, legend, theme_named, title

LOOKS = {
    "llmlite Q4_0": ("blue", "o"),
    "llmlite Q8_0": ("sky", "s"),
    "PyTorch float32": ("orange", "^"),
}


def sweep(sizes: Sizes, here: Iterable[Row] = (), *, theme: str | None = None) -> Picture:
    """Draw a shipped sweep, with points measured on this machine as hollow marks.

    Args:
        sizes: the shipped sweep.
        here: rows measured on this machine.
        theme: a key of plots.THEMES; None for the current one.
    """
    mine = [row for row in here if row.title in titles(sizes.rows)]
    drawn, (ax,) = figure(9.5, 4.6, theme=theme)
    look = theme_named(theme)
    for name in titles(sizes.rows):
        colour, marker = LOOKS.get(name, ("purple", "D"))
        there = [row for row in sizes.rows if row.title == name]
        ax.plot(
            [row.step_bytes / 1e6 for row in there], [1e3 * row.seconds for row in there],
            color=COLOURS[colour], marker=marker, markersize=9, linewidth=1.5, label=name,
        )  # fmt: skip
        own = [row for row in mine if row.title == name]
        ax.plot(
            [row.step_bytes / 1e6 for row in own], [1e3 * row.seconds for row in own], linestyle="none",
            color=COLOURS[colour], marker=marker, markersize=14, fillstyle="none", markeredgewidth=2.5,
            label=f"{name}, here" if own else None,
        )  # fmt: skip
    ends = [min(row.step_bytes for row in sizes.rows), max(row.step_bytes for row in sizes.rows)]
    wall = [1e3 * n / sizes.bytes_per_second for n in ends]
    ax.plot([n / 1e6 for n in ends], wall, "--", color=look.text, linewidth=1.5, label="the memory wall")
    ax.set_xscale("log")
    ax.set_yscale("log")
    heading, x, y = "One token, by size", "weights that a token needs, MB", "time for a token, ms"
    ax.set_xlabel(x, color=look.text, fontsize=FONT["label"])
    ax.set_ylabel(y, color=look.text, fontsize=FONT["label"])
    title(ax, heading, theme)
    legend(ax, theme, loc="center left", bbox_to_anchor=(1.0, 0.5))
    said = "; ".join(
        f"{row.title}, {row.model}: {1e3 * row.seconds:.3g} ms for {row.step_bytes / 1e6:.3g} MB"
        for row in sizes.rows
    )
    return Picture(
        figure=drawn,
        alt=f"{heading}. {sizes.bytes_per_second / 1e9:.3g} GB per second from memory. {said}.",
        labels={"title": heading, "x": x, "y": y},
        x=[f"{row.model}, {row.title}" for row in sizes.rows],
        y={x: [row.step_bytes / 1e6 for row in sizes.rows], y: [1e3 * row.seconds for row in sizes.rows]},
        rtol=1e-3,
    )
