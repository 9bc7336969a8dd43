"""The names of `model.trace` are those that llama.cpp's graph gives, and what they name is the same.

The graph itself says which names there are: for each family of mixers llama.cpp runs a tiny model and shows
every result that has one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from llmlite.huggingface import convert_folder
from tests.conformance.architecture_models import MODELS
from tests.support.llama_cpp import run_llama_cpp
from tests.support.transformers_models import TinyModel, byte_level_tokenizer, prompt, save

pytestmark = pytest.mark.conformance
N_IDS = 40
FORMS = (
    "llama", "lfm2", "lfm2moe", "mamba2, groups", "mamba", "granitehybrid", "deepseek2, V2 with yarn",
    "deepseek2, V3 in groups", "gemma4, shared keys", "qwen35", "qwen35moe", "qwen3next",
)  # fmt: skip
LEFT_OUT = {  # a name of llama.cpp's -> why no trace has it
    "norm": "a norm before its gains: here both are one operation",
    "v_cont": "a copy of the values in another order",
    "h_nextn": "result_norm under a second name",
    "conv_states_reshaped": "conv_states in another order",
    "conv_state_update": "the place that conv_state_last is written to, before it is",
}
# Axes are in another order: the numbers are the same
PERMUTED = {"conv_input", "new_state", "q_nope_absorbed", "kqv_mla"}
REPEATED = {"q_conv_predelta", "k_conv_predelta"}  # Qwen3-Next's graph repeats key heads for value heads
LOOSE = {"gemma4, shared keys": 3e-2}  # its GELU is a table: docs/measurements/mixers.md


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def stem(name: str) -> str:
    """A name without its layer."""
    head, dash, layer = name.rpartition("-")
    return head if dash and layer.isdigit() else name


@pytest.mark.parametrize("tiny", [tiny for tiny in MODELS if tiny.name in FORMS], ids=lambda tiny: tiny.name)
def test_a_trace_has_every_name_of_llama_cpp_s_graph_and_the_same_numbers(
    tiny: TinyModel, tmp_path: Path
) -> None:
    save(tiny, tmp_path / "model", byte_level_tokenizer("qwen2"))
    path, ids = tmp_path / "model.gguf", prompt(tiny)[:N_IDS]
    convert_folder(tmp_path / "model", path, file_type="F32")
    theirs = run_llama_cpp(path, ids, tmp_path, "all")
    theirs.pop("logits")
    trace = ll.load(path, kv_dtype="f32").trace(ids)
    missing = sorted({stem(name) for name in theirs if name not in trace} - LEFT_OUT.keys())
    assert not missing
    compared = 0
    for name, want in theirs.items():
        if name not in trace:
            continue
        got, kind = trace[name], stem(name)
        if kind in ("kq", "kq_soft_max"):
            want = want[..., :N_IDS]  # its cache has room for more
        if kind in REPEATED and got.size != want.size:
            want = want.reshape(N_IDS, got.shape[1], -1, got.shape[2])[:, :, 0]
        assert got.size == want.size, (name, got.shape, want.shape)
        got, want = got.ravel(), want.ravel()
        if kind in PERMUTED:
            got, want = np.sort(got), np.sort(want)
        shown = np.isfinite(want)  # experts outside the best groups have -inf
        np.testing.assert_array_equal(shown, np.isfinite(got), err_msg=name)
        off = np.abs(got - want)[shown].max() / max(1e-6, np.abs(want[shown]).max())
        assert off <= LOOSE.get(tiny.name, 2e-3), (name, off)
        compared += 1
    assert compared >= 7
    print(f"{tiny.name}: {compared} intermediates agree")


def test_a_name_that_all_architectures_have_is_understood_where_llama_cpp_has_its_own(tmp_path: Path) -> None:
    (tiny,) = (tiny for tiny in MODELS if tiny.name == "lfm2")
    save(tiny, tmp_path / "model", byte_level_tokenizer("qwen2"))
    convert_folder(tmp_path / "model", tmp_path / "model.gguf", file_type="F32")
    trace = ll.load(tmp_path / "model.gguf").trace([1, 2, 3])
    assert "embd" not in trace and trace["embd"] is trace["model.embed_tokens"]
    assert trace["attn_norm-1"] is trace["model.layers.{}.operator_norm-1"]
    with pytest.raises(KeyError, match="no such-1"):
        trace["no such-1"]
