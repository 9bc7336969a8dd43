"""The keys and values of the tokens read so far, one pair of arrays for the whole model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmlite.errors import ModelError

if TYPE_CHECKING:
    from llmlite.config import ModelConfig


@dataclass(frozen=True)
class LayerCache:
    """One layer's view of a KVCache; `k` and `v` are (n_head_kv, n_ctx, head_size)."""

    layer: int
    k: np.ndarray
    v: np.ndarray


class KVCache:
    """Keys and values of every layer for at most `n_ctx` tokens.

    `k` and `v` have the shape (n_layer, n_head_kv, n_ctx, head_size): what attention reads for one
    head is one contiguous run. The system hands out the pages when they are first written, so a
    long context costs memory only as it fills.

    `ids` are the tokens whose keys and values stand in the cache, in order. An executor appends to
    it only after all layers are written, so an interrupted step leaves the cache as it was.

    Args:
        config: gives n_layer, n_head_kv and head_size.
        n_ctx: the number of positions.
        dtype: np.float16 (half the memory; moves logits by about 3e-2) or np.float32.

    Raises:
        ValueError: for another dtype or n_ctx < 1.
        ModelError: the system has no memory for so many positions.
    """

    def __init__(self, config: ModelConfig, n_ctx: int, dtype: type = np.float32) -> None:
        if dtype not in (np.float16, np.float32):
            raise ValueError(f"a KV cache holds float16 or float32, not {np.dtype(dtype).name}")
        if n_ctx < 1:
            raise ValueError(f"n_ctx must be at least 1, got {n_ctx}")
        shape = (config.n_layer, config.n_head_kv, n_ctx, config.head_size)
        self.n_ctx = n_ctx
        try:
            self.k = np.zeros(shape, dtype)
            self.v = np.zeros(shape, dtype)
        except (MemoryError, ValueError) as error:  # ValueError: more bytes than an address can count
            raise ModelError(f"no memory for the keys and values of a context of {n_ctx}: {error}") from error
        self.ids: list[int] = []

    def __getitem__(self, layer: int) -> LayerCache:
        return LayerCache(layer, self.k[layer], self.v[layer])

    @property
    def position(self) -> int:
        """Where the next token goes; the number of tokens held."""
        return len(self.ids)

    @property
    def n_bytes(self) -> int:
        """Bytes when full."""
        return self.k.nbytes + self.v.nbytes

    def truncate(self, n_tokens: int) -> None:
        """Forget all but the first `n_tokens` tokens; what stands behind them is overwritten later."""
        del self.ids[n_tokens:]

    def common_prefix(self, ids: list[int]) -> int:
        """Return how many leading tokens of `ids` already stand in the cache."""
        held = self.ids
        if held == ids[: len(held)]:
            return len(held)
        return next(i for i, (old, new) in enumerate(zip(held + [-1], ids + [-1])) if old != new)

    def __repr__(self) -> str:
        layers, heads, _, size = self.k.shape
        return (
            f"KVCache({self.position}/{self.n_ctx} tokens, {layers} layers x {heads} heads x {size}, "
            f"{self.k.dtype.name}, {self.n_bytes / 1e6:.1f} MB when full)"
        )
