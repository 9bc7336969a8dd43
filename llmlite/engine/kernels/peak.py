"""Arithmetic that touches no memory: how many operations a second the vector units can do at most."""

from llmlite.engine.kernels.common import kernel
from llmlite.engine.simd import (
    dot4,
    f32,
    fma,
    i32,
    load_f32x16,
    load_u8x64,
    reduce_add,
    splat_f32x16,
    splat_i32x16,
    store,
)  # fmt: skip

UNROLL = 12  # independent sums: more than the units' latency times their number


@kernel
def peak_f32(step, rank, n_threads, numbers, repeats, out):
    """`repeats` rounds of twelve fused multiply-adds on sixteen float32 each, by every thread."""
    x, y = load_f32x16(numbers), load_f32x16(numbers + 64)
    a = b = c = d = e = f = g = h = i = j = k = m = splat_f32x16(f32(0))
    for _ in range(repeats):
        a, b, c = fma(a, x, y), fma(b, x, y), fma(c, x, y)
        d, e, f = fma(d, y, x), fma(e, y, x), fma(f, y, x)
        g, h, i = fma(g, x, x), fma(h, x, x), fma(i, x, x)
        j, k, m = fma(j, y, y), fma(k, y, y), fma(m, y, y)
    total = ((a + b) + (c + d)) + ((e + f) + (g + h)) + ((i + j) + (k + m))
    store(out + rank * 64, reduce_add(total))


@kernel
def peak_int8(step, rank, n_threads, numbers, repeats, out):
    """`repeats` rounds of twelve dot products of 64 bytes by 64 bytes, by every thread."""
    x, y = load_u8x64(numbers), load_u8x64(numbers + 64)
    a = b = c = d = e = f = g = h = i = j = k = m = splat_i32x16(i32(0))
    for _ in range(repeats):
        a, b, c = dot4(a, x, y), dot4(b, x, y), dot4(c, x, y)
        d, e, f = dot4(d, y, x), dot4(e, y, x), dot4(f, y, x)
        g, h, i = dot4(g, x, x), dot4(h, x, x), dot4(i, x, x)
        j, k, m = dot4(j, y, y), dot4(k, y, y), dot4(m, y, y)
    total = ((a + b) + (c + d)) + ((e + f) + (g + h)) + ((i + j) + (k + m))
    store(out + rank * 64, reduce_add(total))
