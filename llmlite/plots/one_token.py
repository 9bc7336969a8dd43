"""Draw a token's path through the model: a diagram with one step highlighted, and that step's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from llmlite.lessons.one_token import KEYS, STEPS, Walk
from llmlite.plots.base import COLOURS, FONT, Picture, figure, narrow, theme_named, title

# The place of each step: at the bottom on the residual stream, above it on a layer's branch.
PLACES = {
    "tokens": (0.5, 0), "embedding": (1.7, 0), "attn_norm": (3.1, 1), "qkv": (4.2, 1), "rope": (5.3, 1),
    "attention": (6.6, 1), "attn_out": (7.9, 1), "ffn_inp": (8.9, 0), "ffn_norm": (9.9, 1),
    "ffn_out": (11.1, 1), "l_out": (12.2, 0), "result_norm": (13.5, 0), "logits": (14.7, 0),
}  # fmt: skip
FIRST_OF_LAYER, LAST_OF_LAYER = 2.45, 12.65
MOST = 2048  # the most numbers of a vector that are drawn
HEADING_LETTERS = 110  # letters in a line above the whole figure


def diagram(
    walk: Walk, key: str, *, layer: int, token: int, names: Any = str, theme: str | None = None
) -> Picture:
    """Draw the path with one step highlighted, and below it the numbers of that step for one token.

    Args:
        key: the step to highlight, one of `lessons.one_token.KEYS`.
        layer: the layer whose numbers are drawn.
        token: the position of the token whose numbers are drawn.
        names: a function from token id to text, for the scores.
        theme: a key of plots.THEMES; None for the current one.
    """
    drawn, (_ax,) = figure(12, 4.6, theme=theme)
    drawn.clear()
    top, below = drawn.subplots(2, 1, height_ratios=(1.25, 1))
    _way(top, key, layer, walk.n_layer, theme)
    said = _numbers(below, walk, key, layer, token, names, theme)
    heading = f"Token {token}, {walk.texts[token]}: {STEPS[KEYS.index(key)].says}"
    title(top, narrow(heading, HEADING_LETTERS), theme)
    sizes = walk.sizes(layer, token)
    return Picture(
        figure=drawn,
        alt=f"{heading} The path: {', '.join(s.key for s in STEPS)}. {said}",
        labels={"title": heading, "x": "step", "y": "size of the token's vector"},
        x=list(KEYS),
        y={"size": sizes},
        rtol=1e-3,
    )


def _way(ax: Axes, lit: str, layer: int, n_layer: int, theme: str | None) -> None:
    look = theme_named(theme)
    ax.set_axis_off()
    ax.set_xlim(-0.1, 15.3)
    ax.set_ylim(-0.6, 1.95)
    line: dict[str, Any] = {"color": COLOURS["blue"], "linewidth": 5, "solid_capstyle": "round", "zorder": 1}
    ax.plot([1.7, 13.5], [0, 0], **line)
    thin: dict[str, Any] = {"color": look.text, "linewidth": 1.2, "zorder": 1}
    ax.plot([0.5, 1.7], [0, 0], **thin)
    ax.plot([13.5, 14.7], [0, 0], **thin)
    for start, end, plus in (("attn_norm", "attn_out", "ffn_inp"), ("ffn_norm", "ffn_out", "l_out")):
        left, right, joint = PLACES[start][0], PLACES[end][0], PLACES[plus][0]
        ax.plot([left, left, right, joint, joint], [0, 1, 1, 1, 0], **thin)
    frame = Rectangle(
        (FIRST_OF_LAYER, -0.5),
        LAST_OF_LAYER - FIRST_OF_LAYER,
        2.35,
        fill=False,
        edgecolor=look.grid,
        linestyle="--",
    )
    ax.add_patch(frame)
    words: dict[str, Any] = {"color": look.text, "fontsize": FONT["tick"]}
    ax.text(LAST_OF_LAYER - 0.1, 1.5, f"layer {layer} of 0–{n_layer - 1}", ha="right", **words)
    ax.text(5.6, -0.36, "the residual stream", ha="center", **words)
    for step in STEPS:
        x, y = PLACES[step.key]
        width, height = (0.5, 0.5) if step.title == "+" else (0.98, 0.62)
        on = step.key == lit
        ax.add_patch(
            FancyBboxPatch(
                (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0.02", zorder=2,
                facecolor=COLOURS["orange"] if on else "#e8eef5", linewidth=2.5 if on else 1,
                edgecolor=COLOURS["red"] if on else COLOURS["grey"],
            )
        )  # fmt: skip
        # nearly black in every theme, because the box behind it keeps its colour
        ax.text(x, y, step.title, ha="center", va="center", fontsize=11, color="#111111", zorder=3)


def _numbers(ax: Axes, walk: Walk, key: str, layer: int, token: int, names: Any, theme: str | None) -> str:
    """Draw the numbers of the step for the token; return their description."""
    look = theme_named(theme)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set_facecolor(look.background)
    ax.tick_params(colors=look.text, labelsize=11, length=0)
    ax.set_yticks([])
    ax.set_xticks([])
    words: dict[str, Any] = {"color": look.text, "fontsize": FONT["tick"]}
    if key == "tokens":
        ax.set_xlim(-0.5, len(walk.ids) - 0.5)
        ax.set_ylim(0, 1)
        for i, (number, text) in enumerate(zip(walk.ids, walk.texts)):
            weight = "bold" if i == token else "normal"
            ax.text(i, 0.5, f"{text}\n{number}", ha="center", va="center", weight=weight, **words)
        return f"The tokens: {', '.join(walk.texts)}."
    if key == "logits":
        best = walk.top(token)
        texts = [names(number) for number, _ in best]
        ax.bar(range(len(best)), [score for _, score in best], color=COLOURS["blue"], width=0.6)
        ax.set_xticks(range(len(best)), [f"{t}\n{s:.1f}" for t, (_, s) in zip(texts, best)])
        return "The best next tokens: " + ", ".join(f"{t} {s:.1f}" for t, (_, s) in zip(texts, best)) + "."
    values = walk.at(key, layer, token)
    if key == "attention":
        ax.imshow(values, aspect="auto", cmap="cividis", vmin=0, vmax=1)
        ax.set_xticks(range(len(walk.ids)), walk.texts)
        ax.set_yticks(range(len(values)), [f"head {h}" for h in range(len(values))])
        most = [walk.texts[int(row.argmax())] for row in values]
        return f"The heads attend most to: {', '.join(most)}."
    edge = float(np.abs(values).max()) or 1.0
    ax.imshow(values[:, :MOST], aspect="auto", cmap="PuOr", vmin=-edge, vmax=edge, interpolation="nearest")
    rows = (
        f"{len(values)} heads of {values.shape[1]} numbers"
        if len(values) > 1
        else f"{values.shape[1]} numbers"
    )
    said = f"{rows}, from {values.min():.2f} to {values.max():.2f}; size {np.linalg.norm(values):.1f}"
    ax.set_xlabel(f"{said} (orange: below 0, purple: above)", **words)
    if len(values) > 1:
        ax.set_yticks(range(len(values)), [f"head {h}" for h in range(len(values))])
    return f"{said}."
