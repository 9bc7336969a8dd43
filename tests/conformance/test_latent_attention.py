"""Latent attention beyond F32 files of today: the older form, quantized files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from llmlite import gguf
from llmlite.errors import ModelError, UnsupportedError
from llmlite.huggingface import convert_folder
from llmlite.quants.tensor import QuantTensor
from tests.conformance.architecture_models import LATENT, LATENT_YARN, MODELS
from tests.support.llama_cpp import run_llama_cpp
from tests.support.transformers_models import TinyModel, byte_level_tokenizer, prompt, save

pytestmark = pytest.mark.conformance
NAMES = ("deepseek2, V2 with yarn", "deepseek2, V3")
BY_NAME = {tiny.name: tiny for tiny in MODELS}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latent")
    save(BY_NAME[request.param], folder, byte_level_tokenizer("qwen2"))
    return folder


def without_split(source: Path, target: Path) -> None:
    """Write the file in its older form: one matrix for the keys and values of all heads."""
    with gguf.read(source) as model:
        metadata, tensors = dict(model.metadata), {}
        for name, tensor in model.tensors.items():
            if name.endswith("attn_v_b.weight"):
                continue
            if not name.endswith("attn_k_b.weight"):
                tensors[name] = tensor
                continue
            values = model.tensors[name.replace("attn_k_b", "attn_v_b")].dequantize()
            both = np.concatenate([tensor.dequantize().swapaxes(1, 2), values], axis=1)
            new = name.replace("attn_k_b", "attn_kv_b")
            tensors[new] = QuantTensor.quantize(both.reshape(-1, both.shape[-1]), "F32", new)
        for name in ("key_length", "value_length"):
            metadata[f"deepseek2.attention.{name}"] = metadata.pop(f"deepseek2.attention.{name}_mla")
        metadata["deepseek2.attention.head_count_kv"] = metadata["deepseek2.attention.head_count"]
        gguf.write(target, metadata, tensors)


def test_the_older_form_of_a_file_gives_the_same_logits(folder: Path, tmp_path: Path) -> None:
    """One matrix of keys and values, in both executors and llama.cpp, against the two of today."""
    new, old, ids = tmp_path / "new.gguf", tmp_path / "old.gguf", prompt(MODELS[0])
    convert_folder(folder, new, file_type="F32")
    without_split(new, old)
    want = ll.load(new, kv_dtype="f32", executor="eager").logits(ids)
    for executor in ("eager", "planned"):
        got = ll.load(old, kv_dtype="f32", executor=executor).logits(ids)
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max(), executor
    got = run_llama_cpp(old, ids, tmp_path)["logits"]
    assert np.abs(got - want).max() <= 1e-3 * np.abs(want).max()


@pytest.mark.parametrize("file_type", ["Q8_0", "F16", "BF16"])
def test_quantized_files_give_what_their_own_weights_say(
    folder: Path, file_type: str, tmp_path: Path
) -> None:
    """The same weights as F32, in the eager executor, say what is right."""
    path, plain, ids = tmp_path / "model.gguf", tmp_path / "plain.gguf", prompt(MODELS[0])
    convert_folder(folder, path, file_type=file_type)
    with gguf.read(path) as model:
        same = {
            name: QuantTensor.quantize(tensor.dequantize(), "F32", name)
            for name, tensor in model.tensors.items()
        }
        gguf.write(plain, dict(model.metadata), same)
    want = ll.load(plain, kv_dtype="f32", executor="eager").logits(ids)
    got = ll.load(path, kv_dtype="f32", executor="eager").logits(ids)
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    planned = ll.load(path, kv_dtype="f32", executor="planned").logits(ids)
    off = np.abs(planned - want).max(1) / np.abs(want).max()
    if file_type == "Q8_0":  # its kernels round activations to 8 bits: a token may choose another expert
        assert np.median(off) <= 0.05
    else:
        assert off.max() <= 1e-4


REFUSED = [
    ({"norm_topk_prob": True}, "DeepseekV2ForCausalLM", "norm_topk_prob: only false"),
    (
        {"rope_parameters": LATENT_YARN | {"mscale": 1.0}},
        "DeepseekV2ForCausalLM",
        "mscale: only mscale_all_dim",
    ),
    ({"attention_bias": True}, "DeepseekV3ForCausalLM", "attention_bias: only false"),
]


@pytest.mark.parametrize(("options", "model_class", "message"), REFUSED)
def test_what_a_file_can_t_say_is_refused_by_name(
    options: dict, model_class: str, message: str, tmp_path: Path
) -> None:
    tiny = TinyModel(name="refused", model_class=model_class, options=LATENT | {"q_lora_rank": 32} | options)
    save(tiny, tmp_path / "model", byte_level_tokenizer("qwen2"))
    with pytest.raises(UnsupportedError, match=message):
        convert_folder(tmp_path / "model", tmp_path / "model.gguf", file_type="F32")
    assert not (tmp_path / "model.gguf").exists()


GROUPS = [  # keys of a file with 6 experts, of which a token uses 3
    ({"expert_group_count": 4, "expert_group_used_count": 1}, "a divisor of expert_count, 6"),
    ({"expert_group_count": 6, "expert_group_used_count": 1}, "a divisor of expert_count, 6, below it"),
    ({"expert_group_count": 3, "expert_group_used_count": 1}, "groups with at least 3 experts"),
    ({"expert_group_count": 3, "expert_group_used_count": 4}, "expected 1 to 3"),
    ({"expert_group_count": 3}, "expert_group_used_count"),
    ({"expert_group_count": 1000}, "expected 0 to 32"),
]


@pytest.mark.parametrize(("keys", "message"), GROUPS)
def test_impossible_groups_of_experts_are_refused(
    keys: dict, message: str, folder: Path, tmp_path: Path
) -> None:
    convert_folder(folder, tmp_path / "model.gguf", file_type="F32")
    with gguf.read(tmp_path / "model.gguf") as model:
        metadata = dict(model.metadata) | {f"deepseek2.{key}": value for key, value in keys.items()}
        gguf.write(tmp_path / "groups.gguf", metadata, dict(model.tensors))
    with pytest.raises(ModelError, match=message):
        ll.load(tmp_path / "groups.gguf")
