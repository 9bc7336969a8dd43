"""Draw any numbers as lines or bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from llmlite.bench.report import short
from llmlite.plots.base import (
    CYCLE,
    FONT,
    MARKERS,
    Picture,
    figure,
    legend,
    names_down,
    number_at,
    theme_named,
    title,
)


def lines(
    x: Sequence[float],
    y: Mapping[str, Sequence[float]],
    *,
    heading: str,
    x_label: str,
    y_label: str,
    alt: str = "",
    rtol: float = 1e-5,
    theme: str | None = None,
) -> Picture:
    """Draw one line per series, each with its own colour and marker.

    Args:
        x: positions, shared by all series.
        y: numbers by name of the series, each as long as `x`.
        alt: a description; by default it gives the ends of each line.
        rtol: the largest relative difference that tests accept.
    """
    drawn, (ax,) = figure(9, 4.5, theme=theme)
    for (name, values), colour, marker in zip(y.items(), CYCLE, MARKERS):
        every = max(1, len(values) // 12)
        ax.plot(
            x, values, color=colour, marker=marker, markevery=every, markersize=8, linewidth=2.2, label=name
        )
    look = theme_named(theme)
    ax.set_xlabel(x_label, color=look.text, fontsize=FONT["label"])
    ax.set_ylabel(y_label, color=look.text, fontsize=FONT["label"])
    title(ax, heading, theme)
    if len(y) > 1:
        legend(ax, theme)
    if not alt:
        ends = [f"{name} goes from {short(v[0])} to {short(v[-1])}" for name, v in y.items()]
        alt = f"{heading}. {y_label} over {x_label}: {'; '.join(ends)}."
    return Picture(
        figure=drawn, alt=alt, labels={"title": heading, "x": x_label, "y": y_label}, x=x, y=y, rtol=rtol
    )


def bars(
    names: Sequence[str],
    y: Mapping[str, Sequence[float]],
    *,
    heading: str,
    y_label: str,
    alt: str = "",
    rtol: float = 1e-5,
    theme: str | None = None,
) -> Picture:
    """Draw horizontal bars with their numbers: a group per name, and in it a bar per series.

    Args:
        names: the names of the groups.
        y: numbers by name of the series, each as long as `names`.
        alt, rtol: as for `lines`.
    """
    drawn, (ax,) = figure(9, 1.6 + 0.42 * len(names) * len(y), theme=theme)
    height = 0.8 / len(y)
    for i, ((name, values), colour) in enumerate(zip(y.items(), CYCLE)):
        places = np.arange(len(names)) + (i - (len(y) - 1) / 2) * height
        ax.barh(places, values, height * 0.9, color=colour, label=name)
        for place, value in zip(places, values):
            number_at(ax, value, place, theme)
    names_down(ax, names)
    ax.set_xlabel(y_label, color=theme_named(theme).text, fontsize=FONT["label"])
    ax.margins(x=0.15)
    title(ax, heading, theme)
    if len(y) > 1:
        legend(ax, theme)
    if not alt:
        parts = [
            f"{series}: " + ", ".join(f"{n} {short(v)}" for n, v in zip(names, values))
            for series, values in y.items()
        ]
        alt = f"{heading}. {y_label}. {'; '.join(parts)}."
    return Picture(
        figure=drawn, alt=alt, labels={"title": heading, "x": "", "y": y_label}, x=names, y=y, rtol=rtol
    )
