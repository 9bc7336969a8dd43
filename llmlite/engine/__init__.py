"""Executors: what runs the forward pass. Each takes the same weights and gives the same logits.

An executor is made once per model and called once per step:

    executor = make_executor("auto", weights, config)
    logits = executor(ids, cache, n_outputs=1)        # float32 (n_outputs, n_vocab)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmlite.kv_cache import KVCache
    from llmlite.transformer import ModelConfig, Weights

EXECUTORS = ("auto", "eager")


class Executor(Protocol):
    """What the model needs of an executor."""

    name: str
    max_tokens: int  # the longest step it takes: the model cuts a longer prompt into chunks

    def __call__(self, ids: Sequence[int], cache: KVCache, *, n_outputs: int) -> np.ndarray:
        """Run `ids` at the positions after `cache.ids`, store their keys and values, append to `cache.ids`.

        Returns:
            Logits of the last `n_outputs` tokens, float32 (n_outputs, n_vocab), owned by the caller.
        """
        ...


def make_executor(
    kind: str, weights: Weights, config: ModelConfig, *, n_threads: int | None = None
) -> Executor:
    """Make the executor called `kind`: one of EXECUTORS; "auto" takes the fastest that can run the model.

    Raises:
        ValueError: for a name that is not in EXECUTORS.
    """
    if kind not in EXECUTORS:
        raise ValueError(f"executor must be one of {', '.join(EXECUTORS)}; got {kind!r}")
    from llmlite.engine.eager import EagerExecutor

    return EagerExecutor(weights, config)
