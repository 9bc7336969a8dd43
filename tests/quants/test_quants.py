"""Tensor types: what bits mean and how they are made. Oracle: the `gguf` package's quants module."""

from __future__ import annotations

import hashlib
import pickle

import gguf as gguf_py
import numpy as np
import pytest
from gguf import quants as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llmlite import quants
from llmlite.errors import UnsupportedError
from llmlite.quants.record import pack_bits, unpack_bits
from llmlite.quants.tensor import QuantTensor

ALL = list(quants.TYPES.values())
STORED = [t for t in ALL if t.storable]
BLOCKED = [t for t in STORED if t.block_size > 1]
NOT_IN_ORACLE = ("I8", "I16", "I32", "I64", "F64", "Q1_0", "Q2_0")  # the gguf package can't dequantize these
IN_ORACLE = [t for t in STORED if t.name not in NOT_IN_ORACLE]
SAME_BYTES = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0", "MXFP4"]
by_type = pytest.mark.parametrize("kind", STORED, ids=lambda t: t.name)


def oracle_type(kind: quants.QuantType) -> gguf_py.GGMLQuantizationType:
    known = {int(number) for number in gguf_py.GGMLQuantizationType}
    assert kind.id in known, f"the gguf package has no type {kind.id}: add {kind.name!r} to NOT_IN_ORACLE"
    return gguf_py.GGMLQuantizationType(kind.id)


def weights(n_rows: int, n_columns: int, seed: int = 0) -> np.ndarray:
    """Rows like a model's: heavy tails, a scale of its own for each row and column."""
    random = np.random.default_rng(seed)
    scales = np.exp(0.5 * random.standard_normal((n_rows, 1)) + 0.3 * random.standard_normal(n_columns))
    return (0.02 * random.standard_t(5, (n_rows, n_columns)) * scales).astype(np.float32)


def bits(values: np.ndarray) -> np.ndarray:
    """The bits of float32 numbers. NaN is NaN: its sign and payload are the processor's choice."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    return np.where(np.isnan(values), np.float32(np.nan), values).view(np.uint32)


@pytest.mark.parametrize("kind", IN_ORACLE, ids=lambda t: t.name)
def test_any_bytes_dequantize_to_the_same_bits_as_the_gguf_package(kind: quants.QuantType) -> None:
    blocks = np.random.default_rng(kind.id).integers(0, 256, (2000, kind.type_size), dtype=np.uint8)
    blocks[0], blocks[1] = 0, 255  # among random halves there are infinities and NaN too
    with np.errstate(all="ignore"):
        expected = oracle.dequantize(blocks, oracle_type(kind))
    assert np.array_equal(bits(kind.dequantize(blocks)).ravel(), bits(expected).ravel())


@pytest.mark.parametrize("name", SAME_BYTES)
def test_weights_quantize_to_the_same_bytes_as_the_gguf_package(name: str) -> None:
    kind = quants.by_name(name)
    values = weights(64, 1024)
    values[0], values[1] = 0, 1.5
    values[2, 3], values[3, 5], values[4, 7] = np.inf, -np.inf, np.nan
    values[5] *= 1e-30
    values[6] *= 1e5
    with np.errstate(all="ignore"):
        expected = oracle.quantize(values, oracle_type(kind))
    found = QuantTensor.quantize(values, name, allow_nan=True).blocks
    expected = np.ascontiguousarray(expected).view(np.uint8).reshape(found.shape)
    if name == "MXFP4":  # the package casts an infinite exponent to a byte, each processor in its own way
        keep = np.isfinite(values).reshape(len(found), -1).all(axis=1)
        found, expected = found[keep], expected[keep]
    assert np.array_equal(found, expected)


def test_weights_that_are_not_finite_or_tiny_quantize_to_the_same_bytes_on_every_machine() -> None:
    values = weights(8, 256)
    values[0], values[1, 3], values[2, 5], values[3, 7] = 0, np.inf, -np.inf, np.nan
    values[4] *= 1e-37
    values[5] *= 1e-43
    names = [name for name in SAME_BYTES if name not in ("F16", "BF16")]
    found = {name: QuantTensor.quantize(values, name, allow_nan=True).blocks for name in names}
    assert {name: hashlib.sha256(blocks.tobytes()).hexdigest()[:16] for name, blocks in found.items()} == {
        "Q8_0": "06b33cde97d3962e",
        "Q4_0": "69ad9023cbd76f19",
        "Q4_1": "399c05d1192cd166",
        "Q5_0": "49130746fc496485",
        "Q5_1": "651617677fd787a2",
        "TQ1_0": "0a8d4fb09e8c43b4",
        "TQ2_0": "c60f653eb1ab1801",
        "MXFP4": "a286a0b34ee286d3",
    }


def test_sizes_are_those_of_the_gguf_package() -> None:
    for kind in IN_ORACLE:
        assert (kind.block_size, kind.type_size) == gguf_py.GGML_QUANT_SIZES[oracle_type(kind)], kind.name


# Relative RMS error on heavy-tailed weights: figures of this code, rounded up, so that a worse search shows.
WORST = {
    "Q4_0": 0.115, "Q4_1": 0.095, "Q5_0": 0.0578, "Q5_1": 0.046, "Q8_0": 0.00724,
    "Q2_K": 0.351, "Q3_K": 0.187, "Q4_K": 0.0879, "Q5_K": 0.0445, "Q6_K": 0.0228,
    "IQ1_S": 0.541, "IQ1_M": 0.473, "IQ2_XXS": 0.382, "IQ2_XS": 0.323, "IQ2_S": 0.295,
    "IQ3_XXS": 0.198, "IQ3_S": 0.154, "IQ4_NL": 0.0933, "IQ4_XS": 0.0941,
    "TQ1_0": 0.857, "TQ2_0": 0.857, "MXFP4": 0.132, "NVFP4": 0.0947, "Q1_0": 0.709, "Q2_0": 0.74,
}  # fmt: skip


def worst(kind: quants.QuantType) -> float:
    assert kind.name in WORST, f"measure the round trip's error of {kind.name}, and add it to WORST"
    return WORST[kind.name]


# These enlarge the scale of least error on purpose, which adds error (codebook_search.unshrunk says why).
ENLARGED = ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"]


@pytest.mark.parametrize("kind", BLOCKED, ids=lambda t: t.name)
def test_a_round_trip_loses_no_more_than_the_type_must(kind: quants.QuantType) -> None:
    values = weights(64, 1024)
    found = QuantTensor.quantize(values, kind.name).dequantize()
    assert relative_error(found, values) < worst(kind) * (1.05 if kind.name in ENLARGED else 1)
    if kind.name in ENLARGED:  # what the search found, without what enlarging adds
        assert relative_error(best_scaled(found, values), values) < worst(kind)


def relative_error(found: np.ndarray, values: np.ndarray) -> float:
    return float(np.sqrt(((found - values) ** 2).mean() / (values**2).mean()))


def best_scaled(found: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Each block of 256 times the factor that leaves the least error."""
    q, x = found.reshape(-1, 256), values.reshape(-1, 256)
    return (q * ((x * q).sum(axis=1) / (q * q).sum(axis=1))[:, None]).reshape(values.shape)


@pytest.mark.parametrize("name", ENLARGED)
def test_iq_types_hardly_shrink_the_weights(name: str) -> None:
    values = weights(64, 1024)
    found = QuantTensor.quantize(values, name).dequantize()
    shrunk = best_scaled(found, values)
    kept, of_least_error = ((values * q).sum() / (values * values).sum() for q in (found, shrunk))
    assert of_least_error < 0.985  # least squares always falls short
    # at least half of it is undone, and nothing is overdone
    assert (1 + of_least_error) / 2 < kept < 1.005


@pytest.mark.parametrize("kind", BLOCKED, ids=lambda t: t.name)
def test_quantizing_what_was_dequantized_changes_little(kind: quants.QuantType) -> None:
    once = QuantTensor.quantize(weights(16, 512), kind.name).dequantize()
    twice = QuantTensor.quantize(once, kind.name).dequantize()
    assert np.sqrt(((twice - once) ** 2).mean() / (once**2).mean()) < worst(kind) / 2


USE_IMPORTANCE = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
USE_IMPORTANCE += ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"]


@pytest.mark.parametrize("name", USE_IMPORTANCE)
def test_an_importance_matrix_lowers_the_error_it_weighs(name: str) -> None:
    values = weights(64, 1024)
    importance = np.exp(1.5 * np.random.default_rng(3).standard_normal(1024)).astype(np.float32)

    def cost(tensor: QuantTensor) -> float:
        return float((importance * (tensor.dequantize() - values) ** 2).sum())

    blind = cost(QuantTensor.quantize(values, name))
    assert cost(QuantTensor.quantize(values, name, importance=importance)) < 0.97 * blind


@pytest.mark.parametrize("kind", BLOCKED, ids=lambda t: t.name)
def test_zeros_stay_zeros(kind: quants.QuantType) -> None:
    assert not QuantTensor.quantize(np.zeros((2, 512), np.float32), kind.name).dequantize().any()


@by_type
def test_quantizing_any_floats_gives_blocks_and_raises_nothing(kind: quants.QuantType) -> None:
    shape = (3, kind.block_size)
    floats = hnp.arrays(np.float32, shape, elements=st.floats(width=32), fill=st.floats(width=32))

    @settings(max_examples=15, deadline=None, derandomize=True, database=None)
    @given(floats)
    def holds(values: np.ndarray) -> None:
        blocks = kind.quantize(values, np.ones(shape, np.float32))
        assert blocks.shape == (3, kind.type_size)
        assert blocks.dtype == np.uint8
        assert kind.dequantize(blocks).shape == shape

    holds()


def test_an_infinite_weight_spoils_its_own_block_only() -> None:
    values = weights(1, 1024)
    clean = QuantTensor.quantize(values, "Q4_K").dequantize()
    values[0, 300] = np.inf
    spoilt = QuantTensor.quantize(values, "Q4_K", allow_nan=True).dequantize()
    assert np.array_equal(clean[0, :256], spoilt[0, :256])
    assert np.array_equal(clean[0, 512:], spoilt[0, 512:])


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("group", [1, 4, 16, 32])
def test_gather_undoes_spread(width: int, group: int) -> None:
    packed = np.random.default_rng(0).integers(0, 256, (7, 64), dtype=np.uint8)
    codes = unpack_bits(packed, width, group)
    assert codes.shape == (7, 512 // width)
    assert codes.max() == 2**width - 1
    assert np.array_equal(pack_bits(codes, width, group), packed)


def test_a_removed_type_is_refused_by_its_name() -> None:
    with pytest.raises(UnsupportedError, match=r"tensor type 31 \(Q4_0_4_4\) was removed"):
        quants.get(31)
    with pytest.raises(UnsupportedError, match="Q4_2 was removed"):
        quants.by_name("q4_2")


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedError, match="tensor type 99 is unknown; known are 0, 1, 2"):
        quants.get(99)
    with pytest.raises(UnsupportedError, match="unknown tensor type 'Q9_Z'; known are F32, F16"):
        quants.by_name("Q9_Z")


@pytest.mark.parametrize("kind", ALL, ids=lambda t: t.name)
def test_a_record_is_one_object_however_it_is_reached(kind: quants.QuantType) -> None:
    assert quants.get(kind.id) is kind
    assert quants.by_name(kind.name.lower()) is kind
    assert pickle.loads(pickle.dumps(kind)) is kind


def test_activation_types_carry_the_sums_their_products_need() -> None:
    values = weights(1, 1024)
    q8_1 = quants.by_name("Q8_1")
    blocks = q8_1.structured(q8_1.quantize(values.reshape(-1, 32)))
    sums = q8_1.dequantize(blocks.view(np.uint8).reshape(len(blocks), -1)).sum(axis=1)
    np.testing.assert_allclose(blocks["s"].astype(np.float32), sums, rtol=2e-3, atol=1e-4)
    q8_k = quants.by_name("Q8_K")
    blocks = q8_k.structured(q8_k.quantize(values.reshape(-1, 256)))
    assert np.array_equal(blocks["bsums"], blocks["qs"].reshape(-1, 16, 16).sum(axis=2))
