"""QuantTensor: a named array kept in its file's own bits, dequantized only where asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape

import numpy as np

from llmlite import guard
from llmlite.errors import UnsupportedError
from llmlite.quants import QuantType, by_name
from llmlite.quants.block import Block

SLAB = 1 << 18  # weights taken at once: 1 MB of float32 and its temporaries stay near the caches
Progress = Callable[[int, int], None]


class QuantTensor:
    """A tensor in one of GGML's types.

    name: its name in the file, used in errors.
    type: the QuantType record.
    shape: NumPy order, rows first: the reverse of GGUF's dimensions.
    blocks: (n_blocks, type_size) uint8, row after row; a view of the file's memory map, never copied.

    Raises: UnsupportedError if rows aren't whole blocks, ValueError if the blocks don't fit the shape.
    """

    __slots__ = ("blocks", "name", "shape", "type")

    def __init__(self, name: str, type: QuantType, shape: Sequence[int], blocks: np.ndarray) -> None:
        self.name = name
        self.type = type
        self.shape = tuple(int(n) for n in shape)
        check_row(name, self.n_columns, type)
        expected = (self.n_elements // type.block_size, type.type_size)
        if blocks.dtype != np.uint8 or blocks.shape != expected:
            raise ValueError(
                f"{name}: {type.name} of shape {self.shape} needs blocks {expected} uint8, "
                f"got {blocks.shape} {blocks.dtype}"
            )
        self.blocks = blocks

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape in GGUF's order, fastest dimension first."""
        return self.shape[::-1]

    @property
    def n_columns(self) -> int:
        """Weights in one row."""
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        """Rows: the product of all dimensions but the last."""
        return math.prod(self.shape[:-1])

    @property
    def n_elements(self) -> int:
        """Weights in the tensor."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of its blocks."""
        return self.blocks.nbytes

    @property
    def bits_per_weight(self) -> float:
        """Bits of storage per weight, scales included."""
        return self.type.bits_per_weight

    @property
    def _blocks_per_row(self) -> int:
        return self.n_columns // self.type.block_size

    def dequantize(self, rows: slice | None = None) -> np.ndarray:
        """Weights as float32: all of them in `shape`, or those rows as (n_selected, n_columns).

        Rows are counted through all leading dimensions. The result is always a fresh array.

        Raises: GGUFError if the file that they lie in has been cut off since it was opened.
        """
        if rows is None:
            return self._dequantize_rows(0, self.n_rows).reshape(self.shape)
        start, stop, step = rows.indices(self.n_rows)
        if step != 1:
            return self.rows(range(start, stop, step))
        return self._dequantize_rows(start, max(start, stop))

    def _dequantize_rows(self, start: int, stop: int) -> np.ndarray:
        per_row = self._blocks_per_row
        guard.arm()
        blocks = self.blocks[start * per_row : stop * per_row]
        out = np.empty((len(blocks), self.type.block_size), np.float32)
        per_slab = max(1, SLAB // self.type.block_size)
        for at in range(0, len(blocks), per_slab):
            out[at : at + per_slab] = self.type.dequantize(blocks[at : at + per_slab])
        guard.check(blocks)
        return out.reshape(stop - start, self.n_columns)

    def rows(self, ids: Iterable[int] | np.ndarray) -> np.ndarray:
        """Chosen rows as float32 (len(ids), n_columns), in the order asked: an embedding lookup.

        Raises: IndexError if an id is outside the tensor; GGUFError as `dequantize`.
        """
        chosen = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), dtype=np.int64)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= self.n_rows):
            raise IndexError(f"{self.name}: row ids must be in 0..{self.n_rows - 1}")
        guard.arm()
        blocks = self.blocks
        by_row = blocks.reshape(self.n_rows, self._blocks_per_row, self.type.type_size)
        picked = by_row[chosen].reshape(-1, self.type.type_size)
        guard.check(blocks)
        return self.type.dequantize(picked).reshape(len(chosen), self.n_columns)

    def slice_rows(self, start: int, stop: int) -> QuantTensor:
        """Rows start to stop-1, counted through all leading dimensions, as a tensor over the same memory."""
        per_row = self._blocks_per_row
        shape = (stop - start, self.n_columns)
        return QuantTensor(self.name, self.type, shape, self.blocks[start * per_row : stop * per_row])

    def block(self, i: int) -> Block:
        """Block i, taken apart: bytes, fields, scales, levels, weights.

        Raises: IndexError if there is no such block.
        """
        if not 0 <= i < len(self.blocks):
            raise IndexError(f"{self.name}: block {i} asked, blocks are 0..{len(self.blocks) - 1}")
        guard.arm()
        block = Block(self.type, self.blocks[i])
        guard.check(self.blocks[i])
        return block

    @classmethod
    def quantize(
        cls,
        array: np.ndarray | QuantTensor,
        type_name: str,
        name: str = "",
        importance: np.ndarray | None = None,
        *,
        n_threads: int = 1,
        progress: Progress | None = None,
    ) -> QuantTensor:
        """Quantize an array of any float dtype, rows along its last axis. Deterministic, whatever n_threads.

        array: a tensor of another type works too: it is dequantized slab by slab, never whole.
        importance: (n_columns,) or, for stacked experts, (n_experts, n_columns) float32: the mean square of
            the activation each column meets. Types that can use it then lose less where it matters.
        progress: called as progress(rows_done, n_rows) from the calling thread.

        Raises: UnsupportedError for a type without a quantizer or a row that isn't whole blocks.
        """
        record = by_name(type_name)
        source = array if isinstance(array, QuantTensor) else np.asarray(array)
        n_columns = source.shape[-1] if source.shape else 1
        check_row(name, n_columns, record)
        if record.encode is None:
            raise UnsupportedError(f"{name or 'tensor'}: {record.name} has no quantizer")
        n_rows = math.prod(source.shape[:-1])
        per_row = n_columns // record.block_size
        blocks = np.empty((n_rows * per_row, record.type_size), np.uint8)
        weights = _per_row(importance, (n_rows, n_columns), name)

        def quantize_slab(rows: slice) -> int:
            values = _float_rows(source, rows)  # (n, n_columns)
            cost = None if weights is None else weights[rows].reshape(-1, record.block_size)
            blocks[rows.start * per_row : rows.stop * per_row] = record.quantize(
                values.reshape(-1, record.block_size), cost, blocks_per_row=per_row
            )
            return rows.stop

        step = max(1, SLAB // max(1, n_columns))
        slabs = [slice(at, min(at + step, n_rows)) for at in range(0, n_rows, step)]
        with ThreadPoolExecutor(max_workers=max(1, n_threads)) as pool:
            run = pool.map if n_threads > 1 else map
            for done in run(quantize_slab, slabs):
                if progress is not None:
                    progress(done, n_rows)
        return cls(name, record, source.shape, blocks)

    def __repr__(self) -> str:
        size = " × ".join(map(str, self.shape)) or "scalar"
        return (
            f"QuantTensor({self.name!r}, {self.type.name}, {size}, {self.bits_per_weight:g} bits per weight, "
            f"{self.n_bytes:,} bytes)"
        )

    def _repr_html_(self) -> str:
        facts = [
            ("type", f"{self.type.name}: {self.type.block_size} weights in {self.type.type_size} bytes"),
            ("shape", " × ".join(map(str, self.shape))),
            ("bits per weight", f"{self.bits_per_weight:g}"),
            ("bytes", f"{self.n_bytes:,}"),
        ]
        body = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts)
        first = self.block(0)._repr_html_() if len(self.blocks) else ""
        return f"<table><caption>{escape(self.name)}</caption>{body}</table>{first}"


class PendingTensor(QuantTensor):
    """A tensor whose blocks are made each time they are asked for, and not kept.

    A file is written from such tensors one at a time, so a model need not fit in memory.
    """

    __slots__ = ("_make",)

    def __init__(
        self, name: str, type: QuantType, shape: Sequence[int], make: Callable[[], np.ndarray]
    ) -> None:
        self.name, self.type, self.shape, self._make = name, type, tuple(shape), make

    @property
    def blocks(self) -> np.ndarray:  # type: ignore[override]  # the base class keeps them in a slot
        return self._make()


def _float_rows(source: np.ndarray | QuantTensor, rows: slice) -> np.ndarray:
    """Some rows as float32 (n, n_columns), through all leading dimensions."""
    if isinstance(source, QuantTensor):
        return source.dequantize(rows)
    chosen = source.reshape(-1, source.shape[-1] if source.shape else 1)[rows]
    guard.arm()
    values = np.array(chosen, dtype=np.float32)
    guard.check(source)
    return values


def _per_row(importance: np.ndarray | None, shape: tuple[int, int], name: str) -> np.ndarray | None:
    """One importance vector per row, as a view without copies: (n_rows, n_columns)."""
    if importance is None:
        return None
    importance = np.asarray(importance, dtype=np.float32)
    vectors = importance.reshape(-1, importance.shape[-1])  # (1 or n_experts, n_columns)
    if vectors.shape[1] != shape[1] or shape[0] % len(vectors):
        raise ValueError(f"{name or 'tensor'}: importance {importance.shape} doesn't fit rows {shape}")
    if len(vectors) == 1:
        return np.broadcast_to(vectors, shape)
    return np.repeat(vectors, shape[0] // len(vectors), axis=0)


def check_row(name: str, n_columns: int, type: QuantType) -> None:
    """Raise UnsupportedError unless a row of n_columns weights is a whole number of the type's blocks."""
    if n_columns % type.block_size:
        raise UnsupportedError(
            f"{name or 'tensor'}: row of {n_columns} values is not a multiple of the {type.name} block, "
            f"{type.block_size}"
        )
