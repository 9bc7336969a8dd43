"""Matrix products of quantized weights with activations quantized to bytes: the code that all types share.

A type describes 256 consecutive weights of a row (a "group": one super-block, or eight blocks of 32) as

    weight[k] = scale[k // sub] · (quant[k] − zero) − minimum[k // sub],   quant in 0…255, sub = 32 or 16

and its file has functions of the group's address that return quants (64 at a time), scales and minimums. With
activations x[k] = d[k // 32] · q[k], the product is a sum over sub-blocks,

    Σ scale·d · (Σ quant·q − zero·Σ q)  −  minimum·d · Σ q

whose inner sums are exact integers.

`make_matvec` reads rows in file order (decode); `few` and `matmul` have the products of more tokens.
"""

from llmlite.engine import emit
from llmlite.engine.contract import STEP
from llmlite.engine.kernels.common import kernel, mixed_stride, share
from llmlite.engine.simd import (
    add_pairs,
    choose_lane,
    concat,
    dot4,
    dot4_signed,
    dot4_small,
    f32,
    fma,
    high_half,
    i32,
    inline,
    lane_at,
    load_f32,
    load_f32x8,
    load_i32,
    load_i32x8,
    load_i32x16,
    load_i64,
    load_u8x32,
    load_u8x64,
    low_half,
    make_shuffle,
    prefetch,
    reduce_add,
    splat_f32x8,
    splat_f32x16,
    splat_i32x8,
    splat_i32x16,
    store,
    to_f32,
    widen_u8,
)  # fmt: skip

AHEAD = 4096  # bytes from the weights that are multiplied to those prefetched: 3 to 6 % faster than 2048
TARGET = emit.current_target()


@inline
def nothing(p):
    """Take the place of a function that a type doesn't have."""
    return f32(0)


# ---- decode ------------------------------------------------------------------------------------------------


# A second order of activations: each 256 are four vectors of 64 bytes, and vector k holds bytes 8k…8k+7 of
# the eight blocks of 32, in this order of blocks.
BLOCK_ORDER = emit.block_order(TARGET)

first_of_neighbours, second_of_neighbours = (
    make_shuffle([4 * q + side + j for q in range(4) for side in (0, 16) for j in (i, i + 2)]) for i in (0, 1)
)
# lanes of 16 weights each (see `multiply` below): the first lane of each block, then the second lanes
halves_of_blocks = make_shuffle([8 * (block % 2) + 4 * i + block // 2 for i in (0, 1) for block in range(8)])
# lanes of 16 weights each (see `multiply` below): the blocks' first halves, then the second halves
quarters_apart = make_shuffle(
    [4 * (block % 2 * 2 + half) + block // 2 for half in (0, 1) for block in range(8)]
)
first_of_pairs, second_of_pairs = (  # of first halves, then of second ones
    make_shuffle([16 * half + 2 * BLOCK_ORDER.index(block) + i for half in (0, 1) for block in range(8)])
    for i in (0, 1)
)
halves_apart = make_shuffle([2 * block + half for half in (0, 1) for block in range(8)])


def dot_of(family):
    """Return the type's dot product of four bytes, and the zero that is still to subtract, times Σ q."""
    if family.full_bytes and emit.dots_signed(TARGET):
        return dot4_signed, 0
    return (dot4 if family.full_bytes else dot4_small), family.zero


@inline
def add_neighbours(a, b):
    """Return sums of two adjacent lanes: within each 128 bits, two sums of a, then two of b."""
    return first_of_neighbours(a, b) + second_of_neighbours(a, b)


def in_file_order(quants64, sub, dot):
    """Return (p, x) -> the sums of quant·activation of eight blocks: 256 weights at p, bytes at x.

    With sub-blocks of 16, there are sixteen sums: of the blocks' first halves, then of their second halves.

    Args:
        quants64: (p, i) -> u8x64, quants 64i… of the group at address p.
    """

    @inline
    def multiply(p, x):
        none = splat_i32x16(i32(0))
        a, b = dot(none, quants64(p, 0), load_u8x64(x)), dot(none, quants64(p, 1), load_u8x64(x + 64))
        c, d = dot(none, quants64(p, 2), load_u8x64(x + 128)), dot(none, quants64(p, 3), load_u8x64(x + 192))
        # lane 4q + i: 16 weights, the q-th of the i-th vector
        return add_neighbours(add_neighbours(a, b), add_neighbours(c, d))

    @inline
    def multiply16(p, x):
        v = multiply(p, x)
        return quarters_apart(v, v)

    @inline
    def multiply32(p, x):
        v = multiply(p, x)
        halves = halves_of_blocks(v, v)  # one permutation; two of eight lanes became four shuffles
        return low_half(halves) + high_half(halves)

    return multiply16 if sub == 16 else multiply32


def side_by_side(vectors, sub, dot):
    """Do the same as `in_file_order`, for types whose bytes are cheap to load in BLOCK_ORDER.

    In that order, every 32-bit sum belongs to one block in all four vectors, so four dot products add up
    directly. With sub-blocks of 16, two vectors hold the blocks' first halves, and two their second halves.

    Args:
        vectors: (p) -> four u8x64 in that order.
    """

    @inline
    def multiply32(p, x):
        v0, v1, v2, v3 = vectors(p)
        v = dot(dot(splat_i32x16(i32(0)), v0, load_u8x64(x)), v1, load_u8x64(x + 64))
        v = dot(dot(v, v2, load_u8x64(x + 128)), v3, load_u8x64(x + 192))
        return add_pairs(v)

    @inline
    def multiply16(p, x):
        none, (v0, v1, v2, v3) = splat_i32x16(i32(0)), vectors(p)
        u0 = dot(dot(none, v0, load_u8x64(x)), v1, load_u8x64(x + 64))
        u1 = dot(dot(none, v2, load_u8x64(x + 128)), v3, load_u8x64(x + 192))
        return first_of_pairs(u0, u1) + second_of_pairs(u0, u1)

    return multiply16 if sub == 16 else multiply32


def make_add_group(family, multiply, scales, mins):
    """Return (total, p, x, xd, xs) -> total plus a group's products; `multiply` is as in `in_file_order`."""
    _, zero = dot_of(family)
    has_minimum = family.has_minimum

    @inline
    def add_group32(total, p, x, xd, xs):
        s, products = scales(p) * load_f32x8(xd), multiply(p, x)
        if zero:
            products = products - splat_i32x8(i32(zero)) * load_i32x8(xs)
        total = fma(to_f32(products), s, total)
        return fma(mins(p), -load_f32x8(xs), total) if has_minimum else total

    @inline
    def add_group16(total, p, x, xd, xs):
        d, products = load_f32x8(xd), multiply(p, x)
        if zero:
            products = products - splat_i32x16(i32(zero)) * load_i32x16(xs)
        s, numbers = scales(p) * concat(d, d), to_f32(products)
        total = fma(low_half(numbers), low_half(s), total)
        total = fma(high_half(numbers), high_half(s), total)
        if has_minimum:  # both at once: four steps of one chain took 10 % longer than three
            m = mins(p)
            both = fma(high_half(m), load_f32x8(xs + 32), low_half(m) * load_f32x8(xs))
            total = total - both
        return total

    return add_group16 if family.sub == 16 else add_group32


def make_matvec(
    family, *, scales, mins=None, quants64=None, vectors=None, quants32=None, scale=None, minimum=None
):
    """Return the kernel out[t, r] = Σ weight[r]·x[t] for one token.

    Lane j adds up block j of every group of 256 weights, groups in file order; lanes are folded at the end.
    `make_matmul` adds in the same order.

    Args:
        vectors: see `side_by_side`.
        quants64: see `in_file_order`; only needed without `vectors`.
        scales, mins: (p) -> f32x8. With sub-blocks of 16, f32x16: first those of the blocks' first halves,
            then those of the second halves.
        quants32, scale, minimum: the same for one block of 32, for widths that aren't multiples of 256.

    The kernel's `sums` are integers (Σ q of each sub-block), or, for a type with minimums, floats (d·Σ q).
    With sub-blocks of 16, they are in the order [group][half][block].
    """
    (dot, _), sub = dot_of(family), family.sub
    if vectors:
        multiply = side_by_side(vectors, sub, dot)
    else:
        multiply = in_file_order(quants64, sub, dot)
    takes_mixed, has_tail = vectors is not None, quants32 is not None
    group_bytes, block_bytes, sums_bytes = family.group_bytes, family.group_bytes // 8, 1024 // sub

    add_group = make_add_group(family, multiply, scales, mins or nothing)
    tail = make_tail(family, quants32, scale, minimum) if has_tail else nothing

    @kernel
    def matvec(step, rank, n_threads, rows, w, q, mixed, d, sums, out, n_rows, width):
        low, high = share(n_rows, rank, n_threads)
        n_groups, n_left = width // 256, width % 256 // 32
        row_bytes = n_groups * group_bytes + n_left * block_bytes
        activations = mixed if takes_mixed else q
        x_stride = mixed_stride(width) if takes_mixed else width
        for t in range(load_i64(step + rows)):
            p = w + low * row_bytes
            for r in range(low, high):
                total = splat_f32x8(f32(0))
                x, xd, xs = activations + t * x_stride, d + t * width // 8, sums + t * (width * 4 // sub)
                for _ in range(n_groups):
                    for line in range(0, group_bytes, 64):
                        prefetch(p + AHEAD + line)
                    total = add_group(total, p, x, xd, xs)
                    p, x, xd, xs = p + group_bytes, x + 256, xd + 32, xs + sums_bytes
                if has_tail:
                    total = tail(p, q + (t + 1) * width - n_left * 32, xd, xs, n_left, total)
                    p += n_left * block_bytes
                store(out + (t * n_rows + r) * 4, reduce_add(total))

    return matvec


@inline
def itself(v):
    return v


def make_tail(family, quants32, scale, minimum):
    """Return (p, x, xd, xs, n_blocks, total) -> total plus the last blocks of a row, fewer than eight."""
    (dot, zero), has_minimum, block_bytes = dot_of(family), family.has_minimum, family.block_bytes
    minimum = minimum or nothing

    @inline
    def tail(p, x, xd, xs, n_blocks, total):
        for j in range(n_blocks):
            products = reduce_add(dot(splat_i32x8(i32(0)), quants32(p), load_u8x32(x)))
            if zero:
                products = i32(products - i32(zero) * load_i32(xs))
            s = splat_f32x8(f32(scale(p) * load_f32(xd)))
            own = fma(splat_f32x8(f32(products)), s, total)
            if has_minimum:
                own = fma(splat_f32x8(minimum(p)), -splat_f32x8(load_f32(xs)), own)
            total = choose_lane(j, own, total)
            p, x, xd, xs = p + block_bytes, x + 32, xd + 4, xs + 4
        return total

    return tail


def if_wide(vectors):
    """Return the vectors of `side_by_side` if the CPU can permute 64 bytes at once, else None (file order).

    This is for types that combine a weight from two places, or that have sub-blocks of 16. Side by side,
    types of five bits took 10 to 20 % longer on AVX2, of six and three bits up to 30 %. With AVX-512, all are
    faster.
    """
    return vectors if TARGET.has("avx512bw") else None


def doubled(numbers8):
    """Return (p) -> f32x16: the eight numbers of `numbers8`, twice."""

    @inline
    def numbers16(p):
        v = numbers8(p)
        return concat(v, v)

    return numbers16


@inline
def apart(numbers):
    """Return sixteen bytes, one for each 16 weights, with the blocks' first halves before the second ones."""
    return halves_apart(numbers, numbers)


# ---- embedding rows ----------------------------------------------------------------------------------------


def make_embed(family, *, quants64, scales16, mins16=None, quants32=None, scale=None, minimum=None):
    """Return the kernel out[t] = row ids[t] of the matrix, as floats.

    The arguments are those of `make_matvec`; `scales16` returns f32x16 for any size of sub-blocks.
    """
    has_minimum, has_tail, zero = family.has_minimum, quants32 is not None, family.zero
    mins16, quants32 = mins16 or nothing, quants32 or nothing
    scale, minimum = scale or nothing, minimum or nothing
    group_bytes, block_bytes = family.group_bytes, family.group_bytes // 8

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
                    put(o, low_half(low_half(v)), lane_at(s, 2 * i), lane_at(m, 2 * i))
                    put(o + 64, high_half(low_half(v)), lane_at(s, 2 * i + 8), lane_at(m, 2 * i + 8))
                    put(o + 128, low_half(high_half(v)), lane_at(s, 2 * i + 1), lane_at(m, 2 * i + 1))
                    put(o + 192, high_half(high_half(v)), lane_at(s, 2 * i + 9), lane_at(m, 2 * i + 9))
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
