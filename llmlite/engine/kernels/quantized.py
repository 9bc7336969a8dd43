"""Matrix products of quantized weights with activations quantized to bytes: the shapes all quant types share.

A type describes 256 consecutive weights of a row (a "group": one super-block, or eight blocks of 32) as

    weight[k] = scale[k // sub] · (quant[k] − zero) − minimum[k // sub],   quant in 0…255, sub = 32 or 16

and its file gives functions of the group's address for quants (64 at a time), scales and minimums. With
activations x[k] = d[k // 32] · q[k] the product is, over sub-blocks,

    Σ scale·d · (Σ quant·q − zero·Σ q)  −  minimum·d · Σ q

whose inner sums are exact integers.

`make_matvec` streams rows in file order (decoding); `matmul*` unpacks 32 rows × 256 weights once, into bytes
that stay in the first-level cache, and reuses them for every token (prefill).
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llmlite.engine import emit
from llmlite.engine.contract import STEP
from llmlite.engine.kernels.common import kernel, routine, share
from llmlite.engine.simd import (
    QUANTIZED_TOKENS,
    add_scaled,
    dot4,
    dot4_small,
    f32,
    fma,
    high_half,
    i32,
    i32x16,
    i64,
    inline,
    lane_at,
    load_f32,
    load_f32x8,
    load_f32x16,
    load_i32,
    load_i32x8,
    load_i32x16,
    load_i64,
    load_u8x32,
    load_u8x64,
    low_half,
    make_add_products,
    make_load_sums,
    make_offset_products,
    make_shuffle,
    make_zero_sums,
    prefetch,
    reduce_add,
    splat_f32x8,
    splat_f32x16,
    splat_i32x8,
    splat_i32x16,
    store,
    store_sums,
    subtract_minimums,
    to_f32,
    transpose16,
    widen_u8,
)  # fmt: skip

AHEAD = 4096  # bytes between what is multiplied and what is prefetched: 3 to 6 % faster than 2048
TILE_ROWS, TILE_TOKENS = 32, QUANTIZED_TOKENS
TILE_BYTES = TILE_ROWS * 256
SCALES, MINIMUMS = TILE_BYTES, TILE_BYTES + 16 * TILE_ROWS * 4  # offsets in a thread's scratch
ROWS = MINIMUMS + 16 * TILE_ROWS * 4  # bytes, scales, minimums again, not transposed yet
ACCUMULATORS = 2 * ROWS

load_sums, offset_products = make_load_sums(TILE_TOKENS), make_offset_products(TILE_TOKENS)
no_products = make_zero_sums(TILE_TOKENS, i32x16)

# lanes of a vector of 8 (16) scales, spread over the 16 sums of a 64-weight dot product
pair0, pair1, pair2, pair3 = (make_shuffle([2 * i] * 8 + [2 * i + 1] * 8) for i in range(4))
quad0, quad1, quad2, quad3 = (make_shuffle([4 * i + j // 4 for j in range(16)]) for i in range(4))
twice = make_shuffle([i // 2 for i in range(16)])


@inline
def nothing(p):
    """Stands for what a type does not have."""
    return f32(0)


# ---- decoding ----------------------------------------------------------------------------------------------


# A second order of activations: of each 256, four vectors of 64 bytes; vector k holds bytes 8k…8k+7 of the
# eight blocks of 32, the even blocks before the odd ones.
BLOCK_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
in_order = make_shuffle([block for block in BLOCK_ORDER for _ in range(2)])
first_halves, second_halves = (  # of the blocks, of which 16 scales count two each
    make_shuffle([2 * block + half for block in BLOCK_ORDER for _ in range(2)]) for half in (0, 1)
)


def in_file_order(quants64, small):
    """Return (p, x, s, a, b) -> a and b, plus the products of 256 weights at p and bytes at x, scaled by s.

    `quants64`: (p, i) -> u8x64, quants 64i… of the group at address p.
    """
    dot = dot4_small if small else dot4

    @inline
    def multiply(p, x, s, a, b):
        none = splat_i32x16(i32(0))
        a = fma(to_f32(dot(none, quants64(p, 0), load_u8x64(x))), pair0(s, s), a)
        b = fma(to_f32(dot(none, quants64(p, 1), load_u8x64(x + 64))), pair1(s, s), b)
        a = fma(to_f32(dot(none, quants64(p, 2), load_u8x64(x + 128))), pair2(s, s), a)
        b = fma(to_f32(dot(none, quants64(p, 3), load_u8x64(x + 192))), pair3(s, s), b)
        return a, b

    return multiply


def side_by_side(vectors, small):
    """`in_file_order` for types whose bytes are cheap to have in BLOCK_ORDER: (p) -> four u8x64.

    There every 32-bit sum belongs to one block in all four vectors, so four dot products add up as integers
    and are scaled once.
    """
    dot = dot4_small if small else dot4

    @inline
    def multiply(p, x, s, a, b):
        v0, v1, v2, v3 = vectors(p)
        products = dot(dot(splat_i32x16(i32(0)), v0, load_u8x64(x)), v1, load_u8x64(x + 64))
        products = dot(dot(products, v2, load_u8x64(x + 128)), v3, load_u8x64(x + 192))
        return fma(to_f32(products), in_order(s, s), a), b

    return multiply


def make_matvec(
    *, scales8, group_bytes, zero, quants64=None, vectors=None, mins8=None, quants32=None, scale=None,
    minimum=None, small=True,
):  # fmt: skip
    """Return the kernel out[t, r] = Σ weight[r]·x[t] for a type with sub-blocks of 32.

    Args:
        vectors: see `side_by_side`; without it quants64: see `in_file_order`. scales8, mins8: (p) -> f32x8.
        group_bytes: of 256 weights. small: every quant is below 128.
        quants32, scale, minimum: the same for one block of 32, for widths that are no multiple of 256.
    """
    multiply = side_by_side(vectors, small) if vectors else in_file_order(quants64, small)
    takes_mixed = vectors is not None
    has_minimum, has_tail = mins8 is not None, quants32 is not None
    mins8 = mins8 or nothing
    tail = make_tail(quants32, scale, minimum, zero, group_bytes // 8) if has_tail else nothing
    block_bytes = group_bytes // 8

    @kernel
    def matvec(step, rank, n_threads, rows, w, q, mixed, d, sums, out, n_rows, width):
        low, high = share(n_rows, rank, n_threads)
        row_bytes = (width // 32) * block_bytes
        activations = mixed if takes_mixed else q
        for t in range(load_i64(step + rows)):
            p = w + low * row_bytes
            for r in range(low, high):
                a, b = splat_f32x16(f32(0)), splat_f32x16(f32(0))
                offset = splat_f32x8(f32(0))
                x, xd, xs = activations + t * width, d + t * width // 8, sums + t * width // 8
                for _ in range(width // 256):
                    for line in range(0, group_bytes, 64):
                        prefetch(p + AHEAD + line)
                    xd8 = load_f32x8(xd)
                    s = scales8(p) * xd8
                    if has_minimum:
                        offset = fma(mins8(p) * xd8, to_f32(load_i32x8(xs)), offset)
                    else:
                        offset = fma(s, to_f32(load_i32x8(xs)), offset)
                    a, b = multiply(p, x, s, a, b)
                    p, x, xd, xs = p + group_bytes, x + 256, xd + 32, xs + 32
                total = reduce_add(a + b)
                if has_minimum:
                    total -= reduce_add(offset)
                else:
                    total -= f32(zero) * reduce_add(offset)
                if has_tail:
                    n_blocks = width % 256 // 32
                    total += tail(p, q + (t + 1) * width - n_blocks * 32, xd, xs, n_blocks)
                    p += n_blocks * block_bytes
                store(out + (t * n_rows + r) * 4, f32(total))

    return matvec


def make_tail(quants32, scale, minimum, zero, block_bytes):
    """Return the function (p, x, xd, xs, n_blocks) -> the product of fewer than eight blocks of 32."""
    has_minimum = minimum is not None
    minimum = minimum or nothing

    @inline
    def tail(p, x, xd, xs, n_blocks):
        total = f32(0)
        for _ in range(n_blocks):
            products = reduce_add(dot4(splat_i32x8(i32(0)), quants32(p), load_u8x32(x)))
            total += scale(p) * load_f32(xd) * f32(products - i32(zero) * load_i32(xs))
            if has_minimum:
                total -= minimum(p) * load_f32(xd) * f32(load_i32(xs))
            p, x, xd, xs = p + block_bytes, x + 32, xd + 4, xs + 4
        return total

    return tail


def if_wide(vectors):
    """Return the vectors of `side_by_side` where a CPU permutes 64 bytes at once, else None: file order.

    For types that put a weight together from two places, or that have sub-blocks of 16. Side by side, five
    bits took 10 to 20 % longer on AVX2, six and three bits up to 30 %; with AVX-512 all are faster.
    """
    return vectors if emit.current_target().has("avx512bw") else None


def in_file_order16(quants64):
    """`in_file_order` for sub-blocks of 16."""

    @inline
    def multiply(p, x, s, a, b):
        none = splat_i32x16(i32(0))
        a = fma(to_f32(dot4_small(none, quants64(p, 0), load_u8x64(x))), quad0(s, s), a)
        b = fma(to_f32(dot4_small(none, quants64(p, 1), load_u8x64(x + 64))), quad1(s, s), b)
        a = fma(to_f32(dot4_small(none, quants64(p, 2), load_u8x64(x + 128))), quad2(s, s), a)
        b = fma(to_f32(dot4_small(none, quants64(p, 3), load_u8x64(x + 192))), quad3(s, s), b)
        return a, b

    return multiply


def side_by_side16(vectors):
    """`side_by_side` for sub-blocks of 16: two vectors hold first halves of the blocks, two second halves."""

    @inline
    def multiply(p, x, s, a, b):
        none, (v0, v1, v2, v3) = splat_i32x16(i32(0)), vectors(p)
        u0 = dot4_small(dot4_small(none, v0, load_u8x64(x)), v1, load_u8x64(x + 64))
        u1 = dot4_small(dot4_small(none, v2, load_u8x64(x + 128)), v3, load_u8x64(x + 192))
        return fma(to_f32(u0), first_halves(s, s), a), fma(to_f32(u1), second_halves(s, s), b)

    return multiply


def make_matvec16(*, quants64, scales16, group_bytes, zero, vectors=None, mins16=None):
    """`make_matvec` for a type with sub-blocks of 16; `sums` are those over 16."""
    multiply = side_by_side16(vectors) if vectors else in_file_order16(quants64)
    takes_mixed, has_minimum = vectors is not None, mins16 is not None
    mins16 = mins16 or nothing

    @kernel
    def matvec(step, rank, n_threads, rows, w, q, mixed, d, sums, out, n_rows, width):
        low, high = share(n_rows, rank, n_threads)
        n_groups = width // 256
        activations = mixed if takes_mixed else q
        for t in range(load_i64(step + rows)):
            p = w + low * n_groups * group_bytes
            for r in range(low, high):
                a, b, offset = splat_f32x16(f32(0)), splat_f32x16(f32(0)), splat_f32x16(f32(0))
                x, xd, xs = activations + t * width, d + t * width // 8, sums + t * width // 4
                for _ in range(n_groups):
                    for line in range(0, group_bytes, 64):
                        prefetch(p + AHEAD + line)
                    xd8 = load_f32x8(xd)
                    xd16 = twice(xd8, xd8)
                    s = scales16(p) * xd16
                    if has_minimum:
                        offset = fma(mins16(p) * xd16, to_f32(load_i32x16(xs)), offset)
                    else:
                        offset = fma(s, to_f32(load_i32x16(xs)), offset)
                    a, b = multiply(p, x, s, a, b)
                    p, x, xd, xs = p + group_bytes, x + 256, xd + 32, xs + 64
                total = reduce_add(a + b) - (f32(1) if has_minimum else f32(zero)) * reduce_add(offset)
                store(out + (t * n_rows + r) * 4, f32(total))

    return matvec


def doubled(numbers8):
    """Return (p) -> f32x16: each of the eight numbers that `numbers8` gives, twice."""

    @inline
    def numbers16(p):
        v = numbers8(p)
        return twice(v, v)

    return numbers16


# ---- embedding rows ----------------------------------------------------------------------------------------


def make_embed(
    *, quants64, scales16, group_bytes, zero, mins16=None, quants32=None, scale=None, minimum=None
):
    """Return the kernel out[t] = row ids[t] of the matrix, as floats.

    Args: as for `make_matvec16`; `scales16` gives a scale for each 16 weights, whatever the type's sub-blocks
    are.
    """
    has_minimum, has_tail = mins16 is not None, quants32 is not None
    mins16, quants32 = mins16 or nothing, quants32 or nothing
    scale, minimum = scale or nothing, minimum or nothing
    block_bytes = group_bytes // 8

    @inline
    def put(out, quants, s, m):
        numbers = to_f32(widen_u8(quants) - splat_i32x16(i32(zero)))
        store(out, numbers * splat_f32x16(s) - splat_f32x16(m))

    @kernel
    def embed(step, rank, n_threads, w, out, width):
        low, high = share(load_i64(step + STEP.n_tokens), rank, n_threads)
        row_bytes = width // 256 * group_bytes + width % 256 // 32 * block_bytes
        for t in range(low, high):
            p, o = w + load_i64(load_i64(step + STEP.ids) + t * 8) * row_bytes, out + t * width * 4
            for _ in range(width // 256):
                s = scales16(p)
                m = mins16(p) if has_minimum else splat_f32x16(f32(0))
                for i in range(4):
                    v = quants64(p, i)
                    put(o, low_half(low_half(v)), lane_at(s, 4 * i), lane_at(m, 4 * i))
                    put(o + 64, high_half(low_half(v)), lane_at(s, 4 * i + 1), lane_at(m, 4 * i + 1))
                    put(o + 128, low_half(high_half(v)), lane_at(s, 4 * i + 2), lane_at(m, 4 * i + 2))
                    put(o + 192, high_half(high_half(v)), lane_at(s, 4 * i + 3), lane_at(m, 4 * i + 3))
                    o += 256
                p += group_bytes
            if has_tail:
                for _ in range(width % 256 // 32):
                    v, m1 = quants32(p), f32(0)
                    if has_minimum:
                        m1 = minimum(p)
                    put(o, low_half(v), scale(p), m1)
                    put(o + 64, high_half(v), scale(p), m1)
                    p, o = p + block_bytes, o + 128

    return embed


# ---- prefill -----------------------------------------------------------------------------------------------


def make_unpack(*, quants64, scales, group_bytes, mins=None, quants32=None, scale=None, minimum=None):
    """Return the routine that unpacks one group of 32 rows to bytes, in the order [k/4][row][k%4].

    Its arguments: address of the first row, bytes per row, which group, how many blocks of 32 it has (fewer
    than 8 at the end of a row), how many rows exist (the last is repeated), and a thread's scratch. Scales
    and minimums go behind the bytes, as [sub-block][row]. All of it is put down row by row, then transposed.
    """
    has_minimum, has_tail = mins is not None, quants32 is not None
    mins, quants32 = mins or nothing, quants32 or nothing
    scale, minimum = scale or nothing, minimum or nothing
    block_bytes = group_bytes // 8

    @routine(6)
    def unpack(w, row_bytes, group, n_blocks, n_rows, tile):
        rows = tile + ROWS
        for row in range(TILE_ROWS):
            p = w + min(row, n_rows - 1) * row_bytes + group * group_bytes
            bytes_place, place = rows + row * 256, rows + TILE_BYTES + row * 64
            if n_blocks == 8:
                for i in range(4):
                    store(bytes_place + i * 64, quants64(p, i))
                store(place, scales(p))
                if has_minimum:
                    store(place + TILE_ROWS * 64, mins(p))
            elif has_tail:
                for i in range(n_blocks):
                    store(bytes_place + i * 32, quants32(p))
                    store(place + i * 4, f32(scale(p)))
                    if has_minimum:
                        store(place + TILE_ROWS * 64 + i * 4, f32(minimum(p)))
                    p += block_bytes
        line = TILE_ROWS * 4
        for half in range(2):
            bytes_place, place = rows + half * 16 * 256, rows + TILE_BYTES + half * 16 * 64
            for i in range(4):
                transpose16(bytes_place + i * 64, 256, tile + i * 16 * line + half * 64, line)
            transpose16(place, 64, tile + SCALES + half * 64, line)
            if has_minimum:
                transpose16(place + TILE_ROWS * 64, 64, tile + MINIMUMS + half * 64, line)

    return unpack


@intrinsic
def call_unpack(typing, function, w, row_bytes, group, n_blocks, n_rows, tile):
    """Call the routine of `make_unpack` at address `function`."""

    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(ir.VoidType(), [emit.I64] * 6)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.none(*[i64] * 7), codegen


def make_matmul(*, sub, has_minimum, small=True):
    """Return the kernel out[t, r] = Σ weight[r]·x[t] over unpacked tiles, for sub-blocks of `sub` weights.

    With AVX-512 twelve sums (2 × 16 rows, 6 tokens) run side by side: a dot product takes 4 or 5 cycles, two
    start in one. `small`: every quant is below 128; else `zero` is 128, so bytes are signed numbers shifted.
    """
    signed = not small and emit.dots_signed(emit.current_target())
    add_products = make_add_products(small, signed)
    line = TILE_ROWS * 4  # bytes of one row of words, scales or minimums

    @inline
    def multiply(tile, acc, x, xd, xs, width, n_blocks, zero):
        """32 rows × TILE_TOKENS × one group, added to `acc` (TILE_TOKENS, 32)."""
        d_stride, s_stride = width // 8, width * 4 // sub  # from one token's scales (sums) to the next one's
        sums = load_sums(acc)
        scales, words = tile + SCALES, tile
        for j in range(n_blocks * 32 // sub):
            products = no_products() if signed else offset_products(xs, s_stride, zero)
            for k in range(0, sub, 4):
                w0, w1 = load_u8x64(words), load_u8x64(words + 64)
                products = add_products(products, w0, w1, x + k, width)
                words += line
            d = xd + j * sub // 32 * 4
            s0, s1 = load_f32x16(scales), load_f32x16(scales + 64)
            sums = add_scaled(sums, products, s0, s1, d, d_stride)
            if has_minimum:
                m0, m1 = load_f32x16(scales + MINIMUMS - SCALES), load_f32x16(scales + MINIMUMS - SCALES + 64)
                sums = subtract_minimums(sums, m0, m1, d, d_stride, xs, s_stride)
            scales, xs, x = scales + line, xs + 4, x + sub
        store_sums(acc, sums)

    @kernel
    def matmul(
        step, rank, n_threads, rows, unpack, w, row_bytes, q, d, sums, out, n_rows, width, zero, scratch,
        scratch_bytes,
    ):  # fmt: skip
        n_tokens = load_i64(step + rows)
        if n_tokens == 0:
            return
        tile = scratch + rank * scratch_bytes
        acc = tile + ACCUMULATORS
        low, high = share((n_rows + TILE_ROWS - 1) // TILE_ROWS, rank, n_threads)
        for first in range(low * TILE_ROWS, high * TILE_ROWS, TILE_ROWS):
            n = min(TILE_ROWS, n_rows - first)
            clear(acc, (n_tokens + TILE_TOKENS - 1) // TILE_TOKENS * TILE_TOKENS)
            for group in range((width + 255) // 256):
                n_blocks = min(8, width // 32 - group * 8)
                call_unpack(unpack, w + first * row_bytes, row_bytes, group, n_blocks, n, tile)
                for t in range(0, n_tokens, TILE_TOKENS):
                    x = q + t * width + group * 256
                    xd, xs = (
                        d + t * width // 8 + group * 32,
                        sums + t * width * 4 // sub + group * 1024 // sub,
                    )
                    multiply(tile, acc + t * line, x, xd, xs, width, n_blocks, zero)
            copy_out(acc, out + first * 4, n_tokens, n_rows * 4, n)

    return matmul


@inline
def clear(acc, n_tokens):
    """Zeros for n_tokens × 32 sums."""
    for i in range(0, n_tokens * TILE_ROWS * 4, 64):
        store(acc + i, splat_f32x16(f32(0)))


@inline
def copy_out(acc, out, n_tokens, row_bytes, n):
    """The first n of 32 sums of every token to their place."""
    for t in range(n_tokens):
        source, target = acc + t * TILE_ROWS * 4, out + t * row_bytes
        if n == TILE_ROWS:
            store(target, load_f32x16(source))
            store(target + 64, load_f32x16(source + 64))
        else:
            for i in range(0, n * 4, 4):
                store(target + i, load_f32(source + i))


matmul32 = make_matmul(sub=32, has_minimum=False)
matmul32_bytes = make_matmul(sub=32, has_minimum=False, small=False)
matmul32_min = make_matmul(sub=32, has_minimum=True)
matmul16 = make_matmul(sub=16, has_minimum=False)
matmul16_min = make_matmul(sub=16, has_minimum=True)
