"""Types whose blocks hold 32 weights: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4.

For each: where the bytes are, how 32 quants come out of a block, and the three kernels made of that. A nibble
type keeps weight j in the low half of byte j and weight j + 16 in the high half.
"""

from llmlite.engine.kernels.quantized import make_embed, make_matvec, make_unpack, twice
from llmlite.engine.simd import (
    concat,
    f32x8_of,
    float_of_bits,
    gather_half8,
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
    repeat16_u8x64,
    splat_u8x32,
    spread_bits,
    table16,
)  # fmt: skip


def family(*, block_bytes, quants32, scale, scales8, zero, minimum=None, mins8=None, small=True):
    """Return (matvec, unpack, embed) of a type, from its functions of one block of 32 and of eight blocks."""
    has_minimum = minimum is not None

    @inline
    def quants64(p, i):
        q = p + i * (2 * block_bytes)
        return concat(quants32(q), quants32(q + block_bytes))

    @inline
    def scales16(p):
        s = scales8(p)
        return twice(s, s)

    @inline
    def mins16(p):
        m = mins8(p)
        return twice(m, m)

    one = {"quants32": quants32, "scale": scale, "minimum": minimum}
    group = {"quants64": quants64, "group_bytes": 8 * block_bytes}
    return (
        make_matvec(**group, **one, scales8=scales8, mins8=mins8, zero=zero, small=small),
        make_unpack(**group, **one, scales=scales8, mins=mins8, n_scales=8),
        make_embed(**group, **one, scales16=scales16, mins16=mins16 if has_minimum else None, zero=zero),
    )


@inline
def half_at_0(p):
    return load_f16(p)


@inline
def nibbles(p):
    """32 nibbles from the 16 bytes at p: the low ones, then the high ones."""
    v = load_u8x16(p)
    return concat(low_nibbles(v), high_nibbles(v))


# ---- Q4_0: d f16, 16 bytes of nibbles; d·(q − 8) -----------------------------------------------------------


@inline
def q4_0_quants(p):
    return nibbles(p + 2)


@inline
def q4_0_scales(p):
    return gather_half8(p, 18)


matvec_q4_0, unpack_q4_0, embed_q4_0 = family(
    block_bytes=18, quants32=q4_0_quants, scale=half_at_0, scales8=q4_0_scales, zero=8
)


# ---- Q4_1: d, m f16, 16 bytes of nibbles; d·q + m ----------------------------------------------------------


@inline
def q4_1_quants(p):
    return nibbles(p + 4)


@inline
def q4_1_scales(p):
    return gather_half8(p, 20)


@inline
def minus_half_at_2(p):
    return -load_f16(p + 2)


@inline
def q4_1_mins(p):
    return -gather_half8(p + 2, 20)


matvec_q4_1, unpack_q4_1, embed_q4_1 = family(
    block_bytes=20, quants32=q4_1_quants, scale=half_at_0, scales8=q4_1_scales, minimum=minus_half_at_2,
    mins8=q4_1_mins, zero=0,
)  # fmt: skip


# ---- Q5_0: d f16, 32 fifth bits, 16 bytes of nibbles; d·(q − 16) -------------------------------------------


@inline
def fifth_bits(p):
    """Bit j of the 32-bit word at p, as 0 or 16 in byte j."""
    return spread_bits(load_i32(p)) & splat_u8x32(16)


@inline
def q5_0_quants(p):
    return nibbles(p + 6) | fifth_bits(p + 2)


@inline
def q5_0_scales(p):
    return gather_half8(p, 22)


matvec_q5_0, unpack_q5_0, embed_q5_0 = family(
    block_bytes=22, quants32=q5_0_quants, scale=half_at_0, scales8=q5_0_scales, zero=16
)


# ---- Q5_1: d, m f16, 32 fifth bits, 16 bytes of nibbles; d·q + m -------------------------------------------


@inline
def q5_1_quants(p):
    return nibbles(p + 8) | fifth_bits(p + 4)


@inline
def q5_1_scales(p):
    return gather_half8(p, 24)


@inline
def q5_1_mins(p):
    return -gather_half8(p + 2, 24)


matvec_q5_1, unpack_q5_1, embed_q5_1 = family(
    block_bytes=24, quants32=q5_1_quants, scale=half_at_0, scales8=q5_1_scales, minimum=minus_half_at_2,
    mins8=q5_1_mins, zero=0,
)  # fmt: skip


# ---- Q8_0: d f16, 32 signed bytes, taken as q + 128 --------------------------------------------------------


@inline
def q8_0_quants(p):
    return load_u8x32(p + 2) ^ splat_u8x32(128)


@inline
def q8_0_scales(p):
    return gather_half8(p, 34)


matvec_q8_0, unpack_q8_0, embed_q8_0 = family(
    block_bytes=34, quants32=q8_0_quants, scale=half_at_0, scales8=q8_0_scales, zero=128, small=False
)


# ---- IQ4_NL: d f16, 16 bytes of nibbles that index a table of 16 numbers, taken as number + 128 ------------

# -127 -104 -83 -65 -49 -35 -22 -10 | 1 13 25 38 53 69 89 113, plus 128, lowest byte first
IQ4_LOW, IQ4_HIGH = 0x766A5D4F3F2D1801, 0xF1D9C5B5A6998D81 - 2**64


@inline
def iq4_numbers(nibble_bytes):
    table = table16(i64(IQ4_LOW), i64(IQ4_HIGH))
    return lookup16(low_half(repeat16_u8x64(table)), nibble_bytes)


@inline
def iq4_nl_quants(p):
    return iq4_numbers(nibbles(p + 2))


matvec_iq4_nl, unpack_iq4_nl, embed_iq4_nl = family(
    block_bytes=18, quants32=iq4_nl_quants, scale=half_at_0, scales8=q4_0_scales, zero=128, small=False
)


# ---- MXFP4: an exponent byte, 16 bytes of nibbles: twice the FP4 (E2M1) numbers, taken as number + 12 ------

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


@inline
def mxfp4_scales(p):
    return f32x8_of(
        mxfp4_scale(p), mxfp4_scale(p + 17), mxfp4_scale(p + 34), mxfp4_scale(p + 51),
        mxfp4_scale(p + 68), mxfp4_scale(p + 85), mxfp4_scale(p + 102), mxfp4_scale(p + 119),
    )  # fmt: skip


matvec_mxfp4, unpack_mxfp4, embed_mxfp4 = family(
    block_bytes=17, quants32=mxfp4_quants, scale=mxfp4_scale, scales8=mxfp4_scales, zero=12
)
