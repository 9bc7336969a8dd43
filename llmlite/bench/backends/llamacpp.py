"""llama.cpp through llama-cpp-python, the peer that people ask about most.

Its cache is float32 and flash attention is off, as everywhere in the comparison. A float16 cache alone would
change logits by 3e-2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np

from llmlite.bench.backends.system_info import instructions

F32 = 0  # GGML_TYPE_F32


def make() -> LlamaCppBackend:
    """Return the backend."""
    return LlamaCppBackend()


class LlamaCppBackend:
    """A backend that runs one llama_cpp.Llama through its C interface: no sampling in Python is timed."""

    def __init__(self) -> None:
        self.llama: Any = None
        self.n_threads = 0

    def start(self) -> None:
        """Do nothing: this file has imported everything."""

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        if self.llama is not None:
            self.llama.close()
        self.llama = llama_cpp.Llama(
            path,
            n_ctx=n_ctx,
            n_batch=n_ctx,
            n_ubatch=min(n_ctx, 512),
            n_threads=n_threads,
            n_threads_batch=n_threads,
            type_k=F32,
            type_v=F32,
            flash_attn=False,
            verbose=False,
        )
        self.n_threads = n_threads

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        self._forget()
        return np.stack([self._decode([token]).copy() for token in ids])  # (T, V)

    def prefill(self, ids: Sequence[int]) -> int:
        self._forget()
        return int(self._decode(ids).argmax())

    def step(self, token: int) -> int:
        return int(self._decode([token]).argmax())

    def _forget(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.llama.ctx), True)

    def _decode(self, ids: Sequence[int]) -> np.ndarray:
        """Read `ids` after the cached ones; return the last logits (V,), a view valid until the next call."""
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        code = llama_cpp.llama_decode(self.llama.ctx, llama_cpp.llama_batch_get_one(tokens, len(ids)))
        if code:
            raise RuntimeError(f"llama_decode returned {code}")
        pointer = llama_cpp.llama_get_logits_ith(self.llama.ctx, -1)
        return np.ctypeslib.as_array(pointer, (self.llama.n_vocab(),))

    def about(self) -> dict[str, Any]:
        return {
            "n_threads": self.n_threads,
            "type_k": "f32",
            "version": llama_cpp.__version__,
            "isa": instructions(llama_cpp.llama_print_system_info()),
            "note": "repacks some types on loading: private memory, besides the mapped file",
        }
