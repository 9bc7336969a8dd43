"""Folders whose tensors are laid out otherwise than in GGUF: experts one by one, matrices (columns, rows)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmlite import gguf
from llmlite.description.architectures import EXPERTS, Names, by_class
from llmlite.errors import ModelError, UnsupportedError
from llmlite.huggingface import convert_folder
from llmlite.huggingface.names import renamed
from llmlite.quants import by_name
from llmlite.quants.tensor import PendingTensor, QuantTensor
from tests.support.huggingface_folders import safetensors, tokenizer_of, write_json
from tests.support.tiny_models import TinyModel, tiny_model

D, H, K, F, E, USED, N_CTX = 64, 4, 2, 128, 3, 2, 128
LLAMA_LIKE = {
    "hidden_size": D,
    "intermediate_size": F,
    "num_hidden_layers": 2,
    "num_attention_heads": H,
    "num_key_value_heads": K,
    "max_position_embeddings": N_CTX,
    "rms_norm_eps": 1e-5,
    "num_experts_per_tok": USED,
    "vocab_size": 267,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "MixtralForCausalLM": ("llama", LLAMA_LIKE | {"num_local_experts": E}),
    "Qwen3MoeForCausalLM": (
        "qwen3moe",
        LLAMA_LIKE | {"num_experts": E, "moe_intermediate_size": F, "norm_topk_prob": True},
    ),
    "GPT2LMHeadModel": (
        "gpt2",
        {"n_embd": D, "n_layer": 2, "n_head": H, "n_positions": N_CTX, "n_inner": F, "vocab_size": 267},
    ),
}


def model_of(model_class: str) -> TinyModel:
    name = MODELS[model_class][0]
    if name == "gpt2":
        return tiny_model(name, n_head_kv=H, tied=True)
    return tiny_model(name, n_expert=E, n_expert_used=USED)


def arrays_of(model_class: str, model: TinyModel) -> dict[str, np.ndarray]:
    """The way back of what conversion does."""
    entry, found = by_class(model_class), {}
    names, pairs = entry.class_names.get(model_class, entry.names), entry.rope_pairs
    for name, array in model.arrays.items():
        stem, old = name.split(".")[-2], names.old(name)
        if stem.removesuffix("_exps") in EXPERTS and array.ndim == 3:
            found |= {old.replace("*", str(i)): expert for i, expert in enumerate(array)}
            continue
        if stem in ("attn_q", "attn_k") and pairs == "norm":
            rows = array.reshape(H if stem == "attn_q" else K, -1, 2, D)
            array = np.concatenate([rows[:, :, 0], rows[:, :, 1]], axis=1).reshape(array.shape)
        found[old] = array.T if stem in names.transposed and array.ndim == 2 else array
    return found


def write(folder: Path, model_class: str, arrays: dict[str, np.ndarray], **changes: Any) -> Path:
    folder.mkdir()
    config = {"architectures": [model_class], **MODELS[model_class][1], **changes}
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer_of(model_of(model_class)))
    (folder / "model.safetensors").write_bytes(safetensors(arrays))
    return folder


@pytest.mark.parametrize("model_class", list(MODELS))
@pytest.mark.parametrize("file_type", [None, "F16"])
def test_tensors_come_back_bit_for_bit(model_class: str, file_type: str | None, tmp_path: Path) -> None:
    model = model_of(model_class)
    folder = write(tmp_path / "model", model_class, arrays_of(model_class, model))
    convert_folder(folder, tmp_path / "out.gguf", file_type=file_type)
    got = gguf.read(tmp_path / "out.gguf")
    assert got.tensors.keys() == model.arrays.keys()
    for name, array in model.arrays.items():
        stays = array.ndim == 1 or name.startswith("position_embd") or "gate_inp" in name
        expected = "F32" if stays or file_type is None else "F16"
        assert got.tensors[name].type.name == expected, name
        want = array if expected == "F32" else array.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(got.tensors[name].dequantize(), want, err_msg=name)
    hyperparameters = {k: v for k, v in model.metadata.items() if re.match(r"(llama|qwen3moe|gpt2)\.", k)}
    unread = {"gpt2.attention.head_count_kv", "gpt2.rope.freq_base"}  # of no use to GPT-2
    for key in hyperparameters.keys() - unread:
        assert got.metadata[key] == pytest.approx(hyperparameters[key]), key


def test_gpt2s_causal_masks_are_left_out_and_the_beginning_may_be_missing(tmp_path: Path) -> None:
    model = model_of("GPT2LMHeadModel")
    arrays = {n.removeprefix("transformer."): a for n, a in arrays_of("GPT2LMHeadModel", model).items()}
    arrays["h.0.attn.bias"] = np.tri(8, dtype=np.float32)[None, None]
    convert_folder(write(tmp_path / "model", "GPT2LMHeadModel", arrays), tmp_path / "out.gguf")
    assert gguf.read(tmp_path / "out.gguf").tensors.keys() == model.arrays.keys()


def test_a_mixture_lacking_an_expert_says_which(tmp_path: Path) -> None:
    arrays = arrays_of("MixtralForCausalLM", model_of("MixtralForCausalLM"))
    name = "model.layers.1.block_sparse_moe.experts.1.w3.weight"
    gone = {key: array for key, array in arrays.items() if key != name}
    with pytest.raises(ModelError, match=re.escape(f"{name}: this tensor is missing")):
        convert_folder(write(tmp_path / "a", "MixtralForCausalLM", gone), tmp_path / "out.gguf")
    other = arrays | {name: arrays[name][:-1]}
    with pytest.raises(
        ModelError, match=r"w3\.weight: expected F32 \(128, 64\) like .*, got F32 \(127, 64\)"
    ):
        convert_folder(write(tmp_path / "b", "MixtralForCausalLM", other), tmp_path / "out.gguf")


def test_the_same_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    arrays = arrays_of("GPT2LMHeadModel", model_of("GPT2LMHeadModel"))
    arrays["wte.weight"] = arrays["transformer.wte.weight"]
    with pytest.raises(ModelError, match=r"wte\.weight'?: this tensor is stored twice"):
        convert_folder(write(tmp_path / "model", "GPT2LMHeadModel", arrays), tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("model_class", "changes", "text"),
    [
        ("Qwen3MoeForCausalLM", {"norm_topk_prob": False}, "norm_topk_prob: only true"),
        ("Qwen3MoeForCausalLM", {"decoder_sparse_step": 2}, "only mixtures in every layer"),
        ("Qwen3MoeForCausalLM", {"mlp_only_layers": [0]}, "only mixtures in every layer"),
        ("GPT2LMHeadModel", {"activation_function": "relu"}, "activation_function: 'relu' is not supported"),
        ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx: only false"),
        ("GPT2LMHeadModel", {"scale_attn_weights": False}, "scale_attn_weights: only true"),
    ],
)
def test_what_a_file_cannot_say_is_refused(
    model_class: str, changes: dict[str, Any], text: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "model", model_class, arrays_of(model_class, model_of(model_class)), **changes)
    with pytest.raises(UnsupportedError, match=text):
        convert_folder(folder, tmp_path / "out.gguf")


def test_an_encoders_head_is_left_out_and_not_missed() -> None:
    def made() -> np.ndarray:
        raise AssertionError("a head that is left out was read")

    embedding = QuantTensor.quantize(np.ones((4, 32), np.float32), "F32", "model.embed_tokens.weight")
    head = PendingTensor("lm_head.weight", by_name("F32"), (4, 32), made)
    sources = {tensor.name: tensor for tensor in (embedding, head)}
    for tied in (True, False):
        assert list(renamed("folder", sources, Names(), tied=tied, has_output=False)) == ["token_embd.weight"]
    assert list(renamed("folder", {embedding.name: embedding}, Names(), tied=False, has_output=False))
