"""The angles by which RoPE rotates queries and keys."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from llmlite import deterministic
from llmlite.description.layers import Rope
from llmlite.errors import ModelError


@dataclass(frozen=True, eq=False)
class RopeTable:
    """The angles of one kind of RoPE.

    Attributes:
        spec: the record that the angles were made from.
        frequencies: float32 (dim/2,), the angle in radians by which one position rotates each pair.
    """

    spec: Rope
    frequencies: np.ndarray

    def angles(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines and sines for `positions` (T,), float32 (T, dim/2) each, times the magnitude."""
        turns = positions[:, None] * self.frequencies.astype(np.float64)
        magnitude = self.spec.magnitude
        cos, sin = deterministic.cos(turns), deterministic.sin(turns)  # NumPy's bits depend on the CPU
        return (cos * magnitude).astype(np.float32), (sin * magnitude).astype(np.float32)


def rope_table(spec: Rope, factors: np.ndarray | None = None) -> RopeTable:
    """Return the angle by which RoPE rotates each pair of elements from one position to the next.

        frequency[i] = scale · base ** (-2i / dim) / factors[i]

    With yarn, high frequencies omit `scale`, low ones include it, and a ramp blends those in between.

    Args:
        spec: the record of the layer's RoPE.
        factors: divisors from the file, float32 (dim/2,), or None.

    Raises:
        ModelError: a factor isn't a positive number, or there are too few.
    """
    n = spec.dim // 2
    if factors is not None and (len(factors) < n or not (np.isfinite(factors) & (factors > 0)).all()):
        raise ModelError.about(f"{spec.factors}.weight", f"expected {n} positive numbers")
    exponents = np.arange(0, spec.dim, 2) / spec.dim
    frequencies = spec.base**-exponents
    if factors is not None:
        frequencies = frequencies / factors[:n]
    scaled = spec.scale * frequencies
    if spec.yarn is not None:
        kept = _yarn_kept(spec) * spec.yarn.mix
        scaled = scaled * (1 - kept) + frequencies * kept
    return RopeTable(spec, scaled.astype(np.float32))


def _yarn_kept(spec: Rope) -> np.ndarray:
    """Return the unscaled share of each frequency: 1 for the high ones, 0 for the low ones."""
    yarn = spec.yarn
    assert yarn is not None

    def pair(turns: float) -> float:  # the pair that makes `turns` turns within the original context
        return spec.dim * math.log(yarn.n_ctx / (turns * 2 * math.pi)) / (2 * math.log(spec.base))

    low, high = pair(yarn.beta_fast), pair(yarn.beta_slow)
    if yarn.rounded:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(0, low), min(spec.dim - 1, high)
    ramp = (np.arange(spec.dim // 2) - low) / max(0.001, high - low)
    return 1 - np.clip(ramp, 0, 1)
