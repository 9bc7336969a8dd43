"""A model's memory of the tokens it has read: one state for each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from llmlite.description.layers import Attention
from llmlite.engine.recurrent import RecurrentMemory, RecurrentState
from llmlite.errors import ContextOverflowError, ModelError, UnsupportedError

if TYPE_CHECKING:
    from llmlite.description.config import ModelConfig

BLOCK = 32  # positions whose keys are stored transposed: 64 bytes hold one element of 32 float16 keys
ALIGNMENT = 64  # bytes of a cache line and of the widest vector
CHUNK = 256  # the maximum number of tokens in a step: a window's ring has room for this many more
DTYPES = {"f16": np.float16, "f32": np.float32, "q8_0": np.int8}  # types of the arrays of keys and values
QUANTIZED = 32  # numbers that share a scale in a cache of int8
KV_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
SMALLEST = np.float32(1e-30)  # a smaller scale is 0 in float16 anyway, and its inverse may overflow
SNAPSHOTS = 4  # of recurrent states; each is as large as the states themselves
SNAPSHOT_EVERY = 256  # positions between snapshots during decode


class LayerState(Protocol):
    """The state of one layer.

    Attributes:
        n_bytes: bytes when full.
    """

    n_bytes: int

    def reusable(self, n: int) -> bool:
        """Return whether the model can continue after the first `n` tokens, with nothing it needs lost."""
        ...

    def longest(self, n: int) -> int:
        """Return the largest number of tokens, at most `n`, after which the model can continue."""
        ...

    def reserve(self, position: int, n: int) -> None:
        """Prepare for a step that writes positions `position` … `position + n - 1`."""
        ...

    def truncate(self, n: int) -> None:
        """Forget everything after the first `n` tokens."""
        ...


class AttentionState:
    """The keys and values of one attention layer.

    A layer that sees all positions has room for n_ctx of them. A layer with a window has a ring for its
    window and one step's tokens; position p is stored at p % size. The system provides pages when they are
    first written, so a long context costs memory only as it fills.

    A cache of int8 stores Q8_0 blocks: 32 numbers of a head's key or value at one position are bytes (-127 …
    127) times one scale.

    Attributes:
        k: (n_head_kv, size/32, key_size, 32), keys transposed within each 32 positions, so that one vector
            load reads an element of many keys, and scores need no sum over lanes.
        v: (n_head_kv, size, value_size); value_size is 0 if a value is the first part of its key.
        k_scales, v_scales: for int8, float16 (n_head_kv, size/32, key_size/32 or value_size/32, 32), one for
            each 32 numbers and position; else None.
        size: positions there is room for, a multiple of 32.
        window: the mixer's window; 0 for all positions.
        intact: the first position that no later one has overwritten.
    """

    def __init__(self, spec: Attention, n_ctx: int, dtype: type, chunk: int) -> None:
        if dtype == np.int8:
            require_blocks(spec)
        wanted = n_ctx if not spec.window or not spec.causal else min(n_ctx, spec.window + chunk)
        n_blocks = -(-wanted // BLOCK)
        self.window = spec.window if spec.causal else 0
        self.size = n_blocks * BLOCK
        self.k = _aligned_zeros((spec.n_head_kv, n_blocks, spec.key_size, BLOCK), dtype)
        v_size = 0 if spec.values_in_keys else spec.value_size
        self.value_size, self.values_in_keys = spec.value_size, spec.values_in_keys
        self.v = _aligned_zeros((spec.n_head_kv, self.size, v_size), dtype)
        self.k_scales = self.v_scales = None
        if dtype == np.int8:
            self.k_scales, self.v_scales = (
                _aligned_zeros((spec.n_head_kv, n_blocks, width // QUANTIZED, BLOCK), np.float16)
                for width in (spec.key_size, v_size)
            )
        self.intact = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of the state when it is full."""
        arrays = (self.k, self.v, self.k_scales, self.v_scales)
        return sum(array.nbytes for array in arrays if array is not None)

    def reusable(self, n: int) -> bool:
        """Return whether all the positions that token `n` sees are still stored."""
        return n == 0 or not self.window or max(0, n - self.window + 1) >= self.intact

    def longest(self, n: int) -> int:
        """Return `n` if it is reusable, else 0, because a shorter prefix needs even older positions."""
        return n if self.reusable(n) else 0

    def reserve(self, position: int, n: int) -> None:
        """Prepare for a step that writes `n` positions from `position` on.

        Raises:
            ValueError: the step would overwrite positions that it must see itself.
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

    def copy_from(self, source: AttentionState, n: int) -> None:
        """Copy the first `n` positions from another state; from a ring, copy those that it still has."""
        n = min(n, self.size)
        if self.intact or source.intact:
            n = self.size  # positions have wrapped around
        n_blocks = -(-n // BLOCK)
        self.v[:, :n] = source.v[:, :n]
        self.k[:, :n_blocks] = source.k[:, :n_blocks]
        if self.k_scales is not None and self.v_scales is not None:
            assert source.k_scales is not None and source.v_scales is not None
            self.k_scales[:, :n_blocks] = source.k_scales[:, :n_blocks]
            self.v_scales[:, :n_blocks] = source.v_scales[:, :n_blocks]
        self.intact = source.intact

    def write(self, position: int, k: np.ndarray, v: np.ndarray | None) -> None:
        """Store keys (T, n_head_kv, key_size) and values (T, n_head_kv, value_size) from `position` on.

        Args:
            k, v: the keys and values; v is None if values are in the keys.
        """
        at = np.arange(position, position + len(k)) % self.size
        if self.k_scales is not None:
            k, k_scales = quantize(k)
            self.k_scales[:, at // BLOCK, :, at % BLOCK] = k_scales
        self.k[:, at // BLOCK, :, at % BLOCK] = k
        if v is None:
            return
        if self.v_scales is not None:
            v, v_scales = quantize(v)
            self.v_scales[:, at // BLOCK, :, at % BLOCK] = v_scales
        self.v[:, at] = v.swapaxes(0, 1)

    def keys(self, head: int, start: int, end: int) -> np.ndarray:
        """Return one head's keys at positions `start` … `end - 1`, float32 (end - start, key_size)."""
        at = np.arange(start, end) % self.size
        return self._floats(self.k[head, at // BLOCK, :, at % BLOCK], self.k_scales, head, at)

    def values(self, head: int, start: int, end: int) -> np.ndarray:
        """Return one head's values at these positions, float32 (end - start, value_size)."""
        if self.values_in_keys:
            return self.keys(head, start, end)[:, : self.value_size]
        at = np.arange(start, end) % self.size
        return self._floats(self.v[head, at], self.v_scales, head, at)

    def _floats(self, rows: np.ndarray, scales: np.ndarray | None, head: int, at: np.ndarray) -> np.ndarray:
        found = rows.astype(np.float32, copy=False)
        if scales is None:
            return found
        own = scales[head, at // BLOCK, :, at % BLOCK].astype(np.float32)
        with np.errstate(invalid="ignore"):  # 0 times infinity is also not a number
            return found * own.repeat(QUANTIZED, axis=-1)


def quantize(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes, int8 (…, D), and scales, float16 (…, D/32), that a Q8_0 cache stores for float32 x.

    The bytes are those of the store kernel, operation by operation: the scale is max|x| / 127, and the codes
    are x · (127 / max|x|), rounded to even. (The file format rounds halves away from zero.) If a block has a
    number that is not finite, its scale is not finite either.
    """
    blocks = x.astype(np.float32, copy=False).reshape(*x.shape[:-1], -1, QUANTIZED)
    largest = np.abs(blocks).max(axis=-1)
    with np.errstate(all="ignore"):
        inverse = np.where(largest > SMALLEST, np.float32(127) / largest, np.float32(0))
        codes = np.rint(blocks * inverse[..., None])
        scales = (largest / np.float32(127)).astype(np.float16)
    return np.nan_to_num(codes, nan=0).astype(np.int8).reshape(x.shape), scales


def require_blocks(spec: Attention) -> None:
    """Refuse a mixer whose keys or values don't fill whole blocks of a Q8_0 cache.

    Raises:
        UnsupportedError: a size is not a multiple of 32; names it.
    """
    for what, size in (("keys", spec.key_size), ("values", spec.value_size)):
        if size % QUANTIZED:
            raise UnsupportedError(
                f"kv_dtype q8_0 needs {what} of a multiple of {QUANTIZED} numbers, this model's have {size}; "
                "use f16"
            )


class KVCache:
    """The states of every layer, for at most `n_ctx` tokens of one sequence.

    `ids` are the tokens that the states have seen, in order. An executor calls `reserve` before it writes,
    and appends to `ids` only after all layers are written. So after an interrupted step, the cache still
    knows which tokens it holds.

    Args:
        config: configuration with the layers.
        n_ctx: the number of positions.
        dtype: np.float16 (half the memory of float32; changes logits by about 3e-2), np.int8 (Q8_0 blocks:
            half the memory of float16, plus a scale for each 32 numbers), or np.float32.
        chunk: the longest step that will be run, in tokens.
        n_snapshots: number of snapshots of recurrent layers' states to keep. A text that shares only its
            beginning with the last one is read again from the latest snapshot within that beginning.
        snapshot_every: during decode, a snapshot is taken at each multiple of this; another one is taken at
            the end of a prompt.

    Raises:
        ValueError: another dtype, n_ctx < 1, n_snapshots < 0 or snapshot_every < 1.
        UnsupportedError: a Q8_0 cache for keys or values whose size isn't a multiple of 32.
        ModelError: the system has too little memory for this many positions.
    """

    def __init__(
        self,
        config: ModelConfig,
        n_ctx: int,
        dtype: type = np.float32,
        *,
        chunk: int = CHUNK,
        n_snapshots: int = SNAPSHOTS,
        snapshot_every: int = SNAPSHOT_EVERY,
    ) -> None:
        if dtype not in DTYPES.values():
            raise ValueError(f"a KV cache holds float16, float32 or int8, not {np.dtype(dtype).name}")
        if n_ctx < 1:
            raise ValueError(f"n_ctx must be at least 1, got {n_ctx}")
        if n_snapshots < 0 or snapshot_every < 1:
            raise ValueError(
                f"n_snapshots must be at least 0 and snapshot_every 1, got {n_snapshots} and {snapshot_every}"
            )
        self.n_ctx = n_ctx
        self.dtype = np.dtype(dtype)
        self.states: list[AttentionState | RecurrentState] = []
        recurrent = [layer.mixer for layer in config.layers if not isinstance(layer.mixer, Attention)]
        try:
            self.recurrent = RecurrentMemory(
                recurrent,
                lambda shape: _aligned_zeros(shape, np.float32),
                n_snapshots=n_snapshots,
                every=snapshot_every,
            )
            left = iter(self.recurrent.states)
            for mixer in (layer.mixer for layer in config.layers):
                if not isinstance(mixer, Attention):
                    self.states.append(next(left))
                elif mixer.shared is not None:
                    self.states.append(self.states[mixer.shared])
                else:
                    self.states.append(AttentionState(mixer, n_ctx, dtype, chunk))
        except (MemoryError, ValueError) as error:  # ValueError: more bytes than can be addressed
            raise ModelError(f"no memory for the keys and values of a context of {n_ctx}: {error}") from error
        # others never overwrite a position
        self._rings = [s for s in self.states if isinstance(s, AttentionState) and s.window]
        self.ids: list[int] = []

    def __getitem__(self, layer: int) -> Any:
        return self.states[layer]

    @property
    def position(self) -> int:
        """Position of the next token, which is the number of tokens held."""
        return len(self.ids)

    @property
    def n_bytes(self) -> int:
        """Bytes of the full cache: of n_ctx positions, or of a window, rounded up to a multiple of 32."""
        return sum(state.n_bytes for state in {id(state): state for state in self.states}.values())

    def reserve(self, n: int) -> None:
        """Prepare for a step that writes `n` tokens.

        Raises:
            ContextOverflowError: the tokens don't fit; nothing is changed.
        """
        position = self.position
        if position + n > self.n_ctx:
            raise ContextOverflowError(f"{n} tokens after {position} do not fit in a context of {self.n_ctx}")
        for state in self._rings:
            state.reserve(position, n)

    def extend(self, ids: Sequence[int]) -> None:
        """Finish a step: all layers have seen `ids`."""
        if self.recurrent.states:  # first: a state that is ahead, after an interruption, is not reusable
            self.recurrent.commit(len(ids))
        self.ids.extend(int(token) for token in ids)

    def truncate(self, n_tokens: int) -> None:
        """Forget all but the first `n_tokens` tokens.

        Raises:
            ValueError: a layer has lost positions that the next token needs; call `reusable` first.
        """
        if n_tokens < self.position and not self.reusable(n_tokens):
            raise ValueError(f"the cache can't continue after {n_tokens} of its {self.position} tokens")
        del self.ids[n_tokens:]
        for state in self.states:
            state.truncate(n_tokens)

    def reusable(self, n: int) -> bool:
        """Return whether every layer can continue after the first `n` tokens."""
        return n <= self.position and all(state.reusable(n) for state in self.states)

    def common_prefix(self, ids: list[int]) -> int:
        """Return the number of leading tokens of `ids` that are in the cache."""
        held = self.ids
        if held == ids[: len(held)]:
            return len(held)
        return next(i for i, (old, new) in enumerate(zip(held + [-1], ids + [-1])) if old != new)

    def reuse(self, ids: list[int], at_most: int) -> int:
        """Keep the longest prefix of `ids` from which every layer can continue; return its length.

        Args:
            ids: token ids of a text.
            at_most: the maximum length.
        """
        n = self.longest(ids, at_most)
        self.truncate(n)
        return n

    def longest(self, ids: list[int], at_most: int) -> int:
        """Return the length (up to `at_most`) of the longest prefix of `ids` that every layer can reuse."""
        n, wanted = min(self.common_prefix(ids), at_most), -1
        while n != wanted:  # a window or a recurrent state is ahead: more of the text must be read again
            wanted = n
            n = min((state.longest(n) for state in self.states), default=n)
        return n

    def copy_from(self, source: KVCache, ids: list[int], at_most: int) -> int:
        """Copy the longest prefix of `ids` from which `source` can continue; return its length.

        The cache then has the same bytes as if it had read these tokens itself.

        Args:
            source: a cache of the same model with the same sizes; it isn't changed.
            ids: token ids of a text.
            at_most: the maximum number of tokens to copy.
        """
        n = source.longest(ids, at_most)
        self.truncate(0)
        for own, other in {id(own): (own, other) for own, other in zip(self.states, source.states)}.values():
            if isinstance(own, AttentionState) and isinstance(other, AttentionState):
                own.copy_from(other, n)
        if self.recurrent.states and n:
            self.recurrent.copy_from(source.recurrent, n)
        self.ids = source.ids[:n]
        return n

    def __repr__(self) -> str:
        return (
            f"KVCache({self.position}/{self.n_ctx} tokens, {len(self.states)} layers, "
            f"{KV_NAMES[self.dtype]}, {self.n_bytes / 1e6:.1f} MB when full)"
        )


def _aligned_zeros(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Return np.zeros at an aligned address; the system provides a page when it is first written.

    Kernels may read a vector that begins in the last row and extends past the end.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + 2 * ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + n_bytes].view(dtype).reshape(shape)
