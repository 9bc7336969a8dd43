"""Types whose blocks hold 32 weights: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4.

Each type has its layout, functions that return the 32 quants of a block and its scale, and the kernels made
from these. A type of nibbles stores weight j in the low half of byte j, and weight j + 16 in the high half.
"""

from llmlite.engine.families import BY_SUFFIX
from llmlite.engine.kernels.few import make_few
from llmlite.engine.kernels.quantized import (
    BLOCK_ORDER,
    doubled,
    if_wide,
    itself,
    make_embed,
    make_matvec,
)
from llmlite.engine.kernels.unpack import make_unpack
from llmlite.engine.simd import (
    choose_above,
    concat,
    float_of_bits,
    high_nibbles,
    i32,
    i64,
    inline,
    load_f16,
    load_i32,
    load_u8,
    load_u8x16,
    load_u8x32,
    lookup16,
    low_half,
    low_nibbles,
    make_bit_of_byte,
    make_half8,
    make_pieces,
    make_shuffle,
    reinterpret,
    repeat16_u8x64,
    shift_left,
    splat_i32x8,
    splat_u8x32,
    spread_bits,
    table16,
    widen_u8,
)  # fmt: skip


def family(suffix, *, quants32, scale, scales8, minimum=None, mins8=None, vectors=None):
    """Return (matvec, few, unpack, embed) of a type, from its functions for one block of 32 and for eight.

    `vectors`: see `side_by_side`.
    """
    facts = BY_SUFFIX[suffix]
    block_bytes = facts.block_bytes

    @inline
    def quants64(p, i):
        q = p + i * (2 * block_bytes)
        return concat(quants32(q), quants32(q + block_bytes))

    one = {"quants64": quants64, "quants32": quants32, "scale": scale, "minimum": minimum}
    numbers16 = {"scales16": doubled(scales8), "mins16": doubled(mins8) if mins8 else None}
    return (
        make_matvec(facts, **one, vectors=vectors, scales=scales8, mins=mins8),
        make_few(facts, **one, vectors=vectors, scales=scales8, mins=mins8),
        make_unpack(facts, **one, scales=scales8, mins=mins8),
        make_embed(facts, **one, **numbers16),
    )


def make_nibble_vectors(first, block_bytes, front, back, number=itself):
    """Return (p) -> the four u8x64 of eight blocks, whose 16 bytes of nibbles begin at `first`.

    Args:
        front, back: windows (`make_pieces`) for the first and last eight bytes of all blocks.
        number: maps a u8x64 of nibbles to their values.
    """
    places = [first + block * block_bytes for block in BLOCK_ORDER]
    load_front = make_pieces(places, 8, front)
    load_back = make_pieces([place + 8 for place in places], 8, back)

    @inline
    def vectors(p):
        a, b = load_front(p), load_back(p)
        return (
            number(low_nibbles(a)),
            number(low_nibbles(b)),
            number(high_nibbles(a)),
            number(high_nibbles(b)),
        )

    return vectors


@inline
def half_at_0(p):
    return load_f16(p)


@inline
def nibbles(p):
    """Return 32 nibbles from the 16 bytes at p: the low ones, then the high ones."""
    v = load_u8x16(p)
    return concat(low_nibbles(v), high_nibbles(v))


# ---- Q4_0: d f16, 16 bytes of nibbles; d·(q − 8) -----------------------------------------------------------


@inline
def q4_0_quants(p):
    return nibbles(p + 2)


q4_0_scales = make_half8(0, 18, (0, 72))


matvec_q4_0, matmul_few_q4_0, unpack_q4_0, embed_q4_0 = family(
    "q4_0",
    quants32=q4_0_quants,
    scale=half_at_0,
    scales8=q4_0_scales,
    vectors=make_nibble_vectors(2, 18, (0, 72), (8, 80)),
)


# ---- Q4_1: d, m f16, 16 bytes of nibbles; d·q + m ----------------------------------------------------------


@inline
def q4_1_quants(p):
    return nibbles(p + 4)


q4_1_scales = make_half8(0, 20, (0, 80))


@inline
def minus_half_at_2(p):
    return -load_f16(p + 2)


q4_1_halves_at_2 = make_half8(2, 20, (0, 80))


@inline
def q4_1_mins(p):
    return -q4_1_halves_at_2(p)


matvec_q4_1, matmul_few_q4_1, unpack_q4_1, embed_q4_1 = family(
    "q4_1", quants32=q4_1_quants, scale=half_at_0, scales8=q4_1_scales, minimum=minus_half_at_2,
    mins8=q4_1_mins, vectors=make_nibble_vectors(4, 20, (0, 64, 96), (12, 76, 96)),
)  # fmt: skip


# ---- Q5_0: d f16, 32 fifth bits, 16 bytes of nibbles; d·(q − 16) -------------------------------------------


@inline
def fifth_bits(p):
    """Return bit j of the 32-bit word at p, as 0 or 16 in byte j."""
    return spread_bits(load_i32(p)) & splat_u8x32(16)


@inline
def q5_0_quants(p):
    return nibbles(p + 6) | fifth_bits(p + 2)


fifth_bit = make_bit_of_byte(16)
fifth0, fifth1, fifth2, fifth3 = (
    make_shuffle([4 * block + k for block in range(8) for _ in range(8)]) for k in range(4)
)


def make_five_bit_vectors(nibbles_of, first, block_bytes, windows):
    """Return `nibbles_of` (from `make_nibble_vectors`) with fifth bits, whose four bytes begin at `first`.

    If the CPU's vectors are too narrow (`if_wide`), return None.
    """
    load_bits = make_pieces([first + block * block_bytes for block in BLOCK_ORDER], 4, windows)

    @inline
    def vectors(p):
        a, b, c, d = nibbles_of(p)
        bits = load_bits(p)
        return (
            a | fifth_bit(fifth0(bits, bits)),
            b | fifth_bit(fifth1(bits, bits)),
            c | fifth_bit(fifth2(bits, bits)),
            d | fifth_bit(fifth3(bits, bits)),
        )

    return if_wide(vectors)


q5_0_scales = make_half8(0, 22, (0, 66, 112))


matvec_q5_0, matmul_few_q5_0, unpack_q5_0, embed_q5_0 = family(
    "q5_0",
    quants32=q5_0_quants,
    scale=half_at_0,
    scales8=q5_0_scales,
    vectors=make_five_bit_vectors(
        make_nibble_vectors(6, 22, (6, 72, 112), (14, 80, 112)), 2, 22, (2, 68, 112)
    ),
)


# ---- Q5_1: d, m f16, 32 fifth bits, 16 bytes of nibbles; d·q + m -------------------------------------------


@inline
def q5_1_quants(p):
    return nibbles(p + 8) | fifth_bits(p + 4)


q5_1_scales = make_half8(0, 24, (0, 64, 128))


q5_1_halves_at_2 = make_half8(2, 24, (0, 64, 128))


@inline
def q5_1_mins(p):
    return -q5_1_halves_at_2(p)


matvec_q5_1, matmul_few_q5_1, unpack_q5_1, embed_q5_1 = family(
    "q5_1", quants32=q5_1_quants, scale=half_at_0, scales8=q5_1_scales, minimum=minus_half_at_2,
    mins8=q5_1_mins,
    vectors=make_five_bit_vectors(
        make_nibble_vectors(8, 24, (8, 80, 128), (16, 88, 128)), 4, 24, (4, 76, 128)
    ),
)  # fmt: skip


# ---- Q8_0: d f16, 32 signed bytes, read as q + 128 ---------------------------------------------------------


@inline
def q8_0_quants(p):
    return load_u8x32(p + 2) ^ splat_u8x32(128)


q8_0_scales = make_half8(0, 34, (0, 68, 136, 204))


matvec_q8_0, matmul_few_q8_0, unpack_q8_0, embed_q8_0 = family(
    "q8_0", quants32=q8_0_quants, scale=half_at_0, scales8=q8_0_scales
)


# ---- IQ4_NL: d f16, 16 bytes of nibbles that index a table of 16 numbers, read as number + 128 -------------

# -127 -104 -83 -65 -49 -35 -22 -10 | 1 13 25 38 53 69 89 113, plus 128, lowest byte first
IQ4_LOW, IQ4_HIGH = 0x766A5D4F3F2D1801, 0xF1D9C5B5A6998D81 - 2**64


@inline
def iq4_numbers(nibble_bytes):
    table = table16(i64(IQ4_LOW), i64(IQ4_HIGH))
    return lookup16(low_half(repeat16_u8x64(table)), nibble_bytes)


@inline
def iq4_numbers64(nibble_bytes):
    return lookup16(repeat16_u8x64(table16(i64(IQ4_LOW), i64(IQ4_HIGH))), nibble_bytes)


@inline
def iq4_nl_quants(p):
    return iq4_numbers(nibbles(p + 2))


matvec_iq4_nl, matmul_few_iq4_nl, unpack_iq4_nl, embed_iq4_nl = family(
    "iq4_nl",
    quants32=iq4_nl_quants,
    scale=half_at_0,
    scales8=q4_0_scales,
    vectors=make_nibble_vectors(2, 18, (0, 72), (8, 80), iq4_numbers64),
)


# ---- MXFP4: an exponent byte, 16 bytes of nibbles: twice the FP4 (E2M1) numbers, read as number + 12 -------

# 0 1 2 3 4 6 8 12 | -0 -1 -2 -3 -4 -6 -8 -12, plus 12
MXFP4_LOW, MXFP4_HIGH = 0x181412100F0E0D0C, 0x0004_0608_090A_0B0C


@inline
def mxfp4_quants(p):
    table = table16(i64(MXFP4_LOW), i64(MXFP4_HIGH))
    return lookup16(low_half(repeat16_u8x64(table)), nibbles(p + 1))


@inline
def mxfp4_scale(p):
    """2^(e − 128): half of the E8M0 number, because the table is doubled; subnormal for e below 2."""
    e = i32(load_u8(p))
    return float_of_bits((e - 1) << 23 if e > 1 else i32(0x200000) << e)


mxfp4_exponents = make_pieces([17 * i for i in range(8)], 1, (0, 68))


@inline
def mxfp4_scales(p):
    """Return `mxfp4_scale` of eight blocks."""
    e = widen_u8(mxfp4_exponents(p))
    normal, subnormal = shift_left(e - splat_i32x8(i32(1)), 23), shift_left(e + splat_i32x8(i32(1)), 21)
    return reinterpret(choose_above(e, splat_i32x8(i32(1)), normal, subnormal), "f32")


@inline
def mxfp4_numbers64(nibble_bytes):
    return lookup16(repeat16_u8x64(table16(i64(MXFP4_LOW), i64(MXFP4_HIGH))), nibble_bytes)


matvec_mxfp4, matmul_few_mxfp4, unpack_mxfp4, embed_mxfp4 = family(
    "mxfp4",
    quants32=mxfp4_quants,
    scale=mxfp4_scale,
    scales8=mxfp4_scales,
    vectors=make_nibble_vectors(1, 17, (0, 68), (8, 72), mxfp4_numbers64),
)
