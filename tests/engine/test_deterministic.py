"""The elementary functions against math's, to the last digit; their bits are the same everywhere."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from llmlite import deterministic

RANDOM = np.random.default_rng(1)
ANGLES = np.concatenate(
    [
        RANDOM.uniform(-1e6, 1e6, 3000),
        RANDOM.uniform(-4, 4, 3000),
        np.arange(1, 3000) * (math.pi / 2),
        [0.0, 4e6],
    ]
)
POSITIVE = np.concatenate(
    [
        np.exp(RANDOM.uniform(-700, 700, 3000)),
        RANDOM.uniform(0.5, 2, 3000),
        1 + RANDOM.uniform(-1e-9, 1e-9, 500),
    ]
)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [("exp", RANDOM.uniform(-700, 700, 6000)), ("log", POSITIVE), ("cos", ANGLES), ("sin", ANGLES)],
)
def test_functions_are_within_1e_15_of_math(name: str, inputs: np.ndarray) -> None:
    expected = np.array([getattr(math, name)(x) for x in inputs.tolist()])
    np.testing.assert_allclose(getattr(deterministic, name)(inputs), expected, rtol=1e-15, atol=0)


def test_edges_are_those_of_ieee() -> None:
    np.testing.assert_array_equal(
        deterministic.exp([-np.inf, -746, 0, 710, np.inf, np.nan]), [0, 0, 1, np.inf, np.inf, np.nan]
    )
    assert deterministic.exp(-745.0) == 5e-324
    np.testing.assert_array_equal(
        deterministic.log([0, -1, 1, np.inf, np.nan]), [-np.inf, np.nan, 0, np.inf, np.nan]
    )
    assert deterministic.log(5e-324) == math.log(5e-324)
    assert deterministic.power(0.0, 0.0) == 1 and deterministic.power(0.0, 2.0) == 0


def test_shapes_are_kept_and_chunks_change_no_bit() -> None:
    x = RANDOM.uniform(-5, 5, (3, 7001))
    np.testing.assert_array_equal(deterministic.cos(x)[1, 17:29], deterministic.cos(x[1, 17:29]))
    assert deterministic.exp(x).shape == x.shape and deterministic.exp(1.0).shape == ()


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 1000, 4097])
def test_total_is_the_sum(n: int) -> None:
    x = RANDOM.uniform(-1, 1, (2, n))
    np.testing.assert_allclose(deterministic.total(x), [math.fsum(row) for row in x], rtol=1e-13, atol=1e-15)


def test_an_angle_too_large_is_refused() -> None:
    for bad in (5e6, -np.inf, np.nan):
        with pytest.raises(ValueError, match="angle"):
            deterministic.cos([0.0, bad])


def test_the_bits_are_those_of_every_machine() -> None:
    x = np.arange(-20_000, 20_000) / 64
    found = {
        "exp": deterministic.exp(x),
        "log": deterministic.log(np.abs(x) + 2.0**-9),
        "cos": deterministic.cos(x * 37),
        "sin": deterministic.sin(x * 37),
        "total": deterministic.total(x * x / 3),
    }
    assert {
        name: hashlib.sha256(bits.astype("<f8").tobytes()).hexdigest()[:16] for name, bits in found.items()
    } == BITS


BITS = {
    "exp": "eebbec3cca3312d9",
    "log": "09b64843b27e8fd4",
    "cos": "98af87f0b126699c",
    "sin": "63ed0cc17365a558",
    "total": "938440537dfb5ede",
}
