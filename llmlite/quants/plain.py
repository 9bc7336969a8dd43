"""Types without blocks: plain floats and integers."""

from __future__ import annotations

import numpy as np

from llmlite.quants.record import Array, Parts, QuantType


def _plain(id: int, name: str, dtype: str, about: str) -> QuantType:
    layout = np.dtype([("value", dtype)])

    def unpack(b: Array) -> Parts:
        return Parts(b["value"].reshape(-1, 1))

    def encode(values: Array, weights: Array | None) -> Array:
        if np.issubdtype(layout["value"], np.integer):
            values = np.rint(values)
        return values.astype(layout["value"]).view(layout).reshape(-1)

    return QuantType(id=id, name=name, block_size=1, layout=layout, unpack=unpack, encode=encode, about=about)


def _unpack_bf16(b: Array) -> Parts:
    bits = b["value"].astype(np.uint32) << 16  # a bfloat16 is the upper half of a float32
    return Parts(bits.view(np.float32).reshape(-1, 1))


def _encode_bf16(values: Array, weights: Array | None) -> Array:
    bits = values.view(np.uint32)
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    bits = np.where(is_nan, (bits & np.uint32(0xFFFF0000)) | np.uint32(0x400000), bits)  # quiet, payload kept
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16  # to nearest, ties to even
    return rounded.astype(np.uint16).view(BF16.layout).reshape(-1)


F32 = _plain(0, "F32", "<f4", "IEEE single precision")
F16 = _plain(1, "F16", "<f2", "IEEE half precision: 1 sign, 5 exponent, 10 fraction bits")
BF16 = QuantType(
    id=30,
    name="BF16",
    block_size=1,
    layout=np.dtype([("value", "<u2")]),
    unpack=_unpack_bf16,
    encode=_encode_bf16,
    about="the upper 16 bits of a float32: 1 sign, 8 exponent, 7 fraction bits",
)
I8 = _plain(24, "I8", "i1", "signed integer")
I16 = _plain(25, "I16", "<i2", "signed integer")
I32 = _plain(26, "I32", "<i4", "signed integer")
I64 = _plain(27, "I64", "<i8", "signed integer")
F64 = _plain(28, "F64", "<f8", "IEEE double precision")

PLAIN = (F32, F16, BF16, I8, I16, I32, I64, F64)
