"""Draw the layout of a GGUF file."""

from __future__ import annotations

from llmlite.bench.report import short
from llmlite.lessons.file_layout import ByteMap
from llmlite.plots.base import CYCLE, FONT, Picture, Table, figure, names_down, number_at, theme_named, title


def regions(map_: ByteMap, *, theme: str | None = None) -> Picture:
    """Draw the bytes of each region of a file on a logarithmic scale.

    Args:
        theme: a key of plots.THEMES; None for the current one.
    """
    found = map_.regions
    drawn, (ax,) = figure(9, 3.4, theme=theme)
    for i, (region, colour) in enumerate(zip(found, CYCLE)):
        ax.barh(i, region.n_bytes, 0.66, color=colour)
        number_at(ax, region.n_bytes, i, theme)
    ax.set_xscale("log")
    ax.set_xlim(left=1)
    names_down(ax, [region.name for region in found])
    ax.margins(x=0.15)
    heading, label = "What the bytes of a file are for", "bytes (logarithmic)"
    ax.set_xlabel(label, color=theme_named(theme).text, fontsize=FONT["label"])
    title(ax, heading, theme)
    parts = ", ".join(f"{region.name} {short(region.n_bytes)}" for region in found)
    return Picture(
        figure=drawn,
        alt=f"{heading}: bytes per region. {parts}.",
        labels={"title": heading, "x": "", "y": label},
        x=[region.name for region in found],
        y={"bytes": [region.n_bytes for region in found]},
        rtol=0,
    )


def first_fields(map_: ByteMap, n: int = 24) -> Table:
    """Return the first `n` fields of a file as a table."""
    return Table(
        heading=f"The first {n} fields",
        columns=["offset", "bytes", "field", "type", "value"],
        rows=map_.rows(0, n),
        alt=f"The first {n} fields of the file: offset, bytes in hexadecimal, name, type and value.",
        rtol=0,
    )
