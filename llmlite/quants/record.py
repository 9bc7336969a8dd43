"""The record of a quantization type: a layout of bytes, and its conversions in both directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Parts(NamedTuple):
    """A block taken apart: weight = scale * level - minimum.

    Attributes:
        levels: (n, block_size), the small numbers that the bits encode: integers, or float32 if the type has
            fractions.
        scales: (n, n_groups) float32, or None for plain types, whose levels are the weights.
        minimums: (n, n_groups) float32, or None for types centred on zero.
    """

    levels: Array
    scales: Array | None = None
    minimums: Array | None = None


Unpack = Callable[[Array], Parts]
Encode = Callable[[Array, "Array | None"], Array]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class QuantType:
    """One tensor type of GGML, with everything that the package knows about it.

    Attributes:
        id: the type's number in a GGUF file.
        name: its name, such as "Q4_K".
        block_size: weights in a block.
        layout: the block as a packed NumPy structured dtype, with its fields in file order.
        unpack: function of structured blocks (n,) that returns Parts.
        encode: function of values (n, block_size) float32, and weights of the same shape or None, that
            returns structured blocks (n,); None if the type has no quantizer.
        weigh: the rule that turns a measured importance into the cost of an error. "plain" leaves it
            unchanged. The others multiply it by sqrt(energy + weight^2); the energy is the mean square of the
            "row" or of the "block", or twice the latter ("block twice"). The choices are llama.cpp's.
        storable: False for types of activations, which aren't stored in files.
        needs_importance: True if llama.cpp refuses to quantize to this type without an importance matrix.
        about: the formula of a weight, as a short text.
    """

    id: int
    name: str
    block_size: int
    layout: np.dtype
    unpack: Unpack
    encode: Encode | None = None
    weigh: str = "plain"
    storable: bool = True
    needs_importance: bool = False
    about: str = field(default="")

    @property
    def type_size(self) -> int:
        """Bytes of one block."""
        return self.layout.itemsize

    @property
    def bits_per_weight(self) -> float:
        """Bits of storage per weight, with scales."""
        return 8 * self.type_size / self.block_size

    def __repr__(self) -> str:
        ways = "both ways" if self.encode else "dequantize only"
        return (
            f"<QuantType {self.name} (id {self.id}): {self.block_size} weights in {self.type_size} bytes, "
            f"{self.bits_per_weight:g} bits per weight, {ways}>"
        )

    def parts(self, blocks: Array) -> Parts:
        """Take blocks (n, type_size) uint8 apart into levels, scales and minimums."""
        return self.unpack(self.structured(blocks))

    def structured(self, blocks: Array) -> Array:
        """Return blocks (n, type_size) uint8 as (n,) records with the fields of `layout`, without a copy."""
        return np.ascontiguousarray(blocks).view(self.layout).reshape(-1)

    def dequantize(self, blocks: Array) -> Array:
        """Turn blocks (n, type_size) uint8 into weights (n, block_size) float32.

        The bits are the same as those of `gguf.quants.dequantize`, except for a NaN's sign and payload, which
        depend on the processor.
        """
        if not len(blocks):
            return np.empty((0, self.block_size), np.float32)
        with np.errstate(all="ignore"):  # a file may have any bits: infinities and NaN are kept
            levels, scales, minimums = self.parts(blocks)
            weights = levels.astype(np.float32, copy=scales is None)
            if scales is None:
                return weights
            grouped = weights.reshape(len(weights), scales.shape[1], -1)  # (n, n_groups, per group)
            grouped *= scales[:, :, None]
            if minimums is not None:
                grouped -= minimums[:, :, None]
        return weights

    def quantize(self, values: Array, importance: Array | None = None, *, blocks_per_row: int = 1) -> Array:
        """Turn weights into blocks. The same input always gives the same bytes.

        Args:
            values: (n, block_size) float32.
            importance: the cost of an error in each weight, (n, block_size) float32: the mean square of the
                activation that is multiplied by it (from an "importance matrix"). None: the type's default.
            blocks_per_row: number of successive blocks in a row of the tensor, because some types weight
                errors by the energy of the whole row.

        Returns:
            Blocks, (n, type_size) uint8.

        Raises:
            UnsupportedError: the type has no quantizer.
        """
        from llmlite.errors import UnsupportedError

        if self.encode is None:
            raise UnsupportedError(f"{self.name} has no quantizer")
        values = np.ascontiguousarray(values, dtype=np.float32)
        if not len(values):
            return np.empty((0, self.type_size), np.uint8)
        with np.errstate(all="ignore"):
            weights = None if importance is None else self._weights(values, importance, blocks_per_row)
            blocks = np.ascontiguousarray(self.encode(values, weights), dtype=self.layout)
        return blocks.view(np.uint8).reshape(len(values), self.type_size)

    def _weights(self, values: Array, importance: Array, blocks_per_row: int) -> Array:
        importance = np.broadcast_to(np.asarray(importance, dtype=np.float32), values.shape)
        if self.weigh == "plain":
            return np.ascontiguousarray(importance)
        squares = values * values
        if self.weigh == "row":
            rows = squares.reshape(-1, blocks_per_row * self.block_size)
            energy = np.repeat(rows.mean(axis=1, keepdims=True), blocks_per_row, axis=0)
        else:
            energy = squares.mean(axis=1, keepdims=True)
            if self.weigh == "block twice":
                energy *= 2
        return importance * np.sqrt(energy + squares)


def unpack_bits(packed: Array, bits: int, group: int) -> Array:
    """Unpack codes of 1, 2 or 4 bits: (n, m) uint8 -> (n, m * 8 / bits) uint8.

    Bytes come in groups; the lowest bits of a whole group come first, then the next ones. With bits=4,
    group=16, byte i holds code i in its low half and code i + 16 in its high half:  # HHHHLLLL
    """
    n, m = packed.shape
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    codes = (packed.reshape(n, m // group, 1, group) >> shifts) & np.uint8((1 << bits) - 1)
    return codes.reshape(n, m * 8 // bits)


def pack_bits(codes: Array, bits: int, group: int) -> Array:
    """Pack codes of 1, 2 or 4 bits, the inverse of `unpack_bits`: (n, k) -> (n, k * bits / 8) uint8."""
    n, k = codes.shape
    per_byte = 8 // bits
    grouped = codes.astype(np.uint8, copy=False).reshape(n, k // (per_byte * group), per_byte, group)
    packed = grouped[:, :, 0].copy()
    for i in range(1, per_byte):
        packed |= grouped[:, :, i] << np.uint8(i * bits)
    return packed.reshape(n, k * bits // 8)


def float32(halves: Array) -> Array:
    """Widen a float16 field (n,) to a (n, 1) float32 column of scales."""
    return halves.astype(np.float32)[:, None]


def finite(values: Array) -> Array:
    """Return the values, with 0 for infinities and NaN, whose integers depend on the processor."""
    return np.where(np.isfinite(values), values, np.float32(0))


def inverse(scale: Array, numerator: float = 1) -> Array:
    """Return numerator / scale, with 0 for a scale of 0 (a block of zeros)."""
    return np.where(scale == 0, np.float32(0), np.float32(numerator) / scale)
