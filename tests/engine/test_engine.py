"""Planned operations against NumPy on their own inputs, and planned models against the eager executor."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from llmlite.description.config import ModelConfig
from llmlite.description.layers import ACTIVATIONS, Attention, FeedForward, Layer, Rope
from llmlite.description.rope import rope_table
from llmlite.engine import make_executor
from llmlite.engine.eager import Eager, EagerExecutor
from llmlite.engine.families import FAMILIES
from llmlite.engine.kv_cache import KVCache
from llmlite.engine.plan import Plan, Share
from llmlite.engine.planned import PREFILL_TOKENS, PlannedExecutor
from llmlite.engine.recorder import Recorder
from llmlite.engine.transformer import forward
from llmlite.errors import ContextOverflowError, UnsupportedError
from llmlite.quants import get
from llmlite.quants.tensor import QuantTensor
from tests.support.planned import (
    FAST,
    close,
    computed,
    get_block,
    ids_of,
    normal,
    quantized_activations,
    random_weights,
    rng,
    weights_of,
)

TYPES = [get(number).name for number in FAMILIES]
EVERY_TYPE = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in TYPES]


# ---- one operation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_name", EVERY_TYPE)
@pytest.mark.parametrize("T", [1, 2, 3, 9])
def test_matmul_equals_numpy_on_the_same_bytes(type_name: str, T: int) -> None:
    shapes = [(37, 512)] if get_block(type_name) == 256 else [(37, 512), (33, 288), (5, 32)]
    for shape in shapes:
        w, x = random_weights(type_name, *shape), rng.standard_normal((T, shape[1])).astype(np.float32)
        x[0] += 1  # a mean: what offsets of the quants are multiplied with
        exact = x if get_block(type_name) == 1 else quantized_activations(x)
        want = exact.astype(np.float64) @ w.dequantize().astype(np.float64).T
        close(computed(lambda ops, x, w=w: ops.matmul(w, x), x), want)


@pytest.mark.parametrize("type_name", EVERY_TYPE)
def test_embedding_rows_are_the_dequantized_ones(type_name: str) -> None:
    w = random_weights(type_name, 5, 512 if get_block(type_name) == 256 else 288)
    recorder = Recorder(max_tokens=4, max_outputs=1, n_threads=2)
    plan = Plan(recorder, recorder.embed(w, None))
    with plan.lock:
        got = plan.run([Share([4, 0, 3, 3])])
        np.testing.assert_allclose(got, w.rows([4, 0, 3, 3]), rtol=1e-6, atol=1e-6)


def test_a_type_without_kernels_runs_through_numpy_and_says_so() -> None:
    w, x = QuantTensor.quantize(normal(16, 256), "TQ2_0", "w"), normal(3, 256)
    recorder = Recorder(max_tokens=3, max_outputs=1, n_threads=2)
    result = recorder.matmul(w, recorder.embed(QuantTensor.quantize(x, "F32"), None))
    plan = Plan(recorder, recorder.add(result, result))
    assert "slow, through NumPy: TQ2_0" in repr(plan)
    with plan.lock:
        got = plan.run([Share([0, 1, 2])])
        close(got, 2 * Eager(0, 0).matmul(w, x))


def test_rms_norm_equals_the_eager_one() -> None:
    x, gain = normal(5, 192) * 3, normal(192)
    close(computed(lambda ops, x: ops.rms_norm(x, gain, 1e-5), x), Eager(0, 0).rms_norm(x, gain, 1e-5))


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("width", [64, 37])
def test_gated_activations_equal_the_eager_ones_also_far_out(kind: str, width: int) -> None:
    gate, up = normal(3, width) * 10, normal(3, width) * 5
    gate[0, :6] = -200, 200, -88, 0, -11, 1e-6
    want = Eager(0, 0).activate(kind, gate, up)
    close(computed(lambda ops, g, u: ops.activate(kind, g, u), gate, up), want)


def test_sums_biases_and_outputs_are_exact() -> None:
    a, b, bias = normal(5, 96), normal(5, 96), normal(96)
    np.testing.assert_array_equal(computed(lambda ops, a, b: ops.add(a, b), a, b), a + b)
    np.testing.assert_array_equal(computed(lambda ops, a: ops.add_row(a, bias), a), a + bias)
    np.testing.assert_array_equal(computed(lambda ops, a: ops.outputs(a), a, n_outputs=2), a[-2:])


@pytest.mark.parametrize(
    ("pairs", "head_size", "n_pairs"), [("norm", 64, 32), ("neox", 64, 32), ("norm", 48, 8), ("neox", 48, 8)]
)
def test_rope_equals_the_eager_one(pairs: str, head_size: int, n_pairs: int) -> None:
    x, table = normal(4, 3 * head_size), rope_table(Rope(dim=2 * n_pairs, pairs=pairs))
    got = computed(lambda ops, x: ops.rope(x, 3, table), x, position=900)
    close(got, Eager(900, 0).rope(x, 3, table))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(
    ("n_head", "n_head_kv", "head_size"), [(4, 2, 64), (2, 2, 128), (3, 3, 16), (6, 1, 80)]
)
@pytest.mark.parametrize(("T", "position"), [(1, 0), (1, 31), (1, 100), (3, 0), (40, 0), (37, 75)])
def test_attention_equals_the_eager_one(
    dtype: type, n_head: int, n_head_kv: int, head_size: int, T: int, position: int
) -> None:
    spec = Attention(n_head=n_head, n_head_kv=n_head_kv, key_size=head_size, value_size=head_size, scale=0.3)
    layers = (Layer(mixer=spec, feed_forward=FeedForward(n_ff=32)),) * 2
    caches = [KVCache(SimpleNamespace(layers=layers), 128, dtype) for _ in range(2)]
    for cache in caches:
        for state in cache.states:
            state.k[:], state.v[:] = np.nan, np.nan  # nobody may look beyond the last token
        cache[1].write(0, *np.random.default_rng(3).standard_normal((2, position, n_head_kv, head_size)))
    q, k, v = (normal(T, n * head_size) for n in (n_head, n_head_kv, n_head_kv))
    got = computed(
        lambda ops, q, k, v: ops.attention(q, k, v, 1, spec), q, k, v, position=position, cache=caches[0]
    )
    close(got, Eager(position, 0, cache=caches[1]).attention(q, k, v, 1, spec))
    for layer in range(2):
        np.testing.assert_array_equal(caches[0][layer].k, caches[1][layer].k)
        np.testing.assert_array_equal(caches[0][layer].v, caches[1][layer].v)


def test_quantizing_activations_gives_the_bytes_numpy_gives() -> None:
    x = normal(50, 256) * np.exp(normal(50, 1) * 5)
    x[3, 32:64] = 0
    recorder = Recorder(max_tokens=50, max_outputs=1, n_threads=2)
    source = recorder.embed(QuantTensor.quantize(x, "F32"), None)
    q, d, sums32, sums16, offsets32, offsets16 = recorder._activations(source)
    plan = Plan(recorder, source, keep_all=True)
    with plan.lock:
        plan.run([Share(range(50))])
        levels = plan.array(q, np.int8)
        want = quantized_activations(x)
        np.testing.assert_array_equal(np.repeat(plan.array(d), 32, axis=1).astype(np.float64) * levels, want)
        np.testing.assert_array_equal(
            plan.array(sums32, np.int32), levels.reshape(50, -1, 32).sum(2, dtype=int)
        )
        halves = (
            levels.reshape(50, 8, 2, 16).sum(3, dtype=int).swapaxes(1, 2)
        )  # of blocks: first ones, second
        np.testing.assert_array_equal(plan.array(sums16, np.int32), halves.reshape(50, 16))
        scales = plan.array(d)
        np.testing.assert_array_equal(
            plan.array(offsets32), scales * plan.array(sums32, np.int32).astype(np.float32)
        )
        offsets = halves.astype(np.float32) * scales[:, None, :]
        np.testing.assert_array_equal(plan.array(offsets16), offsets.reshape(50, 16))


@pytest.mark.parametrize("n_head_b", [3, 1])
@pytest.mark.parametrize(("a_width", "b_width"), [(16, 8), (5, 3), (128, 64)])
def test_join_puts_each_head_s_numbers_together(a_width: int, b_width: int, n_head_b: int) -> None:
    a = rng.standard_normal((7, 3 * a_width)).astype(np.float32)
    b = rng.standard_normal((7, n_head_b * b_width)).astype(np.float32)
    got = computed(lambda ops, a, b: ops.join(a, b, 3, n_head_b), a, b)
    np.testing.assert_array_equal(got, Eager(0, 0).join(a, b, 3, n_head_b))
    for head in range(3):
        mine = b.reshape(7, n_head_b, b_width)[:, head % n_head_b]
        whole = np.concatenate([a.reshape(7, 3, a_width)[:, head], mine], axis=1)
        np.testing.assert_array_equal(got.reshape(7, 3, -1)[:, head], whole)


# ---- whole models ------------------------------------------------------------------------------------------


class Twin(Eager):
    """The eager operations, on activations rounded as the engine rounds them."""

    def matmul(self, w: QuantTensor, x: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        rounded = x if w.type.block_size == 1 else quantized_activations(x).astype(np.float32)
        return super().matmul(w, rounded, bias)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_float_model_gives_the_eager_logits(architecture: str, dtype: type) -> None:
    weights, config = weights_of(architecture=architecture, rope_freqs=architecture == "llama")
    ids = ids_of(config, 70)
    want = EagerExecutor(weights, config)(ids, KVCache(config, 128, dtype), n_outputs=70)
    got = PlannedExecutor(weights, config, kv_dtype=dtype)(ids, KVCache(config, 128, dtype), n_outputs=70)
    np.testing.assert_allclose(got, want, atol=1e-4 if dtype is np.float32 else 1e-2)


def divergence(want: np.ndarray, got: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of softmax(got) from softmax(want), in nats."""
    p, q = (np.exp(x - x.max(1, keepdims=True)).astype(np.float64) for x in (want, got))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    return float((p * np.log(p / q)).sum(1).mean())


@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_0"])
def test_a_quantized_model_loses_no_more_than_its_rounded_activations(type_name: str) -> None:
    weights, config = weights_of(type_name, n_embd=128, n_ff=256)
    ids = ids_of(config, 64)
    want = EagerExecutor(weights, config)(ids, KVCache(config, 128), n_outputs=64)
    twin = forward(Twin(0, 64, cache=KVCache(config, 128)), weights, config, np.asarray(ids))
    got = PlannedExecutor(weights, config)(ids, KVCache(config, 128), n_outputs=64)
    assert divergence(want, got) < 1.3 * divergence(want, twin)
    assert divergence(twin, got) < 0.5 * divergence(want, twin)
    assert (want.argmax(1) == got.argmax(1)).mean() > 0.9


@pytest.mark.parametrize("chunks", [[1] * 7, [2] * 150, [7] * 43, [64] * 5, [300]], ids=str)
def test_any_cut_of_the_prompt_gives_the_same_logits(chunks: list[int]) -> None:
    weights, config = weights_of()
    ids = ids_of(config, 300)
    executor = PlannedExecutor(weights, config)
    cache = KVCache(config, 512)
    want = EagerExecutor(weights, config)(ids[: sum(chunks)], KVCache(config, 512), n_outputs=1)
    at = 0
    for size in chunks:
        got = executor(ids[at : at + size], cache, n_outputs=1)
        at += size
    assert cache.ids == ids[:at]
    if at == sum(chunks) <= 300:
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_a_cache_cut_back_and_read_on_gives_the_same_logits() -> None:
    weights, config = weights_of()
    ids = ids_of(config, 90)
    executor, cache = PlannedExecutor(weights, config), KVCache(config, 128)
    want = executor(ids, cache, n_outputs=1)
    cache.truncate(33)
    np.testing.assert_allclose(executor(ids[33:], cache, n_outputs=1), want, atol=1e-5)


def test_logits_of_the_last_tokens_only_are_those_of_all() -> None:
    weights, config = weights_of()
    ids = ids_of(config, 200)
    executor = PlannedExecutor(weights, config)
    whole = executor(ids, KVCache(config, 256), n_outputs=200)
    for n in (1, 2, 65):
        np.testing.assert_allclose(executor(ids, KVCache(config, 256), n_outputs=n), whole[-n:], atol=1e-4)


def test_a_step_longer_than_the_cache_is_refused_before_anything_is_written() -> None:
    weights, config = weights_of()
    cache = KVCache(config, 16)
    with pytest.raises(ContextOverflowError, match="do not fit"):
        PlannedExecutor(weights, config)(ids_of(config, 17), cache, n_outputs=1)
    assert cache.ids == []


def test_a_model_of_odd_widths_multiplies_through_numpy_and_says_so() -> None:
    weights, config = weights_of(n_embd=40, n_head=4, n_head_kv=4, n_ff=72)
    executor, ids = make_executor("auto", weights, config), ids_of(config, 70)
    assert "slow, through NumPy: F32" in repr(executor)
    want = EagerExecutor(weights, config)(ids, KVCache(config, 128), n_outputs=70)
    np.testing.assert_allclose(executor(ids, KVCache(config, 128), n_outputs=70), want, atol=1e-4)
    plain = make_executor("auto", *weights_of())
    assert plain.name == "planned" and "slow" not in repr(plain)


def test_a_model_that_the_kernels_do_not_take_is_run_eagerly_and_says_why() -> None:
    weights, config = weights_of("TQ2_0", n_embd=256, n_ff=256, n_expert=4)
    assert "not planned: blk.0.ffn_gate_exps.weight: experts in TQ2_0" in repr(
        make_executor("auto", weights, config)
    )
    with pytest.raises(UnsupportedError):
        make_executor("planned", weights, config)


def test_a_profile_names_every_operation() -> None:
    weights, config = weights_of("Q8_0")
    executor = PlannedExecutor(weights, config)
    same = {"rms_norm", "attention_f16", "add"}
    rows = executor.profile(n_tokens=20)
    assert {row["operation"] for row in rows} >= {"quantize", "matmul32", *same}
    rows = executor.profile(n_tokens=3)
    assert {row["operation"] for row in rows} >= {"quantize_mixed", "matmul_few_q8_0", *same}
    assert all(row["nanoseconds"] >= 0 for row in rows)
    by_label = {row["label"]: row for row in rows}
    ffn = by_label["blk.0.ffn_up.weight"]
    assert ffn["bytes"] == 64 * 128 // 32 * 34 and ffn["operations"] == 2 * 64 * 128 * 3


# ---- the arena ---------------------------------------------------------------------------------------------


def test_no_two_buffers_that_live_at_once_share_a_byte() -> None:
    weights, config = weights_of("Q8_0")
    plan = PlannedExecutor(weights, config).plan(PREFILL_TOKENS, 1, np.float16)
    from llmlite.engine.plan import buffers_of

    buffers = buffers_of(plan.ops)
    for i, a in enumerate(buffers):
        for b in buffers[:i]:
            apart = a.offset + a.n_bytes <= b.offset or b.offset + b.n_bytes <= a.offset
            assert apart or a.last < b.first or b.last < a.first
    keep_all = sum(b.n_bytes for b in buffers)
    assert plan.arena_bytes < keep_all / 4


def test_operations_of_one_stage_do_not_wait_for_each_other() -> None:
    weights, config = weights_of("Q8_0")
    ops = PlannedExecutor(weights, config).plan(1, 1, np.float16).ops
    stages = [op.stage for op in ops if op.label.startswith("blk.0.attn_") and op.label[11] in "qkv"]
    assert len(set(stages)) == 1
    for op in ops:
        for other in ops:
            if other is not op and other.stage == op.stage:
                assert not set(op.writes) & {*other.reads, *other.writes}


def test_an_arena_is_given_back_when_single_tokens_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, config = weights_of()
    executor, ids = PlannedExecutor(weights, config), ids_of(config, 200)
    many = executor.plan(PREFILL_TOKENS, 1, np.float32)
    want = executor(ids, KVCache(config, 256), n_outputs=1)
    cache = KVCache(config, 256)
    for threshold in (many.arena_bytes + 1, many.arena_bytes):
        monkeypatch.setattr("llmlite.engine.planned.RELEASED_BYTES", threshold)
        cache.truncate(0)
        np.testing.assert_array_equal(executor(ids, cache, n_outputs=1), want)
        middle = many._memory[many.arena_bytes // 8 : many.arena_bytes // 2]  # its edges share pages
        with many.lock:  # a step of another thread is under way
            executor([1], cache, n_outputs=1)
            assert middle.any()
        executor([1], cache, n_outputs=1)
        given_back = threshold == many.arena_bytes and sys.platform.startswith("linux")
        assert middle.any() == (not given_back)


# ---- threads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2, 3, 5])
def test_any_number_of_threads_gives_the_same_logits(n_threads: int) -> None:
    weights, config = weights_of("Q8_0")
    ids = ids_of(config, 40)
    want = PlannedExecutor(weights, config, n_threads=1)(ids, KVCache(config, 64), n_outputs=40)
    executor = PlannedExecutor(weights, config, n_threads=n_threads)
    for _ in range(5):
        np.testing.assert_array_equal(executor(ids, KVCache(config, 64), n_outputs=40), want)


@pytest.mark.parametrize("n_threads", [2, 3, 5])
def test_any_number_of_threads_writes_the_same_token_by_token(
    n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, config = weights_of("Q8_0")
    monkeypatch.setattr("llmlite.engine.planned.BYTES_PER_THREAD", 1)  # else one thread would do it all
    rows = []
    for threads in (1, n_threads):
        executor, cache = PlannedExecutor(weights, config, n_threads=threads), KVCache(config, 64)
        assert executor.plan(1, 1, np.float16).n_threads == threads
        rows.append([executor([token], cache, n_outputs=1)[0] for token in ids_of(config, 30)])
    np.testing.assert_array_equal(rows[0], rows[1])


def test_a_step_with_little_work_runs_on_one_thread_and_a_longer_one_on_all() -> None:
    weights, config = weights_of("Q8_0")
    executor = PlannedExecutor(weights, config, n_threads=2)
    assert executor.plan(1, 1, np.float16).n_threads == 1
    assert executor.plan(PREFILL_TOKENS, 1, np.float16).n_threads == 2


def test_several_models_on_several_python_threads_do_not_disturb_each_other() -> None:
    jobs = []
    for type_name in ("F32", "Q8_0"):
        weights, config = weights_of(type_name)
        executor = PlannedExecutor(weights, config, n_threads=2)
        ids = ids_of(config, 20)
        jobs += [(executor, config, ids, executor(ids, KVCache(config, 64), n_outputs=20))] * 2
    failures: list[BaseException] = []

    def work(executor: PlannedExecutor, config: ModelConfig, ids: list[int], want: np.ndarray) -> None:
        try:
            for _ in range(10):
                np.testing.assert_array_equal(executor(ids, KVCache(config, 64), n_outputs=20), want)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []
