"""One block in detail: its bytes, the meaning of each bit, its weights."""

from __future__ import annotations

from functools import cached_property, lru_cache
from html import escape
from typing import NamedTuple

import numpy as np

from llmlite.quants.record import Array, QuantType


class BlockField(NamedTuple):
    """A named part of a block.

    Attributes:
        name: the field's name in the type's layout.
        bit_offset, n_bits: its place and size in bits. Bit 0 is the lowest bit of the block's first byte.
        dtype: the NumPy type of its numbers.
        value: its numbers.
    """

    name: str
    bit_offset: int
    n_bits: int
    dtype: str
    value: Array


class Block:
    """One block of a quantized tensor, taken apart for inspection.

    In each group, weight = scale * level - minimum.

    Args:
        type: the block's type.
        raw: its bytes, (type_size,) uint8.

    Attributes:
        type: the block's type.
        bytes: a copy of its bytes, (type_size,) uint8.
    """

    def __init__(self, type: QuantType, raw: Array) -> None:
        self.type = type
        self.bytes = np.array(raw, dtype=np.uint8).reshape(type.type_size)

    @cached_property
    def fields(self) -> dict[str, BlockField]:
        """The block's fields in file order, by name."""
        record = self.type.structured(self.bytes[None])[0]
        found = {}
        for name, (dtype, offset, *_) in (self.type.layout.fields or {}).items():
            kind = dtype.base.newbyteorder("=").name
            found[name] = BlockField(name, 8 * offset, 8 * dtype.itemsize, kind, np.array(record[name]))
        return found

    @cached_property
    def levels(self) -> Array:
        """The small numbers that the bits encode, before scaling: (block_size,)."""
        return self._parts.levels[0]

    @cached_property
    def scales(self) -> Array | None:
        """The scale of each group's levels: (n_groups,) float32; None for plain types."""
        return None if self._parts.scales is None else self._parts.scales[0]

    @cached_property
    def minimums(self) -> Array | None:
        """The number subtracted from each group's scaled levels: (n_groups,) float32; None in some types."""
        return None if self._parts.minimums is None else self._parts.minimums[0]

    @cached_property
    def weights(self) -> Array:
        """The block's weights: (block_size,) float32."""
        return self.type.dequantize(self.bytes[None])[0]

    def bits(self, i: int) -> list[int]:
        """Return the bit offsets that encode the level of weight i, without those of its scale."""
        return np.flatnonzero(_level_bits(self.type)[:, i]).tolist()

    @cached_property
    def _parts(self):
        with np.errstate(all="ignore"):
            return self.type.parts(self.bytes[None])

    def __repr__(self) -> str:
        size = self.type.type_size
        lines = [f"{self.type.name} block: {self.type.block_size} weights in {size} bytes"]
        lines += [f"  {self.bytes[at : at + 32].tobytes().hex(' ')}" for at in range(0, size, 32)]
        for f in self.fields.values():
            place = f"byte {f.bit_offset // 8}, {f.n_bits} bits, {f.dtype}"
            lines.append(f"{f.name} ({place}): {_short(f.value)}")
        for name in ("scales", "minimums"):
            values = getattr(self, name)
            if values is not None:
                lines.append(f"effective {name}: {_short(values)}")
        lines.append(f"levels: {_short(self.levels)}")
        lines.append(f"weights: {_short(self.weights)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [
            (f.name, f"byte {f.bit_offset // 8}", f"{f.n_bits} bits, {f.dtype}", _short(f.value))
            for f in self.fields.values()
        ]
        rows += [
            (f"effective {name}", "", "", _short(values))
            for name, values in (("scales", self.scales), ("minimums", self.minimums))
            if values is not None
        ]
        rows += [("levels", "", "", _short(self.levels)), ("weights", "", "", _short(self.weights))]
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return (
            f"<table><caption>{escape(self.type.name)} block</caption>"
            f"<tr><th>part</th><th>at</th><th>size</th><th>value</th></tr>{body}</table>"
        )


def _short(values: Array) -> str:
    return np.array2string(np.asarray(values), precision=5, threshold=40, edgeitems=12, max_line_width=100)


@lru_cache
def _level_bits(type: QuantType) -> Array:
    """Return which bits (rows) change which levels (columns): (8 * type_size, block_size) bool.

    Found by flipping each bit of several arbitrary blocks, so no second description of the layout is needed.
    """
    n_bits = 8 * type.type_size
    influence = np.zeros((n_bits, type.block_size), bool)
    flips = np.packbits(np.eye(n_bits, dtype=np.uint8), axis=1, bitorder="little")  # row i: only bit i set
    random = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        for _ in range(8):
            base = random.integers(0, 256, (1, type.type_size), dtype=np.uint8)
            before, after = type.parts(base).levels, type.parts(base ^ flips).levels
            influence |= (before != after).reshape(n_bits, -1)
    return influence
