"""IQ types: a few weights together are one entry of a codebook, and most types store signs separately.

Dequantizing agrees bit for bit with gguf-py's quants.py. Quantizing is llmlite's own search
(`codebook_search`); tests compare its error with that of ggml-quants.c.
"""

from __future__ import annotations

import numpy as np

from llmlite.quants.codebook_search import Fit, fit_blocks, fit_ternary
from llmlite.quants.codebooks import codebook
from llmlite.quants.record import (
    Array,
    Encode,
    Parts,
    QuantType,
    Unpack,
    float32,
    inverse,
    pack_bits,
    unpack_bits,
)
from llmlite.quants.search import TINY, largest
from llmlite.quants.sums import columns, dot, dot3

BLOCK = 256

# IQ4: sixteen levels, closer together near zero, where most weights are
IQ4_LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.int8
)

# Seven bits give eight signs: the eighth makes the number of minus signs even.
_parity = np.array([code.bit_count() & 1 for code in range(128)], dtype=np.uint8)
EVEN_SIGNS = np.arange(128, dtype=np.uint8) | (_parity << np.uint8(7))


def _signed(entries: Array, sign_bytes: Array) -> Array:
    """Apply signs to codebook entries: (n, 256 / k, k) int8, a bit per weight (n, 32) uint8 -> (n, 256)."""
    signs = np.unpackbits(sign_bytes, axis=1, bitorder="little").view(np.int8)  # (n, 256): 1 means minus
    return entries.reshape(len(entries), -1) * (np.int8(1) - 2 * signs)


def _seven_bit_fields(words: Array) -> Array:
    """Unpack four 7-bit sign codes from the low 28 bits of each word: (n, 8) uint32 -> (n, 32) sign bytes."""
    # 31..28 scale   27..21 signs 3   20..14 signs 2   13..7 signs 1   6..0 signs 0
    codes = (words[:, :, None] >> np.array([0, 7, 14, 21], dtype=np.uint32)) & np.uint32(127)
    return EVEN_SIGNS[codes.reshape(len(words), -1)]


def _words(fit: Fit) -> Array:
    """Do the inverse of `_seven_bit_fields`, with the scale code in the upper bits: (n, 8) uint32."""
    codes = (fit.sign_bytes & np.uint8(127)).reshape(-1, 8, 4).astype(np.uint32)
    shifts = np.array([0, 7, 14, 21], dtype=np.uint32)
    scales = fit.scale_codes.astype(np.uint32) << np.uint32(28)
    return np.bitwise_or.reduce(codes << shifts, axis=2) | scales


# IQ2


def _unpack_iq2_xxs(b: Array) -> Parts:
    words = b["qs"]  # (n, 8, 2): the indices of four entries; signs and scale
    entries = codebook("IQ2_XXS")[np.ascontiguousarray(words[:, :, 0]).view(np.uint8)]  # (n, 32, 8)
    scale = (words[:, :, 1] >> np.uint32(28)).astype(np.float32)
    scales = float32(b["d"]) * (np.float32(0.5) + scale) * np.float32(0.25)
    return Parts(_signed(entries, _seven_bit_fields(words[:, :, 1])), scales)


def _encode_iq2_xxs(values: Array, weights: Array | None) -> Array:
    book = codebook("IQ2_XXS")
    fit = fit_blocks(
        values, weights, book, group=32, n_scales=16, d_per_unit=8, even_signs=True, unshrink=0.75
    )
    blocks = np.empty(len(values), IQ2_XXS.layout)
    blocks["d"] = fit.d
    blocks["qs"][:, :, 0] = fit.indices.astype(np.uint8).view("<u4")
    blocks["qs"][:, :, 1] = _words(fit)
    return blocks


def _two_scales(b: Array) -> Array:
    """Return the scales of groups of 16, whose four-bit codes are stored two to a byte: (n, 16) float32."""
    codes = unpack_bits(b["scales"], 4, 1).astype(np.float32)
    return float32(b["d"]) * (np.float32(0.5) + codes) * np.float32(0.25)


def _unpack_iq2_xs(b: Array) -> Parts:
    # 15..9 signs   8..0 entry
    entries = codebook("IQ2_XS")[b["qs"] & np.uint16(511)]
    return Parts(_signed(entries, EVEN_SIGNS[b["qs"] >> np.uint16(9)]), _two_scales(b))


def _encode_iq2_xs(values: Array, weights: Array | None) -> Array:
    book = codebook("IQ2_XS")
    fit = fit_blocks(values, weights, book, group=16, n_scales=16, d_per_unit=8, even_signs=True)
    blocks = np.empty(len(values), IQ2_XS.layout)
    blocks["d"] = fit.d
    signs = (fit.sign_bytes & np.uint8(127)).astype(np.uint16)
    blocks["qs"] = fit.indices | (signs << np.uint16(9))
    blocks["scales"] = pack_bits(fit.scale_codes, 4, 1)
    return blocks


def _unpack_iq2_s(b: Array) -> Parts:
    # qh: two upper bits for each of four entries
    indices = b["qs"] | (unpack_bits(b["qh"], 2, 1).astype(np.uint16) << np.uint16(8))
    return Parts(_signed(codebook("IQ2_S")[indices], b["signs"]), _two_scales(b))


def _encode_iq2_s(values: Array, weights: Array | None) -> Array:
    fit = fit_blocks(values, weights, codebook("IQ2_S"), group=16, n_scales=16, d_per_unit=8)
    blocks = np.empty(len(values), IQ2_S.layout)
    blocks["d"] = fit.d
    blocks["qs"] = fit.indices & np.uint16(255)
    blocks["qh"] = pack_bits((fit.indices >> np.uint16(8)).astype(np.uint8), 2, 1)
    blocks["signs"] = fit.sign_bytes
    blocks["scales"] = pack_bits(fit.scale_codes, 4, 1)
    return blocks


# IQ3


def _unpack_iq3_xxs(b: Array) -> Parts:
    words = b["scales_and_signs"]
    scale = (words >> np.uint32(28)).astype(np.float32)
    scales = float32(b["d"]) * (np.float32(0.5) + scale) * np.float32(0.5)
    return Parts(_signed(codebook("IQ3_XXS")[b["qs"]], _seven_bit_fields(words)), scales)


def _encode_iq3_xxs(values: Array, weights: Array | None) -> Array:
    book = codebook("IQ3_XXS")
    fit = fit_blocks(values, weights, book, group=32, n_scales=16, d_per_unit=4, even_signs=True)
    blocks = np.empty(len(values), IQ3_XXS.layout)
    blocks["d"] = fit.d
    blocks["qs"] = fit.indices
    blocks["scales_and_signs"] = _words(fit)
    return blocks


def _unpack_iq3_s(b: Array) -> Parts:
    indices = b["qs"] | (unpack_bits(b["qh"], 1, 1).astype(np.uint16) << np.uint16(8))
    scales = float32(b["d"]) * (1 + 2 * unpack_bits(b["scales"], 4, 1)).astype(np.float32)
    return Parts(_signed(codebook("IQ3_S")[indices], b["signs"]), scales)


def _encode_iq3_s(values: Array, weights: Array | None) -> Array:
    fit = fit_blocks(values, weights, codebook("IQ3_S"), group=32, n_scales=16, d_per_unit=1)
    blocks = np.empty(len(values), IQ3_S.layout)
    blocks["d"] = fit.d
    blocks["qs"] = fit.indices & np.uint16(255)
    blocks["qh"] = pack_bits((fit.indices >> np.uint16(8)).astype(np.uint8), 1, 1)
    blocks["signs"] = fit.sign_bytes
    blocks["scales"] = pack_bits(fit.scale_codes, 4, 1)
    return blocks


# IQ1: entries of -1, 0, 1, all shifted by an eighth up or down

DELTA = np.float32(0.125)


def _unpack_iq1_s(b: Array) -> Parts:
    qh = b["qh"]  # (n, 8)
    # 15 shift down   14..12 scale   11..9, 8..6, 5..3, 2..0 upper bits of four entries
    upper = (qh[:, :, None] >> np.array([0, 3, 6, 9], dtype=np.uint16)) & np.uint16(7)
    entries = codebook("IQ1_S")[b["qs"] | (upper.reshape(len(qh), -1) << np.uint16(8))]  # (n, 32, 8)
    shift = np.where(qh & np.uint16(0x8000), -DELTA, DELTA)
    levels = entries.reshape(-1, 8, 32) + shift[:, :, None]
    scales = float32(b["d"]) * (2 * ((qh >> np.uint16(12)) & np.uint16(7)) + 1).astype(np.float32)
    return Parts(levels.reshape(-1, BLOCK), scales)


def _shifted() -> list[Array]:
    """Return the codebook shifted up, then shifted down: bit 11 of an index selects the shift."""
    return [codebook("IQ1_S") + DELTA, codebook("IQ1_S") - DELTA]


def _encode_iq1_s(values: Array, weights: Array | None) -> Array:
    fit = fit_ternary(values, weights, _shifted(), group=32)
    blocks = np.empty(len(values), IQ1_S.layout)
    blocks["d"] = fit.d
    blocks["qs"] = fit.indices & np.uint16(255)
    four = fit.indices.reshape(-1, 8, 4)
    upper = ((four >> np.uint16(8)) & np.uint16(7)) << np.array([0, 3, 6, 9], dtype=np.uint16)
    shift = (four[:, :, 0] >> np.uint16(11)) << np.uint16(15)
    scale = fit.scale_codes.astype(np.uint16) << np.uint16(12)
    blocks["qh"] = np.bitwise_or.reduce(upper, axis=2) | shift | scale
    return blocks


def _iq1_m_unit(scales: Array) -> Array:
    """Join the float16 in the upper four bits of four words, lowest part first: (n, 4) -> (n, 1) float32."""
    parts = (scales & np.uint16(0xF000)) >> np.array([12, 8, 4, 0], dtype=np.uint16)
    return float32(np.bitwise_or.reduce(parts, axis=1).astype(np.uint16).view(np.float16))


def _unpack_iq1_m(b: Array) -> Parts:
    # qh: for each of two entries, 3 shift down   2..0 upper bits;   scales: 15..12 of d, then four of 3 bits
    qh = unpack_bits(b["qh"], 4, 1)  # (n, 32)
    entries = codebook("IQ1_S")[b["qs"] | ((qh & np.uint8(7)).astype(np.uint16) << np.uint16(8))]
    levels = entries + np.where(qh & np.uint8(8), -DELTA, DELTA)[:, :, None]
    codes = (b["scales"][:, :, None] >> np.array([0, 3, 6, 9], dtype=np.uint16)) & np.uint16(7)
    scales = _iq1_m_unit(b["scales"]) * (2 * codes.reshape(len(qh), -1) + 1).astype(np.float32)
    return Parts(levels.reshape(-1, BLOCK), scales)


def _encode_iq1_m(values: Array, weights: Array | None) -> Array:
    fit = fit_ternary(values, weights, [np.concatenate(_shifted())], group=16)
    blocks = np.empty(len(values), IQ1_M.layout)
    blocks["qs"] = fit.indices & np.uint16(255)
    blocks["qh"] = pack_bits((fit.indices >> np.uint16(8)).astype(np.uint8), 4, 1)
    codes = fit.scale_codes.reshape(-1, 4, 4).astype(np.uint16) << np.array([0, 3, 6, 9], dtype=np.uint16)
    unit_bits = fit.d.view(np.uint16)[:, None] >> np.array([0, 4, 8, 12], dtype=np.uint16)
    blocks["scales"] = np.bitwise_or.reduce(codes, axis=2) | ((unit_bits & np.uint16(15)) << np.uint16(12))
    return blocks


# IQ4


# floor(2 * value) -> nearest code: midpoints between levels are multiples of 1/2, so flooring misses none
_twice = np.arange(2 * -127, 2 * 113 + 1)
_NEAREST_IQ4 = np.searchsorted((IQ4_LEVELS[1:].astype(int) + IQ4_LEVELS[:-1]), _twice, side="right").astype(
    np.uint8
)


def _nearest_iq4(values: Array) -> Array:
    """Return the code of the nearest of the sixteen levels; in a tie, of the upper one: uint8."""
    # fmin and fmax also turn NaN into a bound; clip would keep it
    doubled = np.fmax(np.fmin(np.floor(values * 2), _twice[-1]), _twice[0])
    return _NEAREST_IQ4[doubled.astype(np.int32) - _twice[0]]


def _fit_iq4(groups: Array, weights: Array) -> Array:
    """Return each group's scale with the least error, of sixteen candidates: (m, 32) -> (m, 1)."""
    peak = largest(groups)[:, 0]
    x, w = columns(groups), columns(weights)
    weighted = w * x
    best_removed, best_scale = np.full(peak.shape, -1, np.float32), np.zeros_like(peak)
    for target in (127, *range(-134, -119)):  # where the largest weight lands
        levels = IQ4_LEVELS[_nearest_iq4(np.float32(target) / peak * x)].astype(np.float32)
        along, norm = dot(weighted, levels), dot3(w, levels, levels)
        scale = along / norm
        better = (norm > 0) & (scale * along > best_removed)
        best_removed = np.where(better, scale * along, best_removed)
        best_scale = np.where(better, scale, best_scale)
    return np.where(np.abs(peak) < TINY, np.float32(0), best_scale)[:, None]


def _unpack_iq4_nl(b: Array) -> Parts:
    return Parts(IQ4_LEVELS[unpack_bits(b["qs"], 4, 16)], float32(b["d"]))


def _encode_iq4_nl(values: Array, weights: Array | None) -> Array:
    scale = _fit_iq4(values, values * values if weights is None else weights)
    blocks = np.empty(len(values), IQ4_NL.layout)
    blocks["d"] = scale[:, 0]
    blocks["qs"] = pack_bits(_nearest_iq4(inverse(scale) * values), 4, 16)
    return blocks


def _unpack_iq4_xs(b: Array) -> Parts:
    upper = (b["scales_h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16)) & np.uint16(3)
    codes = unpack_bits(b["scales_l"], 4, 1) | (upper.astype(np.uint8) << np.uint8(4))  # (n, 8), 0..63
    scales = float32(b["d"]) * (codes.view(np.int8) - np.int8(32)).astype(np.float32)
    return Parts(IQ4_LEVELS[unpack_bits(b["qs"], 4, 16)], scales)


def _encode_iq4_xs(values: Array, weights: Array | None) -> Array:
    groups = values.reshape(-1, 32)
    scales = _fit_iq4(groups, groups * groups if weights is None else weights.reshape(-1, 32)).reshape(-1, 8)
    unit = (-largest(scales) / np.float32(32)).astype(np.float16)
    codes = np.clip(np.rint(inverse(unit.astype(np.float32)) * scales), -32, 31)
    read_back = (unit.astype(np.float32) * codes).reshape(-1, 1)
    blocks = np.empty(len(values), IQ4_XS.layout)
    blocks["d"] = unit[:, 0]
    blocks["qs"] = pack_bits(_nearest_iq4(inverse(read_back) * groups).reshape(-1, BLOCK), 4, 16)
    stored = (codes + 32).astype(np.uint8)
    blocks["scales_l"] = pack_bits(stored & np.uint8(15), 4, 1)
    upper = (stored >> np.uint8(4)).astype(np.uint16) << np.arange(0, 16, 2, dtype=np.uint16)
    blocks["scales_h"] = np.bitwise_or.reduce(upper, axis=1)
    return blocks


# Records


def _record(
    id: int,
    name: str,
    fields: list[tuple],
    unpack: Unpack,
    encode: Encode,
    about: str,
    *,
    weigh: str = "block",
    needs_importance: bool = False,
) -> QuantType:
    return QuantType(
        id=id,
        name=name,
        block_size=BLOCK,
        layout=np.dtype(fields),
        unpack=unpack,
        encode=encode,
        weigh=weigh,
        needs_importance=needs_importance,
        about=about,
    )


IQ2_XXS = _record(
    16,
    "IQ2_XXS",
    [("d", "<f2"), ("qs", "<u4", (8, 2))],
    _unpack_iq2_xxs,
    _encode_iq2_xxs,
    "8 groups: d / 8 * (2 scale + 1) * one of 256 octets of {8, 25, 43}, signs of even parity",
    needs_importance=True,
)
IQ2_XS = _record(
    17,
    "IQ2_XS",
    [("d", "<f2"), ("qs", "<u2", 32), ("scales", "u1", 8)],
    _unpack_iq2_xs,
    _encode_iq2_xs,
    "16 groups: d / 8 * (2 scale + 1) * one of 512 octets of {8, 25, 43}, signs of even parity",
    needs_importance=True,
)
IQ3_XXS = _record(
    18,
    "IQ3_XXS",
    [("d", "<f2"), ("qs", "u1", 64), ("scales_and_signs", "<u4", 8)],
    _unpack_iq3_xxs,
    _encode_iq3_xxs,
    "8 groups: d / 4 * (2 scale + 1) * one of 256 quartets of eight magnitudes, signs of even parity",
    weigh="block twice",
)
IQ1_S = _record(
    19,
    "IQ1_S",
    [("d", "<f2"), ("qs", "u1", 32), ("qh", "<u2", 8)],
    _unpack_iq1_s,
    _encode_iq1_s,
    "8 groups: d * (2 scale + 1) * (one of 2048 octets of {-1, 0, 1} + 1/8 or - 1/8)",
    weigh="block twice",
    needs_importance=True,
)
IQ3_S = _record(
    21,
    "IQ3_S",
    [("d", "<f2"), ("qs", "u1", 64), ("qh", "u1", 8), ("signs", "u1", 32), ("scales", "u1", 4)],
    _unpack_iq3_s,
    _encode_iq3_s,
    "8 groups: d * (2 scale + 1) * one of 512 quartets of {1, 3, ... 15}, any signs",
    weigh="block twice",
)
IQ2_S = _record(
    22,
    "IQ2_S",
    [("d", "<f2"), ("qs", "u1", 32), ("signs", "u1", 32), ("qh", "u1", 8), ("scales", "u1", 8)],
    _unpack_iq2_s,
    _encode_iq2_s,
    "16 groups: d / 8 * (2 scale + 1) * one of 1024 octets of {8, 25, 43}, any signs",
    weigh="block twice",
)
IQ4_XS = _record(
    23,
    "IQ4_XS",
    [("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", 128)],
    _unpack_iq4_xs,
    _encode_iq4_xs,
    "8 groups: d * (scale - 32) * one of sixteen uneven levels",
    weigh="block twice",
)
IQ1_M = _record(
    29,
    "IQ1_M",
    [("qs", "u1", 32), ("qh", "u1", 16), ("scales", "<u2", 4)],
    _unpack_iq1_m,
    _encode_iq1_m,
    "16 groups: d * (2 scale + 1) * (one of 2048 octets of {-1, 0, 1} + 1/8 or - 1/8); d is in scales",
    weigh="block twice",
)
IQ4_NL = QuantType(
    id=20,
    name="IQ4_NL",
    block_size=32,
    layout=np.dtype([("d", "<f2"), ("qs", "u1", 16)]),
    unpack=_unpack_iq4_nl,
    encode=_encode_iq4_nl,
    weigh="block twice",
    about="d * one of sixteen uneven levels",
)

IQ = (IQ2_XXS, IQ2_XS, IQ3_XXS, IQ1_S, IQ4_NL, IQ3_S, IQ2_S, IQ4_XS, IQ1_M)
