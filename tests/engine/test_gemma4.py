"""Gemma 4's own parts: inputs for each layer, shared keys and values, two sizes of heads, experts beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite.description.config import ModelConfig
from llmlite.engine.kv_cache import KVCache
from tests.support.tiny_models import TinyModel, tiny_model

WINDOW = 16
IDS = np.random.default_rng(3).integers(0, 267, 100).tolist()
WINDOWED = [True, False, True, False, True, False]
SHARED: dict[str, Any] = {
    "attention.sliding_window": WINDOW,
    "attention.sliding_window_pattern": WINDOWED,
    "attention.key_length": 32,
    "attention.value_length": 32,
    "attention.key_length_swa": 16,
    "attention.value_length_swa": 16,
    "rope.dimension_count": 32,
    "rope.dimension_count_swa": 16,
    "attention.shared_kv_layers": 2,
    "embedding_length_per_layer_input": 32,
    "feed_forward_length": [96, 96, 96, 96, 128, 128],
    "final_logit_softcapping": 30.0,
}
EXPERTS = SHARED | {
    "attention.shared_kv_layers": 0,
    "embedding_length_per_layer_input": 0,
    "expert_count": 6,
    "expert_used_count": 3,
    "expert_feed_forward_length": 32,
}


def gemma4(more: dict[str, Any], **changes: Any) -> TinyModel:
    made = tiny_model("gemma4", n_layer=len(WINDOWED), tied=True, seed=1, more=more | changes)
    random = np.random.default_rng(2)
    for i in range(len(WINDOWED)):
        made.arrays[f"blk.{i}.layer_output_scale.weight"] = np.array([0.8 + 0.1 * i], np.float32)
        if more.get("expert_count"):
            made.arrays[f"blk.{i}.ffn_down_exps.scale"] = random.uniform(0.5, 2, 6).astype(np.float32)
    return made


@pytest.fixture(scope="module", params=[SHARED, EXPERTS], ids=["shared", "experts"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gemma4(request.param).write(tmp_path_factory.mktemp("gemma4") / "tiny.gguf")


def test_the_planned_executor_agrees_with_the_eager_one(path: Path) -> None:
    planned, eager = (
        ll.load(path, executor=executor, kv_dtype="f32").logits(IDS) for executor in ("planned", "eager")
    )
    np.testing.assert_allclose(planned, eager, atol=1e-4 * np.abs(eager).max(), rtol=0)


def test_any_cut_and_a_prefix_used_again_give_the_same_bits(path: Path) -> None:
    model = ll.load(path, executor="planned")
    for n in (WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW, 100):
        want = ll.load(path, executor="planned").logits(IDS[:n], last_only=True)[0]
        for size in (1, 7, 64):
            model.cache.truncate(0)
            for end in [*range(size, n, size), n]:
                _, got = model._next_logits(IDS[:end])
            np.testing.assert_array_equal(got, want, err_msg=f"{n} tokens in pieces of {size}")
    model.generate(IDS[:40], max_tokens=20, temperature=0)
    reused, got = model._next_logits(IDS)
    assert reused == 40
    np.testing.assert_array_equal(got, want)


def test_the_last_layers_read_the_keys_of_the_last_layer_of_their_kind(tmp_path: Path) -> None:
    made = gemma4(SHARED)
    config = ModelConfig.from_metadata(made.metadata, made.tensors())
    assert [layer.mixer.shared for layer in config.layers] == [None, None, None, None, 2, 3]
    assert [layer.mixer.key_size for layer in config.layers] == [16, 32, 16, 32, 16, 32]
    assert [layer.feed_forward.n_ff for layer in config.layers] == [96, 96, 96, 96, 128, 128]
    cache = KVCache(config, 64)
    assert cache[4] is cache[2] and cache[5] is cache[3]
    want = ll.load(made.write(tmp_path / "plain.gguf")).logits(IDS[:30])
    for name in ("attn_k", "attn_v"):  # files may hold them all the same; nothing reads them
        made.arrays[f"blk.5.{name}.weight"] = np.ones((64, 64), np.float32)
    np.testing.assert_array_equal(ll.load(made.write(tmp_path / "more.gguf")).logits(IDS[:30]), want)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"attention.shared_kv_layers": 5},
            "attention.shared_kv_layers: expected a number that leaves layers with",
        ),
        (
            {"attention.shared_kv_layers": 9},
            "attention.shared_kv_layers: expected a number that leaves layers with",
        ),
        ({"rope.dimension_count_swa": 18}, "rope.dimension_count_swa: expected 1 to 16, got 18"),
        (
            {"attention.head_count_kv": [2, 2, 2, 2, 2, 1]},
            "head_count_kv: expected 2 in layer 5, which reads the keys of layer 3, got 1",
        ),
    ],
)
def test_layers_that_can_t_share_are_refused(changes: dict[str, Any], message: str) -> None:
    made = gemma4(SHARED)
    made.metadata |= {f"gemma4.{key}": value for key, value in changes.items()}
    with pytest.raises(ll.errors.ModelError, match=message):
        ModelConfig.from_metadata(made.metadata, made.tensors())


@pytest.mark.parametrize("executor", ["eager", "planned"])
def test_experts_in_one_matrix_or_in_two_give_the_same(tmp_path: Path, executor: str) -> None:
    made = gemma4(EXPERTS)
    want = ll.load(made.write(tmp_path / "two.gguf"), executor=executor, kv_dtype="f32").logits(IDS)
    for i in range(len(WINDOWED)):
        halves = [made.arrays.pop(f"blk.{i}.ffn_{part}_exps.weight") for part in ("gate", "up")]
        made.arrays[f"blk.{i}.ffn_gate_up_exps.weight"] = np.concatenate(halves, axis=1)
    got = ll.load(made.write(tmp_path / "one.gguf"), executor=executor, kv_dtype="f32").logits(IDS)
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max(), rtol=0)


def test_a_layer_without_values_takes_what_its_keys_are_made_of(tmp_path: Path) -> None:
    made = gemma4(EXPERTS)
    for i, windowed in enumerate(WINDOWED):
        if not windowed:
            made.arrays[f"blk.{i}.attn_v.weight"] = made.arrays[f"blk.{i}.attn_k.weight"]
    want = ll.load(made.write(tmp_path / "twice.gguf")).logits(IDS)
    for i, windowed in enumerate(WINDOWED):
        if not windowed:
            del made.arrays[f"blk.{i}.attn_v.weight"]
    np.testing.assert_array_equal(ll.load(made.write(tmp_path / "once.gguf")).logits(IDS), want)


def test_a_trace_names_what_each_layer_gets_of_its_own(path: Path) -> None:
    model = ll.load(path)
    trace = model.trace(IDS[:9])
    assert {"Vcur_normed-0", "out_scaled-5", "kq_soft_max-5"} <= set(trace)
    if model.config.n_embd_per_layer:
        assert trace["inp_per_layer"].shape == trace["per_layer_proj"].shape == (9, 6 * 32)
        assert {"inp_per_layer_selected", "pe_in-0", "per_layer_embd_out-0"} <= set(trace)
        assert "Kcur-4" not in trace  # it reads those of layer 2
    else:
        assert {"ffn_mlp-0", "ffn_moe-0", "ffn_moe_combined-0", "ffn_moe_logits-0"} <= set(trace)
