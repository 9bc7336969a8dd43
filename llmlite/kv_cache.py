"""The keys and values of the tokens read so far, one pair of arrays for the whole model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmlite.errors import ModelError

if TYPE_CHECKING:
    from llmlite.config import ModelConfig


BLOCK = 32  # positions whose keys lie transposed: a line of 64 bytes holds one element of 32 float16 keys
ALIGNMENT = 64  # bytes of a cache line and of the widest vector


@dataclass(frozen=True)
class LayerCache:
    """One layer's view of a KVCache: `k` (n_head_kv, n/32, head_size, 32), `v` (n_head_kv, n, head_size)."""

    layer: int
    k: np.ndarray
    v: np.ndarray

    def write(self, position: int, k: np.ndarray, v: np.ndarray) -> None:
        """Put the keys and values of T tokens at `position`; both are (T, n_head_kv, head_size)."""
        at = np.arange(position, position + len(k))
        self.k[:, at // BLOCK, :, at % BLOCK] = k
        self.v[:, at] = v.swapaxes(0, 1)

    def keys(self, head: int, n_tokens: int) -> np.ndarray:
        """The first keys of one head, float32 (n_tokens, head_size)."""
        blocks = self.k[head, : -(-n_tokens // BLOCK)].swapaxes(1, 2)
        return blocks.reshape(-1, blocks.shape[2])[:n_tokens].astype(np.float32, copy=False)

    def values(self, head: int, n_tokens: int) -> np.ndarray:
        """The first values of one head, float32 (n_tokens, head_size)."""
        return self.v[head, :n_tokens].astype(np.float32, copy=False)


class KVCache:
    """Keys and values of every layer for at most `n_ctx` tokens.

    What attention reads for one head is one contiguous run: `v` has the shape (n_layer, n_head_kv, n,
    head_size), where n is n_ctx rounded up to a multiple of 32. `k` keeps the same keys transposed within
    each 32 positions, (n_layer, n_head_kv, n/32, head_size, 32), so that one vector load takes an element
    of many keys and their scores need no sum over lanes. The system hands out the pages when they are first
    written, so a long context costs memory only as it fills.

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
        heads, n_blocks, size = (config.n_layer, config.n_head_kv), -(-n_ctx // BLOCK), config.head_size
        self.n_ctx = n_ctx
        try:
            self.k = _aligned_zeros((*heads, n_blocks, size, BLOCK), dtype)
            self.v = _aligned_zeros((*heads, n_blocks * BLOCK, size), dtype)
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
        """Bytes when full: of n_ctx positions, rounded up to a multiple of 32."""
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
        layers, heads, _, size = self.v.shape
        return (
            f"KVCache({self.position}/{self.n_ctx} tokens, {layers} layers x {heads} heads x {size}, "
            f"{self.k.dtype.name}, {self.n_bytes / 1e6:.1f} MB when full)"
        )


def _aligned_zeros(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """np.zeros at an address that vector loads like; a page is taken when it is first written, not before."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + n_bytes].view(dtype).reshape(shape)
