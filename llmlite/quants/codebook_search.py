"""Choose the codebook entries and scales that minimize the weighted error of a block.

A vector x with costs w, an entry g and a scale s leave the error
    sum w (x - s g)^2  =  sum w x^2 - 2 s A + s^2 B      with A = sum w x g, B = sum w g^2.
For a given s, both sums are one matrix product with the codebook, so the whole codebook is searched, without
approximation by rounding or by lists of neighbours. Only the scale is searched coarsely.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llmlite.deterministic import power
from llmlite.quants.record import Array
from llmlite.quants.sums import columns, dot

CHUNK = 1 << 21  # products (vectors x entries) in memory at once: 8 MB
# The largest weight of a group relative to the codebook's largest value; above 1, it is cut off.
MAGNITUDE_SHARES = (0.78, 0.86, 0.93, 1.0, 1.07, 1.15, 1.25, 1.4, 1.6)
# With three values, the best cut is far lower: most weights are small and are closest to 1.
TERNARY_SHARES = (0.9, 1.1, 1.3, 1.5, 1.75, 2.0, 2.4, 3.0)
TERNARY_UNSHRINK = 0.5  # share of the shrinkage that is undone; see unshrunk
MOST_UNSHRUNK = np.float32(1.5)  # a block that would need a larger factor fits too badly to be enlarged more


class Fit(NamedTuple):
    """The best block found: weight = d / d_per_unit * (2 * scale_code + 1) * entry, with the entry's signs.

    Attributes:
        d: (n,) float16.
        scale_codes: (n, n_groups) uint8.
        indices: (n, 256 / k) uint16.
        sign_bytes: (n, 32) uint8; bit i is set if weight i is negative.
    """

    d: Array
    scale_codes: Array
    indices: Array
    sign_bytes: Array


def fit_blocks(
    values: Array,
    weights: Array | None,
    entries: Array,
    *,
    group: int,
    n_scales: int,
    d_per_unit: int,
    even_signs: bool = False,
    unshrink: float = 1,
) -> Fit:
    """Fit blocks to a codebook of magnitudes whose signs are stored separately.

    Args:
        values: weights, (n, 256) float32.
        weights: the cost of an error in each of them, (n, 256) float32; None: see `_even_handed`.
        entries: the codebook, (n_entries, k).
        group: number of weights that share a scale.
        n_scales: number of scale codes.
        d_per_unit: the block's d, divided by the smallest scale.
        even_signs: whether each eight weights must have an even number of minus signs.
        unshrink: see `unshrunk`.
    """
    weights = _even_handed(values) if weights is None else weights
    magnitudes, sign_bytes = split_signs(values, weights, even_signs)
    search = Search(magnitudes, weights, [entries], group, MAGNITUDE_SHARES)
    return Fit(*fit_entries(search, n_scales, d_per_unit, unshrink), sign_bytes)


def fit_ternary(values: Array, weights: Array | None, books: Sequence[Array], *, group: int) -> Fit:
    """Fit blocks (n, 256) to codebooks whose entries have signs. All vectors of a group use the same book.

    The indices of a book begin where those of the previous book end. `sign_bytes` is empty.
    """
    weights = _even_handed(values) if weights is None else weights
    search = Search(values, weights, books, group, TERNARY_SHARES)
    return Fit(*fit_entries(search, 8, 1, TERNARY_UNSHRINK), np.empty((len(values), 0), np.uint8))


def _even_handed(values: Array) -> Array:
    """Return the costs (n, 256) to use without an importance matrix: those of equal importances."""
    squares = values * values
    return np.sqrt(2 * squares.mean(axis=1, keepdims=True) + squares)


def split_signs(values: Array, weights: Array, even: bool) -> tuple[Array, Array]:
    """Separate the signs: (n, 256) -> values without signs (n, 256), sign bytes (n, 32).

    With `even`, each eight weights get an even number of minus signs: if it is odd, the sign of the weight
    with the lowest cost is changed. Among the magnitudes, this weight is then negative.
    """
    negative = values < 0
    if even:
        eights = negative.reshape(-1, 8)
        cost = (weights * values * values).reshape(-1, 8)
        odd = np.flatnonzero(eights.sum(axis=1) & 1)
        eights[odd, cost[odd].argmin(axis=1)] ^= True
    return np.where(negative, -values, values), np.packbits(negative, axis=1, bitorder="little")


def fit_entries(
    search: Search, n_scales: int, d_per_unit: int, unshrink: float
) -> tuple[Array, Array, Array]:
    """Find d (n,) float16, scale codes (n, n_groups) uint8 and entry indices (n, 256 / k) uint16."""
    n = search.n_blocks
    scales = search.best_scales().reshape(n, -1)  # (n, n_groups)
    unit = scales.max(axis=1, keepdims=True) / np.float32(2 * n_scales - 1)
    for _ in range(2):
        steps = 2 * _scale_codes(scales, unit, n_scales) + 1
        _, along, norm = search.choose((unit * steps).reshape(-1))
        along, norm = along.reshape(n, -1), norm.reshape(n, -1)
        # the best unit for these entries and steps, then each group's own best scale
        total = (steps * steps * norm).sum(axis=1, keepdims=True)
        fitted = (steps * along).sum(axis=1, keepdims=True) / total
        unit = np.where((total > 0) & (fitted > 0), fitted, unit)
        scales = np.where(norm > 0, along / norm, scales)
    d = (unit * np.float32(d_per_unit)).astype(np.float16)
    unit = d.astype(np.float32) / np.float32(d_per_unit)  # the value that will be read back
    steps = 2 * _scale_codes(scales, unit, n_scales) + 1
    indices, _, _ = search.choose((unit * steps).reshape(-1))
    levels = search.levels(indices, steps)
    d = unshrunk(d[:, 0], search.values.reshape(n, -1), levels / np.float32(d_per_unit), unshrink)
    return d, ((steps - 1) / 2).astype(np.uint8), indices.reshape(n, -1)


def unshrunk(d: Array, values: Array, levels: Array, share: float) -> Array:
    """Enlarge d (n,) float16, because the block read back, q = d * levels, is smaller than the values x.

    The scale of least squared error shrinks a block: sum(x q) = (1 - error) sum(x x). With two bits per
    weight, that is a tenth. Every layer's output shrinks equally. This costs a model more divergence than the
    few per cent of error that a larger scale adds.

    share: the part of the shrinkage that is undone. A share of 1 gives the lowest divergence. Types that
    would then have a larger error than with llama.cpp's quantizer use a smaller one.
    """
    x = columns(values)
    energy, kept = dot(x, x), dot(x, columns(levels)) * d.astype(np.float32)
    sound = (kept > 0) & (energy < np.inf)
    factor = np.where(sound, energy / kept, np.float32(1))
    enlarged = power(np.clip(factor, 1, MOST_UNSHRUNK), share).astype(np.float32)
    return (d * enlarged).astype(np.float16)


def _scale_codes(scales: Array, unit: Array, n_scales: int) -> Array:
    """Return the code whose unit * (2 code + 1) is nearest to each scale: whole numbers as float32."""
    ratio = np.where(unit > 0, scales / unit, np.float32(1))
    return np.clip(np.rint((ratio - 1) / 2), 0, n_scales - 1).astype(np.float32)


class Search:
    """The search over all groups of some blocks at once: m groups of v vectors of k values."""

    def __init__(
        self, values: Array, weights: Array, books: Sequence[Array], group: int, shares: Sequence[float]
    ) -> None:
        k = books[0].shape[1]
        self.n_blocks = len(values)
        self.values = values.reshape(-1, group // k, k)  # (m, v, k)
        self.weights = weights.reshape(-1, group // k, k)
        entries = [np.asarray(book, np.float32) for book in books]
        self.books = [np.concatenate([e, e * e], axis=1).T.copy() for e in entries]  # (2 k, n_entries) each
        self.top = max(np.abs(e).max() for e in entries)
        self.shares = shares
        self.per_chunk = max(1, CHUNK // (self.books[0].shape[1] * self.values.shape[1]))

    def best_scales(self) -> Array:
        """Return the scale of each group (m,) with the minimum error, over the candidate shares."""
        best_removed = np.full(len(self.values), -1, np.float32)
        best = np.zeros(len(self.values), np.float32)
        peak = np.abs(self.values).max(axis=(1, 2))
        for share in self.shares:
            _, along, norm = self.choose(peak / np.float32(self.top * share))
            scale = along / norm  # the best for these entries; it removes along^2 / norm of the error
            better = (norm > 0) & (along > 0) & (scale * along > best_removed)
            best_removed = np.where(better, scale * along, best_removed)
            best = np.where(better, scale, best)
        return best

    def levels(self, indices: Array, steps: Array) -> Array:
        """Return entries times the steps of their groups: (m, v), (n, n_groups) -> (n, 256) float32."""
        k = self.values.shape[2]
        entries = np.concatenate([book[:k].T for book in self.books])  # indices continue from book to book
        return (entries[indices] * steps.reshape(-1, 1, 1)).reshape(self.n_blocks, -1)

    def choose(self, scales: Array) -> tuple[Array, Array, Array]:
        """Return the best entries at scales (m,): indices (m, v) uint16, and each group's sums A, B (m,)."""
        m, v, _ = self.values.shape
        indices = np.empty((m, v), np.uint16)
        along, norm = np.empty(m, np.float32), np.empty(m, np.float32)
        for at in range(0, m, self.per_chunk):
            part = slice(at, at + self.per_chunk)
            s = scales[part]
            found = [self._choose_in(book, part, s) for book in self.books]
            indices[part], along[part], norm[part] = found[0]
            offset = self.books[0].shape[1]
            for more in found[1:]:
                # error / s, without its constant
                better = s * more[2] - 2 * more[1] < s * norm[part] - 2 * along[part]
                indices[part] = np.where(better[:, None], more[0] + np.uint16(offset), indices[part])
                along[part] = np.where(better, more[1], along[part])
                norm[part] = np.where(better, more[2], norm[part])
        return indices, along, norm

    def _choose_in(self, book: Array, part: slice, scales: Array) -> tuple[Array, Array, Array]:
        _, v, k = self.values.shape
        weights = self.weights[part]
        linear = weights * self.values[part]  # (c, v, k)
        factors = np.concatenate([-2 * linear, scales[:, None, None] * weights], axis=2).reshape(-1, 2 * k)
        chosen = (factors @ book).argmin(axis=1)  # at scale 0, any entry is right
        entry = book[:, chosen].T.reshape(-1, v, 2 * k)
        along = (linear * entry[:, :, :k]).sum(axis=(1, 2))
        norm = (weights * entry[:, :, k:]).sum(axis=(1, 2))
        return chosen.astype(np.uint16).reshape(-1, v), along, norm
