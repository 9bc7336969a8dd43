"""Matrix times vector, one weight at a time, in the most obvious code.

These are the plain twins of the matvec kernels in `blocks32.py` and `blocks256.py`, and a rung of the ladder
that `llmlite.bench.ladder` measures. Activations stay float32. Sums keep their order, as in C and in plain
numba, so the compiler may not spread them over a vector's lanes.
"""

from llmlite.engine.kernels.common import kernel, share
from llmlite.engine.simd import f32, i64, inline, load_f16, load_f32, load_i8, load_i64, load_u8, store


def make_matvec(row_dot, block_bytes, block_size):
    """Return the kernel out[t, r] = Σ weight[r]·x[t]; `row_dot(p, x, n_blocks)` is one row's sum."""

    @kernel
    def matvec(step, rank, n_threads, rows, w, x, out, n_rows, width):
        low, high = share(n_rows, rank, n_threads)
        n_blocks = width // block_size
        for t in range(load_i64(step + rows)):
            for r in range(low, high):
                total = row_dot(w + r * n_blocks * block_bytes, x + t * width * 4, n_blocks)
                store(out + (t * n_rows + r) * 4, f32(total))

    return matvec


@inline
def row_q4_0(p, x, n_blocks):
    """Multiply a row of Q4_0: blocks of a float16 scale and 16 bytes, low nibbles first.

    weight = scale · (nibble − 8)
    """
    total = f32(0)
    for _ in range(n_blocks):
        part = f32(0)
        for j in range(16):
            byte = i64(load_u8(p + 2 + j))
            part += f32((byte & 15) - 8) * load_f32(x + 4 * j)
            part += f32((byte >> 4) - 8) * load_f32(x + 64 + 4 * j)
        total += load_f16(p) * part
        p, x = p + 18, x + 128
    return total


@inline
def row_q8_0(p, x, n_blocks):
    """Multiply a row of Q8_0: blocks of a float16 scale and 32 signed bytes; weight = scale · byte."""
    total = f32(0)
    for _ in range(n_blocks):
        part = f32(0)
        for j in range(32):
            part += f32(load_i8(p + 2 + j)) * load_f32(x + 4 * j)
        total += load_f16(p) * part
        p, x = p + 34, x + 128
    return total


@inline
def scale_and_minimum(p, j):
    """Return the 6-bit scale and minimum of sub-block j, from the 12 bytes at p that hold eight of each."""
    if j < 4:
        return i64(load_u8(p + j)) & 63, i64(load_u8(p + j + 4)) & 63
    both = i64(load_u8(p + j + 4))
    scale = (both & 15) | i64(load_u8(p + j - 4)) >> 6 << 4
    return scale, both >> 4 | i64(load_u8(p + j)) >> 6 << 4


@inline
def row_q4_k(p, x, n_blocks):
    """Multiply a row of Q4_K: super-blocks of 256 weights.

    A super-block is d and m (float16), 12 bytes of 6-bit scales, and 128 bytes of nibbles.

    weight = d·scale·nibble − m·minimum; 32 bytes hold one sub-block in their low halves and the next in the
    high ones.
    """
    total = f32(0)
    for _ in range(n_blocks):
        d, m = load_f16(p), load_f16(p + 2)
        for j in range(8):
            scale, minimum = scale_and_minimum(p + 4, j)
            part, plain = f32(0), f32(0)
            quants = p + 16 + j // 2 * 32
            shift = 4 * (j & 1)
            for i in range(32):
                value = load_f32(x + 4 * i)
                part += f32(i64(load_u8(quants + i)) >> shift & 15) * value
                plain += value
            total += d * f32(scale) * part - m * f32(minimum) * plain
            x += 128
        p += 144
    return total


scalar_q4_0 = make_matvec(row_q4_0, 18, 32)
scalar_q8_0 = make_matvec(row_q8_0, 34, 32)
scalar_q4_k = make_matvec(row_q4_k, 144, 256)
