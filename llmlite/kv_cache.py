"""What a model remembers of the tokens it has read: for each layer a state of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from llmlite.errors import ContextOverflowError, ModelError

if TYPE_CHECKING:
    from llmlite.config import ModelConfig
    from llmlite.layers import Attention

BLOCK = 32  # positions whose keys lie transposed: a line of 64 bytes holds one element of 32 float16 keys
ALIGNMENT = 64  # bytes of a cache line and of the widest vector
CHUNK = 256  # tokens that a step may bring at most: a window's ring has room for so many more
DTYPES = {"f16": np.float16, "f32": np.float32}


class LayerState(Protocol):
    """What one layer keeps.

    Attributes:
        n_bytes: bytes when full.
    """

    n_bytes: int

    def reusable(self, n: int) -> bool:
        """Return whether the model can go on after the first `n` tokens: nothing it needs is lost."""
        ...

    def reserve(self, position: int, n: int) -> None:
        """Note that the next step writes positions `position` … `position + n - 1`."""
        ...

    def truncate(self, n: int) -> None:
        """Forget everything after the first `n` tokens."""
        ...


class AttentionState:
    """The keys and values of one attention layer.

    A layer that sees all positions has room for n_ctx of them; one with a window has a ring of its window
    and one step's tokens: position p is stored at p % size. The system hands out pages when they are first
    written, so a long context costs memory only as it fills.

    Attributes:
        k: (n_head_kv, size/32, key_size, 32): keys transposed within each 32 positions, so that one vector
            load takes an element of many keys and their scores need no sum over lanes.
        v: (n_head_kv, size, value_size).
        size: positions there is room for, a multiple of 32. window: the mixer's, 0 for all positions.
        intact: the first position that no later one has overwritten.
    """

    def __init__(self, spec: Attention, n_ctx: int, dtype: type, chunk: int) -> None:
        wanted = n_ctx if not spec.window or not spec.causal else min(n_ctx, spec.window + chunk)
        n_blocks = -(-wanted // BLOCK)
        self.window = spec.window if spec.causal else 0
        self.size = n_blocks * BLOCK
        self.k = _aligned_zeros((spec.n_head_kv, n_blocks, spec.key_size, BLOCK), dtype)
        self.v = _aligned_zeros((spec.n_head_kv, self.size, spec.value_size), dtype)
        self.intact = 0

    @property
    def n_bytes(self) -> int:
        """Bytes when full."""
        return self.k.nbytes + self.v.nbytes

    def reusable(self, n: int) -> bool:
        """Return whether the positions that token `n` sees are all still there."""
        return n == 0 or not self.window or max(0, n - self.window + 1) >= self.intact

    def reserve(self, position: int, n: int) -> None:
        """Note that the next step writes `n` positions from `position` on.

        Raises:
            ValueError: so many would overwrite positions that the step itself must see.
        """
        if self.window and n > self.size - self.window + 1 and position + n > self.size:
            raise ValueError(
                f"a step of {n} tokens: a ring of {self.size} positions and a window of {self.window} take "
                f"at most {self.size - self.window + 1}; make the cache with a larger chunk"
            )
        self.intact = max(self.intact, position + n - self.size)

    def truncate(self, n: int) -> None:
        """Forget everything after the first `n` tokens."""
        if n == 0:
            self.intact = 0

    def write(self, position: int, k: np.ndarray, v: np.ndarray) -> None:
        """Put the keys (T, n_head_kv, key_size) and values (T, n_head_kv, value_size) at `position`."""
        at = np.arange(position, position + len(k)) % self.size
        self.k[:, at // BLOCK, :, at % BLOCK] = k
        self.v[:, at] = v.swapaxes(0, 1)

    def keys(self, head: int, start: int, end: int) -> np.ndarray:
        """The keys of one head at positions `start` … `end - 1`, float32 (end - start, key_size)."""
        at = np.arange(start, end) % self.size
        return self.k[head, at // BLOCK, :, at % BLOCK].astype(np.float32, copy=False)

    def values(self, head: int, start: int, end: int) -> np.ndarray:
        """The values of one head at those positions, float32 (end - start, value_size)."""
        return self.v[head, np.arange(start, end) % self.size].astype(np.float32, copy=False)


class KVCache:
    """The states of every layer, for at most `n_ctx` tokens of one sequence.

    `ids` are the tokens that the states have seen, in order. An executor calls `reserve` before it writes
    and appends to `ids` only after all layers are written, so an interrupted step leaves a cache that knows
    which tokens it still holds.

    Args:
        config: gives the layers.
        n_ctx: the number of positions.
        dtype: np.float16 (half the memory; moves logits by about 3e-2) or np.float32.
        chunk: the longest step that will be run, in tokens.

    Raises:
        ValueError: for another dtype or n_ctx < 1.
        ModelError: the system has no memory for so many positions.
    """

    def __init__(
        self, config: ModelConfig, n_ctx: int, dtype: type = np.float32, *, chunk: int = CHUNK
    ) -> None:
        if dtype not in (np.float16, np.float32):
            raise ValueError(f"a KV cache holds float16 or float32, not {np.dtype(dtype).name}")
        if n_ctx < 1:
            raise ValueError(f"n_ctx must be at least 1, got {n_ctx}")
        self.n_ctx = n_ctx
        self.dtype = np.dtype(dtype)
        self.states: list[AttentionState] = []
        try:
            for layer in config.layers:
                shared = layer.mixer.shared
                own = (
                    AttentionState(layer.mixer, n_ctx, dtype, chunk)
                    if shared is None
                    else self.states[shared]
                )
                self.states.append(own)
        except (MemoryError, ValueError) as error:  # ValueError: more bytes than an address can count
            raise ModelError(f"no memory for the keys and values of a context of {n_ctx}: {error}") from error
        self.ids: list[int] = []

    def __getitem__(self, layer: int) -> AttentionState:
        return self.states[layer]

    @property
    def position(self) -> int:
        """Where the next token goes; the number of tokens held."""
        return len(self.ids)

    @property
    def n_bytes(self) -> int:
        """Bytes when full: of n_ctx positions, or of a window, rounded up to a multiple of 32."""
        return sum(state.n_bytes for state in {id(state): state for state in self.states}.values())

    def reserve(self, n: int) -> None:
        """Note that the next step writes `n` tokens.

        Raises:
            ContextOverflowError: they do not fit; nothing is changed then.
        """
        if self.position + n > self.n_ctx:
            raise ContextOverflowError(
                f"{n} tokens after {self.position} do not fit in a context of {self.n_ctx}"
            )
        for state in self.states:
            state.reserve(self.position, n)

    def extend(self, ids: Sequence[int]) -> None:
        """Note that all layers have seen `ids`."""
        self.ids.extend(int(token) for token in ids)

    def truncate(self, n_tokens: int) -> None:
        """Forget all but the first `n_tokens` tokens.

        Raises:
            ValueError: a layer has lost what the next token would need; ask `reusable` first.
        """
        if n_tokens < self.position and not self.reusable(n_tokens):
            raise ValueError(f"the cache can't go on after {n_tokens} of its {self.position} tokens")
        del self.ids[n_tokens:]
        for state in self.states:
            state.truncate(n_tokens)

    def reusable(self, n: int) -> bool:
        """Return whether every layer can go on after the first `n` tokens."""
        return n <= self.position and all(state.reusable(n) for state in self.states)

    def common_prefix(self, ids: list[int]) -> int:
        """Return how many leading tokens of `ids` are in the cache already."""
        held = self.ids
        if held == ids[: len(held)]:
            return len(held)
        return next(i for i, (old, new) in enumerate(zip(held + [-1], ids + [-1])) if old != new)

    def reuse(self, ids: list[int], at_most: int) -> int:
        """Keep the longest beginning of `ids` that every layer can go on from; return its length.

        Args:
            at_most: no longer than this.
        """
        n = min(self.common_prefix(ids), at_most)
        if not self.reusable(n):
            n = 0  # a window or a recurrent state has moved on: the text is read again
        self.truncate(n)
        return n

    def __repr__(self) -> str:
        return (
            f"KVCache({self.position}/{self.n_ctx} tokens, {len(self.states)} layers, "
            f"{self.dtype.name}, {self.n_bytes / 1e6:.1f} MB when full)"
        )


def _aligned_zeros(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """np.zeros at an address that vector loads like; a page is taken when it is first written, not before.

    Kernels may read a vector that begins in the last row and reaches past the end.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + 2 * ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + n_bytes].view(dtype).reshape(shape)
