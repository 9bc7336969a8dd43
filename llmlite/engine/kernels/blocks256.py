"""Types whose blocks hold 256 weights: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS.

Each type has its layout, functions that return 64 quants of a super-block (`i` = 0…3 selects them) and its
scales, and the kernels made from these. Small numbers of scales are packed across bytes. Eight or sixteen of
them are unpacked at once, in 32- or 64-bit words.
"""

from llmlite.engine.families import BY_SUFFIX
from llmlite.engine.kernels.blocks32 import iq4_numbers, iq4_numbers64, make_nibble_vectors, nibbles
from llmlite.engine.kernels.few import make_few
from llmlite.engine.kernels.quantized import (
    BLOCK_ORDER,
    apart,
    doubled,
    if_wide,
    make_embed,
    make_matvec,
)
from llmlite.engine.kernels.unpack import make_unpack
from llmlite.engine.simd import (
    concat,
    high_half,
    high_nibbles,
    i32,
    i64,
    inline,
    load_f16,
    load_i32,
    load_i64,
    load_u8x16,
    load_u8x32,
    load_u8x64,
    load_u16,
    low_half,
    low_nibbles,
    make_half8,
    make_pieces,
    make_shift_lanes,
    make_shift_words,
    make_shuffle,
    make_turn_words,
    shift_any,
    splat_f32x16,
    splat_i32x8,
    splat_i32x16,
    splat_u8x32,
    splat_u8x64,
    table16,
    to_f32,
    widen_i8,
    widen_u8,
)  # fmt: skip

LOW32 = 0xFFFFFFFF


@inline
def word(p):
    """Return four bytes as an int64 below 2³²."""
    return i64(load_i32(p)) & LOW32


def family(suffix, *, quants64, scales, mins=None, vectors):
    """Return (matvec, few, unpack, embed) of a type; see `make_matvec`."""
    facts, group = BY_SUFFIX[suffix], {"quants64": quants64, "scales": scales, "mins": mins}
    scales16, mins16 = scales, mins
    if facts.sub == 32:
        scales16, mins16 = doubled(scales), doubled(mins) if mins else None
    return (
        make_matvec(facts, **group, vectors=vectors),
        make_few(facts, **group, vectors=vectors),
        make_unpack(facts, **group),
        make_embed(facts, quants64=quants64, scales16=scales16, mins16=mins16),
    )


# ---- Q4_K: d, dmin f16; 8 scales and 8 minimums of 6 bits in 12 bytes; 128 bytes of nibbles ----------------
# Each 32 bytes of nibbles hold 64 weights: the low halves first.
# Scale bytes: 0-3 mmSSSSSS and 4-7 mmMMMMMM are scales and minimums 0-3, whose top bits, with the nibbles of
# 8-11 MMMMSSSS, make scales and minimums 4-7.


even_words = make_shuffle([0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15])
half_at_0, half_at_2 = make_half8(0, 0), make_half8(2, 0)


@inline
def k_scales_and_mins(p):
    """Return eight scales and eight minimums."""
    first, last = load_i64(p + 4), word(p + 12)
    nibble_bytes = (last & 0x0F0F0F0F) | (last >> 4 & 0x0F0F0F0F) << 32
    low, high = first & 0x3F3F3F3F3F3F3F3F, (first >> 2 & 0x3030303030303030) | nibble_bytes
    packed = table16(low, high)  # four scales, four minimums, the other scales, the other minimums
    packed = even_words(packed, packed)
    scales, mins = to_f32(widen_u8(low_half(packed))), to_f32(widen_u8(high_half(packed)))
    return scales * half_at_0(p), mins * half_at_2(p)


@inline
def k_scales(p):
    return k_scales_and_mins(p)[0]


@inline
def k_mins(p):
    return k_scales_and_mins(p)[1]


@inline
def q4_k_quants(p, i):
    v = load_u8x32(p + 16 + 32 * i)
    return concat(low_nibbles(v), high_nibbles(v))


def make_k_nibbles(first):
    """Return (p) -> the four u8x64 of eight sub-blocks; each 32 bytes from `first` on hold two of them."""
    load0, load1, load2, load3 = (
        make_pieces([first + 8 * k + 32 * (block // 2) for block in BLOCK_ORDER], 8, (first, first + 64))
        for k in range(4)
    )

    @inline
    def vectors(p):
        a, b, c, d = load0(p), load1(p), load2(p), load3(p)
        return (
            low_nibbles(low_then_high(a)),
            low_nibbles(low_then_high(b)),
            low_nibbles(low_then_high(c)),
            low_nibbles(low_then_high(d)),
        )

    return vectors


low_then_high = make_shift_words([block % 2 * 4 for block in BLOCK_ORDER])

matvec_q4_k, matmul_few_q4_k, unpack_q4_k, embed_q4_k = family(
    "q4_k", quants64=q4_k_quants, vectors=make_k_nibbles(16), scales=k_scales, mins=k_mins
)


# ---- Q5_K: as Q4_K, with 32 bytes of fifth bits before the nibbles: bit 2i (2i + 1) of byte j belongs to the
# low (high) nibble j of chunk i -----------------------------------------------------------------------------


@inline
def q5_k_quants(p, i):
    v, h = load_u8x32(p + 48 + 32 * i), load_u8x32(p + 16)
    low, high = shift_any(h, 2 * i) & splat_u8x32(1), shift_any(h, 2 * i + 1) & splat_u8x32(1)
    return concat(low_nibbles(v), high_nibbles(v)) | shift_any(concat(low, high), -4)


q5_k_nibbles = make_k_nibbles(48)
fifth0, fifth1, fifth2, fifth3 = (make_pieces([16 + 8 * k] * 8, 8, (16,)) for k in range(4))
to_bit_4 = make_turn_words([block - 4 for block in BLOCK_ORDER])


@inline
def fifth_at_4(v):
    """Return bit `block` of every byte in the word of that block, moved to bit 4."""
    return to_bit_4(v) & splat_u8x64(16)


@inline
def q5_k_vectors(p):
    a, b, c, d = q5_k_nibbles(p)
    return (
        a | fifth_at_4(fifth0(p)),
        b | fifth_at_4(fifth1(p)),
        c | fifth_at_4(fifth2(p)),
        d | fifth_at_4(fifth3(p)),
    )


matvec_q5_k, matmul_few_q5_k, unpack_q5_k, embed_q5_k = family(
    "q5_k",
    quants64=q5_k_quants,
    vectors=if_wide(q5_k_vectors),
    scales=k_scales,
    mins=k_mins,
)


# ---- Q6_K: 128 bytes of low nibbles, 64 of upper bit pairs, 16 signed scales, d f16; d·scale·(q − 32) ------
# Half n (128 weights): bytes 0-63 of its nibbles hold weights 0-63 low and 64-127 high; bit pair j of byte l
# of its 32 belongs to weight 32·j + l.


@inline
def q6_k_quants(p, i):
    half, upper = i >> 1, i & 1
    v = shift_any(load_u8x64(p + 64 * half), 4 * upper) & splat_u8x64(15)
    h = load_u8x32(p + 128 + 32 * half)
    pairs = concat(shift_any(h, 4 * upper), shift_any(h, 4 * upper + 2)) & splat_u8x64(3)
    return v | shift_any(pairs, -4)


@inline
def q6_k_scales(p):
    return to_f32(widen_i8(apart(load_u8x16(p + 192)))) * splat_f32x16(load_f16(p + 208))


halves = [block // 4 for block in BLOCK_ORDER]  # the half (128 weights) of each block of 32
quarters = [block % 4 for block in BLOCK_ORDER]  # the bit pair of each block
low0, low1, low2, low3 = (
    make_pieces([64 * n + 32 * (j % 2) + 8 * k for n, j in zip(halves, quarters)], 8, (0, 64))
    for k in range(4)
)


def make_halves(first):
    """Return four operations: bytes 8k…8k+7 of the 32 from `first` on, or of the next 32, for every block."""
    return [make_pieces([first + 32 * n + 8 * k for n in halves], 8, (first,)) for k in range(4)]


upper0, upper1, upper2, upper3 = make_halves(128)
own_nibble = make_shift_words([j // 2 * 4 for j in quarters])
own_pair_at_4 = make_turn_words([2 * j - 4 for j in quarters])


@inline
def q6_k_vectors(p):
    bits = splat_u8x64(0x30)
    return (
        low_nibbles(own_nibble(low0(p))) | (own_pair_at_4(upper0(p)) & bits),
        low_nibbles(own_nibble(low1(p))) | (own_pair_at_4(upper1(p)) & bits),
        low_nibbles(own_nibble(low2(p))) | (own_pair_at_4(upper2(p)) & bits),
        low_nibbles(own_nibble(low3(p))) | (own_pair_at_4(upper3(p)) & bits),
    )


matvec_q6_k, matmul_few_q6_k, unpack_q6_k, embed_q6_k = family(
    "q6_k", quants64=q6_k_quants, vectors=if_wide(q6_k_vectors), scales=q6_k_scales
)


# ---- Q3_K: 32 bytes of third bits, 64 of bit pairs, 16 scales of 6 bits in 12 bytes, d f16; d·(scale − 32)·(
# Half n: bit pair j of byte l of its 32 belongs to weight 32·j + l, and so does bit 4n + j of third-bit byte
# l.


@inline
def pairs64(p, i):
    """Return the bit pairs of the 64 bytes at p for weights 64i…64i+63."""
    v, j = load_u8x32(p + 32 * (i >> 1)), 4 * (i & 1)
    return concat(shift_any(v, j), shift_any(v, j + 2)) & splat_u8x64(3)


@inline
def q3_k_quants(p, i):
    h = load_u8x32(p)
    third = concat(shift_any(h, 2 * i), shift_any(h, 2 * i + 1)) & splat_u8x64(1)
    return pairs64(p + 32, i) | shift_any(third, -2)


@inline
def q3_k_scales(p):
    """Return the scales: low nibbles of 8 bytes, then high ones; the upper bits are in the next 4 bytes."""
    nibble_bytes, upper = load_i64(p + 96), word(p + 104)
    low = (
        (nibble_bytes & 0x0F0F0F0F0F0F0F0F) | ((upper & 0x03030303) << 4) | ((upper >> 2 & 0x03030303) << 36)
    )
    high = (
        (nibble_bytes >> 4 & 0x0F0F0F0F0F0F0F0F)
        | ((upper >> 4 & 0x03030303) << 4)
        | ((upper >> 6 & 0x03030303) << 36)
    )
    scales = widen_u8(apart(table16(low, high))) - splat_i32x16(i32(32))
    return to_f32(scales) * splat_f32x16(load_f16(p + 108))


def make_pair_vectors(first):
    """Return (p) -> the four u8x64 of the bit pairs in the 64 bytes from `first` on."""
    load0, load1, load2, load3 = make_halves(first)

    @inline
    def vectors(p):
        bits = splat_u8x64(3)
        return (
            own_pair(load0(p)) & bits,
            own_pair(load1(p)) & bits,
            own_pair(load2(p)) & bits,
            own_pair(load3(p)) & bits,
        )

    return vectors


own_pair = make_shift_words([2 * j for j in quarters])
third0, third1, third2, third3 = (make_pieces([8 * k] * 8, 8, (0,)) for k in range(4))
own_third_at_2 = make_turn_words([block - 2 for block in BLOCK_ORDER])
q3_k_pairs = make_pair_vectors(32)


@inline
def q3_k_vectors(p):
    a, b, c, d = q3_k_pairs(p)
    bit = splat_u8x64(4)
    return (
        a | (own_third_at_2(third0(p)) & bit),
        b | (own_third_at_2(third1(p)) & bit),
        c | (own_third_at_2(third2(p)) & bit),
        d | (own_third_at_2(third3(p)) & bit),
    )


matvec_q3_k, matmul_few_q3_k, unpack_q3_k, embed_q3_k = family(
    "q3_k", quants64=q3_k_quants, vectors=if_wide(q3_k_vectors), scales=q3_k_scales
)


# ---- Q2_K: 16 bytes of scale (low nibble) and minimum (high), 64 of bit pairs, d, dmin f16; d·scale·q −
# dmin·minimum --


@inline
def q2_k_quants(p, i):
    return pairs64(p + 16, i)


@inline
def q2_k_scales(p):
    return to_f32(widen_u8(apart(low_nibbles(load_u8x16(p))))) * splat_f32x16(load_f16(p + 80))


@inline
def q2_k_mins(p):
    return to_f32(widen_u8(apart(high_nibbles(load_u8x16(p))))) * splat_f32x16(load_f16(p + 82))


matvec_q2_k, matmul_few_q2_k, unpack_q2_k, embed_q2_k = family(
    "q2_k",
    quants64=q2_k_quants,
    vectors=if_wide(make_pair_vectors(16)),
    scales=q2_k_scales,
    mins=q2_k_mins,
)


# ---- IQ4_XS: d f16, 16 upper scale bits, 4 bytes of lower ones, 128 bytes of nibbles into IQ4_NL's table ---
# d·(scale − 32)·number; 16 bytes of nibbles for each 32 weights, low halves first.


@inline
def iq4_xs_quants(p, i):
    q = p + 8 + 32 * i
    return concat(iq4_numbers(nibbles(q)), iq4_numbers(nibbles(q + 16)))


own_scale_nibble, own_scale_pair = make_shift_lanes(range(0, 32, 4)), make_shift_lanes(range(0, 16, 2))


@inline
def iq4_xs_scales(p):
    """Return the scales: nibble i of the word at 4 is below bit pair i of the half word at 2."""
    low = own_scale_nibble(splat_i32x8(load_i32(p + 4))) & splat_i32x8(i32(15))
    high = own_scale_pair(splat_i32x8(i32(load_u16(p + 2)) << 4)) & splat_i32x8(i32(0x30))
    return to_f32((low | high) - splat_i32x8(i32(32))) * half_at_0(p)


matvec_iq4_xs, matmul_few_iq4_xs, unpack_iq4_xs, embed_iq4_xs = family(
    "iq4_xs",
    quants64=iq4_xs_quants,
    vectors=make_nibble_vectors(8, 16, (8, 72), (8, 72), iq4_numbers64),
    scales=iq4_xs_scales,
)
