"""Quantized bytes are the same on every processor: x86 with any vectors, and ARM (`make arm-test`)."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from llmlite.quants import sums
from llmlite.quants.tensor import QuantTensor

# type -> the first digits of the hash of its blocks: without and with importance
HASHES = {
    "Q4_0": ("2b7c26ac", "d68818df"),
    "Q4_1": ("9bec150e", "23a6194b"),
    "Q5_0": ("87f9ef9f", "61c497ab"),
    "Q5_1": ("326bcc56", "90a658a4"),
    "Q8_0": ("e1ec2bcd", "e1ec2bcd"),
    "Q2_K": ("18132b69", "ac1e48ab"),
    "Q3_K": ("a9917d9b", "9b5ca24c"),
    "Q4_K": ("3115f926", "2f0d514f"),
    "Q5_K": ("ff64452c", "03d9cc24"),
    "Q6_K": ("5fadbbc9", "083180e5"),
    "IQ4_NL": ("2470ce98", "3e2a47c0"),
    "IQ4_XS": ("ed962c93", "b6b62a18"),
    "IQ2_XXS": ("67a0f870", "0a564e03"),
    "IQ2_XS": ("7e8e2689", "936aaf99"),
    "IQ3_XXS": ("297e7863", "2e1ce101"),
    "IQ3_S": ("091d06d3", "31ce3ec2"),
    "IQ2_S": ("62785081", "174a81c4"),
    "IQ1_M": ("f7d213c1", "b4210de2"),
    "MXFP4": ("b4c91ee2", "b4c91ee2"),
}


def whole_numbers(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A bell curve of float32 made from integers alone: the same on every machine."""
    return np.random.default_rng(seed).integers(-999, 1000, (4, *shape)).sum(axis=0).astype(np.float32)


@pytest.mark.parametrize("name", HASHES)
def test_every_machine_writes_the_stored_bytes(name: str) -> None:
    n_rows = 4 if name.startswith(("IQ1", "IQ2", "IQ3")) else 64
    values, importance = whole_numbers((n_rows, 1024), 1), np.abs(whole_numbers((1024,), 2))
    blocks = [QuantTensor.quantize(values, name, importance=w).blocks for w in (None, importance)]
    found = [hashlib.sha256(b.tobytes()).hexdigest() for b in blocks]
    for want, digits in zip(HASHES[name], found):
        assert digits.startswith(want)


@pytest.mark.parametrize("k", [4, 8, 12, 16, 20, 32, 256])
def test_sums_are_those_of_doubles_but_for_rounding(k: int) -> None:
    a, b, c = (whole_numbers((k, 50), seed) / np.float32(1000) for seed in (1, 2, 3))
    for found, terms in ((sums.total(a), a), (sums.dot(a, b), a * b), (sums.dot3(a, b, c), a * b * c)):
        np.testing.assert_allclose(
            found, terms.sum(axis=0, dtype=np.float64), atol=1e-6 * np.abs(terms).sum(axis=0).max()
        )


def test_the_order_of_a_sum_is_the_one_that_is_written_down() -> None:
    big = np.float32(2**24)  # one added to it is lost, two are not
    column = np.ones((16, 1), np.float32)
    column[12] = big  # sum 0 begins with it, so three ones are lost one by one
    assert sums.dot(column, np.ones_like(column))[0] == big + 12
    assert sums.dot3(column, np.ones_like(column), np.ones_like(column))[0] == big + 12
    column[12], column[0] = 1, big  # comes last in sum 0, after three ones have been added
    assert sums.dot(column, np.ones_like(column))[0] == big + 16
    assert sums.dot3(column, np.ones_like(column), np.ones_like(column))[0] == big
