"""The searches of search.py, compiled by numba: one group after another, for models with many weights.

Each function is the twin of the function with the same name there, and tests compare them. A twin adds in
another order. So if the costs of two candidates differ only in the last bits, another one may win; the error
is then the same.

numba keeps the machine code in its cache, so only the first process compiles, for a few seconds. If no cache
can be written, each process compiles. Like NumPy's loops, these functions release Python's lock.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from llmlite.quants.record import Array

# Sums may be reordered, as vectorizing requires; NaN and infinity are preserved.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
TINY = np.float32(1e-15)
F32 = np.float32


def compiled(function: Callable) -> Any:
    """Compile a function on its first call, and cache it on disk if possible."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": FASTMATH}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache can be written
        return numba.njit(**options)(function)


def inlined(function: Callable) -> Any:
    """Compile a function into its callers, with their options of arithmetic."""
    return numba.njit(inline="always")(function)


@functools.cache
def _fit_symmetric(k: int) -> Any:
    """Return the loop over groups of `k`, which is a constant, so the compiler unrolls and vectorizes."""

    @compiled
    def loop(values, weights, half, scales, codes):
        low, high = F32(-half), F32(half - 1)
        weighted = np.empty(k, np.float32)
        for g in range(len(values)):
            x, w = values[g], weights[g]
            peak, size = x[0], abs(x[0])
            for i in range(k):
                weighted[i] = w[i] * x[i]
                if abs(x[i]) > size:
                    peak, size = x[i], abs(x[i])
            if size < TINY:
                scales[g] = F32(0)
                codes[g, :] = 0
                continue
            best_removed, best_inverse, best_scale = F32(-1), F32(0), F32(0)
            for n in range(19):
                step = 0 if n == 0 else n - 10 if n < 10 else n - 9  # 0, -9 … -1, 1 … 9
                inverse = -(F32(half) + F32(0.1) * F32(step)) / peak
                along, norm = F32(0), F32(0)
                for i in range(k):
                    level = min(max(np.rint(inverse * x[i]), low), high)
                    along += weighted[i] * level
                    norm += w[i] * level * level
                # compared by products, because a division takes as long as the rest of a candidate
                if norm > 0 and along * along > best_removed * norm:
                    best_scale = along / norm
                    best_removed, best_inverse = best_scale * along, inverse
            scales[g] = best_scale
            for i in range(k):
                level = min(max(np.rint(best_inverse * x[i]), low), high)
                codes[g, i] = np.uint8(level + F32(half))

    return loop


@inlined
def _code(x, low, inverse, top):
    return min(max(np.rint((x - low) * inverse), F32(0)), top)


@inlined
def _affine_error(k, x, w, inverse, floor, top, scale, low, absolute):
    """Return the error of x coded by `inverse` and `floor`, and read back by `scale` and `low`."""
    total = F32(0)
    for i in range(k):
        off = scale * _code(x[i], floor, inverse, top) + (low - x[i])
        total += w[i] * (abs(off) if absolute else off * off)
    return np.float64(total)


@inlined
def _affine_sums(k, x, w, inverse, low, top):
    """Return the sums of w l, w x l and w l l; l are the codes."""
    sum_l, sum_xl, sum_l2 = F32(0), F32(0), F32(0)
    for i in range(k):
        level = _code(x[i], low, inverse, top)
        weighted = w[i] * level
        sum_l += weighted
        sum_xl += weighted * x[i]
        sum_l2 += weighted * level
    return sum_l, sum_xl, sum_l2


@functools.cache
def _fit_affine(k: int) -> Any:
    """Return the loop over groups of `k`, which is a constant, so the compiler unrolls and vectorizes."""

    @compiled
    def loop(values, weights, top, start, step, n_steps, absolute, scales, lows, codes):
        limit, zero = F32(top), F32(0)
        for g in range(len(values)):
            x, w = values[g], weights[g]
            peak, floor = x[0], zero
            sum_w, sum_x, sum_x2 = zero, zero, zero
            for i in range(k):
                peak, floor = max(peak, x[i]), min(floor, x[i])
                sum_w += w[i]
                sum_x += w[i] * x[i]
                sum_x2 += w[i] * x[i] * x[i]
            if not peak > floor or np.isnan(sum_x):
                scales[g], lows[g] = zero, floor
                codes[g, :] = 0
                continue
            best_inverse, best_floor = limit / (peak - floor), floor
            best_scale, best_low = F32(1) / best_inverse, floor
            best_error = _affine_error(k, x, w, best_inverse, floor, limit, best_scale, floor, absolute)
            for n in range(n_steps + 1):
                inverse = F32(start + step * n + top) / (peak - best_low)
                sum_l, sum_xl, sum_l2 = _affine_sums(k, x, w, inverse, best_low, limit)
                determinant = sum_w * sum_l2 - sum_l * sum_l
                if not determinant > 0:
                    continue
                reciprocal = F32(1) / determinant
                scale = (sum_w * sum_xl - sum_x * sum_l) * reciprocal
                low = (sum_l2 * sum_x - sum_l * sum_xl) * reciprocal
                if low > 0:  # the format can only subtract: low becomes 0, and only the scale is fitted
                    scale, low = sum_xl / sum_l2, zero
                if absolute:
                    error = _affine_error(k, x, w, inverse, best_low, limit, scale, low, True)
                else:  # from the known sums, in double, because its terms nearly cancel
                    s, b = np.float64(scale), np.float64(low)
                    error = s * (s * sum_l2 + 2 * (b * sum_l - sum_xl)) + b * (b * sum_w - 2 * sum_x)
                    error += sum_x2
                if error < best_error:
                    best_error, best_inverse, best_floor = error, inverse, best_low
                    best_scale, best_low = scale, low
            scales[g], lows[g] = best_scale, best_low
            for i in range(k):
                codes[g, i] = np.uint8(_code(x[i], best_floor, best_inverse, limit))

    return loop


@functools.cache
def _refine(k: int) -> Any:
    """Return the loop over groups of `k`, which is a constant, so the compiler unrolls and vectorizes."""

    @compiled
    def loop(values, weights, levels, low, high, scales):
        m = len(values)
        for g in range(m):
            x, w, q = values[g], weights[g], levels[g]
            along, norm = F32(0), F32(0)
            for i in range(k):
                along += w[i] * x[i] * q[i]
                norm += w[i] * q[i] * q[i]
            for _ in range(5):
                changed = False
                for i in range(k):
                    wx = w[i] * x[i]
                    along_others = along - wx * q[i]
                    norm_others = norm - w[i] * q[i] * q[i]
                    if not (along_others > 0 and norm_others > 0):
                        continue
                    moved = min(max(np.rint(x[i] * norm_others / along_others), low), high)
                    new_along = along_others + wx * moved
                    new_norm = norm_others + w[i] * moved * moved
                    if moved != q[i] and new_along * new_along * norm > along * along * new_norm:
                        q[i], along, norm, changed = moved, new_along, new_norm, True
                if not changed:
                    break
            scales[g] = along / norm if norm > 0 else F32(0)

    return loop


def refine(values: Array, weights: Array, levels: Array, low: int, high: int) -> tuple[Array, Array]:
    """Do the same as search.refine."""
    found = np.array(levels, np.float32, order="C")  # a copy: it is improved in place
    scales = np.empty(len(values), np.float32)
    _refine(values.shape[1])(_contiguous(values), _contiguous(weights), found, F32(low), F32(high), scales)
    return scales[:, None], found


def fit_symmetric(values: Array, weights: Array, half: int) -> tuple[Array, Array]:
    """Do the same as search.fit_symmetric."""
    m, k = values.shape
    scales, codes = np.empty(m, np.float32), np.empty((m, k), np.uint8)
    _fit_symmetric(k)(_contiguous(values), _contiguous(weights), half, scales, codes)
    return scales[:, None], codes


def fit_affine(
    values: Array,
    weights: Array,
    top: int,
    *,
    start: float = -0.9,
    step: float = 0.05,
    n_steps: int = 36,
    absolute: bool = False,
) -> tuple[Array, Array, Array]:
    """Do the same as search.fit_affine."""
    m, k = values.shape
    scales, lows, codes = np.empty(m, np.float32), np.empty(m, np.float32), np.empty((m, k), np.uint8)
    options = (top, start, step, n_steps, absolute)
    _fit_affine(k)(_contiguous(values), _contiguous(weights), *options, scales, lows, codes)
    return scales[:, None], lows[:, None], codes


def _contiguous(array: Array) -> Array:
    return np.ascontiguousarray(array, dtype=np.float32)
