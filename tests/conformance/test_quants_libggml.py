"""Every tensor type against libggml: reading bit for bit, writing with no larger error."""

from __future__ import annotations

import numpy as np
import pytest

from llmlite import quants
from tests.conformance.quant_table import KINDS, Row, ask, measure, same_weights

pytestmark = pytest.mark.conformance

SAME_BYTES = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "Q1_0", "Q2_0"]
every_type = pytest.mark.parametrize("name", [kind.name for kind in KINDS])


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    return {row.kind.name: row for row in measure()}


@every_type
def test_any_bytes_dequantize_as_in_libggml(rows: dict[str, Row], name: str) -> None:
    assert rows[name].same_as_libggml


@pytest.mark.parametrize("name", SAME_BYTES)
def test_weights_quantize_to_libggmls_bytes(rows: dict[str, Row], name: str) -> None:
    assert rows[name].same_bytes["none"] == 1


@every_type
def test_the_weighted_error_is_at_most_a_fiftieth_above_libggmls(rows: dict[str, Row], name: str) -> None:
    assert max(rows[name].ratio.values()) <= 1.02


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_sixteen_bit_floats_are_libggmls_both_ways(name: str) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    kind = quants.by_name(name)
    every_code = np.arange(2**16, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    # all signs and exponents with random fractions; NaN keep what payload the compiler leaves them
    bits = np.random.default_rng(0).integers(0, 2**32, (64, 4096), dtype=np.uint32)
    values = bits.view(np.float32)
    values = np.where(np.isnan(values), np.float32(1), values)
    jobs = {"values": values, "read.type": kind.id, "read.blocks": every_code, "write.type": kind.id}
    answers = ask(jobs)
    assert same_weights(kind.dequantize(every_code), answers["read"])
    assert np.array_equal(kind.quantize(values.reshape(-1, 1)), answers["write"])


@pytest.mark.parametrize("name", ["Q8_1", "Q8_K"])
def test_activations_quantize_to_libggmls_bytes(name: str) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    kind = quants.by_name(name)
    values = np.random.default_rng(0).standard_normal((64, 4096)).astype(np.float32)
    values[3] = 0
    found = kind.quantize(values.reshape(-1, kind.block_size))
    expected = ask({"values": values, "write.type": kind.id})["write"]
    assert np.array_equal(found, expected)
