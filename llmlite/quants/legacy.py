"""Blocks of 32 weights with one float16 scale: the first types of GGML.

They agree bit for bit with gguf-py's quants.py and with quantize_row_*_ref in ggml-quants.c.
"""

from __future__ import annotations

import numpy as np

from llmlite.quants.record import Array, Parts, QuantType, finite, float32, inverse, pack_bits, unpack_bits
from llmlite.quants.search import fit_affine, fit_symmetric


def _bytes(fieldvalues: Array) -> Array:
    """Return the bytes of wider integers (n,), lowest first: (n, itemsize) uint8."""
    return np.ascontiguousarray(fieldvalues).view(np.uint8).reshape(len(fieldvalues), -1)


def _five_bits(b: Array) -> Array:
    """Join each code's four low bits in qs and its fifth bit in qh: (n, 32) uint8, 0..31."""
    # qh   31 ... 1 0   one bit per weight
    # qs   HHHHLLLL     weight i + 16, weight i
    return unpack_bits(b["qs"], 4, 16) | (unpack_bits(_bytes(b["qh"]), 1, 1) << np.uint8(4))


def _pack_five_bits(blocks: Array, codes: Array) -> None:
    blocks["qs"] = pack_bits(codes & np.uint8(15), 4, 16)
    blocks["qh"] = pack_bits(codes >> np.uint8(4), 1, 1).view("<u4")[:, 0]


def _codes(values: Array, top: int) -> Array:
    """Truncate to 0..top as uint8, as the reference's cast does."""
    return np.trunc(finite(values)).astype(np.uint8).clip(0, top)


def _signed_scale(values: Array, half: int) -> tuple[Array, Array]:
    """Return the scale that puts the largest weight on level -half, and codes 0..2*half-1 around half."""
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=-1, keepdims=True), axis=-1)
    scale = largest / np.float32(-half)
    return scale, _codes(values * inverse(scale) + np.float32(half + 0.5), 2 * half - 1)


def _affine_scale(values: Array, top: int) -> tuple[Array, Array, Array]:
    """Return the scale and minimum that spread codes 0..top over the block's range, and the codes."""
    low = values.min(axis=-1, keepdims=True)
    scale = (values.max(axis=-1, keepdims=True) - low) / np.float32(top)
    return scale, low, _codes((values - low) * inverse(scale) + np.float32(0.5), top)


def _unpack_q4_0(b: Array) -> Parts:
    return Parts(unpack_bits(b["qs"], 4, 16).view(np.int8) - np.int8(8), float32(b["d"]))


def _encode_q4_0(values: Array, weights: Array | None) -> Array:
    blocks = np.empty(len(values), Q4_0.layout)
    if weights is None:
        scale, codes = _signed_scale(values, 8)
    else:
        scale, codes = fit_symmetric(values, weights, 8)
    blocks["d"] = scale[:, 0]
    blocks["qs"] = pack_bits(codes, 4, 16)
    return blocks


def _unpack_q4_1(b: Array) -> Parts:
    return Parts(unpack_bits(b["qs"], 4, 16), float32(b["d"]), -float32(b["m"]))


def _encode_q4_1(values: Array, weights: Array | None) -> Array:
    blocks = np.empty(len(values), Q4_1.layout)
    scale, low, codes = _affine_scale(values, 15) if weights is None else fit_affine(values, weights, 15)
    blocks["d"], blocks["m"] = scale[:, 0], low[:, 0]
    blocks["qs"] = pack_bits(codes, 4, 16)
    return blocks


def _unpack_q5_0(b: Array) -> Parts:
    return Parts(_five_bits(b).view(np.int8) - np.int8(16), float32(b["d"]))


def _encode_q5_0(values: Array, weights: Array | None) -> Array:
    blocks = np.empty(len(values), Q5_0.layout)
    if weights is None:
        scale, codes = _signed_scale(values, 16)
    else:
        scale, codes = fit_symmetric(values, weights, 16)
    blocks["d"] = scale[:, 0]
    _pack_five_bits(blocks, codes)
    return blocks


def _unpack_q5_1(b: Array) -> Parts:
    return Parts(_five_bits(b), float32(b["d"]), -float32(b["m"]))


def _encode_q5_1(values: Array, weights: Array | None) -> Array:
    blocks = np.empty(len(values), Q5_1.layout)
    scale, low, codes = _affine_scale(values, 31) if weights is None else fit_affine(values, weights, 31)
    blocks["d"], blocks["m"] = scale[:, 0], low[:, 0]
    _pack_five_bits(blocks, codes)
    return blocks


def _unpack_q8_0(b: Array) -> Parts:
    return Parts(b["qs"], float32(b["d"]))


def round_away(values: Array) -> Array:
    """Round half away from zero, as C's roundf does (NumPy rounds half to even); NaN for infinity."""
    size = np.abs(values)
    whole = np.floor(size)
    return np.sign(values) * (whole + np.floor(2 * (size - whole)))


def _encode_q8_0(values: Array, weights: Array | None) -> Array:
    # 127 levels on each side need no search, so an importance matrix changes nothing, as in the reference
    blocks = np.empty(len(values), Q8_0.layout)
    scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    blocks["d"] = scale[:, 0]
    blocks["qs"] = round_away(values * inverse(scale)).astype(np.int8)
    return blocks


def _encode_q8_1(values: Array, weights: Array | None) -> Array:
    q8_0 = _encode_q8_0(values, None)
    blocks = np.empty(len(values), Q8_1.layout)
    scale = np.abs(values).max(axis=1) / np.float32(127)
    blocks["d"], blocks["qs"] = q8_0["d"], q8_0["qs"]
    blocks["s"] = scale * q8_0["qs"].sum(axis=1, dtype=np.int32)
    return blocks


Q4_0 = QuantType(
    id=2,
    name="Q4_0",
    block_size=32,
    layout=np.dtype([("d", "<f2"), ("qs", "u1", 16)]),
    unpack=_unpack_q4_0,
    encode=_encode_q4_0,
    weigh="row",
    about="d * (q - 8), q in 0..15",
)
Q4_1 = QuantType(
    id=3,
    name="Q4_1",
    block_size=32,
    layout=np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)]),
    unpack=_unpack_q4_1,
    encode=_encode_q4_1,
    weigh="row",
    about="d * q + m, q in 0..15",
)
Q5_0 = QuantType(
    id=6,
    name="Q5_0",
    block_size=32,
    layout=np.dtype([("d", "<f2"), ("qh", "<u4"), ("qs", "u1", 16)]),
    unpack=_unpack_q5_0,
    encode=_encode_q5_0,
    weigh="row",
    about="d * (q - 16), q in 0..31: four bits in qs, the fifth in qh",
)
Q5_1 = QuantType(
    id=7,
    name="Q5_1",
    block_size=32,
    layout=np.dtype([("d", "<f2"), ("m", "<f2"), ("qh", "<u4"), ("qs", "u1", 16)]),
    unpack=_unpack_q5_1,
    encode=_encode_q5_1,
    weigh="row",
    about="d * q + m, q in 0..31: four bits in qs, the fifth in qh",
)
Q8_0 = QuantType(
    id=8,
    name="Q8_0",
    block_size=32,
    layout=np.dtype([("d", "<f2"), ("qs", "i1", 32)]),
    unpack=_unpack_q8_0,
    encode=_encode_q8_0,
    about="d * q, q in -127..127",
)
Q8_1 = QuantType(
    id=9,
    name="Q8_1",
    block_size=32,
    layout=np.dtype([("d", "<f2"), ("s", "<f2"), ("qs", "i1", 32)]),
    unpack=_unpack_q8_0,
    encode=_encode_q8_1,
    storable=False,
    about="activations for products with Q4_1 and Q5_1: d * q; s = d * sum of q, for the weights' minimum",
)

LEGACY = (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1)
