"""The attention weights of every layer and head of a model, over one text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmlite.lessons.tokens import visible
from llmlite.model import Model
from llmlite.tokenizers import as_ids


@dataclass(frozen=True)
class AttentionMaps:
    """The attention weights of every head of every layer, over one text of T tokens.

    Attributes:
        ids: the T token ids of the text.
        texts: the text of each token, with spaces and line ends made visible.
        weights: float32 (n_layer, n_head, T, T). Row t belongs to query t; it sums to 1 over the keys 0…t.
    """

    ids: list[int]
    texts: list[str]
    weights: np.ndarray

    def row(self, layer: int, head: int | None, query: int) -> np.ndarray:
        """Return the attention weights of one query.

        Args:
            layer: the number of the layer.
            head: the number of the head; None for the mean over the layer's heads.
            query: the position of the query.

        Returns:
            The weights of all keys, float32 (T,).
        """
        found = self.weights[layer, :, query]
        return found.mean(axis=0) if head is None else found[head]

    def top(self, layer: int, head: int | None, query: int, n: int) -> list[tuple[int, float]]:
        """Return the `n` keys with the largest weights as (position, weight), the largest first.

        The arguments `layer`, `head` and `query` are those of `row`.
        """
        row = self.row(layer, head, query)
        return [(int(i), float(row[i])) for i in np.argsort(-row, kind="stable")[:n]]


def attention(model: Model, prompt: str | Sequence[int]) -> AttentionMaps:
    """Run the model over a prompt and return its attention weights.

    Args:
        model: the model to run.
        prompt: text, or token ids.

    Raises:
        The errors of `Model.trace`.
    """
    ids = model.tokenizer.encode(prompt) if isinstance(prompt, str) else as_ids(prompt, "prompt")
    trace = model.trace(ids)
    weights = np.stack([trace[f"kq_soft_max-{layer}"] for layer in range(model.config.n_layer)])
    return AttentionMaps(ids, [visible(model.tokenizer, token) for token in ids], weights)
