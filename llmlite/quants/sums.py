"""Sums of columns in the same order on every machine. Their last bit can decide between two scales.

NumPy's einsum adds in vectors of the processor's width, and some processors round a product and its sum
together. Here both are separate NumPy operations on whole rows, so only the order below counts. It is the
order in which einsum adds rows of float32 on x86, which keeps the files that were made with einsum the same.

The first axis of an array counts columns: (k, m) gives m sums of k numbers. Results are (m,).
"""

from __future__ import annotations

import numpy as np

from llmlite.quants.record import Array

LANES, TOGETHER = 4, 16  # parallel sums, and the numbers that one round adds to them


def columns(rows: Array) -> Array:
    """Return rows (m, k) as contiguous columns (k, m)."""
    return np.ascontiguousarray(rows.T)


def dot(a: Array, b: Array) -> Array:
    """Return Σ a·b. Each of four sums adds every fourth product; of sixteen, the last four come first."""
    products = a * b
    sums = np.zeros((LANES, *products.shape[1:]), np.float32)
    whole = len(products) // TOGETHER * TOGETHER
    for first in range(0, whole, TOGETHER):
        for i in range(first + TOGETHER - LANES, first - 1, -LANES):
            sums += products[i : i + LANES]
    return _folded(sums, products[whole:])


def total(a: Array) -> Array:
    """Return Σ a. Each of four sums adds every fourth number; four numbers are first added in pairs."""
    sums = np.zeros((LANES, *a.shape[1:]), np.float32)
    whole = len(a) // TOGETHER * TOGETHER
    for first in range(0, whole, TOGETHER):
        s, t, u, v = (a[i : i + LANES] for i in range(first, first + TOGETHER, LANES))
        sums += (s + t) + (u + v)
    return _folded(sums, a[whole:])


def dot3(a: Array, b: Array, c: Array) -> Array:
    """Return Σ a·b·c, added one after another."""
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
