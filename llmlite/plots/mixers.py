"""Draw the attention of one layer and the memory of a recurrent layer side by side, after the same text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmlite.lessons.mixers import Memory
from llmlite.plots.base import Picture, figure, theme_named, title


def beside(weights: np.ndarray, memory: Memory, ids: Sequence[int], *, theme: str | None = None) -> Picture:
    """Draw an attention map, a state for each head, and a convolution's tail.

    Args:
        weights: (T, T) attention weights of one head.
        memory: the memory of a recurrent layer after the same T tokens.
        ids: the ids of the tokens.
        theme: a key of plots.THEMES; None for the current one.
    """
    n = len(ids)
    state = memory.state if memory.state is not None else np.zeros((0, 1, 1), np.float32)
    drawn, (left, middle, right) = figure(12, 4, 3, theme=theme)
    look = theme_named(theme)
    for ax in (left, middle, right):
        ax.grid(False)
        ax.set_xticks([])
        ax.set_yticks([])
    future = np.triu(np.ones((n, n), bool), 1)
    left.imshow(np.ma.masked_array(weights, future), cmap="cividis", vmin=0, vmax=1, aspect="auto")
    title(left, f"Attention:\n{n * n} shares", theme)
    left.set_xlabel("key token", color=look.text)
    left.set_ylabel("query token", color=look.text)
    strength = [float(np.linalg.norm(head)) for head in state]
    if len(state):
        heads = np.concatenate([head / (np.abs(head).max() or 1) for head in state], axis=1)
        middle.imshow(heads, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
        for i in range(1, len(state)):
            middle.axvline(i * state.shape[2] - 0.5, color=look.text, linewidth=1)
    shown = f"State: {state.size} numbers,\n{len(state)} heads" if len(state) else "No state except\nthe tail"
    title(middle, shown, theme)
    edge = float(np.abs(memory.tail).max()) or 1.0
    right.imshow(memory.tail, cmap="PuOr", vmin=-edge, vmax=edge, aspect="auto", interpolation="nearest")
    title(right, f"Tail: the last\n{len(memory.tail)} tokens", theme)
    heading = f"After {n} tokens"
    sizes = ", ".join(f"{value:.2f}" for value in strength) or "none"
    return Picture(
        figure=drawn,
        alt=f"{heading}: an attention map of {n} by {n}; the recurrent layer's state, {state.size} "
        f"numbers for any text, whose heads have the sizes {sizes}; and the tail of its convolution, "
        f"{len(memory.tail)} rows.",
        labels={"title": heading, "x": "head", "y": "size of its state"},
        x=[str(i) for i in range(len(strength))],
        y={"size": strength},
        rtol=1e-3,
    )
