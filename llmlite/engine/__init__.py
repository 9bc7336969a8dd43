"""Executors, which run the forward pass. Each takes the same weights and returns the same logits.

An executor is made once per model and called once per step:

    executor = make_executor("auto", weights, config)
    logits = executor(ids, cache, n_outputs=1)        # float32 (n_outputs, n_vocab)
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Protocol

import numpy as np

from llmlite.errors import FallbackWarning, KernelError, UnsupportedError
from llmlite.system.limits import require_llvm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmlite.description.config import ModelConfig
    from llmlite.description.weights import Weights
    from llmlite.engine.kv_cache import KVCache
    from llmlite.engine.planned import PlannedExecutor

EXECUTORS = ("auto", "planned", "eager")


class Executor(Protocol):
    """The interface of an executor."""

    name: str
    max_tokens: int  # the longest step; the model cuts a longer prompt into chunks

    def __call__(
        self, ids: Sequence[int], cache: KVCache, *, n_outputs: int, types: Sequence[int] | None = None
    ) -> np.ndarray:
        """Run `ids` at the positions after `cache.ids`, store their keys and values, append to `cache.ids`.

        Returns:
            Logits of the last `n_outputs` tokens, float32 (n_outputs, n_vocab), owned by the caller.
        """
        ...


def make_executor(
    kind: str,
    weights: Weights,
    config: ModelConfig,
    *,
    n_threads: int | None = None,
    kv_dtype: type = np.float16,
) -> Executor:
    """Make the executor called `kind`: one of EXECUTORS.

    "auto" makes the planned executor. If that isn't possible, it makes the eager one, whose repr gives the
    reason.

    Args:
        n_threads: threads of the planned executor; by default, the cores that this process may use.
        kv_dtype: type of the caches that it will be given first; every other type needs its own plan.

    Raises:
        ValueError: `kind` is not in EXECUTORS, or n_threads is out of range.
        UnsupportedError: "planned" doesn't support the model.
        KernelError: "planned" can't compile or load kernels on this machine.
    Warns:
        FallbackWarning: "auto" made the eager executor, which is slow.
    """
    if kind not in EXECUTORS:
        raise ValueError(f"executor must be one of {', '.join(EXECUTORS)}; got {kind!r}")
    from llmlite.engine.eager import EagerExecutor

    if kind == "eager":
        return EagerExecutor(weights, config)
    try:
        return _planned()(weights, config, n_threads=n_threads, kv_dtype=kv_dtype)
    except (UnsupportedError, KernelError) as error:
        if kind == "planned":
            raise
        remedy = (
            "`llmlite doctor` says what to do" if isinstance(error, KernelError) else "no kernels for it yet"
        )
        warnings.warn(f"the slow executor runs this model: {error} ({remedy})", FallbackWarning, stacklevel=2)
        return EagerExecutor(weights, config, reason=str(error))


def _planned() -> type[PlannedExecutor]:
    """Import the planned executor, which needs llvmlite.

    Raises:
        KernelError: llvmlite is missing or can't be loaded.
    """
    try:
        require_llvm()
        from llmlite.engine.planned import PlannedExecutor
    except (ImportError, OSError, MemoryError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {str(error).split('. ')[0][:160]}"
        raise KernelError(f"the compiler's library, llvmlite, can't be loaded: {reason}") from error
    return PlannedExecutor
