"""The planned executor's rounding against llama.cpp's, in the same file: divergence from float32 by type.

Both round activations to 8 bits, ours 32 to a scale for every type, llama.cpp 256 for K and IQ types.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmlite import resources
from llmlite.model import load
from llmlite.quantize import quantize_file
from tests.support.llama_cpp import log_softmax, run_llama_cpp

pytestmark = [pytest.mark.conformance, pytest.mark.slow]
TYPES = ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS",
         "Q3_K_M", "Q2_K"]  # fmt: skip
N_TOKENS = 500
MOST = 1.05
NEGLIGIBLE = 2e-4  # nats: below, the rounding of either is chance


@pytest.fixture(scope="module")
def ids(tales: Path) -> list[int]:
    text = resources.data_path("tales-eval.txt").read_text(encoding="utf-8")[: 8 * N_TOKENS]
    return load(tales, executor="eager").tokenizer.encode(text, add_special=False)[:N_TOKENS]


@pytest.fixture(scope="module")
def exact(tales: Path, ids: list[int]) -> np.ndarray:
    """Log-probabilities of the model before it was quantized, in float32."""
    return log_softmax(load(tales, kv_dtype="f32", executor="eager").logits(ids))


@pytest.fixture(scope="module")
def tales() -> Path:
    return resources.model_path("tales")


def divergence(exact: np.ndarray, logits: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence from `exact`, in nats."""
    return float((np.exp(exact) * (exact - log_softmax(logits))).sum(-1).mean())


@pytest.mark.parametrize("name", TYPES)
def test_the_planned_executor_diverges_no_more_than_llama_cpp(
    name: str, tales: Path, ids: list[int], exact: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "tales.gguf"
    quantize_file(tales, path, name)
    ours = divergence(exact, load(path, kv_dtype="f32", executor="planned").logits(ids))
    theirs = divergence(exact, run_llama_cpp(path, ids, tmp_path)["logits"])
    print(f"| {name} | {ours:.2e} | {theirs:.2e} | {ours / theirs:.3f} |")
    assert ours <= max(MOST * theirs, NEGLIGIBLE)
