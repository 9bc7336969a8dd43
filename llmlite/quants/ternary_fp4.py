"""Types of one bit, of three values, and of four-bit floats: levels from a small fixed set, without a search.

They agree bit for bit with gguf-py's quants.py and with the quantize_row_*_ref functions of ggml-quants.c.
The four-bit floats are E2M1 of the OCP Microscaling Formats specification 1.0; NVFP4's scales are E4M3.
"""

from __future__ import annotations

import numpy as np

from llmlite.quants.legacy import round_away
from llmlite.quants.record import Array, Parts, QuantType, finite, float32, inverse, pack_bits, unpack_bits

# E2M1: 1 sign, 2 exponent, 1 fraction bit. All values are doubled, which makes them whole numbers.
E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.int8)


def _peak(values: Array) -> Array:
    return np.abs(values).max(axis=1, keepdims=True)


# Three values: -1, 0, 1


def _trits(values: Array) -> tuple[Array, Array]:
    """Return the scale (n, 1) and codes (n, k) uint8 in 0..2: round(value / largest) + 1."""
    peak = _peak(values)
    return peak, (round_away(values * inverse(peak)).astype(np.int8) + np.int8(1)).view(np.uint8)


_POWERS = np.array([1, 3, 9, 27, 81], dtype=np.uint8)
# bytes that share a stripe, and the trits in each: 32 bytes of five, 16 of five, 4 of four
_STRIPES = ((32, 5), (16, 5), (4, 4))


def _unpack_tq1_0(b: Array) -> Parts:
    # A byte is a fraction of 256. Its first trit is 3 * byte >> 8; the low 8 bits hold the other trits.
    packed = np.concatenate([b["qs"], b["qh"]], axis=1)  # (n, 52)
    trits, at = [], 0
    for n_bytes, n_trits in _STRIPES:
        shifted = packed[:, at : at + n_bytes][:, None, :] * _POWERS[:n_trits, None]  # overflow is intended
        trits.append(((shifted.astype(np.uint16) * 3) >> 8).astype(np.int8).reshape(len(b), -1))
        at += n_bytes
    return Parts(np.concatenate(trits, axis=1) - np.int8(1), float32(b["d"]))


def _encode_tq1_0(values: Array, weights: Array | None) -> Array:
    scale, codes = _trits(values)
    packed, at = [], 0
    for n_bytes, n_trits in _STRIPES:
        stripe = codes[:, at : at + n_bytes * n_trits].reshape(len(codes), n_trits, n_bytes)
        places = _POWERS[::-1][:n_trits, None].astype(np.uint16)  # first trit highest; a missing fifth is 0
        number = (stripe * places).sum(axis=1, dtype=np.uint16) & np.uint16(255)
        packed.append(((number * np.uint16(256) + np.uint16(242)) // np.uint16(243)).astype(np.uint8))
        at += n_bytes * n_trits
    blocks = np.empty(len(values), TQ1_0.layout)
    blocks["d"] = scale[:, 0]
    blocks["qs"] = np.concatenate(packed[:2], axis=1)
    blocks["qh"] = packed[2]
    return blocks


def _unpack_tq2_0(b: Array) -> Parts:
    return Parts(unpack_bits(b["qs"], 2, 32).view(np.int8) - np.int8(1), float32(b["d"]))


def _encode_tq2_0(values: Array, weights: Array | None) -> Array:
    scale, codes = _trits(values)
    blocks = np.empty(len(values), TQ2_0.layout)
    blocks["d"] = scale[:, 0]
    blocks["qs"] = pack_bits(codes & np.uint8(3), 2, 32)
    return blocks


# One bit, two bits


def _unpack_q1_0(b: Array) -> Parts:
    return Parts(2 * unpack_bits(b["qs"], 1, 1).view(np.int8) - np.int8(1), float32(b["d"]))


def _encode_q1_0(values: Array, weights: Array | None) -> Array:
    blocks = np.empty(len(values), Q1_0.layout)
    # the mean magnitude is the best scale for signs; it is added up in order, as in the reference
    total = np.add.accumulate(np.abs(values), axis=1)[:, -1]
    blocks["d"] = total / np.float32(128)
    blocks["qs"] = pack_bits((values >= 0).view(np.uint8), 1, 1)
    return blocks


def _unpack_q2_0(b: Array) -> Parts:
    return Parts(unpack_bits(b["qs"], 2, 1).view(np.int8) - np.int8(1), float32(b["d"]))


def _encode_q2_0(values: Array, weights: Array | None) -> Array:
    blocks = np.empty(len(values), Q2_0.layout)
    peak = _peak(values)
    blocks["d"] = peak[:, 0]
    codes = np.clip(round_away(values * inverse(peak)) + 1, 0, 3).astype(np.uint8)
    blocks["qs"] = pack_bits(codes, 2, 1)
    return blocks


# Four-bit floats


def _e8m0_half(e: Array) -> Array:
    """Return a scale of 8 exponent bits, halved because E2M1 is doubled: 2^(e - 128), denormal if e < 2."""
    e = e.astype(np.uint32)
    bits = np.where(e < 2, np.uint32(0x00200000) << (e & 1), (e - 1) << 23)
    return bits.astype(np.uint32).view(np.float32)


def _nearest_e2m1(values: Array, scale: Array) -> Array:
    """Return the code of the E2M1 value nearest to each value (m, k), in a tie the first. scale: (m, 1)."""
    best = np.zeros(values.shape, np.uint8)
    least = np.abs(values)
    for code in range(1, 16):
        off = np.abs(scale * np.float32(E2M1[code]) - values)
        closer = off < least
        np.copyto(least, off, where=closer)
        best[closer] = code
    return best


def _unpack_mxfp4(b: Array) -> Parts:
    return Parts(E2M1[unpack_bits(b["qs"], 4, 16)], _e8m0_half(b["e"])[:, None])


def _encode_mxfp4(values: Array, weights: Array | None) -> Array:
    peak = _peak(values)
    exponent = np.maximum(finite(np.floor(np.log2(peak)) - 2 + 127), 0).astype(np.uint8)  # 0 for infinity too
    blocks = np.empty(len(values), MXFP4.layout)
    blocks["e"] = exponent[:, 0]
    blocks["qs"] = pack_bits(_nearest_e2m1(values, _e8m0_half(exponent)), 4, 16)
    return blocks


def _e4m3_half(code: Array) -> Array:
    """Return a scale of 4 exponent bits (bias 7) and 3 fraction bits, halved; 0 for 0x7F (NaN)."""
    exponent, fraction = (code >> 3).astype(np.int32) & 15, (code & 7).astype(np.float32)
    small = np.ldexp(fraction, -9)
    normal = np.ldexp(1 + fraction / np.float32(8), exponent - 7)
    value = np.where(exponent == 0, small, normal) * np.float32(0.5)
    return np.where((code == 0) | (code == 0x7F), np.float32(0), value)


def _to_e4m3(values: Array) -> Array:
    """Round float32 >= 0 to E4M3 without sign, largest 448: uint8."""
    clipped = np.where(values > 0, np.minimum(values, np.float32(448)), np.float32(0))
    bits = clipped.view(np.uint32).astype(np.int64)
    exponent = (bits >> 23) - 127 + 7
    # 3 fraction bits and a rounding bit, whose carry correctly goes into the exponent
    rounded = (exponent << 3) + ((bits >> 20) & 7) + ((bits >> 19) & 1)
    small = np.clip((clipped * np.float32(512) + np.float32(0.5)).astype(np.int64), 0, 7)
    code = np.where(exponent <= 0, small, np.minimum(rounded, 0x7E))
    return np.where(clipped > 0, code, 0).astype(np.uint8)


def _unpack_nvfp4(b: Array) -> Parts:
    return Parts(E2M1[unpack_bits(b["qs"], 4, 8)], _e4m3_half(b["d"]))


def _encode_nvfp4(values: Array, weights: Array | None) -> Array:
    groups = values.reshape(-1, 16)
    scales = _to_e4m3(_peak(groups) / np.float32(6))  # 6 is the largest E2M1 value
    blocks = np.empty(len(values), NVFP4.layout)
    blocks["d"] = scales.reshape(-1, 4)
    blocks["qs"] = pack_bits(_nearest_e2m1(groups, _e4m3_half(scales)).reshape(-1, 64), 4, 8)
    return blocks


TQ1_0 = QuantType(
    id=34,
    name="TQ1_0",
    block_size=256,
    layout=np.dtype([("qs", "u1", 48), ("qh", "u1", 4), ("d", "<f2")]),
    unpack=_unpack_tq1_0,
    encode=_encode_tq1_0,
    about="d * (t - 1), t in 0..2: five of them in a byte, because 3^5 = 243 < 256",
)
TQ2_0 = QuantType(
    id=35,
    name="TQ2_0",
    block_size=256,
    layout=np.dtype([("qs", "u1", 64), ("d", "<f2")]),
    unpack=_unpack_tq2_0,
    encode=_encode_tq2_0,
    about="d * (t - 1), t in 0..2: four of them in a byte",
)
MXFP4 = QuantType(
    id=39,
    name="MXFP4",
    block_size=32,
    layout=np.dtype([("e", "u1"), ("qs", "u1", 16)]),
    unpack=_unpack_mxfp4,
    encode=_encode_mxfp4,
    about="2^(e - 127) * a four-bit float (E2M1)",
)
NVFP4 = QuantType(
    id=40,
    name="NVFP4",
    block_size=64,
    layout=np.dtype([("d", "u1", 4), ("qs", "u1", 32)]),
    unpack=_unpack_nvfp4,
    encode=_encode_nvfp4,
    about="4 groups: an eight-bit float (E4M3) * a four-bit float (E2M1)",
)
Q1_0 = QuantType(
    id=41,
    name="Q1_0",
    block_size=128,
    layout=np.dtype([("d", "<f2"), ("qs", "u1", 16)]),
    unpack=_unpack_q1_0,
    encode=_encode_q1_0,
    about="d or -d",
)
Q2_0 = QuantType(
    id=42,
    name="Q2_0",
    block_size=64,
    layout=np.dtype([("d", "<f2"), ("qs", "u1", 16)]),
    unpack=_unpack_q2_0,
    encode=_encode_q2_0,
    about="d * (q - 1), q in 0..3",
)

TERNARY_FP4 = (TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0, Q2_0)
