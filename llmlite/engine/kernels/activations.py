"""Activations of feed-forward networks, with or without a gate: out = f(x), or f(x) · up.

Both kernels of a kind come from one function of sixteen numbers.
"""

import math

from llmlite.engine.kernels.common import exp, kernel, share_by
from llmlite.engine.simd import (
    absolute,
    choose_above,
    divide,
    f32,
    fma,
    inline,
    load_f32x16,
    load_i64,
    maximum,
    minimum,
    splat_f32x16,
    store,
)  # fmt: skip


@inline
def number(value):
    """Return a constant in every lane."""
    return splat_f32x16(f32(value))


@inline
def of_silu(x):
    """x / (1 + e^-x)."""
    return divide(x, number(1) + exp(number(0) - x))


@inline
def of_gelu(x):
    """x/2 · (1 + tanh u), u = sqrt(2/π) · (x + 0.044715 x³); that is x / (1 + e^-2u)."""
    factor = number(-2 * math.sqrt(2 / math.pi))
    return divide(x, number(1) + exp(factor * fma(number(0.044715) * x * x, x, x)))


@inline
def of_gelu_erf(x):
    """x/2 · (1 + erf(x/sqrt 2)); erf by Abramowitz and Stegun 7.1.26 (error 1.5e-7)."""
    u = absolute(x) * number(math.sqrt(0.5))
    t = divide(number(1), fma(number(0.3275911), u, number(1)))
    p = fma(number(1.061405429), t, number(-1.453152027))
    p = fma(p, t, number(1.421413741))
    p = fma(p, t, number(-0.284496736))
    p = fma(p, t, number(0.254829592)) * t
    upper = p * exp(number(0) - u * u)  # 1 - erf(u)
    half = number(0.5) * x
    return choose_above(x, number(0), fma(number(0) - half, upper, x), half * upper)


@inline
def of_relu2(x):
    """max(x, 0)²."""
    v = maximum(x, number(0))
    return v * v


def make_activation(function):
    """Return the kernel out = function(x)."""

    @kernel
    def activation(step, rank, n_threads, rows, x, out, width):
        low, high = share_by(load_i64(step + rows) * width, 16, rank, n_threads)
        for i in range(low * 4, high * 4, 64):
            store(out + i, function(load_f32x16(x + i)))

    return activation


def make_gated(function):
    """Return the kernel out = function(x) · up."""

    @kernel
    def activation(step, rank, n_threads, rows, x, up, out, width):
        low, high = share_by(load_i64(step + rows) * width, 16, rank, n_threads)
        for i in range(low * 4, high * 4, 64):
            store(out + i, function(load_f32x16(x + i)) * load_f32x16(up + i))

    return activation


silu, silu_mul = make_activation(of_silu), make_gated(of_silu)
gelu, gelu_mul = make_activation(of_gelu), make_gated(of_gelu)
gelu_erf, gelu_erf_mul = make_activation(of_gelu_erf), make_gated(of_gelu_erf)
relu2, relu2_mul = make_activation(of_relu2), make_gated(of_relu2)


@kernel
def swiglu_oai_mul(step, rank, n_threads, rows, x, up, out, width):
    """out = g · sigmoid(1.702 g) · (u + 1), g = min(x, 7), u = up between -7 and 7."""
    low, high = share_by(load_i64(step + rows) * width, 16, rank, n_threads)
    limit = number(7)
    for i in range(low * 4, high * 4, 64):
        g = minimum(load_f32x16(x + i), limit)
        u = maximum(minimum(load_f32x16(up + i), limit), number(0) - limit)
        store(out + i, divide(g, number(1) + exp(number(-1.702) * g)) * (u + number(1)))
