"""Write names beside points so that none touches another name, a point, or the edge of the axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

GAP = 3.0  # points of free space around a name
MARK = 5.0  # half a marker, in points
NEAR = 16.0  # points; a line joins a mark to a name that is further away
DISTANCES = (8.0, 12.0, 18.0, 26.0, 36.0, 48.0, 62.0, 78.0, 96.0, 120.0)  # points, tried in this order
DIRECTIONS = 24  # tried at each distance


def boxes(texts: Sequence[Text], figure: Figure) -> np.ndarray:
    """Return the boxes of n texts in pixels of the figure, (n, 4): x0, y0, x1, y1."""
    renderer: Any = FigureCanvasAgg(figure).get_renderer()
    return np.array([text.get_window_extent(renderer).extents for text in texts]).reshape(-1, 4)


def overlaps(found: np.ndarray, others: np.ndarray, *, gap: float = 0.0) -> np.ndarray:
    """Return which boxes overlap or are nearer than `gap`, bool (n, m).

    Args:
        found: (n, 4) boxes.
        others: (m, 4) boxes, in the same unit.
        gap: the free space to keep, in the same unit.
    """
    a, b = found[:, None], others[None]
    apart = (a[..., 2:] + gap <= b[..., :2]) | (b[..., 2:] + gap <= a[..., :2])
    return np.asarray(~apart.any(axis=-1))


def name_points(
    ax: Axes,
    names: Sequence[str],
    points: Sequence[tuple[float, float]],
    *,
    around: Sequence[tuple[float, float]] = (),
    colour: str,
    size: float,
) -> list[Text]:
    """Write each name as near to its point as there is room; a thin line joins a name that is far away.

    Draw everything else first: places are chosen in the finished layout, which then stays as it is. Names
    are placed in the order given. A name for which there is no room is left out.

    Args:
        names: one name for each of `points`.
        points: the points to name, in data coordinates.
        around: other points that names must not cover.
        colour: the colour of the letters and lines.
        size: the size of the letters in points.

    Returns:
        The texts of the names that were written.
    """
    drawn = ax.figure
    if not isinstance(drawn, Figure):
        raise TypeError("the axes must be part of a figure, not of a subfigure")
    drawn.draw_without_rendering()
    drawn.set_layout_engine("none")
    scale = drawn.dpi / 72  # pixels in a point
    inside = np.array(ax.get_window_extent().extents)
    marks = ax.transData.transform(np.array([*points, *around], float).reshape(-1, 2))
    half = MARK * scale
    taken = np.concatenate([marks - half, marks + half], axis=1)
    written: list[Text] = []
    for name, point, place in zip(names, points, marks):
        text = ax.annotate(
            name, point, xytext=(0, 0), textcoords="offset points", ha="center", va="center",
            color=colour, fontsize=size,
        )  # fmt: skip
        text.set_in_layout(False)
        x0, y0, x1, y1 = boxes([text], drawn)[0]
        width, height = x1 - x0, y1 - y0
        found = _free(place, width, height, taken, inside, scale)
        if found is None:
            text.remove()
            continue
        centre, distance = found
        text.set_position(tuple((centre - place) / scale))
        if distance > NEAR:
            _join(ax, place, centre, (width, height), colour)
        box = [centre - (width / 2, height / 2), centre + (width / 2, height / 2)]
        taken = np.concatenate([taken, np.concatenate(box)[None]])
        written.append(text)
    return written


def _free(
    place: np.ndarray, width: float, height: float, taken: np.ndarray, inside: np.ndarray, scale: float
) -> tuple[np.ndarray, float] | None:
    """Return the centre of the nearest free box of this size, and its distance from the place in points."""
    angles = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    towards = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    half = np.array([width, height]) / 2
    # from the centre of a box to its edge, in this direction
    reach = np.minimum(*(half / np.maximum(np.abs(towards), 1e-9)).T)
    for distance in DISTANCES:
        centres = place + towards * (reach + distance * scale)[:, None]
        tried = np.concatenate([centres - half, centres + half], axis=1)
        free = ~overlaps(tried, taken, gap=GAP * scale).any(axis=1)
        free &= (tried[:, :2] >= inside[:2]).all(axis=1) & (tried[:, 2:] <= inside[2:]).all(axis=1)
        if free.any():
            return centres[int(free.argmax())], distance
    return None


def _join(ax: Axes, place: np.ndarray, centre: np.ndarray, size: tuple[float, float], colour: str) -> None:
    """Draw a thin line from a point to the edge of its name."""
    away = place - centre
    half = np.array(size) / 2
    edge = centre + away * min(1.0, float((half / np.maximum(np.abs(away), 1e-9)).min()))
    ends = ax.transData.inverted().transform([place, edge])
    ax.plot(
        ends[:, 0], ends[:, 1], color=colour, linewidth=0.8, alpha=0.6, zorder=1, scalex=False, scaley=False
    )
