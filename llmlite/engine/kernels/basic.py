"""Row operations: norms, RoPE, SwiGLU, sums, and the quantizing of activations.

Every buffer is (T, width) float32, contiguous; widths are multiples of 16. `rows` is where the step record
holds T: it counts either all tokens of the step or those whose logits are wanted.
"""

import math

from llmlite.engine.kernels.common import (
    ANGLES,
    N_OUTPUTS,
    N_TOKENS,
    POSITION,
    exp,
    kernel,
    share,
    share_by,
)  # fmt: skip
from llmlite.engine.simd import (
    absolute,
    concat,
    divide,
    f32,
    fma,
    high_half,
    i32,
    inline,
    inline_exact,
    load_f32,
    load_f32x16,
    load_i32x16,
    load_i64,
    low_half,
    maximum,
    narrow_u8,
    reduce_add,
    reduce_max,
    reinterpret,
    splat_f32x16,
    splat_i32x16,
    store,
)  # fmt: skip

MAGIC = 12582912.0  # 1.5 · 2²³: adding it rounds a float32 to an integer in its low bits


@inline_exact
def rounded(x, scale):
    """round(x · scale), to even, as int32."""
    magic = splat_f32x16(f32(MAGIC))
    shifted = x * splat_f32x16(scale) + magic
    return reinterpret(shifted, "i32") - reinterpret(magic, "i32")


@inline_exact
def scale_and_inverse(largest):
    """max|x| / 127 and its inverse, each rounded once, so that NumPy gives the same bytes."""
    if largest > f32(0):
        return f32(largest / f32(127)), f32(f32(127) / largest)
    return f32(0), f32(0)


@kernel
def rms_norm(step, rank, n_threads, rows, x, weight, out, width, parts, eps: float):
    """out[t] = x[t] / sqrt(mean(x[t]²) + eps) · weight; for each of the `parts` of a row by itself."""
    low, high = share(load_i64(step + rows) * parts, rank, n_threads)
    for t in range(low, high):
        a, o = x + t * width * 4, out + t * width * 4
        s0, s1 = splat_f32x16(f32(0)), splat_f32x16(f32(0))
        for i in range(0, width * 4, 64):
            v = load_f32x16(a + i)
            s0, s1 = fma(v, v, s1), s0
        scale = splat_f32x16(f32(1) / math.sqrt(reduce_add(s0 + s1) / f32(width) + eps))
        for i in range(0, width * 4, 64):
            store(o + i, load_f32x16(a + i) * scale * load_f32x16(weight + i))


@kernel
def layer_norm(step, rank, n_threads, rows, x, weight, bias, out, width, eps: float):
    """out[t] = (x[t] - m) / sqrt(mean((x[t] - m)²) + eps) · weight + bias, m = mean(x[t])."""
    low, high = share(load_i64(step + rows), rank, n_threads)
    for t in range(low, high):
        a, o = x + t * width * 4, out + t * width * 4
        total, squares = splat_f32x16(f32(0)), splat_f32x16(f32(0))
        for i in range(0, width * 4, 64):
            total = total + load_f32x16(a + i)
        mean = splat_f32x16(f32(reduce_add(total) / f32(width)))
        for i in range(0, width * 4, 64):
            v = load_f32x16(a + i) - mean
            squares = fma(v, v, squares)
        scale = splat_f32x16(f32(1) / math.sqrt(reduce_add(squares) / f32(width) + eps))
        for i in range(0, width * 4, 64):
            v = (load_f32x16(a + i) - mean) * scale
            store(o + i, fma(v, load_f32x16(weight + i), load_f32x16(bias + i)))


@kernel
def positions(step, rank, n_threads, table, out, width):
    """out[t] = table[position + t]."""
    low, high = share(load_i64(step + N_TOKENS), rank, n_threads)
    first = table + load_i64(step + POSITION) * width * 4
    for i in range(low * width * 4, high * width * 4, 64):
        store(out + i, load_f32x16(first + i))


@kernel
def gelu(step, rank, n_threads, rows, x, out, width):
    """out = x/2 · (1 + tanh u), u = sqrt(2/π) · (x + 0.044715 x³); that is x / (1 + e^-2u)."""
    low, high = share_by(load_i64(step + rows) * width, 16, rank, n_threads)
    one, cubic = splat_f32x16(f32(1)), splat_f32x16(f32(0.044715))
    factor = splat_f32x16(f32(-2 * math.sqrt(2 / math.pi)))
    for i in range(low * 4, high * 4, 64):
        v = load_f32x16(x + i)
        store(out + i, divide(v, one + exp(factor * fma(cubic * v * v, v, v))))


@kernel
def add(step, rank, n_threads, rows, a, b, out, width):
    """out = a + b."""
    low, high = share_by(load_i64(step + rows) * width, 16, rank, n_threads)
    for i in range(low * 4, high * 4, 64):
        store(out + i, load_f32x16(a + i) + load_f32x16(b + i))


@kernel
def add_bias(step, rank, n_threads, rows, a, bias, out, width):
    """out[t] = a[t] + bias."""
    low, high = share(load_i64(step + rows), rank, n_threads)
    for t in range(low, high):
        o = t * width * 4
        for i in range(0, width * 4, 64):
            store(out + o + i, load_f32x16(a + o + i) + load_f32x16(bias + i))


@kernel
def silu_mul(step, rank, n_threads, rows, gate, up, out, width):
    """out = gate / (1 + e^-gate) · up."""
    low, high = share_by(load_i64(step + rows) * width, 16, rank, n_threads)
    one = splat_f32x16(f32(1))
    for i in range(low * 4, high * 4, 64):
        g = load_f32x16(gate + i)
        store(out + i, divide(g, one + exp(splat_f32x16(f32(0)) - g)) * load_f32x16(up + i))


@kernel
def take_outputs(step, rank, n_threads, x, out, width):
    """out = the last n_outputs rows of x."""
    n = load_i64(step + N_OUTPUTS)
    first = load_i64(step + N_TOKENS) - n
    low, high = share(n, rank, n_threads)
    for t in range(low, high):
        for i in range(0, width * 4, 64):
            store(out + t * width * 4 + i, load_f32x16(x + (first + t) * width * 4 + i))


@kernel
def rope(step, rank, n_threads, x, out, n_head, head_size, rope_dim, distance):
    """Turn each pair (u, v) of a head by its angle a: (u·cos a - v·sin a, u·sin a + v·cos a).

    A pair is (2i, 2i + 1) for distance 1 ("norm"), (i, i + rope_dim/2) for distance rope_dim/2 ("neox"). The
    step's angles are cosines then sines, (T, 2, rope_dim/2). Elements from rope_dim on stay as they are.
    """
    low, high = share(load_i64(step + N_TOKENS) * n_head, rank, n_threads)
    angles, half = load_i64(step + ANGLES), rope_dim // 2
    stride = 2 if distance == 1 else 1
    for row in range(low, high):
        a, o = x + row * head_size * 4, out + row * head_size * 4
        cosines = angles + row // n_head * rope_dim * 4
        for i in range(half):
            c, s = load_f32(cosines + i * 4), load_f32(cosines + (half + i) * 4)
            first, second = i * stride * 4, (i * stride + distance) * 4
            u, v = load_f32(a + first), load_f32(a + second)
            store(o + first, u * c - v * s)
            store(o + second, u * s + v * c)
        for i in range(rope_dim * 4, head_size * 4, 4):
            store(o + i, load_f32(a + i))


@inline
def quantize_block(x, q, d, sums32, sums16, b):
    """Quantize 32 activations, the b-th ones; return their bytes."""
    u, v = load_f32x16(x + b * 128), load_f32x16(x + b * 128 + 64)
    largest = reduce_max(maximum(absolute(u), absolute(v)))
    scale, inverse = scale_and_inverse(largest)
    store(d + b * 4, scale)
    i, j = rounded(u, inverse), rounded(v, inverse)
    both = concat(narrow_u8(i), narrow_u8(j))
    store(q + b * 32, both)
    s, t = reduce_add(i), reduce_add(j)
    store(sums16 + b * 8, s)
    store(sums16 + b * 8 + 4, t)
    store(sums32 + b * 4, i32(s + t))
    return both


@kernel
def quantize(step, rank, n_threads, rows, x, q, d, sums32, sums16, width):
    """Quantize each 32 activations to bytes: d = max|x| / 127, q = round(x / d).

    Args:
        q: int8 (T, width). d: float32 (T, width/32).
        sums32, sums16: int32 (T, width/32) and (T, width/16), the sums of q over 32 and 16: what weights that
            are kept with an offset need (Σ(w - z)·q = Σw·q - z·Σq).
    """
    low, high = share(load_i64(step + rows) * (width // 32), rank, n_threads)
    for b in range(low, high):
        quantize_block(x, q, d, sums32, sums16, b)


@kernel
def quantize_mixed(step, rank, n_threads, rows, x, q, d, sums32, sums16, mixed, width):
    """`quantize`, and every whole 256 bytes of q once more in the order of `side_by_side`."""
    low, high = share(load_i64(step + rows) * (width // 32), rank, n_threads)
    for b in range(low, high):
        both = quantize_block(x, q, d, sums32, sums16, b)
        token, block = b // (width // 32), b % (width // 32)
        if block // 8 < width // 256:
            even_first = ((block & 7) >> 1) + 4 * (block & 1)
            place = mixed + token * width + block // 8 * 256 + even_first * 8
            store(place, low_half(low_half(both)))
            store(place + 64, high_half(low_half(both)))
            store(place + 128, low_half(high_half(both)))
            store(place + 192, high_half(high_half(both)))


@kernel
def read_all(step, rank, n_threads, data, n_bytes, out):
    """Read n_bytes (a multiple of 256) once, for their sums' sake: what memory gives when nothing else is to
    do.
    """
    low, high = share_by(n_bytes, 256, rank, n_threads)
    zero = splat_i32x16(i32(0))
    a, b, c, d = zero, zero, zero, zero
    for i in range(data + low, data + high, 256):
        a, b = a + load_i32x16(i), b + load_i32x16(i + 64)
        c, d = c + load_i32x16(i + 128), d + load_i32x16(i + 192)
    store(out + rank * 64, (a + b) + (c + d))
