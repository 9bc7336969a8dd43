"""The search for the best scale, over many groups of weights at once.

Every function takes groups as rows: values (m, k) float32, and weights (m, k) float32, the cost of an error
in each value. It loops over candidate scales, never over groups. Levels are whole numbers in float32 until
they are packed. The candidates are those of ggml-quants.c, so the errors are equal.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from llmlite.quants.record import Array
from llmlite.quants.sums import columns, dot, dot3, total
from llmlite.system.locks import fork_safe

TINY = np.float32(1e-15)  # a group this small counts as all zero
_lock = fork_safe(threading.Lock())
_users = 0  # users of the compiled twins, which are called if there are any


@contextmanager
def compiled_searches() -> Iterator[None]:
    """Use the compiled twins (compiled.py), which are several times as fast, within a `with` block.

    Their import, and their compilation if it isn't cached, is worth its time for many millions of weights.
    """
    global _users
    from llmlite.quants import compiled  # noqa: F401 - imported now, not on many threads at once

    with _lock:
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1


def _has_compiled_twin(function: Callable) -> Callable:
    """Call compiled.py's function of this name instead, while compiled searches are enabled."""

    @functools.wraps(function)
    def chosen(*arguments: Any, **options: Any) -> Any:
        if not _users:
            return function(*arguments, **options)
        from llmlite.quants import compiled

        return getattr(compiled, function.__name__)(*arguments, **options)

    return chosen


def largest(values: Array) -> Array:
    """Return the value of largest magnitude in each row, with its sign: (m, k) -> (m, 1)."""
    return np.take_along_axis(values, np.abs(values).argmax(axis=1, keepdims=True), axis=1)


@_has_compiled_twin
def fit_symmetric(values: Array, weights: Array, half: int) -> tuple[Array, Array]:
    """Fit values to scale * (code - half), code in 0..2*half-1, with the least weighted squared error.

    For given levels q, the best scale is sum(w x q) / sum(w q q). It removes sum(w x q)^2 / sum(w q q) from
    the error; the candidate that removes the most wins. Returns scale (m, 1) float32, codes (m, k) uint8.
    """
    peak = largest(values)[:, 0]
    empty = np.abs(peak) < TINY
    x, w = columns(values), columns(weights)  # (k, m): columns contiguous
    weighted = w * x
    best_removed = np.full(peak.shape, -1, np.float32)
    best_inverse, best_scale = np.zeros_like(peak), np.zeros_like(peak)
    for step in (0, *range(-9, 0), *range(1, 10)):  # 0 first: in a tie, the plain choice wins
        inverse = -(np.float32(half) + np.float32(0.1) * np.float32(step)) / peak
        levels = inverse * x
        levels = np.clip(np.rint(levels, out=levels), -half, half - 1, out=levels)
        along, norm = dot(weighted, levels), dot3(w, levels, levels)
        scale = along / norm
        better = (norm > 0) & (scale * along > best_removed)
        np.copyto(best_removed, scale * along, where=better)
        np.copyto(best_inverse, inverse, where=better)
        np.copyto(best_scale, scale, where=better)
    levels = np.clip(np.rint(best_inverse * x), -half, half - 1)
    codes = np.where(empty, 0, levels + half).astype(np.uint8)
    return np.where(empty, np.float32(0), best_scale)[:, None], columns(codes)


@_has_compiled_twin
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
    """Fit values to scale * code + low, code in 0..top, low <= 0, with the least weighted squared error.

    Candidate spacings are (max - low) / (top + start + i * step), i = 0..n_steps, from the best low so far.
    For each, scale and low solve the weighted normal equations. With `absolute`, candidates are compared by
    absolute instead of squared error. Returns scale (m, 1), low (m, 1) float32, codes (m, k) uint8.
    """
    x, w = columns(values), columns(weights)  # (k, m): columns contiguous
    peak, floor = x.max(axis=0), np.minimum(x.min(axis=0), np.float32(0))
    flat = ~(peak > floor)  # also true if a NaN makes every comparison false
    weighted = w * x
    sum_w, sum_x = total(w), total(weighted)
    sum_x2 = dot(weighted, x)

    def codes_for(inverse: Array, floor: Array) -> Array:
        codes = x - floor
        codes *= inverse
        return np.clip(np.rint(codes, out=codes), 0, top, out=codes)

    best_inverse, best_floor = np.float32(top) / (peak - floor), floor
    best_scale, best_low = 1 / best_inverse, floor
    best_error = _residual(x, w, best_scale, floor, codes_for(best_inverse, floor), absolute)
    for i in range(n_steps + 1):
        inverse = np.float32(start + step * i + top) / (peak - best_low)
        codes = codes_for(inverse, best_low)
        weighted_codes = w * codes
        sum_l, sum_xl, sum_l2 = total(weighted_codes), dot(weighted, codes), dot(weighted_codes, codes)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        # the format can only subtract: a positive low becomes 0, and only the scale is fitted
        scale = np.where(low > 0, sum_xl / sum_l2, scale)
        low = np.minimum(low, np.float32(0))
        if absolute:
            off = _residual(x, w, scale, low, codes, absolute)
        else:  # the squared error from the known sums, in double, because its terms nearly cancel
            s, b = scale.astype(np.float64), low.astype(np.float64)
            off = s * (s * sum_l2 + 2 * (b * sum_l - sum_xl)) + b * (b * sum_w - 2 * sum_x) + sum_x2
        better = (determinant > 0) & (off < best_error)
        best_error = np.where(better, off, best_error)
        best_inverse = np.where(better, inverse, best_inverse)
        best_floor = np.where(better, best_low, best_floor)
        best_scale = np.where(better, scale, best_scale)
        best_low = np.where(better, low, best_low)
    codes = np.where(flat, 0, codes_for(best_inverse, best_floor)).astype(np.uint8)
    return np.where(flat, np.float32(0), best_scale)[:, None], best_low[:, None], columns(codes)


def _residual(values: Array, weights: Array, scale: Array, low: Array, codes: Array, absolute: bool) -> Array:
    """Return the weighted sum of squared or absolute errors of scale * code + low: (k, m) -> (m,)."""
    off = scale * codes
    off += low - values
    return dot(weights, np.abs(off) if absolute else off * off)


def fit_positive(values: Array, weights: Array, top: int) -> tuple[Array, Array]:
    """Fit values >= 0 to scale * code, code in 0..top. It quantizes the scales of groups.

    Returns scale (m, 1) float32, codes (m, k) uint8.
    """
    peak = values.max(axis=1, keepdims=True)
    empty = ~(peak >= TINY)
    best_inverse = np.float32(top) / peak
    best_error = None
    for step in (0, -4, -3, -2, -1, 1, 2, 3, 4):
        inverse = (np.float32(0.1) * np.float32(step) + np.float32(top)) / peak
        off = values - np.minimum(np.rint(inverse * values), top) / inverse
        error = dot3(columns(weights), *2 * (columns(off),))[:, None]
        if best_error is None:
            best_error = error
        better = error < best_error
        np.copyto(best_error, error, where=better)
        np.copyto(best_inverse, inverse, where=better)
    levels = np.minimum(np.rint(best_inverse * values), top)
    scale, levels = refine(values, weights, levels, 0, top)
    return np.where(empty, np.float32(0), scale), np.where(empty, 0, levels).astype(np.uint8)


@_has_compiled_twin
def refine(values: Array, weights: Array, levels: Array, low: int, high: int) -> tuple[Array, Array]:
    """Improve levels one column at a time, in at most five rounds: set each to the best, given the others.

    Returns scale (m, 1) float32 and levels (m, k) float32.
    """
    x, w, q = (np.ascontiguousarray(a.T) for a in (values, weights, levels))  # (k, m): columns contiguous
    along = (w * x * q).sum(axis=0)
    norm = (w * q * q).sum(axis=0)
    for _ in range(5):
        changed = False
        for i in range(len(x)):
            wx = w[i] * x[i]
            along_others = along - wx * q[i]
            norm_others = norm - w[i] * q[i] * q[i]
            moved = np.clip(np.rint(x[i] * norm_others / along_others), low, high)
            new_along = along_others + wx * moved
            new_norm = norm_others + w[i] * moved * moved
            better = (along_others > 0) & (norm_others > 0) & (moved != q[i])
            better &= new_along * new_along * norm > along * along * new_norm
            if better.any():
                changed = True
                np.copyto(q[i], moved, where=better)
                np.copyto(along, new_along, where=better)
                np.copyto(norm, new_norm, where=better)
        if not changed:
            break
    scale = np.where(norm > 0, along / norm, np.float32(0))
    return scale[:, None], np.ascontiguousarray(q.T)
