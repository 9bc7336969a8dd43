"""Where a model looks: attention weights of every layer and head over one text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmlite.lessons.tokens import visible
from llmlite.model import Model
from llmlite.tokenizers import as_ids


@dataclass(frozen=True)
class Attention:
    """The attention of every head of every layer.

    Args:
        ids: the tokens read, T of them. texts: the same as a reader sees them.
        weights: float32 (n_layer, n_head, T, T); row t, of the query, sums to 1 over the keys 0…t.
    """

    ids: list[int]
    texts: list[str]
    weights: np.ndarray

    def row(self, layer: int, head: int | None, query: int) -> np.ndarray:
        """Return the weights (T,) of one query; the mean over the layer's heads for head None."""
        found = self.weights[layer, :, query]
        return found.mean(axis=0) if head is None else found[head]

    def top(self, layer: int, head: int | None, query: int, n: int) -> list[tuple[int, float]]:
        """Return the `n` keys most looked at: (position, weight), the heaviest first."""
        row = self.row(layer, head, query)
        return [(int(i), float(row[i])) for i in np.argsort(-row, kind="stable")[:n]]


def attention(model: Model, prompt: str | Sequence[int]) -> Attention:
    """Run the model over a prompt and keep its attention weights.

    Raises:
        As `Model.trace`.
    """
    ids = model.tokenizer.encode(prompt) if isinstance(prompt, str) else as_ids(prompt, "prompt")
    trace = model.trace(ids)
    weights = np.stack([trace[f"kq_soft_max-{layer}"] for layer in range(model.config.n_layer)])
    return Attention(ids, [visible(model.tokenizer, token) for token in ids], weights)
