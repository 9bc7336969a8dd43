"""Draw attention: a heat map of one head, all heads at once, and the attention to each sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from llmlite.bench.report import short
from llmlite.lessons.attention import AttentionMaps
from llmlite.plots.base import COLOURS, FONT, Picture, figure, names_down, number_at, theme_named, title

MOST = 9  # the most layers or heads that `all_heads` draws
COLOUR_MAP = "cividis"  # its lightness rises for every kind of colour vision
KEY, QUERY = "key token (is attended to)", "query token (attends)"


def heat_map(weights: np.ndarray, texts: Sequence[str], *, heading: str, theme: str | None = None) -> Picture:
    """Draw one head's attention weights: a row per query token, a column per key token.

    Args:
        weights: (T, T); each row sums to 1.
        texts: the texts of the T tokens.
        theme: a key of plots.THEMES; None for the current one.
    """
    n = len(texts)
    side = min(3 + 0.2 * n, 9)
    drawn, (ax,) = figure(side + 1, side, theme=theme)
    look = theme_named(theme)
    future = np.triu(np.ones((n, n), bool), 1)
    ax.imshow(np.ma.masked_array(weights, future), cmap=COLOUR_MAP, vmin=0, vmax=1, aspect="equal")
    ax.grid(False)
    ax.set_xticks(range(n), texts, rotation=90)
    ax.set_yticks(range(n), texts)
    ax.tick_params(labelsize=min(FONT["tick"], 4 + 300 / (n + 20)))
    ax.set_xlabel(KEY, color=look.text, fontsize=FONT["label"])
    ax.set_ylabel(QUERY, color=look.text, fontsize=FONT["label"])
    title(ax, heading, theme)
    heaviest = [(int(np.argmax(row)), float(np.max(row))) for row in weights]
    said = [f"{texts[t]} to {texts[k]} ({share:.0%})" for t, (k, share) in enumerate(heaviest)]
    return Picture(
        figure=drawn,
        alt=f"{heading}. Each token attends most to: {', '.join(said)}.",
        labels={"title": heading, "x": KEY, "y": QUERY},
        x=[f"{i} {text}" for i, text in enumerate(texts)],
        y={f"{t} {text}": list(weights[t]) for t, text in enumerate(texts)},
        rtol=1e-3,
    )


def _some(n: int) -> list[int]:
    """Return at most MOST of n indices, evenly spaced from the first to the last."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, MOST))})


def all_heads(found: AttentionMaps, *, theme: str | None = None) -> Picture:
    """Draw a small map of every head: a row of maps per layer, a column per head.

    If a model has more than MOST layers or heads, only some are drawn. The description and the data always
    cover all of them.

    Args:
        theme: a key of plots.THEMES; None for the current one.
    """
    n_layer, n_head, n, _ = found.weights.shape
    look = theme_named(theme)
    rows, columns = _some(n_layer), _some(n_head)
    side = 2.1 if n_layer <= 6 else 1.4
    drawn = Figure(
        figsize=(side * len(columns) + 0.8, side * len(rows) + 0.6),
        layout="constrained",
        facecolor=look.background,
    )
    future = np.triu(np.ones((n, n), bool), 1)
    for y, layer in enumerate(rows):
        for x, head in enumerate(columns):
            ax = drawn.add_subplot(len(rows), len(columns), y * len(columns) + x + 1)
            shown = np.ma.masked_array(found.weights[layer, head], future)
            ax.imshow(shown, cmap=COLOUR_MAP, vmin=0, vmax=1, aspect="equal")
            ax.set_facecolor(look.background)
            ax.set_xticks([])
            ax.set_yticks([])
            if y == 0:
                ax.set_title(f"head {head}", color=look.text, fontsize=FONT["tick"])
            if x == 0:
                ax.set_ylabel(f"layer {layer}", color=look.text, fontsize=FONT["tick"])
    heading = "Every head of every layer"
    # sum each map up in two numbers: how far back its head attends on average, and how sharply
    back = np.arange(n)[:, None] - np.arange(n)[None]
    distance = (found.weights * np.where(future, 0, back)).sum(-1).mean(-1)  # (n_layer, n_head)
    sharp = found.weights.max(-1).mean(-1)
    far = np.unravel_index(int(distance.argmax()), distance.shape)
    near = np.unravel_index(int(distance.argmin()), distance.shape)
    return Picture(
        figure=drawn,
        alt=f"{heading}, {n_layer} rows of {n_head}. On average head {near[1]} of layer {near[0]} attends "
        f"{distance[near]:.1f} tokens back, head {far[1]} of layer {far[0]} {distance[far]:.1f}.",
        labels={"title": heading, "x": "layer.head", "y": "mean distance; mean largest weight"},
        x=[f"{layer}.{head}" for layer in range(n_layer) for head in range(n_head)],
        y={"distance": list(distance.ravel()), "largest weight": list(sharp.ravel())},
        rtol=1e-3,
    )


def sentences(
    texts: Sequence[str],
    shares: Sequence[float],
    *,
    erased: int | None = None,
    numbered: bool = False,
    theme: str | None = None,
) -> Picture:
    """Draw how much attention each sentence of a tale received.

    Args:
        texts: the sentences.
        shares: the share of attention of each sentence, as `lessons.erase.looked_at` returns it.
        erased: the index of a sentence that was left out; None if all are there.
        numbered: write numbers instead of the sentences, if the sentences are beside the picture.
        theme: a key of plots.THEMES; None for the current one.
    """
    drawn, (ax,) = figure(5.5 if numbered else 11, 1.4 + 0.42 * len(texts), theme=theme)
    for i, share in enumerate(shares):
        ax.barh(i, share, 0.7, color=COLOURS["blue"])
        number_at(ax, share, i, theme, text="erased" if i == erased else f"{share:.0%}")
    names = [text if len(text) <= 64 else text[:63] + "…" for text in texts]
    names_down(ax, [str(i + 1) for i in range(len(texts))] if numbered else names)
    ax.set_xlim(0, max(0.4, *shares) * 1.15)
    heading, label = "Where the model looked while it answered", "share of attention, last layer"
    if numbered:
        title(ax, "Where it looked", theme)
    ax.set_xlabel(label, color=theme_named(theme).text, fontsize=FONT["label"])
    if not numbered:
        title(ax, heading, theme)
    most = int(np.argmax(shares))
    return Picture(
        figure=drawn,
        alt=f"{heading}: most at sentence {most + 1} of {len(texts)}, “{texts[most]}”, "
        f"{short(100 * shares[most])} % of its attention.",
        labels={"title": heading, "x": "", "y": label},
        x=list(texts),
        y={"share": list(map(float, shares))},
        rtol=0.02,  # a share of 1e-8 differs by 0.4 % between the kernels of two CPUs in NumPy's BLAS
    )
