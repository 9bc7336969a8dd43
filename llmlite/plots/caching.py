"""Draw the cache of keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.patches import Rectangle

from llmlite.lessons.caching import Filling, cache_bytes
from llmlite.plots.base import COLOURS, FONT, Picture, figure, theme_named, title
from llmlite.plots.general import lines


def work(cached: Sequence[int], uncached: Sequence[int], *, theme: str | None = None) -> Picture:
    """Draw the total number of tokens that the model has processed after each new token.

    Args:
        cached, uncached: tokens processed per new token, as `lessons.caching.tokens_processed` returns them.
    """
    return lines(
        range(1, len(cached) + 1),
        {"without a cache": list(np.cumsum(uncached)), "with a cache": list(np.cumsum(cached))},
        heading="Work for a text of growing length",
        x_label="generated tokens",
        y_label="tokens processed by the model",
        rtol=0,
        theme=theme,
    )


def sizes(
    shapes: Mapping[str, object], contexts: Sequence[int], *, itemsize: int = 2, theme: str | None = None
) -> Picture:
    """Draw the megabytes of each model's cache over the length of the context; both axes are logarithmic.

    Args:
        shapes: ModelConfig or synth.Shape by name.
        contexts: lengths of the context in tokens.
        itemsize: bytes of one number in the cache.
    """
    y = {name: [cache_bytes(shape, n, itemsize) / 1e6 for n in contexts] for name, shape in shapes.items()}
    picture = lines(
        contexts,
        y,
        heading=f"Size of the cache ({itemsize} bytes per number)",
        x_label="tokens in the context (logarithmic)",
        y_label="MB (logarithmic)",
        rtol=0,
        theme=theme,
    )
    (ax,) = picture.figure.axes
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    return picture


def grid(filling: Filling, n_filled: int, *, n_head: int, theme: str | None = None) -> Picture:
    """Draw the cache with its first `n_filled` positions filled: a row per layer and key head.

    Columns are positions.

    Args:
        n_head: number of query heads, which share the key heads.
        theme: a key of plots.THEMES; None for the current one.
    """
    n_layer, n_kv, n = filling.size.shape
    look = theme_named(theme)
    drawn, (ax,) = figure(max(6.5, 3 + 0.42 * n), 1.6 + 0.34 * n_layer * n_kv, theme=theme)
    names = []
    for layer in range(n_layer):
        for head in range(n_kv):
            place = layer * n_kv + head
            shared = n_head // n_kv
            names.append(f"layer {layer}, heads {head * shared}–{(head + 1) * shared - 1}")
            for t in range(n):
                full = t < n_filled
                ax.add_patch(
                    drawn_cell(t, place, float(filling.size[layer, head, t]) if full else None, look.grid)
                )
    ax.set_xlim(-0.5, n - 0.5)
    ax.set_ylim(n_layer * n_kv - 0.5, -0.5)
    ax.set_yticks(range(len(names)), names)
    ax.set_xticks(range(n), filling.texts, rotation=90)
    ax.tick_params(labelsize=min(FONT["tick"], 11))
    ax.grid(False)
    heading = f"The cache after {n_filled} of {n} tokens"
    title(ax, heading, theme)
    return Picture(
        figure=drawn,
        alt=f"{heading}: {n_layer} layers, {n_kv} heads of keys and values in each, "
        f"{n_filled * n_layer * n_kv} of {n * n_layer * n_kv} cells filled.",
        labels={"title": heading, "x": "token", "y": "layer and query heads"},
        x=[f"{i} {text}" for i, text in enumerate(filling.texts)],
        y={name: list(row) for name, row in zip(names, filling.size.reshape(-1, n))},
        rtol=1e-3,
    )


def drawn_cell(t: int, place: int, size: float | None, edge: str) -> Rectangle:
    """Return one cell of the grid: empty, or filled with a stronger colour the longer its key."""
    if size is None:
        return Rectangle((t - 0.44, place - 0.44), 0.88, 0.88, facecolor="none", edgecolor=edge, linewidth=1)
    return Rectangle(
        (t - 0.44, place - 0.44), 0.88, 0.88, facecolor=COLOURS["blue"], alpha=0.25 + 0.75 * size, linewidth=0
    )
