"""States of a fixed size: what they go on from, what an interrupted step leaves, and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite.description.config import ModelConfig
from llmlite.description.layers import Attention
from llmlite.engine.kv_cache import KVCache
from llmlite.engine.recurrent import RecurrentMemory
from llmlite.lessons.caching import cache_bytes, filling
from tests.support.planned import assert_neighbours_change_nothing
from tests.support.recurrent import CONVOLUTION, cache_of
from tests.support.tiny_models import tiny_model

ATTENTION = Attention(n_head=2, n_head_kv=2, key_size=8, value_size=8, scale=1.0)
N_IDS = 300
IDS = np.random.default_rng(5).integers(0, 267, N_IDS).tolist()


def memory(n_snapshots: int, every: int = 4) -> RecurrentMemory:
    return RecurrentMemory(
        [CONVOLUTION], lambda shape: np.zeros(shape, np.float32), n_snapshots=n_snapshots, every=every
    )


def advance(held: RecurrentMemory, n: int) -> None:
    """A step: the state holds how many tokens it has seen."""
    held.rows[1 - held.turn] = held.position + n
    held.commit(n)


# ---- snapshots ---------------------------------------------------------------------------------------------


def test_snapshots_are_taken_where_prompts_end_and_on_a_grid() -> None:
    held = memory(n_snapshots=10)
    for n in (7, 1, 1, 1, 5, 1, 1):
        advance(held, n)
    assert sorted(held.kept) == [7, 8, 15, 16]
    assert [held.longest(n) for n in (0, 6, 7, 14, 16, 17, 99)] == [0, 0, 7, 8, 16, 17, 17]


@pytest.mark.parametrize("n_snapshots", [0, 1, 2, 5])
def test_snapshots_are_bounded_and_spread_over_the_text(n_snapshots: int) -> None:
    held = memory(n_snapshots)
    for _ in range(100):
        advance(held, 10)
        assert len(held.kept) <= n_snapshots and len(held.rows) == 2 + n_snapshots
        assert not held.kept or max(held.kept) == held.position
    gaps = np.diff([0, *sorted(held.kept)])
    assert len(gaps) == n_snapshots and (n_snapshots < 5 or gaps.max() <= 500)


def test_going_back_restores_the_state_and_forgets_what_came_after() -> None:
    held = memory(n_snapshots=10)
    for n in (7, 5, 6, 1):
        advance(held, n)
    held.truncate(12)
    assert held.position == 12 and (held.rows[held.turn] == 12).all() and sorted(held.kept) == [7, 12]
    advance(held, 1)
    held.truncate(0)
    assert held.position == 0 and not held.rows[held.turn].any() and not held.kept


def test_reuse_goes_back_to_the_longest_prefix_that_every_layer_can_go_on_from() -> None:
    ids = list(range(200))
    cache = cache_of(ATTENTION, CONVOLUTION, n_snapshots=3)
    for start in range(0, 200, 50):
        cache.reserve(50)
        cache.extend(ids[start : start + 50])
    kept = sorted(cache.recurrent.kept)
    assert cache.reuse([*ids, 7], at_most=200) == 200
    assert cache.reuse([*ids[:170], 999], at_most=170) == max(at for at in kept if at <= 170) > 0
    with pytest.raises(ValueError, match="can't continue after 3"):
        cache.truncate(3)
    assert cache.reuse([5], at_most=0) == 0 and cache.position == 0


def test_a_window_and_a_state_that_share_no_prefix_are_read_from_the_start() -> None:
    window = Attention(n_head=2, n_head_kv=2, key_size=8, value_size=8, scale=1.0, window=20)
    cache = cache_of(window, CONVOLUTION, chunk=16)
    for start in range(0, 160, 10):
        cache.reserve(10)
        cache.extend(range(start, start + 10))
    assert cache.reuse([*range(40), 999, 1], at_most=41) == 0


def test_an_interrupted_note_of_a_step_never_passes_for_the_state_before_it() -> None:
    cache = cache_of(CONVOLUTION)
    cache.reserve(10)
    cache.extend(range(10))
    with pytest.raises(ValueError):
        cache.extend([1, 2, "not a token"])  # type: ignore[list-item]
    assert cache.recurrent.position == 13 and cache.position < 13
    assert cache.reuse([*range(10), 1, 2, 3], at_most=12) == 10  # from the snapshot


# ---- names and layers of a delta net ----------------------------------------------------------------------


def test_a_trace_names_the_states_of_a_delta_net(tmp_path: Path) -> None:
    model = ll.load(tiny_model("qwen35", n_layer=4, seed=3).write(tmp_path / "tiny.gguf"))
    trace = model.trace(IDS[:9])
    assert trace["conv_states-0"].shape == trace["conv_state_last-0"].shape == (3, 256)
    assert not trace["state_predelta-0"].any() and trace["new_state-0"].shape == (4, 32, 32)
    np.testing.assert_array_equal(trace["conv_state_last-0"], trace["linear_attn_qkv_mixed-0"][-3:])
    assert {"beta_sigmoid-0", "gate-0", "conv_output_silu-0", "final_output-0", "attn_gated-3"} <= set(trace)


def test_layers_that_only_guess_further_tokens_are_left_out(tmp_path: Path) -> None:
    made = tiny_model("qwen35", n_layer=4, seed=3)
    want = ll.load(made.write(tmp_path / "plain.gguf")).logits(IDS[:9])
    made.metadata["qwen35.block_count"], made.metadata["qwen35.nextn_predict_layers"] = 5, 1
    made.arrays |= {
        name.replace("blk.3.", "blk.4."): values for name, values in made.arrays.items() if "blk.3." in name
    }
    made.arrays["blk.4.nextn.eh_proj.weight"] = np.zeros((64, 128), np.float32)
    model = ll.load(made.write(tmp_path / "ahead.gguf"))
    assert model.config.n_layer == 4
    np.testing.assert_array_equal(model.logits(IDS[:9]), want)


# ---- whole models ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["lfm2", "mamba", "mamba2", "qwen35", "granitehybrid"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny_model(request.param, n_layer=4, n_ctx=512, seed=3)
    return made.write(tmp_path_factory.mktemp("models") / "tiny.gguf", "Q8_0")


@pytest.mark.parametrize("executor", ["eager", "planned"])
def test_a_text_that_shares_a_beginning_is_read_on_from_a_snapshot(path: Path, executor: str) -> None:
    model, fresh = (ll.load(path, executor=executor) for _ in range(2))
    model._next_logits(IDS[:100])
    model.generate(IDS[:120], max_tokens=30, temperature=0)
    other = [*IDS[:110], *IDS[200:260]]
    reused, got = model._next_logits(other)
    assert reused == 100
    want = fresh.logits(other, last_only=True)[0]
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max(), rtol=0)
    assert executor == "eager" or np.array_equal(got, want)


@pytest.mark.parametrize("architecture", ["lfm2", "mamba", "mamba2", "qwen35", "granitehybrid"])
def test_the_planned_executor_agrees_with_the_eager_one(tmp_path: Path, architecture: str) -> None:
    plain = tiny_model(architecture, n_layer=4, n_ctx=512, seed=3).write(tmp_path / "tiny.gguf")
    planned, eager = (
        ll.load(plain, executor=executor, kv_dtype="f32").logits(IDS) for executor in ("planned", "eager")
    )
    np.testing.assert_allclose(planned, eager, atol=1e-4 * np.abs(eager).max(), rtol=0)  # as of transformers


@pytest.mark.parametrize("executor", ["eager", "planned"])
def test_a_step_that_fails_leaves_the_state_before_it(
    path: Path, executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, fresh = (ll.load(path, executor=executor) for _ in range(2))
    model._next_logits(IDS[:50])
    before = model.cache.recurrent.rows[model.cache.recurrent.turn].copy()

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(KVCache, "extend", fail)  # the last moment: every layer has been written
        with pytest.raises(KeyboardInterrupt):
            model._next_logits(IDS[:90])
    np.testing.assert_array_equal(model.cache.recurrent.rows[model.cache.recurrent.turn], before)
    reused, got = model._next_logits(IDS[:90])
    fresh._next_logits(IDS[:50])
    assert reused == 50
    np.testing.assert_array_equal(got, fresh._next_logits(IDS[:90])[1])


def test_neighbours_in_a_step_change_nothing(path: Path) -> None:
    model = ll.load(path, executor="planned")
    assert_neighbours_change_nothing(model, [IDS[:1], IDS[:37], IDS[:130], IDS[100:101], IDS[7:N_IDS]])


def test_a_states_memory_is_the_same_for_any_context(path: Path) -> None:
    config = ll.load(path).config
    for i, layer in enumerate(config.layers):
        if not isinstance(layer.mixer, Attention):
            small, large = (KVCache(config, n_ctx, np.float16)[i].n_bytes for n_ctx in (32, 8192))
            numbers = np.prod(layer.mixer.tail_shape) + np.prod(layer.mixer.state_shape)
            assert small == large == (2 + 4) * numbers * 4  # rows of float32


def test_how_many_snapshots_are_kept_is_an_option(path: Path) -> None:
    for n in (0, 2):
        model = ll.load(path, n_snapshots=n)
        assert len(model.cache.recurrent.rows) == 2 + n
        model.logits(IDS[:50])
        assert len(model.cache.recurrent.kept) == min(n, 1)
    model = ll.load(path, snapshot_every=8)
    model._next_logits(IDS[:10])
    for end in range(11, 30):
        model._next_logits(IDS[:end])
    assert sorted(model.cache.recurrent.kept) == [10, 16, 24]
    for options in ({"n_snapshots": -1}, {"snapshot_every": 0}):
        with pytest.raises(ValueError, match="n_snapshots must be at least 0 and snapshot_every 1"):
            KVCache(model.config, 64, **options)


def test_keys_that_no_model_can_have_are_refused() -> None:
    made = tiny_model("lfm2", n_layer=4)
    made.metadata["lfm2.shortconv.l_cache"] = 1
    with pytest.raises(ll.errors.ModelError, match="lfm2.shortconv.l_cache: expected 2 to 64, got 1"):
        ModelConfig.from_metadata(made.metadata, made.tensors())
    made = tiny_model("mamba2")
    made.metadata["mamba2.ssm.time_step_rank"] = 3
    with pytest.raises(ll.errors.ModelError, match="ssm.time_step_rank: expected a divisor of inner_size"):
        ModelConfig.from_metadata(made.metadata, made.tensors())
    made = tiny_model("qwen35", n_layer=4)
    made.metadata["qwen35.ssm.group_count"] = 3
    with pytest.raises(ll.errors.ModelError, match="ssm.time_step_rank: expected a multiple of group_count"):
        ModelConfig.from_metadata(made.metadata, made.tensors())
    made.metadata |= {"qwen35.ssm.group_count": 2, "qwen35.attention.recurrent_layers": [True]}
    with pytest.raises(ll.errors.ModelError, match="attention.recurrent_layers: expected 4 values"):
        ModelConfig.from_metadata(made.metadata, made.tensors())
    plain = tiny_model("llama")
    plain.metadata["llama.attention.head_count_kv"] = 0
    with pytest.raises(ll.errors.ModelError, match="head_count_kv: expected 1"):
        ModelConfig.from_metadata(plain.metadata, plain.tensors())


def test_a_cache_is_shown_for_layers_with_attention_only(tmp_path: Path) -> None:
    hybrid = ll.load(tiny_model("lfm2", n_layer=4).write(tmp_path / "lfm2.gguf"))
    assert filling(hybrid, IDS[:9]).size.shape == (1, 2, 9)
    assert cache_bytes(hybrid.config, 10) == 2 * 2 * 16 * 10 * 2  # keys and values, heads, head size, F16
    recurrent = ll.load(tiny_model("mamba").write(tmp_path / "mamba.gguf"))
    assert cache_bytes(recurrent.config, 10) == 0
    with pytest.raises(ll.errors.UnsupportedError, match="a mamba model keeps no keys"):
        filling(recurrent, IDS[:9])


def test_a_trace_names_what_a_delta_net_convolves_and_gates(tmp_path: Path) -> None:
    model = ll.load(tiny_model("qwen35", n_layer=4, seed=3).write(tmp_path / "tiny.gguf"))
    trace = model.trace(IDS[:9])
    np.testing.assert_array_equal(trace["conv_input-0"][3:], trace["linear_attn_qkv_mixed-0"])
    for part, n_head in (("q", 2), ("k", 2), ("v", 4)):
        assert trace[f"{part}_conv-0"].shape == trace[f"{part}_conv_predelta-0"].shape == (9, n_head, 32)
    np.testing.assert_allclose(np.linalg.norm(trace["k_conv_predelta-0"], axis=-1), 1, atol=1e-3)
    assert {"attn_pregate-3", "gate_reshaped-3"} <= set(trace)
