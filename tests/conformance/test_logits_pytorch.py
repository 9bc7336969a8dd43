"""Logits against PyTorch: a plain llama written out here, and the classes of `transformers`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from llmlite import gguf
from tests.tiny_models import TinyModel, tiny_model

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


def torch_llama(file: gguf.GGUFFile, ids: list[int]) -> np.ndarray:
    """Logits (T, V) of a llama in float32: nothing shared with llmlite but the file's values."""
    m = {key.removeprefix("llama."): value for key, value in file.metadata.items()}
    w = {name: torch.from_numpy(tensor.dequantize()) for name, tensor in file.tensors.items()}
    H, K, T = m["attention.head_count"], m["attention.head_count_kv"], len(ids)
    Dh = m["embedding_length"] // H
    exponents = torch.arange(0, Dh, 2, dtype=torch.float64) / Dh
    angles = torch.outer(torch.arange(T, dtype=torch.float64), m["rope.freq_base"] ** -exponents)
    turn = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)[:, None]  # (T, 1, Dh/2)

    def norm(x, name):
        return torch.nn.functional.rms_norm(x, x.shape[-1:], w[name], m["attention.layer_norm_rms_epsilon"])

    def rope(x):  # (T, heads, Dh): elements 2i and 2i+1 are one complex number
        pairs = torch.view_as_complex(x.reshape(*x.shape[:2], Dh // 2, 2))
        return torch.view_as_real(pairs * turn).reshape(x.shape)

    x = w["token_embd.weight"][ids]  # (T, D)
    for layer in range(m["block_count"]):
        b = f"blk.{layer}."
        h = norm(x, b + "attn_norm.weight")
        q = rope((h @ w[b + "attn_q.weight"].T).reshape(T, H, Dh)).transpose(0, 1)  # (H, T, Dh)
        k = rope((h @ w[b + "attn_k.weight"].T).reshape(T, K, Dh)).transpose(0, 1)
        v = (h @ w[b + "attn_v.weight"].T).reshape(T, K, Dh).transpose(0, 1)
        a = torch.nn.functional.scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=True, enable_gqa=True
        )[0]
        x = x + a.transpose(0, 1).reshape(T, -1) @ w[b + "attn_output.weight"].T
        h = norm(x, b + "ffn_norm.weight")
        h = torch.nn.functional.silu(h @ w[b + "ffn_gate.weight"].T) * (h @ w[b + "ffn_up.weight"].T)
        x = x + h @ w[b + "ffn_down.weight"].T
    output = w.get("output.weight", w["token_embd.weight"])
    return (norm(x, "output_norm.weight") @ output.T).numpy()


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
    generation = model.generate("Once upon a time", max_tokens=40, temperature=0, stream=True)
    list(generation)
    ids = model.tokenizer.encode("Once upon a time") + generation.ids
    want = torch_llama(gguf.read(tales), ids)[-len(generation.ids) - 1 : -1].argmax(-1)
    np.testing.assert_array_equal(generation.ids, want)
