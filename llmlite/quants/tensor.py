"""QuantTensor: a named array in the file's own bits, dequantized only on request."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape

import numpy as np

from llmlite.errors import ModelError, UnsupportedError
from llmlite.quants import QuantType, by_name
from llmlite.quants.block import Block
from llmlite.system import guard
from llmlite.terminal import Progress

SLAB = 1 << 18  # weights at a time: 1 MB of float32 and its temporaries stay in or near the caches
SAFE_BELOW = 2688.0  # every type with a scale can hold weights below this; the minimum is NVFP4's 6 * 448
LARGEST = {"F16": 65504.0, "NVFP4": 2688.0}  # types that make larger weights infinite, or cut them off


class QuantTensor:
    """A tensor in one of GGML's types.

    Attributes:
        name: its name in the file, used in errors.
        type: the QuantType record.
        shape: the shape in NumPy's order, which is the reverse of GGUF's dimensions: the last is the columns.
        blocks: (n_blocks, type_size) uint8, row after row; a view of the file's memory map, never copied.

    Raises:
        UnsupportedError: a row isn't a whole number of blocks.
        ValueError: the blocks don't fit the shape.
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
        """The shape in GGUF's order, with the fastest dimension first."""
        return self.shape[::-1]

    @property
    def n_columns(self) -> int:
        """Weights in one row."""
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        """Number of rows: the product of all dimensions except the last."""
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
        """Bits of storage per weight, with scales."""
        return self.type.bits_per_weight

    @property
    def _blocks_per_row(self) -> int:
        return self.n_columns // self.type.block_size

    def dequantize(self, rows: slice | None = None) -> np.ndarray:
        """Return weights as float32, in a new array.

        Args:
            rows: the rows to return, counted through all leading dimensions; None for all.

        Returns:
            All weights in `shape`, or the selected rows as (n_selected, n_columns).

        Raises:
            GGUFError: the tensor's file was truncated after it was opened.
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
        """Return some rows as float32 (len(ids), n_columns), as for an embedding lookup.

        Args:
            ids: row numbers in any order, counted through all leading dimensions.

        Raises:
            IndexError: an id is outside the tensor.
            TypeError: an id isn't a whole number.
            GGUFError: see `dequantize`.
        """
        chosen = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
        if chosen.size and chosen.dtype.kind not in "iu":  # without this, "1" and 1.5 would be accepted
            raise TypeError(f"{self.name}: row ids must be whole numbers, got {chosen.flat[0].item()!r:.80}")
        chosen = chosen.astype(np.int64, copy=False)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= self.n_rows):
            raise IndexError(f"{self.name}: row ids must be in 0..{self.n_rows - 1}")
        guard.arm()
        blocks = self.blocks
        by_row = blocks.reshape(self.n_rows, self._blocks_per_row, self.type.type_size)
        picked = by_row[chosen].reshape(-1, self.type.type_size)
        guard.check(blocks)
        return self.type.dequantize(picked).reshape(len(chosen), self.n_columns)

    def slice_rows(self, start: int, stop: int) -> QuantTensor:
        """Return the rows from start to stop - 1, counted through all leading dimensions, as a view."""
        per_row = self._blocks_per_row
        shape = (stop - start, self.n_columns)
        return QuantTensor(self.name, self.type, shape, self.blocks[start * per_row : stop * per_row])

    def block(self, i: int) -> Block:
        """Return block i, taken apart: bytes, fields, scales, levels, weights.

        Raises:
            IndexError: there is no such block.
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
        allow_nan: bool = False,
    ) -> QuantTensor:
        """Quantize an array, with rows along its last axis.

        Args:
            array: an array of any float dtype, or a tensor of another type. A tensor is dequantized slab by
                slab, never whole.
            type_name: the new type, such as "Q4_K".
            name: the new tensor's name.
            importance: the mean square of each column's activations, (n_columns,) float32; for stacked
                experts, (n_experts, n_columns). Types that can use it keep important weights more precise.
                A vector of zeros has the same effect as None.
            n_threads: number of threads. The result doesn't depend on it.
            progress: called as progress(rows_done, n_rows) from the calling thread.
            allow_nan: also quantize NaN, infinity, and numbers that the type can't hold. Each of them ruins
                its whole block.

        Returns:
            The quantized tensor, with the array's shape.

        Raises:
            UnsupportedError: the type has no quantizer, or a row isn't a whole number of its blocks.
            ModelError: a weight isn't finite, or the type can't hold it; the error names its row and column
                (types with blocks, and F16). Or the importance has another shape, or a number that isn't
                finite or is below 0.
        """
        record = by_name(type_name)
        source = array if isinstance(array, QuantTensor) else np.asarray(array)
        n_columns = source.shape[-1] if source.shape else 1
        check_row(name, n_columns, record)
        if record.encode is None:
            raise UnsupportedError.about(name or "tensor", f"{record.name} has no quantizer")
        n_rows = math.prod(source.shape[:-1])
        per_row = n_columns // record.block_size
        blocks = np.empty((n_rows * per_row, record.type_size), np.uint8)
        parts = importance_parts(importance, source.shape, name)

        def quantize_slab(slab: tuple[slice, np.ndarray | None]) -> int:
            rows, vector = slab
            values = _float_rows(source, rows)  # (n, n_columns)
            cost = vector
            if vector is not None:
                cost = np.broadcast_to(vector, values.shape).reshape(-1, record.block_size)
            made = record.quantize(values.reshape(-1, record.block_size), cost, blocks_per_row=per_row)
            if not allow_nan:
                _check_range(values, made, record, name, rows.start)
            blocks[rows.start * per_row : rows.stop * per_row] = made
            return rows.stop

        step = max(1, SLAB // max(1, n_columns))
        slabs = [
            (slice(at, min(at + step, stop)), vector)
            for start, stop, vector in parts
            for at in range(start, stop, step)
        ]
        with ThreadPoolExecutor(max_workers=max(1, n_threads)) as pool:
            run = pool.map if n_threads > 1 else map
            for done in run(quantize_slab, slabs):
                if progress is not None:
                    progress(done, n_rows)
        return cls(name, record, source.shape, blocks)

    def __reduce__(self) -> tuple[object, ...]:
        # a pickle holds the blocks themselves, so blocks that a subclass makes on request are made now
        return QuantTensor, (self.name, self.type, self.shape, np.ascontiguousarray(self.blocks))

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
    """A tensor whose blocks are made on each request, and not kept.

    A file can be written from such tensors one at a time, so the model needn't fit in memory.

    Args:
        name, type, shape: as for `QuantTensor`.
        make: function that returns the blocks, (n_blocks, type_size) uint8.
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
    """Return some rows as float32 (n, n_columns), counted through all leading dimensions."""
    if isinstance(source, QuantTensor):
        return source.dequantize(rows)
    chosen = source.reshape(-1, source.shape[-1] if source.shape else 1)[rows]
    guard.arm()
    values = np.array(chosen, dtype=np.float32)
    guard.check(source)
    return values


def _check_range(
    values: np.ndarray, blocks: np.ndarray, record: QuantType, name: str, first_row: int
) -> None:
    """Refuse weights (n, n_columns) that blocks (n * blocks per row, type_size) can't express.

    Types with one weight per block keep NaN and infinity, so for them only numbers that become infinite are
    refused.
    """
    largest = float(np.abs(values).max(initial=0.0))  # NaN if there is one
    if not largest < SAFE_BELOW:
        limit = LARGEST.get(record.name, math.inf)
        with np.errstate(all="ignore"):
            wrong = np.isfinite(values) & (np.abs(values) > limit)
            if record.block_size > 1:
                wrong |= ~np.isfinite(values)
                if not wrong.any():
                    made = record.dequantize(blocks)  # (n blocks, block_size)
                    sizes = np.abs(values).reshape(made.shape)
                    peaks = sizes.max(axis=1, keepdims=True)
                    lost = (sizes == peaks) & (peaks >= SAFE_BELOW) & (made == 0)  # the square overflowed
                    wrong = (~np.isfinite(made) | lost).reshape(values.shape)
        if wrong.any():
            cost = np.where(np.isfinite(values), np.abs(values), np.inf)  # the largest weight ruins its block
            row, column = divmod(int(np.argmax(np.where(wrong, cost, -1))), values.shape[1])
            value = values[row, column]
            hint = " (BF16 can)" if record.name == "F16" else ""
            what = "not a finite number"
            if np.isfinite(value):
                what = f"beyond what {record.name} can hold{hint}"
            raise ModelError.about(
                name or "tensor",
                f"the weight in row {first_row + row}, column {column} is {value:g}, {what}; "
                "--allow-nan (allow_nan=True) quantizes it anyway, which ruins its block",
                expected="finite weights that the type can hold",
                got=f"{value:g}",
            )


def importance_parts(
    importance: np.ndarray | None, shape: Sequence[int], name: str
) -> list[tuple[int, int, np.ndarray | None]]:
    """Check an importance against a tensor's shape, and divide it into parts.

    In each vector, zeros and very small numbers become 2^-20 of the vector's mean. Otherwise errors in a
    block of zeros would cost nothing, and its weights would be lost. A vector whose products would overflow
    is scaled by a power of two, which changes no choice.

    Args:
        importance: (n_columns,), or (n_expert, n_columns) for a tensor (n_expert, rows, n_columns); or None.
        shape: the tensor's shape.
        name: its name in errors.

    Returns:
        For each part: its first row, the row after its last, and its vector; None for a vector of zeros.

    Raises:
        ModelError: the importance has another shape, or a number that isn't finite or is below 0.
    """
    n_rows, n_columns = math.prod(shape[:-1]), shape[-1] if shape else 1
    if importance is None:
        return [(0, n_rows, None)]
    vectors = np.atleast_2d(np.asarray(importance, dtype=np.float32))
    allowed = {1, shape[0]} if len(shape) == 3 else {1}
    if vectors.ndim != 2 or vectors.shape[1] != n_columns or len(vectors) not in allowed:
        each = f", or {shape[0]} such rows" if len(shape) == 3 else ""
        raise ModelError.about(
            name or "tensor",
            f"its importance has shape {np.shape(importance)}, expected ({n_columns},){each}: "
            "the importance matrix is for another model",
            expected=f"({n_columns},){each}",
            got=np.shape(importance),
        )
    check_importance(vectors, name)
    per_part = n_rows // len(vectors)
    return [(i * per_part, (i + 1) * per_part, _usable(vector)) for i, vector in enumerate(vectors)]


def check_importance(values: np.ndarray, name: str, what: str = "its importance") -> None:
    """Raise ModelError, which names the tensor, if a value (n, n_columns) isn't finite or is below 0."""
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        where = f"column {column}" if len(values) == 1 else f"matrix {row}, column {column}"
        raise ModelError.about(
            name or "tensor",
            f"{what} of {where} is {values[row, column]:g}, expected a finite number, 0 or more: "
            "measure the importance matrix again, on a model without NaN",
            expected="a finite number, 0 or more",
            got=f"{values[row, column]:g}",
        )


def _usable(vector: np.ndarray) -> np.ndarray | None:
    """Return the vector in a form that a search can use; None if it is all zeros."""
    mean = float(vector.mean(dtype=np.float64))
    if mean == 0:
        return None
    exponent = math.frexp(mean)[1]
    if abs(exponent) > 40:
        vector = np.ldexp(vector, -exponent)
        mean = math.ldexp(mean, -exponent)
    return np.maximum(vector, np.float32(mean * 2**-20))


def check_row(name: str, n_columns: int, type: QuantType) -> None:
    """Raise UnsupportedError unless a row of n_columns weights is a whole number of the type's blocks."""
    if n_columns % type.block_size:
        raise UnsupportedError.about(
            name or "tensor",
            f"row of {n_columns} values is not a multiple of the {type.name} block, {type.block_size}",
        )
