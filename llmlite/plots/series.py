"""Give any matplotlib figure its data, so that a notebook's test compares numbers instead of pixels."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from llmlite.plots.base import Picture


def series(figure: Figure, *, rtol: float = 1e-5, alt: str = "") -> Picture:
    """Return a picture of a matplotlib, seaborn or pandas figure, with the numbers drawn in it as its data.

    Make the call the last line of a cell. `pytest -p llmlite.nbval --nbval` then compares titles and labels
    exactly, and lines, bars, points and images within `rtol`. Other shapes (contours) are not compared.

    Args:
        figure: the figure, such as `plt.gcf()` or `axes.figure`. It is closed, so that it isn't shown twice.
        rtol: the largest relative difference between two runs that still counts as the same result.
        alt: the text description; by default the titles and the names of the series.

    Raises:
        ValueError: `rtol` isn't between 0 and 1, or the figure holds nothing that can be compared.
    """
    if not 0 <= rtol < 1:
        raise ValueError(f"rtol: expected a number from 0 to 1, got {rtol}")
    labels: dict[str, str] = {"title": figure.get_suptitle()}
    y: dict[str, list[float]] = {}
    for number, axes in enumerate(figure.axes, 1):
        where = "" if len(figure.axes) == 1 else f"axes {number}: "
        for name, text in (("x", axes.get_xlabel()), ("y", axes.get_ylabel()), ("heading", axes.get_title())):
            labels[where + name] = text
        ticks = [tick.get_text() for tick in axes.get_xticklabels()]
        if any(not _is_number(tick) for tick in ticks):  # the ticks are names of categories
            labels[where + "names"] = " | ".join(ticks)
        for i, (name, values) in enumerate(_drawn(axes), 1):
            y[f"{where}{i}. {name}"] = [float(value) for value in np.ma.filled(values.astype(float), np.nan)]
    if not y:
        raise ValueError("the figure has no lines, bars, points or images that could be compared")
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close(figure)
    said = [text for text in dict.fromkeys(labels.values()) if text]
    words = alt or f"{'; '.join(said) or 'A figure'}. Drawn: {', '.join(y)}."
    return Picture(figure=figure, alt=words, labels=labels, y=y, rtol=rtol)


def _drawn(axes: Axes) -> Iterator[tuple[str, np.ma.MaskedArray]]:
    """Yield the name and the numbers of every data series in the axes."""
    bars = {id(patch) for box in axes.containers if isinstance(box, BarContainer) for patch in box.patches}
    for line in axes.get_lines():
        name = _name(line.get_label(), "line")
        yield f"{name}, x", np.ma.asarray(line.get_xdata(orig=False))
        yield f"{name}, y", np.ma.asarray(line.get_ydata(orig=False))
    for box in axes.containers:
        if isinstance(box, BarContainer):
            edges = [patch.get_bbox().extents for patch in box.patches]  # x0, y0, x1, y1 of each
            yield _name(box.get_label(), "bars"), np.ma.asarray(edges).ravel()
    for points in axes.collections:
        if isinstance(points, PathCollection):
            yield _name(points.get_label(), "points"), np.ma.asarray(points.get_offsets()).ravel()
    for image in axes.get_images():
        yield _name(image.get_label(), "image"), np.ma.asarray(image.get_array()).ravel()
    loose = [patch for patch in axes.patches if id(patch) not in bars]
    if loose:  # such as step histograms
        yield "patches", np.ma.asarray([patch.get_path().get_extents().extents for patch in loose]).ravel()


def _name(label: object, kind: str) -> str:
    text = str(label)
    return kind if not text or text.startswith("_") else text


def _is_number(text: str) -> bool:
    try:
        float(text.replace("\N{MINUS SIGN}", "-") or "0")
    except ValueError:
        return bool(text.startswith("$"))
    return True
