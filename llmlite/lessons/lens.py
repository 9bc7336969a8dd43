"""The logit lens: the next token that the model would predict if it had to stop after each layer.

The residual stream has the same width after every layer. So the final norm and the output matrix can be
applied after any layer, not only after the last one.

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
    """The predictions after each stage, for one text.

    There are S stages (the embedding, then each layer), T tokens, and V tokens in the vocabulary.

    Attributes:
        ids: the T token ids of the text.
        stages: the S names of the stages: "embedding", "layer 0", … The last stage is the model's own output.
        probabilities: float32 (S, T, V): the probabilities of the next token after each stage.
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
        """The probability of the likeliest next token, float32 (S, T)."""
        return self.probabilities.max(-1)

    def top(self, stage: int, position: int, n: int = 5) -> list[tuple[int, float]]:
        """Return the `n` likeliest next tokens as (token id, probability), the likeliest first.

        Args:
            stage: the index of the stage.
            position: the position in the text.
            n: how many tokens to return.
        """
        row = self.probabilities[stage, position]
        return [(int(token), float(row[token])) for token in np.argsort(-row, kind="stable")[:n]]

    def settled(self, position: int) -> int:
        """Return the index of the first stage from which on the likeliest token is the final one."""
        same = self.best[:, position] == self.best[-1, position]
        others = np.flatnonzero(~same)
        return int(others[-1]) + 1 if len(others) else 0


def lens(model: Model, text: str | Sequence[int]) -> Lens:
    """Run the model over a text once, and read every layer's residual stream as if the layer were the last.

        probabilities = softmax(rms_norm(l_out-i) @ output.T)

    Args:
        model: the model to run.
        text: text, or token ids.

    Raises:
        The errors of `Model.trace`.
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
