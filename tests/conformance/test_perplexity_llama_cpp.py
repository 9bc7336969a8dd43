"""Perplexity with llama.cpp's logits and with ours; what an importance matrix gains on the bundled model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from llmlite import resources
from llmlite.bench.imatrix import collect
from llmlite.bench.quality import perplexity
from llmlite.quantize import quantize_file
from tests.conformance.imatrix_table import gains
from tests.support.llama_cpp import run_llama_cpp

pytestmark = pytest.mark.conformance
N_CTX = 256


def text() -> str:
    return resources.data_path("tales-eval.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("type_name", "share"),  # of the standard error that may lie between the two
    [("F16", 0.01), ("Q8_0", 0.05), ("Q4_K_M", 0.1)],
)
def test_perplexity_equals_that_of_llama_cpp(
    type_name: str, share: float, tales: Path, tmp_path: Path
) -> None:
    path = tales
    if type_name != "F16":
        path = tmp_path / "tales.gguf"
        quantize_file(tales, path, type_name)
    model = ll.load(path)
    ids = model.tokenizer.encode(text(), add_special=False)[: 5 * N_CTX]
    bos_id = model.tokenizer.bos_id if model.tokenizer.add_bos else None
    ours = perplexity(model.logits, ids, n_ctx=N_CTX, bos_id=bos_id)
    theirs = perplexity(
        lambda chunk: run_llama_cpp(path, chunk, tmp_path)["logits"], ids, n_ctx=N_CTX, bos_id=bos_id
    )
    print(f"{type_name}: ours {ours.value:.5f}, llama.cpp {theirs.value:.5f} ± {theirs.standard_error:.5f}")
    assert ours.n_tokens == theirs.n_tokens == 5 * (N_CTX // 2 - 1)
    assert abs(ours.value - theirs.value) < share * theirs.standard_error


def test_the_importance_matrix_is_that_of_llama_cpps_activations(tales: Path, tmp_path: Path) -> None:
    model = ll.load(tales, kv_dtype="f32", executor="eager")
    ids = model.tokenizer.encode(text(), add_special=False)[:N_CTX]
    found = collect(model, ids, n_ctx=N_CTX).means()
    theirs = run_llama_cpp(tales, ids, tmp_path)
    last = model.config.n_layer - 1
    for weight, activation in {
        "blk.0.attn_q.weight": "attn_norm-0",
        "blk.0.attn_output.weight": "kqv_out-0",
        "blk.1.ffn_up.weight": "ffn_norm-1",
        f"blk.{last}.ffn_down.weight": f"ffn_swiglu-{last}",
    }.items():
        want = np.mean(theirs[activation].reshape(N_CTX, -1).astype(np.float64) ** 2, axis=0)
        np.testing.assert_allclose(found[weight], want, rtol=2e-2, atol=1e-3 * want.mean(), err_msg=weight)


def test_an_importance_matrix_lessens_the_loss_of_low_bit_types(tales: Path, tmp_path: Path) -> None:
    rows = list(gains(tales, tmp_path, ("Q2_K", "Q3_K_S", "Q3_K_M"), n_chunks=40))
    for row in rows:
        print(f"{row.file_type}: KL {row.without:.5f} without, {row.with_imatrix:.5f} with")
        assert row.n_bytes_with == row.n_bytes_without  # the same types: what differs is the choice of blocks
    ratios = [row.with_imatrix / row.without for row in rows]
    assert max(ratios) < 1.0  # each gains
    assert math.prod(ratios) ** (1 / len(ratios)) < 0.94
