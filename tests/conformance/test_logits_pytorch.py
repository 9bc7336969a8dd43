"""Logits against PyTorch: a plain llama (torch_reference.py), and the classes of `transformers`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from llmlite import gguf
from tests.conformance.torch_reference import torch_llama
from tests.support.tiny_models import TinyModel, tiny_model

pytestmark = pytest.mark.conformance
torch = pytest.importorskip("torch", reason="PyTorch is not installed")

HF_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TEXT = "Once upon a time there was a fox called Mirabel who kept a golden key under the old bridge."


def transformers_logits(file: gguf.GGUFFile, ids: list[int]) -> np.ndarray:
    """Logits (T, V) of transformers' own class, loaded with the file's values."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    architecture = file.metadata["general.architecture"]
    m = {key.removeprefix(f"{architecture}."): value for key, value in file.metadata.items()}
    kind = {"llama": "Llama", "qwen2": "Qwen2"}[architecture]
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        hidden_size=m["embedding_length"],
        intermediate_size=m["feed_forward_length"],
        num_hidden_layers=m["block_count"],
        num_attention_heads=m["attention.head_count"],
        num_key_value_heads=m["attention.head_count_kv"],
        max_position_embeddings=m["context_length"],
        rms_norm_eps=m["attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": m["rope.freq_base"]},
        tie_word_embeddings="output.weight" not in file.tensors,
        attn_implementation="eager",
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval().to(torch.float32)
    missing, unexpected = model.load_state_dict(hf_state(file, m, architecture), strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}  # tied
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def hf_state(file: gguf.GGUFFile, m: dict, architecture: str) -> dict:
    state = {}
    for name, tensor in file.tensors.items():
        values = tensor.dequantize()
        if name.startswith("blk."):
            _, layer, part, kind = name.split(".")
            if architecture == "llama" and part in ("attn_q", "attn_k"):
                heads = m["attention.head_count" if part == "attn_q" else "attention.head_count_kv"]
                values = halves_from_pairs(values, heads)
            state[f"model.layers.{layer}.{HF_NAMES[part]}.{kind}"] = torch.from_numpy(values)
        else:
            top = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
            state[f"{top[name.removesuffix('.weight')]}.weight"] = torch.from_numpy(values)
    return state


def halves_from_pairs(w: np.ndarray, n_head: int) -> np.ndarray:
    """Reorder each head's rows from RoPE's adjacent pairs (2i, 2i+1) to its halves (i, i + Dh/2)."""
    pairs = w.reshape(n_head, -1, 2, w.shape[1])  # (heads, Dh/2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(w.shape)


def random_ids(n: int, n_vocab: int = 256) -> list[int]:
    return np.random.default_rng(2).integers(0, n_vocab, n).tolist()


def assert_logits_agree(path: Path, want: np.ndarray, ids: list[int]) -> None:
    got = ll.load(path, kv_dtype="f32", executor="eager").logits(ids)
    print(f"largest difference {np.abs(got - want).max():.2e} of {np.abs(want).max():.1f}")
    np.testing.assert_allclose(got, want, atol=1e-3, rtol=0)


def test_bundled_model_agrees_with_plain_pytorch(tales: Path) -> None:
    ids = ll.load(tales, executor="eager").tokenizer.encode(TEXT) + random_ids(150, 2000)
    assert_logits_agree(tales, torch_llama(gguf.read(tales), ids), ids)


def test_bundled_model_agrees_with_transformers(tales: Path) -> None:
    ids = ll.load(tales, executor="eager").tokenizer.encode(TEXT) + random_ids(150, 2000)
    assert_logits_agree(tales, transformers_logits(gguf.read(tales), ids), ids)


@pytest.mark.parametrize("model", [tiny_model("qwen2"), tiny_model("qwen2", tied=True), tiny_model("llama")])
def test_tiny_model_agrees_with_transformers(model: TinyModel, tmp_path: Path) -> None:
    path, ids = model.write(tmp_path / "tiny.gguf"), random_ids(100)
    assert_logits_agree(path, transformers_logits(gguf.read(path), ids), ids)


def test_greedy_text_equals_pytorch(tales: Path) -> None:
    model = ll.load(tales, kv_dtype="f32", executor="eager")
    generation = model.stream("Once upon a time", max_tokens=40, temperature=0)
    list(generation)
    ids = model.tokenizer.encode("Once upon a time") + generation.ids
    want = torch_llama(gguf.read(tales), ids)[-len(generation.ids) - 1 : -1].argmax(-1)
    np.testing.assert_array_equal(generation.ids, want)
