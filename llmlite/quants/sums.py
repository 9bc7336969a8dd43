"""Sums of columns in one order on every machine: a choice between two scales can hang on the last bit.

NumPy's einsum adds in vectors as wide as the processor's, and some processors round a product and its sum
together. Here both are NumPy operations of their own on whole rows, so only the order below counts. It is the
one in which einsum adds rows of float32 on x86, so that files stay what they were.

Arrays are columns first, (k, m): m sums of k numbers. Results are (m,).
"""

from __future__ import annotations

import numpy as np

from llmlite.quants.record import Array

LANES, TOGETHER = 4, 16  # sums at a time, and numbers that they take up together


def columns(rows: Array) -> Array:
    """Return rows (m, k) as contiguous columns (k, m)."""
    return np.ascontiguousarray(rows.T)


def dot(a: Array, b: Array) -> Array:
    """Σ a·b. Each of four sums takes every fourth product; of sixteen the last four come first."""
    products = a * b
    sums = np.zeros((LANES, *products.shape[1:]), np.float32)
    whole = len(products) // TOGETHER * TOGETHER
    for first in range(0, whole, TOGETHER):
        for i in range(first + TOGETHER - LANES, first - 1, -LANES):
            sums += products[i : i + LANES]
    return _folded(sums, products[whole:])


def total(a: Array) -> Array:
    """Σ a. Each of four sums takes every fourth number; four of them are added in pairs first."""
    sums = np.zeros((LANES, *a.shape[1:]), np.float32)
    whole = len(a) // TOGETHER * TOGETHER
    for first in range(0, whole, TOGETHER):
        s, t, u, v = (a[i : i + LANES] for i in range(first, first + TOGETHER, LANES))
        sums += (s + t) + (u + v)
    return _folded(sums, a[whole:])


def dot3(a: Array, b: Array, c: Array) -> Array:
    """Σ a·b·c, one after the other."""
    products = a * b
    products *= c
    result = products[0].copy()
    for row in products[1:]:
        result += row
    return result


def _folded(sums: Array, rest: Array) -> Array:
    for i in range(0, len(rest), LANES):
        sums[: len(rest) - i] += rest[i : i + LANES]
    return (sums[0] + sums[1]) + (sums[2] + sums[3])
