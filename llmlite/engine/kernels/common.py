"""The decorators of kernels, and functions that all kernels use."""

import numba
from numba import types

from llmlite.engine.atomics import atomic_min
from llmlite.engine.contract import STEP
from llmlite.engine.families import mixed_bytes
from llmlite.engine.jit import entry_source, own_parameters
from llmlite.engine.simd import (
    OPTIONS,
    choose_above,
    f32,
    fma,
    i64,
    inline,
    load_f64,
    load_i64,
    maximum,
    minimum,
    reinterpret,
    shift_left,
    splat_f32x16,
)  # fmt: skip

mixed_stride = inline(mixed_bytes)


def kernel(body):
    """Declare a kernel of a plan: `body(step, rank, n_threads, ...)`; the other arguments are in its record.

    The kernel computes piece `rank` of `n_threads`; one thread may run several pieces. A kernel with scratch
    memory takes `worker` next, the thread's own number (`jit.entry_source`).
    """
    compiled = inline(body)
    compiled.llmlite_parameters = [p.name for p in own_parameters(body)]

    def compile_entry():
        scope = {"body": compiled, "load_i64": load_i64, "load_f64": load_f64, "float32": types.float32}
        exec(entry_source(body), scope)
        return _cfunc(types.void(i64, i64, i64, i64), scope["entry"])

    compiled.llmlite_compile = compile_entry
    return compiled


def kernel_of(fields):
    """Declare a kernel of a plan whose body reads its record: `body(step, rank, n_threads, worker, spec)`.

    `spec` is the address of its arguments, one word each, at the offsets `fields` (`contract.offsets`).
    """

    def declare(body):
        compiled = inline(body)
        compiled.llmlite_parameters = list(fields._fields)

        def entry(record, rank, n_threads, worker):
            compiled(load_i64(record), rank, n_threads, worker, record + 8)

        compiled.llmlite_compile = lambda: _cfunc(types.void(i64, i64, i64, i64), entry)
        return compiled

    return declare


def routine(n_arguments, result=types.void):
    """Declare a function of `n_arguments` int64 that other compiled code calls by its address."""

    def declare(body):
        body.llmlite_compile = lambda: _cfunc(result(*[i64] * n_arguments), body)
        return body

    return declare


def _cfunc(signature, function):
    return numba.cfunc(signature, **OPTIONS)(function)


@inline
def share(n, rank, n_threads):
    """Return this piece's part of n things, as a range."""
    return n * rank // n_threads, n * (rank + 1) // n_threads


@inline
def share_by(n, unit, rank, n_threads):
    """Return this piece's part of n things, cut only at multiples of `unit`."""
    low, high = share((n + unit - 1) // unit, rank, n_threads)
    return low * unit, min(high * unit, n)


@inline
def report(step, rank, number):
    """Report that operation `number` met a number that is not finite; the first such operation is kept."""
    atomic_min(load_i64(step + STEP.faults), i64(number))


@inline
def position_of(step, row):
    """Return the position of a row in its sequence."""
    return load_i64(load_i64(step + STEP.positions) + row * 8)


# exp(x) = 2ⁿ·exp(r), n = round(x / ln 2), |r| ≤ ln 2 / 2; the polynomial is the Taylor series to r⁷ (error
# 5e-9), and ln 2 is subtracted in two parts (Cody and Waite), so that n·LN2_HIGH is exact.
MAGIC = 12582912.0  # 1.5 · 2²³: adding it rounds to an integer
LOG2_E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 0.693359375, -2.12194440e-4


@inline
def exp(x):
    """eˣ for sixteen float32 (relative error 2e-7); 0 below -87, finite above 88."""
    x = minimum(maximum(x, splat_f32x16(f32(-87.5))), splat_f32x16(f32(88.0)))
    magic = splat_f32x16(f32(MAGIC))
    shifted = fma(x, splat_f32x16(f32(LOG2_E)), magic)
    n = shifted - magic
    r = fma(n, splat_f32x16(f32(-LN2_HIGH)), x)
    r = fma(n, splat_f32x16(f32(-LN2_LOW)), r)
    p = splat_f32x16(f32(1 / 5040))
    p = fma(p, r, splat_f32x16(f32(1 / 720)))
    p = fma(p, r, splat_f32x16(f32(1 / 120)))
    p = fma(p, r, splat_f32x16(f32(1 / 24)))
    p = fma(p, r, splat_f32x16(f32(1 / 6)))
    p = fma(p, r, splat_f32x16(f32(1 / 2)))
    p = fma(p, r, splat_f32x16(f32(1.0)))
    p = fma(p, r, splat_f32x16(f32(1.0)))
    # the low bits of `shifted` hold n; moved up, they add to p's exponent
    return reinterpret(reinterpret(p, "i32") + shift_left(reinterpret(shifted, "i32"), 23), "f32")


@inline
def exp_or_zero(x):
    """Return `exp`, but exactly 0 below -80, where x means "masked"."""
    e = exp(x)
    return choose_above(x, splat_f32x16(f32(-80.0)), e, splat_f32x16(f32(0.0)))
