"""llmlite itself, with the default executor ("auto") or the plain NumPy one ("eager")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmlite._version import __version__
from llmlite.bench.environment import cpu_features
from llmlite.model import Model, load


def make(*, executor: str, kv_dtype: str = "f32") -> LlmliteBackend:
    """Return the backend.

    Args:
        executor: "auto" or "eager".
        kv_dtype: type of the cache, "f32" or "f16".
    """
    return LlmliteBackend(executor, kv_dtype)


class LlmliteBackend:
    """A backend that runs a model without its text interface: neither tokenization nor sampling is timed."""

    def __init__(self, executor: str, kv_dtype: str) -> None:
        self.executor = executor
        self.kv_dtype = kv_dtype
        self.model: Model | None = None
        self.n_threads = 0

    def start(self) -> None:
        """Do nothing: this file has imported everything."""

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        self.model = None  # free the old weights before loading new ones
        self.n_threads = n_threads
        self.model = load(
            path, n_ctx=n_ctx, kv_dtype=self.kv_dtype, executor=self.executor, n_threads=n_threads
        )

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        return self._loaded.logits(ids)

    def prefill(self, ids: Sequence[int]) -> int:
        return int(self._loaded.logits(ids, last_only=True)[0].argmax())

    def step(self, token: int) -> int:
        model = self._loaded
        return int(model.executor([token], model.cache, n_outputs=1)[0].argmax())

    @property
    def _loaded(self) -> Model:
        assert self.model is not None
        return self.model

    def about(self) -> dict[str, Any]:
        return {
            "n_threads": self.n_threads,
            "type_k": self.kv_dtype,
            "version": __version__,
            "isa": " ".join(cpu_features()),
            "executor": self._loaded.executor.name,
        }
