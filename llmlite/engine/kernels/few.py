"""Matrix products of quantized weights with a few rows of activations: several sequences at once, drafts.

A group of 256 weights is unpacked once, as in a single token's kernel (`quantized.side_by_side`). It stays in
registers while it is multiplied by every token; the sums of all tokens are in the first-level cache. So
weights are read once, and nothing is transposed. If the activations of whole rows don't fit that cache,
FEW_ROWS rows take them a chunk at a time. Lanes are those of `quantized.make_matvec`, so the bits are the
same.

With AVX-512, a vector of sums holds two rows of weights, eight lanes each, so that one conversion, one
product of scales and one multiply-add serve both. With 16 registers, one row's weights fill eight, so rows
are taken one at a time.
"""

from llmlite.engine.families import FEW_CHUNK, FEW_ROWS
from llmlite.engine.kernels.common import kernel, mixed_stride, share_by
from llmlite.engine.kernels.quantized import (
    AHEAD,
    BLOCK_ORDER,
    TARGET,
    dot_of,
    make_tail,
    nothing,
)
from llmlite.engine.simd import (
    add_pairs,
    choose_above,
    concat,
    counting_i32x16,
    f32,
    fma,
    high_half,
    i32,
    i64,
    inline,
    lane,
    load_f32x8,
    load_f32x16,
    load_i32x8,
    load_i64,
    load_u8x64,
    low_half,
    make_shuffle,
    prefetch,
    reduce_add,
    reinterpret,
    splat_f32x8,
    splat_f32x16,
    splat_i32x8,
    splat_i32x16,
    store,
    to_f32,
)  # fmt: skip

TWO_ROWS = TARGET.has("avx512f")
ROWS = 2 if TWO_ROWS else 1  # of weights at once
SUM_BYTES = 32 * ROWS  # of one token

even_lanes, odd_lanes = (make_shuffle([2 * i + side for i in range(16)]) for side in (0, 1))
lanes_apart_4, lanes_apart_2, lanes_apart_1 = (
    make_shuffle([i ^ distance for i in range(16)]) for distance in (4, 2, 1)
)

# ---- from file order to blocks side by side ----------------------------------------------------------------


def _weave(k: int) -> list[int]:
    """Return the lanes of bytes 8k… of each of four blocks, then 8(k + 1)…, in two vectors in file order."""
    return [8 * block + 2 * (k + i) + j for i in (0, 1) for block in range(4) for j in (0, 1)]


words01, words23 = make_shuffle(_weave(0)), make_shuffle(_weave(2))
# blocks 0–3 of one, then 4–7 of the other, to BLOCK_ORDER
first_words, second_words = (
    make_shuffle(
        [(16 if block > 3 else 0) + 8 * i + 2 * (block % 4) + j for block in BLOCK_ORDER for j in (0, 1)]
    )
    for i in (0, 1)
)


def in_block_order(quants64):
    """Return (p) -> four u8x64 in the order of `side_by_side`, for types that are read in file order."""

    @inline
    def vectors(p):
        a, b = reinterpret(quants64(p, 0), "i32"), reinterpret(quants64(p, 1), "i32")
        c, d = reinterpret(quants64(p, 2), "i32"), reinterpret(quants64(p, 3), "i32")
        e, f, g, h = words01(a, b), words01(c, d), words23(a, b), words23(c, d)
        return (
            reinterpret(first_words(e, f), "u8"),
            reinterpret(second_words(e, f), "u8"),
            reinterpret(first_words(g, h), "u8"),
            reinterpret(second_words(g, h), "u8"),
        )

    return vectors


# ---- two rows in a vector, or one --------------------------------------------------------------------------

if TWO_ROWS:
    load_sums, splat_ints = load_f32x16, splat_i32x16

    @inline
    def none():
        return splat_f32x16(f32(0))

    @inline
    def block_sums(a, b):
        """Return the sums of each block's two lanes: eight blocks of row a, then eight of row b."""
        return even_lanes(a, b) + odd_lanes(a, b)

    @inline
    def of_rows(a, b):
        return concat(a, b)

    @inline
    def floats(p):
        v = load_f32x8(p)
        return concat(v, v)

    @inline
    def integers(p):
        v = load_i32x8(p)
        return concat(v, v)

    @inline
    def lane_numbers():
        return counting_i32x16() & splat_i32x16(i32(7))

    @inline
    def put(place, total, n):
        """Fold the sums and store one float for each of n rows."""
        total = total + lanes_apart_4(total, total)
        total = total + lanes_apart_2(total, total)
        total = total + lanes_apart_1(total, total)
        store(place, lane(total, 0))
        if n > 1:
            store(place + 4, lane(total, 8))

else:
    load_sums, splat_ints = load_f32x8, splat_i32x8

    @inline
    def none():
        return splat_f32x8(f32(0))

    @inline
    def block_sums(a, b):
        return add_pairs(a)

    @inline
    def of_rows(a, b):
        return a

    @inline
    def floats(p):
        return load_f32x8(p)

    @inline
    def integers(p):
        return load_i32x8(p)

    @inline
    def lane_numbers():
        return low_half(counting_i32x16())

    @inline
    def put(place, total, n):
        store(place, reduce_add(total))


def make_add(family):
    """Return `add` and `both`: a token's sums plus a group's products, and the numbers of two rows in one."""
    (dot, zero), has_minimum = dot_of(family), family.has_minimum

    @inline
    def less_zero(products, xs):
        if zero:
            return products - splat_ints(i32(zero)) * integers(xs)
        return products

    @inline
    def add32(total, v, u, s, m, x, xd, xs):
        x0, x1, x2, x3 = load_u8x64(x), load_u8x64(x + 64), load_u8x64(x + 128), load_u8x64(x + 192)
        start = splat_i32x16(i32(0))
        a = dot(dot(dot(dot(start, v[0], x0), v[1], x1), v[2], x2), v[3], x3)
        b = dot(dot(dot(dot(start, u[0], x0), u[1], x1), u[2], x2), u[3], x3)
        products = less_zero(block_sums(a, b), xs)
        total = fma(to_f32(products), s[0] * floats(xd), total)
        return fma(m[0], -floats(xs), total) if has_minimum else total

    @inline
    def add16(total, v, u, s, m, x, xd, xs):
        x0, x1, x2, x3 = load_u8x64(x), load_u8x64(x + 64), load_u8x64(x + 128), load_u8x64(x + 192)
        start, d = splat_i32x16(i32(0)), floats(xd)
        a, b = dot(dot(start, v[0], x0), v[1], x1), dot(dot(start, u[0], x0), u[1], x1)
        total = fma(to_f32(less_zero(block_sums(a, b), xs)), s[0] * d, total)
        a, b = dot(dot(start, v[2], x2), v[3], x3), dot(dot(start, u[2], x2), u[3], x3)
        total = fma(to_f32(less_zero(block_sums(a, b), xs + 32)), s[1] * d, total)
        if has_minimum:
            total = total - fma(m[1], floats(xs + 32), m[0] * floats(xs))
        return total

    @inline
    def both32(a, b):
        return (of_rows(a, b),)

    @inline
    def both16(a, b):
        """Return the numbers of the blocks' first halves, for both rows, then of their second halves."""
        return of_rows(low_half(a), low_half(b)), of_rows(high_half(a), high_half(b))

    return (add16, both16) if family.sub == 16 else (add32, both32)


def make_groups(family, scales, mins, vectors, tail):
    """Return the functions for whole groups, for the last group of a row, and for that of the matrix."""
    (add, both), has_minimum, group_bytes = make_add(family), family.has_minimum, family.group_bytes
    sums_bytes = 1024 // family.sub

    @inline
    def numbers(p0, p1):
        """Return the scales and minimums of both rows."""
        s = both(scales(p0), scales(p1))
        return s, (both(mins(p0), mins(p1)) if has_minimum else s)

    @inline
    def group(acc, n_tokens, p0, p1, x, xd, xs, x_stride, d_stride, s_stride):
        """Add a group's products of both rows to the sums of every token."""
        v, u = vectors(p0), vectors(p1)
        s, m = numbers(p0, p1)
        for t in range(n_tokens):
            place = acc + t * SUM_BYTES
            store(place, add(load_sums(place), v, u, s, m, x, xd, xs))
            x, xd, xs = x + x_stride, xd + d_stride, xs + s_stride

    @inline
    def part_of_group(acc, n_tokens, p0, p1, x, xd, xs, x_stride, d_stride, s_stride, n_blocks):
        """Do the same as `group` if only its first n_blocks blocks exist."""
        v, u = vectors(p0), vectors(p1)
        s, m = numbers(p0, p1)
        here, lanes = splat_ints(i32(n_blocks)), lane_numbers()
        for t in range(n_tokens):
            place = acc + t * SUM_BYTES
            before = load_sums(place)
            after = add(before, v, u, s, m, x, xd, xs)
            store(place, choose_above(here, lanes, after, before))
            x, xd, xs = x + x_stride, xd + d_stride, xs + s_stride

    @inline
    def last_blocks(acc, n_tokens, p0, p1, x, xd, xs, x_stride, d_stride, s_stride, n_blocks):
        """Do the same as `part_of_group`, without reading past its end; x is in file order."""
        for t in range(n_tokens):
            place = acc + t * SUM_BYTES
            store(place, tail(p0, x, xd, xs, n_blocks, load_f32x8(place)))
            if TWO_ROWS:
                store(place + 32, tail(p1, x, xd, xs, n_blocks, load_f32x8(place + 32)))
            x, xd, xs = x + x_stride, xd + d_stride, xs + s_stride

    @inline
    def multiply(acc, n_tokens, p0, p1, ahead, n_groups, x, xd, xs, x_stride, d_stride, s_stride):
        """Add n_groups groups of both rows, and prefetch those that are `ahead` bytes further."""
        for _ in range(n_groups):
            for line in range(0, group_bytes, 64):
                prefetch(p0 + ahead + line)
                if TWO_ROWS:
                    prefetch(p1 + ahead + line)
            group(acc, n_tokens, p0, p1, x, xd, xs, x_stride, d_stride, s_stride)
            p0, p1, x, xd, xs = p0 + group_bytes, p1 + group_bytes, x + 256, xd + 32, xs + sums_bytes

    return multiply, part_of_group, last_blocks


def make_few(family, *, quants64, scales, mins=None, vectors=None, quants32=None, scale=None, minimum=None):
    """Return the kernel out[t, r] = Σ weight[r]·x[t] for a few tokens.

    The arguments are those of `quantized.make_matvec`. If a row ends with fewer than eight blocks, they are
    read as a group whose other lanes are discarded. At the end of the matrix, this would read too far, so
    they are read one by one.
    """
    has_tail, sub = quants32 is not None, family.sub
    tail = make_tail(family, quants32, scale, minimum) if has_tail else nothing
    vectors = vectors or in_block_order(quants64)
    multiply, part_of_group, last_blocks = make_groups(family, scales, mins or nothing, vectors, tail)
    group_bytes, block_bytes, sums_bytes = family.group_bytes, family.group_bytes // 8, 1024 // sub

    @kernel
    def matmul_few(
        step, rank, n_threads, worker, rows, w, q, mixed, d, sums, out, n_rows, width, scratch, scratch_bytes
    ):
        n_tokens, n_groups, n_left = load_i64(step + rows), width // 256, width % 256 // 32
        low, high = share_by(n_rows, ROWS, rank, n_threads)
        row_bytes = n_groups * group_bytes + n_left * block_bytes
        x_stride, d_stride, s_stride = mixed_stride(width), width // 8, width * 4 // sub
        if n_tokens == 0:
            return
        chunk = max(1, FEW_CHUNK // n_tokens)  # groups
        together = FEW_ROWS if n_groups > chunk else ROWS
        for begin in range(low, high, together):
            end = min(begin + together, high)
            for place in range((end - begin + ROWS - 1) // ROWS * n_tokens):
                store(scratch + worker * scratch_bytes + place * SUM_BYTES, none())
            first = i64(0)
            while first < n_groups:  # a range with a variable step would divide
                acc = scratch + worker * scratch_bytes
                here = min(chunk, n_groups - first)
                x, xd, xs = mixed + first * 256, d + first * 32, sums + first * sums_bytes
                for r in range(begin, end, ROWS):
                    p0 = w + r * row_bytes + first * group_bytes
                    p1 = p0 + (row_bytes if r + 1 < n_rows else 0)
                    ahead = i64(AHEAD)
                    if n_groups > chunk:  # two steps of this loop
                        ahead = 2 * ROWS * row_bytes
                        if r + 2 * ROWS >= end:
                            last = first + chunk >= n_groups
                            ahead -= (
                                first * group_bytes if last else together * row_bytes - chunk * group_bytes
                            )
                    multiply(acc, n_tokens, p0, p1, ahead, here, x, xd, xs, x_stride, d_stride, s_stride)
                    acc += n_tokens * SUM_BYTES
                first += chunk
            acc = scratch + worker * scratch_bytes
            for r in range(begin, end, ROWS):
                if has_tail:  # noqa: SIM102  (a constant, removed by the compiler)
                    if n_left > 0:
                        p0 = w + r * row_bytes + n_groups * group_bytes
                        p1 = p0 + (row_bytes if r + 1 < n_rows else 0)
                        xd, xs = d + n_groups * 32, sums + n_groups * sums_bytes
                        if p1 + group_bytes <= w + n_rows * row_bytes:
                            x = mixed + n_groups * 256
                            part_of_group(
                                acc, n_tokens, p0, p1, x, xd, xs, x_stride, d_stride, s_stride, n_left
                            )
                        else:
                            x = q + n_groups * 256
                            last_blocks(acc, n_tokens, p0, p1, x, xd, xs, width, d_stride, s_stride, n_left)
                for t in range(n_tokens):
                    put(out + (t * n_rows + r) * 4, load_sums(acc), min(i64(ROWS), n_rows - r))
                    acc += SUM_BYTES

    return matmul_few
