"""Compute the AMX kernel's numbers in NumPy, instruction by instruction of the tile unit."""

from __future__ import annotations

import itertools

import numpy as np

from llmlite.engine import amx
from llmlite.engine.families import FAMILIES
from llmlite.quants.tensor import QuantTensor
from tests.support.tile_unit import TileUnit


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return a·b + c in float32, rounded once.

    The product is exact in float64. The sum there is rounded to odd, guided by its error. So the second
    rounding, to float32, knows the side of a tie on which the exact sum lies.
    """
    p, c = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    s = p + c
    back = s - p
    error = (p - (s - back)) + (c - back)
    even = (s.view(np.int64) & 1) == 0
    toward = np.where((error > 0) == (s > 0), 1, -1)  # one bit away from zero, or towards it
    odd = (s.view(np.int64) + np.where((error != 0) & even, toward, 0)).view(np.float64)
    return odd.astype(np.float32)


def decoded(w: QuantTensor) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return signed quants (rows, width), scales and minimums (rows, width/sub), from the format alone."""
    n, raw = w.shape[0], w.blocks.reshape(-1, w.type.type_size)

    def halves(at: int) -> np.ndarray:
        return raw[:, at : at + 2].copy().view(np.float16).astype(np.float32)

    minimums = None
    if w.type.name == "Q8_0":
        quants, scales = raw[:, 2:].view(np.int8), halves(0)
    elif w.type.name == "Q4_0":
        quants, scales = np.hstack([raw[:, 2:] & 15, raw[:, 2:] >> 4]).astype(np.int8) - 8, halves(0)
    elif w.type.name == "Q4_K":
        chunks = raw[:, 16:].reshape(-1, 4, 1, 32)
        quants = np.concatenate([chunks & 15, chunks >> 4], axis=2).astype(np.int8)
        a, b, c = (raw[:, at : at + 4] for at in (4, 8, 12))
        low, high = (c & 15) | (a >> 6) << 4, (c >> 4) | (b >> 6) << 4
        scales = np.hstack([a & 63, low]).astype(np.float32) * halves(0)
        minimums = (np.hstack([b & 63, high]).astype(np.float32) * halves(2)).reshape(n, -1)
    else:
        low, pairs = raw[:, :128].reshape(-1, 2, 64), raw[:, 128:192].reshape(-1, 2, 1, 32)
        nibbles = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
        upper = pairs >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
        quants = (nibbles | upper << 4).astype(np.int8) - 32
        scales = raw[:, 192:208].view(np.int8).astype(np.float32) * halves(208)
    return quants.reshape(n, -1), scales.reshape(n, -1), minimums


def quantized(x: np.ndarray, sub: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the engine's int8 values (T, width), scales (T, width/32), and d·Σq (T, width/sub)."""
    blocks = x.reshape(len(x), -1, 32)
    largest = np.abs(blocks).max(2, keepdims=True)
    q = np.rint(blocks * (np.float32(127) / largest)).astype(np.int8)
    d = largest / np.float32(127)
    offsets = d * q.reshape(*d.shape[:2], -1, sub).sum(3, dtype=np.float32)
    return q.reshape(x.shape), d[:, :, 0], offsets.reshape(len(x), -1)


def by_tiles(w: QuantTensor, x: np.ndarray) -> np.ndarray:
    """Return the kernel's result, for whole groups of columns and multiples of 16 rows and tokens."""
    sub, (quants, scales, minimums) = FAMILIES[w.type.id].sub, decoded(w)
    q, d, offsets = quantized(x, sub)
    unit, out = TileUnit(), np.zeros((len(x), len(quants)), np.float32)
    unit.ldtilecfg(amx.config(sub))
    for t, r in itertools.product(range(0, len(x), 16), range(0, len(quants), 16)):
        tokens, rows = slice(t, t + 16), slice(r, r + 16)
        sums = np.zeros((8, 16, 16), np.float32)  # (block of a group, token, row)
        for block in range(x.shape[1] // 32):
            total = sums[block % 8]
            for part in range(32 // sub):
                at = block * 32 + part * sub
                number = at // sub
                unit.tilezero(amx.PRODUCTS)
                unit.tileload(amx.TOKENS, q[tokens, at : at + sub].view(np.uint8))
                # four weights of a row side by side, then four of the next row
                packed = quants[rows, at : at + sub].reshape(16, sub // 4, 4).transpose(1, 0, 2)
                unit.tileload(amx.WEIGHTS, np.ascontiguousarray(packed).reshape(sub // 4, 64).view(np.uint8))
                unit.tdpbssd(amx.PRODUCTS, amx.TOKENS, amx.WEIGHTS)
                found = unit.tilestore(amx.PRODUCTS).copy().view(np.int32).astype(np.float32)
                both = scales[None, rows, number] * d[tokens, None, block]
                total = fma(found, both, total)
                if minimums is not None:
                    total = fma(minimums[None, rows, number], -offsets[tokens, None, number], total)
            sums[block % 8] = total
        while len(sums) > 1:
            sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
        out[tokens, rows] = sums[0]
    return out
