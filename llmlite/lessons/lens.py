"""The logit lens: what the model would say if it had to stop after each layer.

The residual stream of every layer has the same width, so the final norm and the output matrix can read any
of them, not only the last.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmlite.engine.eager import Eager
from llmlite.engine.eager_routing import softmax
from llmlite.engine.transformer import logits, outer_norm
from llmlite.model import Model


@dataclass(frozen=True, kw_only=True)
class Lens:
    """The readings of one text. S stages (the embedding, then each layer), T tokens, V vocabulary.

    Attributes:
        ids: the tokens read.
        stages: S names: "embedding", "layer 0", …; the last is what the model says.
        probabilities: float32 (S, T, V): of the next token, read off after each stage.
    """

    ids: list[int]
    stages: list[str]
    probabilities: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """The likeliest next token, int64 (S, T)."""
        return self.probabilities.argmax(-1)

    @property
    def confidence(self) -> np.ndarray:
        """Its probability, float32 (S, T)."""
        return self.probabilities.max(-1)

    def top(self, stage: int, position: int, n: int = 5) -> list[tuple[int, float]]:
        """Return the n likeliest next tokens after a stage at a position, with their probabilities."""
        row = self.probabilities[stage, position]
        return [(int(token), float(row[token])) for token in np.argsort(-row, kind="stable")[:n]]

    def settled(self, position: int) -> int:
        """Return the first stage from which on the likeliest token is the model's final choice."""
        same = self.best[:, position] == self.best[-1, position]
        others = np.flatnonzero(~same)
        return int(others[-1]) + 1 if len(others) else 0


def lens(model: Model, text: str | Sequence[int]) -> Lens:
    """Run the model over a text once, and read every layer's residual stream as if it were the last.

        probabilities = softmax(rms_norm(l_out-i) @ output.T)

    Raises:
        As `Model.trace`.
    """
    trace = model.trace(text)
    weights, config = model.weights, model.config
    layers = range(config.n_layer)
    ops = Eager(0, len(trace.ids))
    readings = []
    for name in ["embd", *(f"l_out-{layer}" for layer in layers)]:
        x = outer_norm(ops, weights, config, "output_norm", "result_norm", trace[name])  # (T, D)
        readings.append(softmax(logits(ops, weights, config, x)))  # (T, V)
    names = ["embedding", *(f"layer {layer}" for layer in layers)]
    return Lens(ids=trace.ids, stages=names, probabilities=np.stack(readings))
