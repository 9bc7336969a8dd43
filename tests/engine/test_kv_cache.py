"""The states of a cache: what a ring still holds, what can be read on from, and the memory it takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmlite.description.config import ModelConfig
from llmlite.description.layers import Attention, FeedForward, LatentAttention, Layer
from llmlite.description.weights import Weights
from llmlite.engine.eager import EagerExecutor
from llmlite.engine.kv_cache import BLOCK, AttentionState, KVCache
from llmlite.engine.planned import PlannedExecutor
from llmlite.errors import ContextOverflowError
from tests.support.tiny_models import tiny_model


def spec_of(window: int = 0, **options: Any) -> Attention:
    return Attention(n_head=2, n_head_kv=2, key_size=8, value_size=16, scale=1.0, window=window, **options)


def config_of(*specs: Attention) -> Any:
    """What a cache reads of a configuration."""
    layers = tuple(Layer(mixer=spec, feed_forward=FeedForward(n_ff=32)) for spec in specs)
    return SimpleNamespace(layers=layers)


def numbered(first: int, end: int, width: int) -> np.ndarray:
    """Rows (T, 2, width) that hold their position."""
    return np.broadcast_to(np.arange(first, end, dtype=np.float32)[:, None, None], (end - first, 2, width))


def write(state: AttentionState, first: int, end: int) -> None:
    state.reserve(first, end - first)
    state.write(first, numbered(first, end, 8), numbered(first, end, 16))


@pytest.mark.parametrize(
    ("window", "n_ctx", "chunk", "size"),
    [
        (0, 100, 16, 128), (20, 1000, 16, 64), (48, 1000, 16, 64), (49, 1000, 16, 96), (1000, 100, 16, 128),
        (16, 1000, 1, 32),
    ],
)  # fmt: skip
def test_a_ring_has_room_for_a_window_and_a_step(window: int, n_ctx: int, chunk: int, size: int) -> None:
    state = AttentionState(spec_of(window), n_ctx, np.float32, chunk)
    assert state.size == size and size % BLOCK == 0
    assert state.n_bytes == size * 2 * (8 + 16) * 4


@pytest.mark.parametrize(("dtype", "n_bytes"), [(np.float32, 4), (np.float16, 2), (np.int8, 1 + 2 / 32)])
def test_latent_attention_keeps_one_short_row_for_each_token(dtype: type, n_bytes: float) -> None:
    """DeepSeek-V2-Lite: 512 numbers and 64 that are turned, whatever the number of heads."""
    sizes = {"n_head_kv": 1, "key_size": 576, "value_size": 512, "scale": 1.0}
    spec = LatentAttention(n_head=16, head_key_size=192, head_value_size=128, **sizes)
    state, rng = AttentionState(spec, 1024, dtype, 64), np.random.default_rng(0)
    assert state.n_bytes == 1024 * 576 * n_bytes
    written_out = Attention(n_head=16, n_head_kv=16, key_size=192, value_size=128, scale=1.0)
    assert AttentionState(written_out, 1024, dtype, 64).n_bytes == 1024 * 5120 * n_bytes
    rows = rng.standard_normal((70, 1, 576)).astype(np.float32)
    state.write(0, rows, None)
    keys = state.keys(0, 0, 70)
    np.testing.assert_allclose(keys, rows[:, 0], rtol=0, atol=0.02)
    np.testing.assert_array_equal(state.values(0, 3, 70), keys[3:, :512])
    other = AttentionState(spec, 1024, dtype, 64)
    other.copy_from(state, 70)
    np.testing.assert_array_equal(other.keys(0, 0, 70), keys)


def test_without_causal_a_window_is_no_ring() -> None:
    assert AttentionState(spec_of(20, causal=False), 1000, np.float32, 16).size == 1024


@pytest.mark.parametrize("steps", [[16] * 30, [1] * 200, [7, 16, 1, 13] * 12], ids=["16", "1", "mixed"])
@pytest.mark.parametrize("window", [2, 5, 31, 32, 60])
def test_a_prefix_is_reusable_exactly_if_nothing_the_next_token_sees_is_overwritten(
    window: int, steps: list[int]
) -> None:
    state, position = AttentionState(spec_of(window), 10**4, np.float32, 16), 0
    for n in steps:
        write(state, position, position + n)
        position += n
        for prefix in range(1, position + 1):
            seen = np.arange(max(0, prefix - window + 1), prefix)  # and itself, which is written then
            at = seen % state.size
            held = np.array_equal(state.v[0, at, 0], seen.astype(np.float32))
            assert state.reusable(prefix) == held, prefix
    assert state.reusable(0) and state.reusable(position)


def test_keys_and_values_come_back_from_any_turn_of_the_ring() -> None:
    state, position = AttentionState(spec_of(20), 10**4, np.float16, 16), 0
    for n in [16, 3, 16, 16, 9, 16, 16, 1, 16]:
        write(state, position, position + n)
        position += n
        first = max(0, position - 20)
        for head in range(2):
            np.testing.assert_array_equal(state.keys(head, first, position)[:, 5], np.arange(first, position))
            np.testing.assert_array_equal(
                state.values(head, first, position)[:, 9], np.arange(first, position)
            )


def test_full_attention_can_go_on_after_any_prefix() -> None:
    state = AttentionState(spec_of(), 300, np.float32, 16)
    for start in range(0, 300, 15):
        write(state, start, start + 15)
    assert all(state.reusable(n) for n in range(301))


def test_reuse_keeps_what_every_layer_can_go_on_from() -> None:
    ids = list(range(200))
    for specs, kept in (((spec_of(),), 150), ((spec_of(), spec_of(20)), 0), ((spec_of(20),), 0)):
        cache = KVCache(config_of(*specs), 256, chunk=16)
        for start in range(0, 200, 10):
            cache.reserve(10)
            cache.extend(ids[start : start + 10])
        assert cache.reuse([*ids, 7], at_most=200) == 200  # the latest text: the window is whole
        assert cache.reuse([*ids[:150], 999, 7], at_most=151) == kept
        assert cache.position == kept and cache.ids == ids[:kept]


def test_reuse_never_keeps_more_than_it_may() -> None:
    cache = KVCache(config_of(spec_of()), 64)
    cache.reserve(5)
    cache.extend([1, 2, 3, 4, 5])
    assert cache.reuse([1, 2, 3, 4, 5], at_most=4) == 4
    assert cache.ids == [1, 2, 3, 4]


def test_a_cache_read_anew_after_a_window_has_moved_on_is_reusable_again() -> None:
    cache = KVCache(config_of(spec_of(20)), 256, chunk=16)
    for _ in range(10):
        cache.reserve(16)
        cache.extend(range(16))
    assert not cache.reusable(30)
    cache.truncate(0)
    cache.reserve(16)
    cache.extend(range(16))
    assert cache.reusable(10) and not cache.reusable(17)


def test_a_step_that_does_not_fit_changes_nothing() -> None:
    cache = KVCache(config_of(spec_of(20)), 40, chunk=16)
    cache.reserve(16)
    cache.extend(range(16))
    with pytest.raises(ContextOverflowError, match="25 tokens after 16 do not fit in a context of 40"):
        cache.reserve(25)
    assert cache.position == 16 and cache[0].intact == 0


def test_a_layer_that_shares_keys_has_no_memory_of_its_own() -> None:
    cache = KVCache(config_of(spec_of(), spec_of(), spec_of(shared=0)), 64)
    assert cache[2] is cache[0]
    assert cache.n_bytes == 2 * cache[0].n_bytes


def test_a_windowed_model_takes_a_windows_memory() -> None:
    model = tiny_model("gemma3", n_layer=6, n_ctx=100_000)
    model.metadata["gemma3.attention.sliding_window"] = 64
    config = ModelConfig.from_metadata(model.metadata, model.tensors())
    assert [layer.mixer.window for layer in config.layers] == [64] * 5 + [0]
    cache = KVCache(config, 100_000, np.float16, chunk=256)
    per_position = 2 * config.n_head_kv * config.head_size * 2
    assert [state.n_bytes for state in cache.states] == [320 * per_position] * 5 + [100_000 * per_position]


@pytest.mark.parametrize("executor_class", [EagerExecutor, PlannedExecutor])
def test_a_windowed_model_writes_the_same_after_its_rings_have_turned(executor_class: type) -> None:
    model = tiny_model("gemma3", n_layer=6, n_ctx=2048)
    model.metadata["gemma3.attention.sliding_window"] = 33
    tensors = model.tensors()
    config = ModelConfig.from_metadata(model.metadata, tensors)
    executor = executor_class(Weights.from_tensors(tensors, config), config)
    ids = np.random.default_rng(0).integers(0, config.n_vocab, 700).tolist()
    rings, whole = KVCache(config, 1024), KVCache(config, 1024, chunk=1024)  # rings of 320, or of 1024
    assert [cache[0].size for cache in (rings, whole)] == [320, 1024]
    for start in range(0, 700, 100):
        got = executor(ids[start : start + 100], rings, n_outputs=1)
        want = executor(ids[start : start + 100], whole, n_outputs=1)
        np.testing.assert_array_equal(got, want)


def small_model() -> tuple[ModelConfig, Weights, list[int]]:
    """One whose keys and values are of 32 numbers, and a text for it."""
    model = tiny_model(n_head=2, n_head_kv=1, n_ctx=512)
    tensors = model.tensors()
    config = ModelConfig.from_metadata(model.metadata, tensors)
    ids = np.random.default_rng(1).integers(0, config.n_vocab, 300).tolist()
    return config, Weights.from_tensors(tensors, config), ids


def test_both_executors_read_and_write_the_same_q8_0_cache() -> None:
    config, weights, ids = small_model()
    logits, caches = [], []
    for executor in (
        EagerExecutor(weights, config),
        PlannedExecutor(weights, config, kv_dtype=np.int8, n_threads=2),
    ):
        cache = KVCache(config, 512, np.int8)
        executor(ids[:270], cache, n_outputs=1)
        logits.append(executor(ids[270:], cache, n_outputs=30))
        caches.append(cache)
    exact = EagerExecutor(weights, config)(ids, KVCache(config, 512), n_outputs=30)
    lost = np.abs(logits[0] - exact).max()  # what quantizing moves; the executors differ by rounding only
    assert np.abs(logits[0] - logits[1]).max() <= lost / 3
    assert lost <= 0.06 * np.abs(exact).max()  # random weights: attention is sharp
    for head in range(config.n_head_kv):  # of the first layer, whose input has been through few operations
        both = [cache[0].keys(head, 0, 300) for cache in caches]
        assert np.abs(both[0] - both[1]).max() <= 1.01 * np.abs(both[0]).max() / 127  # a step at most


def test_a_q8_0_cache_gives_the_same_bits_however_the_text_is_cut() -> None:
    config, weights, ids = small_model()
    found = []
    for cuts, threads in (([300], 1), ([1] * 300, 2), ([256, 1, 43], 2), ([37] * 8 + [4], 1)):
        executor = PlannedExecutor(weights, config, kv_dtype=np.int8, n_threads=threads)
        cache, at = KVCache(config, 512, np.int8), 0
        for n in cuts:
            executor(ids[at : at + n], cache, n_outputs=1)
            at += n
        found.append(cache)
    for cache in found[1:]:
        for name in ("k", "v", "k_scales", "v_scales"):
            assert getattr(cache[0], name).tobytes() == getattr(found[0][0], name).tobytes()


def test_caches_of_different_types_in_one_batch_give_what_they_give_alone() -> None:
    config, weights, ids = small_model()
    executor = PlannedExecutor(weights, config, n_threads=2)
    kinds = (np.float16, np.int8, np.float32, np.int8)
    alone = [executor(ids[i:40], KVCache(config, 64, dtype), n_outputs=1) for i, dtype in enumerate(kinds)]
    together = executor.batch([(ids[i:40], KVCache(config, 64, dtype), 1) for i, dtype in enumerate(kinds)])
    for one, other in zip(alone, together):
        np.testing.assert_array_equal(one, other)
