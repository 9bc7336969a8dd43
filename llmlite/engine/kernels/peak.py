"""Arithmetic without memory accesses, to measure the peak rate of the vector units."""

from llmlite.engine.kernels.common import kernel
from llmlite.engine.simd import (
    dot4,
    f32,
    fma,
    i32,
    inline,
    load_f32x16,
    load_u8x64,
    reduce_add,
    splat_f32x16,
    splat_i32x16,
    store,
)  # fmt: skip


def make_peak(load, zero, step_of):
    """Return the kernel in which every thread does `repeats` rounds of twelve `step_of(sum, x, y)`.

    Twelve independent sums are more than the units' latency times their number. x and y are two vectors of
    64 bytes, read by `load`; `zero()` is an empty sum.
    """

    @kernel
    def peak(step, rank, n_threads, numbers, repeats, out):
        x, y = load(numbers), load(numbers + 64)
        a = b = c = d = e = f = g = h = i = j = k = m = zero()
        for _ in range(repeats):
            a, b, c = step_of(a, x, y), step_of(b, x, y), step_of(c, x, y)
            d, e, f = step_of(d, y, x), step_of(e, y, x), step_of(f, y, x)
            g, h, i = step_of(g, x, x), step_of(h, x, x), step_of(i, x, x)
            j, k, m = step_of(j, y, y), step_of(k, y, y), step_of(m, y, y)
        total = ((a + b) + (c + d)) + ((e + f) + (g + h)) + ((i + j) + (k + m))
        store(out + rank * 64, reduce_add(total))

    return peak


@inline
def zero_f32():
    return splat_f32x16(f32(0))


@inline
def zero_i32():
    return splat_i32x16(i32(0))


# multiply-adds of sixteen float32; dot products of 64 bytes by 64 bytes
peak_f32, peak_int8 = make_peak(load_f32x16, zero_f32, fma), make_peak(load_u8x64, zero_i32, dot4)
