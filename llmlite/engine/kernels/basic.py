"""Row operations: norms, RoPE, sums, scales, and the quantizing of activations.

Every buffer is (T, width) float32, contiguous, and padded to whole vectors at its end. `rows` is the offset
of T in the step record: it counts either all tokens of the step or those whose logits are needed. `number` is
the operation's index plus 1; it is reported if a row is not finite (`common.report`).
"""

import math

from llmlite.engine import emit
from llmlite.engine.contract import STEP
from llmlite.engine.kernels.common import exp, kernel, mixed_stride, position_of, report, share, share_by
from llmlite.engine.simd import (
    absolute,
    concat,
    divide,
    f32,
    float_of_bits,
    fma,
    high_half,
    i32,
    inline,
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

IN_FILE_ORDER = emit.block_order(emit.current_target()) == tuple(range(8))  # else the even blocks first
MAGIC = 12582912.0  # 1.5 · 2²³: adding it rounds a float32 to an integer in its low bits
INFINITY_BITS = 0x7F800000  # of a float32; larger bits without the sign are NaN
LARGEST = 3.4028234663852886e38  # float32


@inline
def rounded(x, scale):
    """round(x · scale), to even, as int32."""
    magic = splat_f32x16(f32(MAGIC))
    shifted = x * splat_f32x16(scale) + magic
    return reinterpret(shifted, "i32") - reinterpret(magic, "i32")


@inline
def scale_and_inverse(largest):
    """Return max|x| / 127 and its inverse, each rounded once, so that NumPy gives the same bytes."""
    if largest > f32(0):
        return f32(largest / f32(127)), f32(f32(127) / largest)
    return f32(0), f32(0)


# ---- norms -------------------------------------------------------------------------------------------------


@inline
def sum_of_squares(a, mean, width):
    """Σ (a[i] - mean)²: in 2 × 16 lanes in turn, which are folded; then the remaining numbers in order."""
    whole = width // 16 * 64
    s0, s1 = splat_f32x16(f32(0)), splat_f32x16(f32(0))
    for i in range(0, whole, 64):
        v = load_f32x16(a + i) - splat_f32x16(mean)
        s0, s1 = fma(v, v, s1), s0
    total = f32(reduce_add(s0 + s1))
    for i in range(whole, width * 4, 4):
        u = f32(load_f32(a + i) - mean)
        total = f32(total + f32(u * u))
    return total


@inline
def inverse_root(mean, eps):
    """1 / sqrt(mean + eps)."""
    return f32(f32(1) / f32(math.sqrt(f32(mean + eps))))


def make_rms_norm(has_gain):
    @inline
    def norm(step, rank, n_threads, rows, x, gain, out, width, parts, eps, number):
        low, high = share(load_i64(step + rows) * parts, rank, n_threads)
        whole = width // 16 * 64
        for t in range(low, high):
            a, o = x + t * width * 4, out + t * width * 4
            squares = sum_of_squares(a, f32(0), width)
            if not squares <= f32(LARGEST):
                report(step, rank, number)
            factor = inverse_root(f32(squares / f32(width)), eps)
            scale = splat_f32x16(factor)
            for i in range(0, whole, 64):
                v = load_f32x16(a + i) * scale
                store(o + i, v * load_f32x16(gain + i) if has_gain else v)
            for i in range(whole, width * 4, 4):
                u = f32(load_f32(a + i) * factor)
                store(o + i, f32(u * load_f32(gain + i)) if has_gain else u)

    return norm


rms_norm_by_gain, rms_norm_by_one = make_rms_norm(True), make_rms_norm(False)


@kernel
def rms_norm(step, rank, n_threads, rows, x, gain, out, width, parts, eps: float, number):
    """out[t] = x[t] / sqrt(mean(x[t]²) + eps) · gain, separately for each of the `parts` of a row."""
    rms_norm_by_gain(step, rank, n_threads, rows, x, gain, out, width, parts, eps, number)


@kernel
def rms_norm_plain(step, rank, n_threads, rows, x, out, width, parts, eps: float, number):
    """`rms_norm` with gains of one."""
    rms_norm_by_one(step, rank, n_threads, rows, x, x, out, width, parts, eps, number)


@kernel
def layer_norm(step, rank, n_threads, rows, x, gain, bias, out, width, parts, eps: float, number):
    """out[t] = (x[t] - m) / sqrt(mean((x[t] - m)²) + eps) · gain + bias, m = mean(x[t]); bias 0: none.

    Each of the `parts` of a row is normalized separately; gain and bias are as long as the row.
    """
    low, high = share(load_i64(step + rows) * parts, rank, n_threads)
    whole = width // 16 * 64
    for t in range(low, high):
        a, o, at = x + t * width * 4, out + t * width * 4, t % parts * width * 4
        g, shift = gain + at, bias + at
        total = splat_f32x16(f32(0))
        for i in range(0, whole, 64):
            total = total + load_f32x16(a + i)
        sum_of_all = f32(reduce_add(total))
        for i in range(whole, width * 4, 4):
            sum_of_all = f32(sum_of_all + load_f32(a + i))
        mean = f32(sum_of_all / f32(width))
        squares = sum_of_squares(a, mean, width)
        if not squares <= f32(LARGEST):
            report(step, rank, number)
        factor = inverse_root(f32(squares / f32(width)), eps)
        for i in range(0, whole, 64):
            v = (load_f32x16(a + i) - splat_f32x16(mean)) * splat_f32x16(factor)
            if bias != 0:
                store(o + i, fma(v, load_f32x16(g + i), load_f32x16(shift + i)))
            else:
                store(o + i, v * load_f32x16(g + i))
        for i in range(whole, width * 4, 4):
            u = f32(f32(f32(load_f32(a + i) - mean) * factor) * load_f32(g + i))
            store(o + i, f32(u + load_f32(shift + i)) if bias != 0 else u)


# ---- sums and scales ---------------------------------------------------------------------------------------


@kernel
def positions(step, rank, n_threads, table, out, width):
    """out[t] = table[position of t]."""
    low, high = share(load_i64(step + STEP.n_tokens), rank, n_threads)
    for t in range(low, high):
        source = table + position_of(step, t) * width * 4
        for i in range(0, width * 4, 64):
            store(out + t * width * 4 + i, load_f32x16(source + i))


@kernel
def token_types(step, rank, n_threads, table, out, width):
    """out[t] = table[token type of t]."""
    low, high = share(load_i64(step + STEP.n_tokens), rank, n_threads)
    for t in range(low, high):
        source = table + load_i64(load_i64(step + STEP.types) + t * 8) * width * 4
        for i in range(0, width * 4, 64):
            store(out + t * width * 4 + i, load_f32x16(source + i))


@kernel
def add(step, rank, n_threads, rows, a, b, out, width):
    """out = a + b."""
    low, high = share_by(load_i64(step + rows) * width, 16, rank, n_threads)
    for i in range(low * 4, high * 4, 64):
        store(out + i, load_f32x16(a + i) + load_f32x16(b + i))


@kernel
def add_row(step, rank, n_threads, rows, a, row, out, width):
    """out[t] = a[t] + row."""
    low, high = share(load_i64(step + rows), rank, n_threads)
    whole = width // 16 * 64
    for t in range(low, high):
        o = t * width * 4
        for i in range(0, whole, 64):
            store(out + o + i, load_f32x16(a + o + i) + load_f32x16(row + i))
        for i in range(whole, width * 4, 4):
            store(out + o + i, f32(load_f32(a + o + i) + load_f32(row + i)))


@kernel
def scale(step, rank, n_threads, rows, x, out, width, factor: float):
    """out = x · factor."""
    low, high = share_by(load_i64(step + rows) * width, 16, rank, n_threads)
    factors = splat_f32x16(factor)
    for i in range(low * 4, high * 4, 64):
        store(out + i, load_f32x16(x + i) * factors)


@kernel
def softcap(step, rank, n_threads, rows, x, out, width, cap: float):
    """out = cap · tanh(x / cap); tanh u = 1 - 2 / (e^2u + 1)."""
    low, high = share_by(load_i64(step + rows) * width, 16, rank, n_threads)
    one, two, caps = splat_f32x16(f32(1)), splat_f32x16(f32(2)), splat_f32x16(cap)
    for i in range(low * 4, high * 4, 64):
        u = divide(load_f32x16(x + i), caps)
        store(out + i, caps * (one - divide(two, exp(u + u) + one)))


@kernel
def gate(step, rank, n_threads, rows, x, by, out, width):
    """out = x · sigmoid(by)."""
    low, high = share_by(load_i64(step + rows) * width, 16, rank, n_threads)
    one, zero = splat_f32x16(f32(1)), splat_f32x16(f32(0))
    for i in range(low * 4, high * 4, 64):
        store(out + i, divide(load_f32x16(x + i), one + exp(zero - load_f32x16(by + i))))


@kernel
def gate_by_one(step, rank, n_threads, rows, x, by, out, width):
    """out[t] = x[t] · sigmoid(by[t]), one number for each row."""
    low, high = share(load_i64(step + rows), rank, n_threads)
    one = splat_f32x16(f32(1))
    for t in range(low, high):
        divisor = one + exp(splat_f32x16(f32(0)) - splat_f32x16(load_f32(by + t * 4)))
        for i in range(t * width * 4, (t + 1) * width * 4, 64):
            store(out + i, divide(load_f32x16(x + i), divisor))


@kernel
def columns(step, rank, n_threads, rows, x, out, parts, stride, start, width):
    """out[t] = columns start … start + width - 1 of each of the `parts` of a row, `stride` columns each."""
    low, high = share(load_i64(step + rows) * parts, rank, n_threads)
    for t in range(low, high):
        source, target = x + (t * stride + start) * 4, out + t * width * 4
        for i in range(0, width * 4, 4):
            store(target + i, load_f32(source + i))


@kernel
def join(step, rank, n_threads, rows, a, b, out, parts, a_width, b_width, b_parts):
    """out[t] = for each of the `parts` of a row, its numbers of a, then its own (or the shared ones) of b."""
    low, high = share(load_i64(step + rows) * parts, rank, n_threads)
    for t in range(low, high):
        source, target = a + t * a_width * 4, out + t * (a_width + b_width) * 4
        for i in range(0, a_width * 4, 4):
            store(target + i, load_f32(source + i))
        source, target = b + (t * b_parts // parts) * b_width * 4, target + a_width * 4
        for i in range(0, b_width * 4, 4):
            store(target + i, load_f32(source + i))


@kernel
def take_outputs(step, rank, n_threads, x, out, width):
    """out = the rows of x whose logits are needed."""
    low, high = share(load_i64(step + STEP.n_outputs), rank, n_threads)
    wanted = load_i64(step + STEP.outputs)
    for t in range(low, high):
        source = x + load_i64(wanted + t * 8) * width * 4
        for i in range(0, width * 4, 4 if width % 16 else 64):
            if width % 16:
                store(out + t * width * 4 + i, load_f32(source + i))
            else:
                store(out + t * width * 4 + i, load_f32x16(source + i))


# ---- positions ---------------------------------------------------------------------------------------------


@inline
def table_row(step, table, row, n_bytes):
    """Return the address of the row of a table of positions that belongs to a row of the step."""
    return load_i64(load_i64(step + STEP.tables) + table * 8) + position_of(step, row) * n_bytes


@kernel
def rope(step, rank, n_threads, x, out, table, n_head, head_size, rope_dim, distance):
    """Rotate each pair (u, v) of a head by its angle a: (u·cos a - v·sin a, u·sin a + v·cos a).

    A pair is (2i, 2i + 1) for distance 1 ("norm"), (i, i + rope_dim/2) for distance rope_dim/2 ("neox"). A
    row of the table has cosines, then sines, (2, rope_dim/2). Elements from rope_dim on don't change.
    """
    low, high = share(load_i64(step + STEP.n_tokens) * n_head, rank, n_threads)
    half = rope_dim // 2
    stride = 2 if distance == 1 else 1
    for row in range(low, high):
        a, o = x + row * head_size * 4, out + row * head_size * 4
        cosines = table_row(step, table, row // n_head, rope_dim * 4)
        for i in range(half):
            c, s = load_f32(cosines + i * 4), load_f32(cosines + (half + i) * 4)
            first, second = i * stride * 4, (i * stride + distance) * 4
            u, v = load_f32(a + first), load_f32(a + second)
            store(o + first, u * c - v * s)
            store(o + second, u * s + v * c)
        for i in range(rope_dim * 4, head_size * 4, 4):
            store(o + i, load_f32(a + i))


@kernel
def temperature(step, rank, n_threads, x, out, table, width):
    """out[t] = x[t] · the table's number for the position of t."""
    low, high = share(load_i64(step + STEP.n_tokens), rank, n_threads)
    for t in range(low, high):
        factor = splat_f32x16(load_f32(table_row(step, table, t, 4)))
        for i in range(t * width * 4, (t + 1) * width * 4, 64):
            store(out + i, load_f32x16(x + i) * factor)


# ---- activations as bytes ----------------------------------------------------------------------------------


@inline
def quantize_block(step, rank, number, x, q, d, sums32, sums16, offsets32, offsets16, width, b):
    """Quantize block b of 32 activations; return their bytes.

    The largest magnitude is found by comparing bits as integers, because a comparison of floats would ignore
    NaN.
    """
    u, v = load_f32x16(x + b * 128), load_f32x16(x + b * 128 + 64)
    bits = reduce_max(maximum(reinterpret(absolute(u), "i32"), reinterpret(absolute(v), "i32")))
    if bits >= i32(INFINITY_BITS):
        report(step, rank, number)
    scale, inverse = scale_and_inverse(float_of_bits(bits))
    store(d + b * 4, scale)
    i, j = rounded(u, inverse), rounded(v, inverse)
    both = concat(narrow_u8(i), narrow_u8(j))
    store(q + b * 32, both)
    s, t = reduce_add(i), reduce_add(j)
    store(sums32 + b * 4, i32(s + t))
    store(offsets32 + b * 4, f32(scale * f32(s + t)))
    token, block = b // (width // 32), b % (width // 32)
    if block // 8 < width // 256:
        place = token * (width // 4) + block // 8 * 64 + block % 8 * 4
        store(sums16 + place, s)
        store(sums16 + place + 32, t)
        store(offsets16 + place, f32(scale * f32(s)))
        store(offsets16 + place + 32, f32(scale * f32(t)))
    return both


@kernel
def quantize(step, rank, n_threads, rows, x, q, d, sums32, sums16, offsets32, offsets16, width, number):
    """Quantize each 32 activations to bytes: d = max|x| / 127, q = round(x / d).

    Args:
        q: int8 (T, width).
        d: float32 (T, width/32).
        sums32, sums16: int32 (T, width/32) and (T, width/16), the sums of q over 32 and 16, for weights that
            are stored with an offset (Σ(w - z)·q = Σw·q - z·Σq). Sums over 16 are only made of whole 256, in
            the order [256][half of 32][32].
        offsets32, offsets16: float32, the same sums times d, for weights with a minimum.
    """
    low, high = share(load_i64(step + rows) * (width // 32), rank, n_threads)
    for b in range(low, high):
        quantize_block(step, rank, number, x, q, d, sums32, sums16, offsets32, offsets16, width, b)


@kernel
def quantize_mixed(
    step, rank, n_threads, rows, x, q, d, sums32, sums16, offsets32, offsets16, mixed, width, number
):
    """`quantize`, and q a second time in the order of `side_by_side`: int8 (T, `families.mixed_bytes`)."""
    low, high = share(load_i64(step + rows) * (width // 32), rank, n_threads)
    for b in range(low, high):
        both = quantize_block(step, rank, number, x, q, d, sums32, sums16, offsets32, offsets16, width, b)
        token, block = b // (width // 32), b % (width // 32)
        slot = block & 7 if IN_FILE_ORDER else ((block & 7) >> 1) + 4 * (block & 1)
        place = mixed + token * mixed_stride(width) + block // 8 * 256 + slot * 8
        store(place, low_half(low_half(both)))
        store(place + 64, high_half(low_half(both)))
        store(place + 128, low_half(high_half(both)))
        store(place + 192, high_half(high_half(both)))


@kernel
def read_all(step, rank, n_threads, data, n_bytes, out):
    """Read n_bytes (a multiple of 256) once, and only add them up, to measure the memory's bandwidth."""
    low, high = share_by(n_bytes, 256, rank, n_threads)
    zero = splat_i32x16(i32(0))
    a, b, c, d = zero, zero, zero, zero
    for i in range(data + low, data + high, 256):
        a, b = a + load_i32x16(i), b + load_i32x16(i + 64)
        c, d = c + load_i32x16(i + 128), d + load_i32x16(i + 192)
    store(out + rank * 64, (a + b) + (c + d))
