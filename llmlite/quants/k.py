"""K-quants: 256 weights in 8 or 16 groups, whose scales are small integers times one float16.

Dequantizing agrees bit for bit with gguf-py's quants.py. Quantizing searches the candidates of
quantize_row_q*_K_ref / _impl in ggml-quants.c.
"""

from __future__ import annotations

import numpy as np

from llmlite.quants.record import Array, Parts, QuantType, float32, inverse, pack_bits, unpack_bits
from llmlite.quants.search import TINY, fit_affine, fit_positive, fit_symmetric, largest, refine

BLOCK = 256


def _unpack_scales_4_5(packed: Array) -> tuple[Array, Array]:
    """Take the 12 bytes of Q4_K and Q5_K apart: eight 6-bit scales, eight 6-bit minimums, (n, 8) uint8 each.

    byte 0..3   hhSSSSSS   scale of groups 0..3; hh: upper bits of the scale of groups 4..7
    byte 4..7   hhMMMMMM   minimum of groups 0..3; hh: upper bits of the minimum of groups 4..7
    byte 8..11  mmmmssss   lower bits of minimum and scale of groups 4..7
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    minimums = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return scales, minimums


def _pack_scales_4_5(scales: Array, minimums: Array) -> Array:
    first = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    second = minimums[:, :4] | ((minimums[:, 4:] >> 4) << 6)
    third = (scales[:, 4:] & 15) | ((minimums[:, 4:] & 15) << 4)
    return np.concatenate([first, second, third], axis=1)


def _unpack_scales_3(packed: Array) -> Array:
    """Take the 12 bytes of Q3_K apart: sixteen 6-bit scales around 32, (n, 16) int8 in -32..31.

    byte 0..7   HHHHLLLL   lower four bits of scales i + 8 and i
    byte 8..11  ddccbbaa   upper two bits of scales i + 12, i + 8, i + 4, i
    """
    codes = unpack_bits(packed[:, :8], 4, 8) | (unpack_bits(packed[:, 8:], 2, 4) << np.uint8(4))
    return codes.view(np.int8) - np.int8(32)


def _pack_scales_3(codes: Array) -> Array:
    return np.concatenate(
        [pack_bits(codes & np.uint8(15), 4, 8), pack_bits(codes >> np.uint8(4), 2, 4)], axis=1
    )


# Dequantize


def _unpack_q2_k(b: Array) -> Parts:
    scales = float32(b["d"]) * (b["scales"] & 15).astype(np.float32)
    minimums = float32(b["dmin"]) * (b["scales"] >> 4).astype(np.float32)
    return Parts(unpack_bits(b["qs"], 2, 32), scales, minimums)


def _unpack_q3_k(b: Array) -> Parts:
    # hmask holds a third bit per weight, the highest; then 4 is subtracted from all
    levels = unpack_bits(b["qs"], 2, 32) | (unpack_bits(b["hmask"], 1, 32) << np.uint8(2))
    scales = float32(b["d"]) * _unpack_scales_3(b["scales"]).astype(np.float32)
    return Parts(levels.view(np.int8) - np.int8(4), scales)


def _unpack_q4_k(b: Array) -> Parts:
    scales, minimums = _unpack_scales_4_5(b["scales"])
    return Parts(
        unpack_bits(b["qs"], 4, 32),
        float32(b["d"]) * scales.astype(np.float32),
        float32(b["dmin"]) * minimums.astype(np.float32),
    )


def _unpack_q5_k(b: Array) -> Parts:
    scales, minimums = _unpack_scales_4_5(b["scales"])
    return Parts(
        unpack_bits(b["qs"], 4, 32) | (unpack_bits(b["qh"], 1, 32) << np.uint8(4)),
        float32(b["d"]) * scales.astype(np.float32),
        float32(b["dmin"]) * minimums.astype(np.float32),
    )


def _unpack_q6_k(b: Array) -> Parts:
    levels = unpack_bits(b["ql"], 4, 64) | (unpack_bits(b["qh"], 2, 32) << np.uint8(4))
    return Parts(levels.view(np.int8) - np.int8(32), float32(b["d"]) * b["scales"].astype(np.float32))


def _unpack_q8_k(b: Array) -> Parts:
    return Parts(b["qs"], float32(b["d"]))


# Quantize


def _round_scales(values: Array, top: int) -> tuple[Array, Array]:
    """Code scales (n, g), the largest as `top`: return the unit (n,) float16 and codes (n, g) uint8."""
    peak = np.maximum(values.max(axis=1, keepdims=True), np.float32(0))
    codes = np.minimum(np.rint(inverse(peak, top) * values), top)
    return (peak[:, 0] / np.float32(top)).astype(np.float16), codes.astype(np.uint8)


def _affine(
    values: Array, weights: Array | None, n_groups: int, top: int, scale_top: int
) -> dict[str, Array]:
    """Quantize (n, 256) values to d * scale * code - dmin * minimum, scale and minimum in 0..scale_top.

    Returns the fields d, dmin (n,) float16, scales, minimums (n, n_groups) uint8, codes (n, 256) uint8.
    """
    size = BLOCK // n_groups
    groups = values.reshape(-1, size)
    if weights is None:
        scale, low = _fit_unweighted(groups, top)
        d, scales = _round_scales(scale.reshape(-1, n_groups), scale_top)
        dmin, minimums = _round_scales(-low.reshape(-1, n_groups), scale_top)
    else:
        scale, low, _ = fit_affine(groups, weights.reshape(-1, size), top)
        group_weights = weights.reshape(-1, n_groups, size).sum(axis=2)
        unit, scales = fit_positive(scale.reshape(-1, n_groups), group_weights, scale_top)
        unit_min, minimums = fit_positive(-low.reshape(-1, n_groups), group_weights, scale_top)
        d, dmin = unit[:, 0].astype(np.float16), unit_min[:, 0].astype(np.float16)
    # the codes again, for the scales that will be read back
    step = (float32(d) * scales).reshape(-1, 1)
    taken_off = (float32(dmin) * minimums).reshape(-1, 1)
    codes = np.where(step == 0, 0, np.clip(np.rint((groups + taken_off) / step), 0, top))
    return {
        "d": d,
        "dmin": dmin,
        "scales": scales,
        "minimums": minimums,
        "codes": codes.astype(np.uint8).reshape(-1, BLOCK),
    }


def _fit_unweighted(groups: Array, top: int) -> tuple[Array, Array]:
    """Fit scales and lows without an importance matrix. As in the reference, large weights cost more."""
    if top == 3:
        cost = np.abs(groups)
        scale, low, _ = fit_affine(groups, cost, top, start=-0.5, step=0.1, n_steps=15, absolute=True)
        return scale, low
    rms = np.sqrt(np.mean(groups * groups, axis=1, keepdims=True))
    start, n_steps = (-1.0, 20) if top == 15 else (-0.5, 15)
    scale, low, _ = fit_affine(groups, rms + np.abs(groups), top, start=start, step=0.1, n_steps=n_steps)
    return scale, low


def _encode_q2_k(values: Array, weights: Array | None) -> Array:
    found = _affine(values, weights, 16, 3, 15)
    blocks = np.empty(len(values), Q2_K.layout)
    blocks["d"], blocks["dmin"] = found["d"], found["dmin"]
    blocks["scales"] = found["scales"] | (found["minimums"] << np.uint8(4))
    blocks["qs"] = pack_bits(found["codes"], 2, 32)
    return blocks


def _encode_q4_k(values: Array, weights: Array | None) -> Array:
    found = _affine(values, weights, 8, 15, 63)
    blocks = np.empty(len(values), Q4_K.layout)
    blocks["d"], blocks["dmin"] = found["d"], found["dmin"]
    blocks["scales"] = _pack_scales_4_5(found["scales"], found["minimums"])
    blocks["qs"] = pack_bits(found["codes"], 4, 32)
    return blocks


def _encode_q5_k(values: Array, weights: Array | None) -> Array:
    found = _affine(values, weights, 8, 31, 63)
    blocks = np.empty(len(values), Q5_K.layout)
    blocks["d"], blocks["dmin"] = found["d"], found["dmin"]
    blocks["scales"] = _pack_scales_4_5(found["scales"], found["minimums"])
    blocks["qs"] = pack_bits(found["codes"] & np.uint8(15), 4, 32)
    blocks["qh"] = pack_bits(found["codes"] >> np.uint8(4), 1, 32)
    return blocks


def _levels(values: Array, scales: Array, half: int) -> Array:
    """Return codes around half, for scales (n, 16) that will be read back: (n, 256) uint8 in 0..2*half-1."""
    steps = scales[:, :, None]
    levels = np.clip(np.rint(values.reshape(-1, 16, 16) / steps), -half, half - 1) + half
    return np.where(steps == 0, 0, levels).astype(np.uint8).reshape(-1, BLOCK)


def _encode_q3_k(values: Array, weights: Array | None) -> Array:
    groups = values.reshape(-1, 16)
    blocks = np.empty(len(values), Q3_K.layout)
    if weights is None:
        start = np.clip(np.rint(np.float32(-4) / largest(groups) * groups), -4, 3)
        start = np.where(np.abs(groups).max(axis=1, keepdims=True) < TINY, np.float32(0), start)
        scales = refine(groups, groups * groups, start, -4, 3)[0].reshape(-1, 16)
        inverse_unit = inverse(largest(scales), -32)
        codes = (np.clip(np.rint(inverse_unit * scales), -32, 31) + 32).astype(np.uint8)
        blocks["d"] = inverse(inverse_unit)[:, 0]
    else:
        scales, _ = fit_symmetric(groups, weights.reshape(-1, 16), 4)
        group_weights = weights.reshape(-1, 16, 16).sum(axis=2)
        unit, codes = fit_symmetric(scales.reshape(-1, 16), group_weights, 32)
        blocks["d"] = unit[:, 0]
    blocks["scales"] = _pack_scales_3(codes)
    levels = _levels(values, float32(blocks["d"]) * (codes.astype(np.float32) - 32), 4)
    blocks["qs"] = pack_bits(levels & np.uint8(3), 2, 32)
    blocks["hmask"] = pack_bits(levels >> np.uint8(2), 1, 32)
    return blocks


def _encode_q6_k(values: Array, weights: Array | None) -> Array:
    groups = values.reshape(-1, 16)
    cost = groups * groups if weights is None else weights.reshape(-1, 16)
    scales = fit_symmetric(groups, cost, 32)[0].reshape(-1, 16)
    peak = largest(scales)
    inverse_unit = inverse(np.where(np.abs(peak) < TINY, np.float32(0), peak), -128)
    blocks = np.empty(len(values), Q6_K.layout)
    blocks["d"] = inverse(inverse_unit)[:, 0]
    blocks["scales"] = np.minimum(np.rint(inverse_unit * scales), 127).astype(np.int8)
    levels = _levels(values, float32(blocks["d"]) * blocks["scales"], 32)
    blocks["ql"] = pack_bits(levels & np.uint8(15), 4, 64)
    blocks["qh"] = pack_bits(levels >> np.uint8(4), 2, 32)
    return blocks


def _encode_q8_k(values: Array, weights: Array | None) -> Array:
    blocks = np.empty(len(values), Q8_K.layout)
    inverse_unit = inverse(largest(values), -127)
    blocks["d"] = inverse(inverse_unit)[:, 0]
    blocks["qs"] = np.minimum(np.rint(inverse_unit * values), 127).astype(np.int8)
    blocks["bsums"] = blocks["qs"].reshape(-1, 16, 16).sum(axis=2, dtype=np.int16)
    return blocks


Q2_K = QuantType(
    id=10,
    name="Q2_K",
    block_size=BLOCK,
    layout=np.dtype([("scales", "u1", 16), ("qs", "u1", 64), ("d", "<f2"), ("dmin", "<f2")]),
    unpack=_unpack_q2_k,
    encode=_encode_q2_k,
    weigh="block",
    about="16 groups: d * scale * q - dmin * minimum; q in 0..3, scale and minimum in 0..15",
)
Q3_K = QuantType(
    id=11,
    name="Q3_K",
    block_size=BLOCK,
    layout=np.dtype([("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "<f2")]),
    unpack=_unpack_q3_k,
    encode=_encode_q3_k,
    weigh="block twice",
    about="16 groups: d * (scale - 32) * (q - 4); q in 0..7, scale in 0..63",
)
Q4_K = QuantType(
    id=12,
    name="Q4_K",
    block_size=BLOCK,
    layout=np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", 128)]),
    unpack=_unpack_q4_k,
    encode=_encode_q4_k,
    weigh="block twice",
    about="8 groups: d * scale * q - dmin * minimum; q in 0..15, scale and minimum in 0..63",
)
Q5_K = QuantType(
    id=13,
    name="Q5_K",
    block_size=BLOCK,
    layout=np.dtype(
        [("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128)]
    ),
    unpack=_unpack_q5_k,
    encode=_encode_q5_k,
    weigh="block twice",
    about="8 groups: d * scale * q - dmin * minimum; q in 0..31, scale and minimum in 0..63",
)
Q6_K = QuantType(
    id=14,
    name="Q6_K",
    block_size=BLOCK,
    layout=np.dtype([("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")]),
    unpack=_unpack_q6_k,
    encode=_encode_q6_k,
    weigh="plain",
    about="16 groups: d * scale * (q - 32); q in 0..63, scale in -128..127",
)
Q8_K = QuantType(
    id=15,
    name="Q8_K",
    block_size=BLOCK,
    layout=np.dtype([("d", "<f4"), ("qs", "i1", 256), ("bsums", "<i2", 16)]),
    unpack=_unpack_q8_k,
    encode=_encode_q8_k,
    storable=False,
    about="activations for products with K and IQ types: d * q; bsums: sums of 16 q, for weights' minimums",
)

K_QUANTS = (Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K)
