"""llmlite itself, with the executor a user gets ("auto") or the plain NumPy one ("eager")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmlite.model import Model, load


def make(*, executor: str) -> LlmliteBackend:
    """Return the backend running on the executor called `executor`."""
    return LlmliteBackend(executor)


class LlmliteBackend:
    """A model with a float32 cache, driven below its text interface: no tokenizing, no sampling is timed."""

    def __init__(self, executor: str) -> None:
        self.executor = executor
        self.model: Model | None = None
        self.n_threads = 0

    def start(self) -> None:
        """Nothing left to import: this file already did."""

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        self.model = None  # the old weights go before the new ones come
        self.n_threads = n_threads
        self.model = load(path, n_ctx=n_ctx, kv_dtype="f32", executor=self.executor, n_threads=n_threads)

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
        return {"n_threads": self.n_threads, "type_k": "f32", "executor": self._loaded.executor.name}
