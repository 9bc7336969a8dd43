"""LoRA adapters: what they compute is what merged weights compute, and a misfit is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite import gguf
from llmlite.description.lora import listed
from llmlite.errors import LlmliteError, ModelError, UnsupportedError
from tests.support.adapters import BASES, random_pairs, write_adapter
from tests.support.tiny_models import TinyModel, tiny_model

IDS = np.random.default_rng(5).integers(0, 200, 70).tolist()
BOTH = pytest.mark.parametrize("executor", ["eager", "planned"])


def merged(base: TinyModel, pairs: dict[str, np.ndarray], factor: float) -> TinyModel:
    """The model with W + factor · B A for every pair: what the adapter means."""
    arrays = dict(base.arrays)
    for name in {key.rpartition(".")[0] for key in pairs}:
        a, b = pairs[f"{name}.lora_a"].astype(np.float64), pairs[f"{name}.lora_b"].astype(np.float64)
        product = a @ b.T if name == "token_embd.weight" else b @ a
        arrays[name] = (arrays[name] + factor * product).astype(np.float32)
    return TinyModel(base.metadata, arrays)


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


@BOTH
@pytest.mark.parametrize(
    ("architecture", "rank"),
    [("llama", 4), ("llama", 8), ("llama", 32), ("llama", 33), ("gpt2", 4), ("qwen3", 5), ("qwen3moe", 4)],
)
def test_an_adapter_computes_what_merged_weights_compute(
    architecture: str, rank: int, executor: str, tmp_path: Path
) -> None:
    base = tiny_model(architecture, **BASES[architecture])
    pairs = random_pairs(base, rank)
    path = write_adapter(tmp_path / "adapter.gguf", base, pairs, alpha=8)
    options: dict[str, Any] = {"kv_dtype": "f32", "executor": executor}
    file = base.write(tmp_path / "base.gguf")
    model = ll.load(file, lora=path, **options)
    want = ll.load(merged(base, pairs, 8 / rank).write(tmp_path / "merged.gguf"), **options).logits(IDS)
    got = model.logits(IDS)
    assert_same(got, want)
    assert np.abs(got - ll.load(file, **options).logits(IDS)).max() > 0.1 * np.abs(want).max()
    np.testing.assert_allclose(model._next_logits(IDS)[1], got[-1], rtol=0, atol=1e-4 * np.abs(want).max())


def older_deepseek() -> TinyModel:
    """A file with one matrix for the keys and values of all heads of a layer."""
    made = tiny_model("deepseek2")
    for i in range(made.metadata["deepseek2.block_count"]):
        keys, values = (made.arrays.pop(f"blk.{i}.attn_{part}_b.weight") for part in "kv")
        both = np.concatenate([keys.swapaxes(1, 2), values], axis=1)
        made.arrays[f"blk.{i}.attn_kv_b.weight"] = np.ascontiguousarray(both.reshape(-1, both.shape[-1]))
    for size in ("key_length", "value_length"):
        key = f"deepseek2.attention.{size}"
        made.metadata[key] = made.metadata.pop(f"{key}_mla")
    made.metadata["deepseek2.attention.head_count_kv"] = made.metadata["deepseek2.attention.head_count"]
    return made


@BOTH
def test_an_adapter_of_an_older_file_s_keys_and_values_is_obeyed(executor: str, tmp_path: Path) -> None:
    """The matrix is split by head when the file is loaded: what adapters add must be in it by then."""
    base, options = older_deepseek(), {"kv_dtype": "f32", "executor": executor}
    pairs = random_pairs(base, 4)
    assert any("attn_kv_b" in name for name in pairs)
    path = write_adapter(tmp_path / "adapter.gguf", base, pairs, alpha=8)
    file = base.write(tmp_path / "base.gguf")
    want = ll.load(merged(base, pairs, 2.0).write(tmp_path / "merged.gguf"), **options).logits(IDS)
    assert_same(ll.load(file, lora=path, **options).logits(IDS), want)
    assert np.abs(ll.load(file, **options).logits(IDS) - want).max() > 0.1 * np.abs(want).max()


@BOTH
def test_adapters_add_up_with_their_scales(executor: str, tmp_path: Path) -> None:
    base = tiny_model()
    first, second = random_pairs(base, 4), random_pairs(base, 8, seed=1)
    second = {name: array for name, array in second.items() if "ffn" in name}
    paths = [
        write_adapter(tmp_path / "first.gguf", base, first, alpha=8),
        write_adapter(tmp_path / "second.gguf", base, second, alpha=0),  # no division: as llama.cpp has it
    ]
    options: dict[str, Any] = {"kv_dtype": "f32", "executor": executor}
    model = ll.load(base.write(tmp_path / "base.gguf"), lora=[paths[0], (paths[1], -0.5)], **options)
    both = merged(merged(base, first, 2.0), second, -0.5)
    want = ll.load(both.write(tmp_path / "merged.gguf"), **options).logits(IDS)
    assert_same(model.logits(IDS), want)
    assert "first.gguf times 1" in repr(model) and "second.gguf times -0.5" in repr(model)


@BOTH
def test_an_adapter_in_f16_over_a_quantized_base(executor: str, tmp_path: Path) -> None:
    base = tiny_model()
    pairs = {name: array.astype(np.float16) for name, array in random_pairs(base, 8).items()}
    path = write_adapter(tmp_path / "adapter.gguf", base, pairs)
    file = base.write(tmp_path / "base.gguf", "Q8_0")
    kept = file.read_bytes()
    model = ll.load(file, lora=path, kv_dtype="f32", executor=executor)
    arrays = {name: tensor.dequantize() for name, tensor in gguf.read(file).tensors.items()}
    want = merged(TinyModel(base.metadata, arrays), pairs, 2.0).write(tmp_path / "merged.gguf")
    want = ll.load(want, kv_dtype="f32", executor="eager").logits(IDS)
    off = np.abs(model.logits(IDS) - want) / np.abs(want).max()
    if executor == "eager":
        assert off.max() <= 1e-4
    else:  # activations are rounded to bytes
        without = np.abs(ll.load(file, kv_dtype="f32", executor=executor).logits(IDS) - want)
        assert off.mean() < 0.02 and off.mean() < 0.1 * without.mean() / np.abs(want).max()
    assert file.read_bytes() == kept


Q = "blk.0.attn_q.weight"
A, B = f"{Q}.lora_a", f"{Q}.lora_b"
PAIR = {A: np.ones((4, 64), np.float32), B: np.ones((64, 4), np.float32)}
VOCABULARY = tiny_model().arrays["token_embd.weight"].shape[0]
TIED = {
    "token_embd.weight.lora_a": np.ones((VOCABULARY, 4), np.float32),
    "token_embd.weight.lora_b": np.ones((64, 4), np.float32),
}
REFUSED: dict[str, tuple[dict[str, Any], dict[str, np.ndarray], type[LlmliteError], str]] = {
    "a model": ({"general.type": "model"}, PAIR, UnsupportedError, "general.type"),
    "no type": ({"general.type": None}, PAIR, UnsupportedError, "general.type"),
    "another method": ({"adapter.type": "ia3"}, PAIR, UnsupportedError, "adapter.type"),
    "another base": ({"general.architecture": "qwen2"}, PAIR, UnsupportedError, "general.architecture"),
    "begins later": (
        {"adapter.alora.invocation_tokens": np.array([1], np.uint32)},
        PAIR,
        UnsupportedError,
        "adapter.alora.invocation_tokens",
    ),
    "alpha as text": ({"adapter.lora.alpha": "16"}, PAIR, ModelError, "adapter.lora.alpha"),
    "alpha not a number": ({"adapter.lora.alpha": float("nan")}, PAIR, ModelError, "adapter.lora.alpha"),
    "no partner": ({}, {A: PAIR[A]}, ModelError, f"{A}: its partner {B} is missing"),
    "A turned": ({}, PAIR | {A: PAIR[A].T.copy()}, ModelError, f"{A}: expected shape"),
    "wide B": ({}, PAIR | {B: np.ones((64, 5), np.float32)}, ModelError, f"{B}: expected shape"),
    "A a vector": ({}, PAIR | {A: np.ones(64, np.float32)}, ModelError, f"{A}: expected shape"),
    "layer 9": (
        {},
        {name.replace("blk.0", "blk.9"): array for name, array in PAIR.items()},
        ModelError,
        "has no matrix blk.9.attn_q.weight",
    ),
    "of a norm": (
        {},
        {name.replace("attn_q", "attn_norm"): array for name, array in PAIR.items()},
        ModelError,
        "has no matrix blk.0.attn_norm.weight",
    ),
    "a whole norm": (
        {},
        PAIR | {"blk.0.attn_norm.weight": np.ones(64, np.float32)},
        ModelError,
        "blk.0.attn_norm.weight",
    ),
    "tied embeddings": ({}, TIED, UnsupportedError, "token_embd.weight"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_adapter_that_does_not_fit_is_refused_by_name(name: str, tmp_path: Path) -> None:
    changes, pairs, kind, text = REFUSED[name]
    base = tiny_model(tied=True)
    path = write_adapter(tmp_path / "adapter.gguf", base, pairs, **changes)
    with pytest.raises(kind) as caught:
        ll.load(base.write(tmp_path / "base.gguf"), executor="eager", lora=path)
    assert text in str(caught.value) and "adapter.gguf" in str(caught.value)


def test_an_adapter_alone_is_no_model(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "adapter.gguf", tiny_model(), PAIR)
    with pytest.raises(UnsupportedError, match=r"general\.type: .*lora="):
        ll.load(path)


@pytest.mark.parametrize("lora", [3, [None], [("a.gguf", "1")], [("a.gguf", float("inf"))], [("a", 1, 2)]])
def test_a_list_of_adapters_in_another_form_is_refused(lora: Any) -> None:
    with pytest.raises(ValueError, match="lora"):
        listed(lora)
