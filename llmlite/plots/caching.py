"""Figures of the cache of keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.patches import Rectangle

from llmlite.lessons.caching import Filling, cache_bytes
from llmlite.plots.base import COLOURS, FONT, Picture, figure, theme_named, title
from llmlite.plots.general import lines


def work(cached: Sequence[int], uncached: Sequence[int], *, theme: str | None = None) -> Picture:
    """Draw how many tokens have gone through the model in all after each new one.

    Args:
        cached, uncached: tokens processed per new token, as `lessons.caching.tokens_processed` gives them.
    """
    return lines(
        range(1, len(cached) + 1),
        {"without a cache": list(np.cumsum(uncached)), "with a cache": list(np.cumsum(cached))},
        heading="Work for a text of growing length",
        x_label="new tokens written",
        y_label="tokens through the model",
        rtol=0,
        theme=theme,
    )


def sizes(
    shapes: Mapping[str, object], contexts: Sequence[int], *, itemsize: int = 2, theme: str | None = None
) -> Picture:
    """Draw how many megabytes the cache of each model takes at each length of context, both logarithmic.

    Args:
        shapes: ModelConfig or synth.Shape by name. contexts: numbers of tokens.
    """
    y = {name: [cache_bytes(shape, n, itemsize) / 1e6 for n in contexts] for name, shape in shapes.items()}
    picture = lines(
        contexts,
        y,
        heading=f"What the cache takes ({itemsize} bytes per number)",
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
    """Draw the cache: a row per layer and head of keys, a column per position, filled as far as `n_filled`.

    Args:
        n_head: heads of queries, which share the heads of keys. theme: a key of plots.THEMES.
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
        f"{n_filled * n_layer * n_kv} of {n * n_layer * n_kv} places filled.",
        labels={"title": heading, "x": "token", "y": "layer and heads of queries"},
        x=[f"{i} {text}" for i, text in enumerate(filling.texts)],
        y={name: list(row) for name, row in zip(names, filling.size.reshape(-1, n))},
        rtol=1e-3,
    )


def drawn_cell(t: int, place: int, size: float | None, edge: str) -> Rectangle:
    """Return one place of the grid: empty, or filled the more strongly the longer its key."""
    if size is None:
        return Rectangle((t - 0.44, place - 0.44), 0.88, 0.88, facecolor="none", edgecolor=edge, linewidth=1)
    return Rectangle(
        (t - 0.44, place - 0.44), 0.88, 0.88, facecolor=COLOURS["blue"], alpha=0.25 + 0.75 * size, linewidth=0
    )
