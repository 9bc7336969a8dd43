"""States of a fixed size: what they go on from, what an interrupted step leaves, and what they cost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite.description.config import ModelConfig
from llmlite.description.layers import Attention, DeltaNet, Layer, Mamba, Mamba2, ShortConvolution
from llmlite.engine.eager import Eager
from llmlite.engine.kv_cache import KVCache
from llmlite.engine.plan import Piece, Plan
from llmlite.engine.planned import layer_words
from llmlite.engine.recorder import Recorder
from llmlite.engine.recording import Buffer
from llmlite.engine.recurrent import RecurrentMemory
from llmlite.lessons.caching import cache_bytes, filling
from tests.support.tiny_models import tiny_model

ATTENTION = Attention(n_head=2, n_head_kv=2, key_size=8, value_size=8, scale=1.0)
CONVOLUTION = ShortConvolution(width=64, n_taps=4)
N_IDS = 300
IDS = np.random.default_rng(5).integers(0, 267, N_IDS).tolist()


def cache_of(*mixers: Any, **options: Any) -> KVCache:
    layers = tuple(Layer(mixer=mixer, feed_forward=None) for mixer in mixers)
    return KVCache(SimpleNamespace(layers=layers), 512, **options)  # type: ignore[arg-type]


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


# ---- the convolution ---------------------------------------------------------------------------------------


def planned_convolution(x: np.ndarray, taps: np.ndarray, bias: Any, cuts: list[int], n_threads: int) -> Any:
    """The kernel over x in steps as long as `cuts`, and the tail that it leaves."""
    cache = cache_of(CONVOLUTION)
    recorder = Recorder(max_tokens=256, max_outputs=1, n_threads=n_threads)
    source = Buffer(64, n_rows=256)
    plan = Plan(recorder, recorder.convolve(source, taps, bias, 0), keep_all=True)
    plan_input, rows, at = source, [], 0
    for n in cuts:
        words = np.array([layer_words(cache[0], cache.recurrent.turn)], np.int64)
        plan._describe([Piece([0] * n, at, words.ctypes.data, 0)], [])
        plan.array(plan_input)[:] = x[at : at + n]
        rows.append(plan.run([Piece([0] * n, at, words.ctypes.data, 0)]).copy())
        cache.extend([0] * n)
        at += n
    return np.concatenate(rows), cache[0].tail(cache.recurrent.turn).copy()


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_any_cut_of_a_convolution_gives_the_same_bits(has_bias: bool, n_threads: int) -> None:
    random = np.random.default_rng(0)
    x, taps = (random.standard_normal((n, 64)).astype(np.float32) for n in (60, 4))
    bias = random.standard_normal(64).astype(np.float32) if has_bias else None
    want, tail = planned_convolution(x, taps, bias, [60], 1)
    padded = np.concatenate([np.zeros((3, 64), np.float32), x]).astype(np.float64)
    exact = sum(taps[j] * padded[j : j + 60] for j in range(4)) + (0 if bias is None else bias)
    np.testing.assert_allclose(want, exact, atol=2e-6)
    np.testing.assert_array_equal(tail, x[-3:])
    for cuts in ([1] * 60, [2] * 30, [7] * 8 + [4], [59, 1], [1, 2, 57]):
        got, left = planned_convolution(x, taps, bias, cuts, n_threads)
        np.testing.assert_array_equal(got, want, err_msg=str(cuts))
        np.testing.assert_array_equal(left, tail)


def test_the_eager_convolution_is_the_same_from_any_cut() -> None:
    random = np.random.default_rng(1)
    x, taps = (random.standard_normal((n, 64)).astype(np.float32) for n in (20, 4))
    whole = Eager(0, 0, None, cache_of(CONVOLUTION)).convolve(x, taps, None, 0)
    cache, rows = cache_of(CONVOLUTION), []
    for at, n in ((0, 1), (1, 2), (3, 17)):
        rows.append(Eager(at, 0, None, cache).convolve(x[at : at + n], taps, None, 0))
        cache.extend([0] * n)
    np.testing.assert_array_equal(np.concatenate(rows), whole)


# ---- state-space models ------------------------------------------------------------------------------------

MAMBA2 = Mamba2(n_head=4, head_size=32, n_group=2, state_size=24, n_taps=4)


def scan_inputs(n: int) -> tuple[np.ndarray, ...]:
    """x, dt; then a, d and the bias of dt for each head. Rates are such that some heads forget slowly."""
    random = np.random.default_rng(2)
    x, dt, d, bias = (
        random.standard_normal(shape).astype(np.float32) for shape in ((n, MAMBA2.conv_width), (n, 4), 4, 4)
    )
    return x, 3 * dt, np.array([-0.01, -0.5, -2, -16], np.float32), d, bias


def exact_scan(x: np.ndarray, dt: np.ndarray, a: np.ndarray, d: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The sum over all earlier tokens, without a state, in float64: y[t] = Σ c·b e^(a Σ δ) δ x + d x."""
    x, dt = x.astype(np.float64), np.log1p(np.exp(dt.astype(np.float64) + bias))
    out = np.zeros((len(x), 4, 32))
    for head in range(4):
        group = head // 2 * 24
        tokens, b = x[:, head * 32 : head * 32 + 32], x[:, 128 + group : 152 + group]
        c, passed = x[:, 176 + group : 200 + group], np.cumsum(dt[:, head])
        kept = np.tril(np.exp(np.minimum(0, a[head] * (passed[:, None] - passed))))  # (T, T)
        out[:, head] = (c @ b.T * kept * dt[:, head]) @ tokens + d[head] * tokens
    return out.reshape(len(x), -1)


def planned_scan(cuts: list[int], n_threads: int, inputs: tuple[np.ndarray, ...]) -> Any:
    x, dt, *vectors = inputs
    cache, rows, at = cache_of(MAMBA2), [], 0
    recorder = Recorder(max_tokens=256, max_outputs=1, n_threads=n_threads)
    sources = Buffer(x.shape[1], n_rows=256), Buffer(4, n_rows=256)
    plan = Plan(recorder, recorder.scan(*sources, *vectors, 0, MAMBA2), keep_all=True)
    for n in cuts:
        words = np.array([layer_words(cache[0], cache.recurrent.turn)], np.int64)
        piece = Piece([0] * n, at, words.ctypes.data, 0)
        plan._describe([piece], [])
        plan.array(sources[0])[:], plan.array(sources[1])[:] = x[at : at + n], dt[at : at + n]
        rows.append(plan.run([piece]).copy())
        cache.extend([0] * n)
        at += n
    return np.concatenate(rows), cache[0].state(cache.recurrent.turn).copy()


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_any_cut_of_a_scan_gives_the_same_bits(n_threads: int) -> None:
    inputs = scan_inputs(60)
    want, state = planned_scan([60], 1, inputs)
    exact = exact_scan(*inputs)
    np.testing.assert_allclose(want, exact, atol=3e-6 * np.abs(exact).max(), rtol=0)
    for cuts in ([1] * 60, [2] * 30, [7] * 8 + [4], [59, 1]):
        got, left = planned_scan(cuts, n_threads, inputs)
        np.testing.assert_array_equal(got, want, err_msg=str(cuts))
        np.testing.assert_array_equal(left, state)


def test_the_eager_scan_is_the_sum_over_all_tokens_from_any_cut() -> None:
    x, dt, *vectors = scan_inputs(40)
    whole = Eager(0, 0, None, cache_of(MAMBA2)).scan(x, dt, *vectors, 0, MAMBA2)
    exact = exact_scan(x, dt, *vectors)
    np.testing.assert_allclose(whole, exact, atol=3e-6 * np.abs(exact).max(), rtol=0)
    cache, rows = cache_of(MAMBA2), []
    for at, n in ((0, 1), (1, 2), (3, 37)):
        rows.append(Eager(at, 0, None, cache).scan(x[at : at + n], dt[at : at + n], *vectors, 0, MAMBA2))
        cache.extend([0] * n)
    np.testing.assert_array_equal(np.concatenate(rows), whole)


MAMBA = Mamba(width=48, rank=5, state_size=7, n_taps=4)


def column_inputs(n: int) -> tuple[np.ndarray, ...]:
    """x, dt, and db; then the rates (N, E) and d."""
    random = np.random.default_rng(3)
    x, dt, db, d = (
        random.standard_normal(shape).astype(np.float32) for shape in ((n, 48), (n, 48), (n, 5 + 14), 48)
    )
    return x, 3 * dt, db, -random.uniform(0.01, 4, (7, 48)).astype(np.float32), d


def exact_columns(x: np.ndarray, dt: np.ndarray, db: np.ndarray, a: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The sum over all earlier tokens, without a state, in float64."""
    delta, b, c = np.log1p(np.exp(dt.astype(np.float64))), db[:, 5:12], db[:, 12:]
    passed = np.cumsum(delta, axis=0)
    out = d * x.astype(np.float64)
    for t in range(len(x)):
        kept = np.exp(a * (passed[t] - passed[: t + 1])[:, None])  # (t + 1, N, E)
        out[t] += np.einsum("n,sn,sne,se->e", c[t], b[: t + 1], kept, (delta * x)[: t + 1])
    return out


def planned_columns(cuts: list[int], n_threads: int, inputs: tuple[np.ndarray, ...]) -> Any:
    cache, rows, at = cache_of(MAMBA), [], 0
    recorder = Recorder(max_tokens=256, max_outputs=1, n_threads=n_threads)
    sources = [Buffer(each.shape[1], n_rows=256) for each in inputs[:3]]
    plan = Plan(recorder, recorder.scan_columns(*sources, *inputs[3:], 0, MAMBA), keep_all=True)
    for n in cuts:
        words = np.array([layer_words(cache[0], cache.recurrent.turn)], np.int64)
        piece = Piece([0] * n, at, words.ctypes.data, 0)
        plan._describe([piece], [])
        for source, values in zip(sources, inputs):
            plan.array(source)[:] = values[at : at + n]
        rows.append(plan.run([piece]).copy())
        cache.extend([0] * n)
        at += n
    return np.concatenate(rows), cache[0].state(cache.recurrent.turn).copy()


@pytest.mark.parametrize("n_threads", [1, 2])
def test_any_cut_of_a_scan_of_columns_gives_the_same_bits(n_threads: int) -> None:
    inputs = column_inputs(40)
    want, state = planned_columns([40], 1, inputs)
    exact = exact_columns(*inputs)
    np.testing.assert_allclose(want, exact, atol=3e-6 * np.abs(exact).max(), rtol=0)
    eager = Eager(0, 0, None, cache_of(MAMBA)).scan_columns(*inputs, 0, MAMBA)
    np.testing.assert_allclose(eager, exact, atol=3e-6 * np.abs(exact).max(), rtol=0)
    for cuts in ([1] * 40, [2] * 20, [7] * 5 + [5], [39, 1]):
        got, left = planned_columns(cuts, n_threads, inputs)
        np.testing.assert_array_equal(got, want, err_msg=str(cuts))
        np.testing.assert_array_equal(left, state)


# ---- delta nets --------------------------------------------------------------------------------------------


def delta_inputs(n: int) -> tuple[np.ndarray, ...]:
    """x, queries and keys of length 1, beta, alpha; then the rates and the bias of alpha."""
    random = np.random.default_rng(4)
    x, qk, beta, alpha, bias = (
        random.standard_normal(shape).astype(np.float32) for shape in ((n, 256), (n, 128), (n, 4), (n, 4), 4)
    )
    parts = qk.reshape(n, 4, 32)
    qk = (parts / np.linalg.norm(parts, axis=-1, keepdims=True)).reshape(n, 128)
    return x, qk, beta, 3 * alpha, np.array([-0.01, -0.2, -1, -4], np.float32), bias


def exact_delta(spec: DeltaNet, *inputs: np.ndarray) -> np.ndarray:
    """Without a state, in float64: what each token changes follows from all changes before it."""
    x, qk, beta, alpha, a, bias = (values.astype(np.float64) for values in inputs)
    n, out = len(x), np.zeros((len(x), 4, 32))
    passed = np.cumsum(a * np.log1p(np.exp(alpha + bias)), axis=0)  # (T, H)
    for head in range(4):
        at = (head % 2 if spec.tiled else head // 2) * 32
        q, k, v = qk[:, at : at + 32], qk[:, 64 + at : 96 + at], x[:, 128 + head * 32 : 160 + head * 32]
        kept = np.tril(np.exp(np.minimum(0, passed[:, None, head] - passed[:, head])))  # (T, T)
        strength = 1 / (1 + np.exp(-beta[:, head]))[:, None]
        earlier = strength * np.tril(k @ k.T * kept, -1)
        changes = np.linalg.solve(np.eye(n) + earlier, strength * v)  # I + a triangle: one after the other
        out[:, head] = (q @ k.T * kept) @ changes / np.sqrt(32)
    return out.reshape(n, -1)


def planned_delta(spec: DeltaNet, cuts: list[int], n_threads: int, inputs: tuple[np.ndarray, ...]) -> Any:
    cache, rows, at = cache_of(spec), [], 0
    recorder = Recorder(max_tokens=256, max_outputs=1, n_threads=n_threads)
    sources = [Buffer(each.shape[1], n_rows=256) for each in inputs[:4]]
    plan = Plan(recorder, recorder.delta_rule(*sources, *inputs[4:], 0, spec), keep_all=True)
    for n in cuts:
        words = np.array([layer_words(cache[0], cache.recurrent.turn)], np.int64)
        piece = Piece([0] * n, at, words.ctypes.data, 0)
        plan._describe([piece], [])
        for source, values in zip(sources, inputs):
            plan.array(source)[:] = values[at : at + n]
        rows.append(plan.run([piece]).copy())
        cache.extend([0] * n)
        at += n
    return np.concatenate(rows), cache[0].state(cache.recurrent.turn).copy()


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_any_cut_of_a_delta_rule_gives_the_same_bits(tiled: bool, n_threads: int) -> None:
    spec = DeltaNet(n_head_k=2, n_head=4, head_size=32, n_taps=4, tiled=tiled)
    inputs = delta_inputs(60)
    want, state = planned_delta(spec, [60], 1, inputs)
    exact = exact_delta(spec, *inputs)
    np.testing.assert_allclose(want, exact, atol=3e-6 * np.abs(exact).max(), rtol=0)
    eager = Eager(0, 0, None, cache_of(spec)).delta_rule(*inputs, 0, spec)
    np.testing.assert_allclose(eager, exact, atol=3e-6 * np.abs(exact).max(), rtol=0)
    for cuts in ([1] * 60, [2] * 30, [7] * 8 + [4], [59, 1]):
        got, left = planned_delta(spec, cuts, n_threads, inputs)
        np.testing.assert_array_equal(got, want, err_msg=str(cuts))
        np.testing.assert_array_equal(left, state)


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
    texts = [IDS[:1], IDS[:37], IDS[:130], IDS[100:101], IDS[7:N_IDS]]

    def caches() -> list[KVCache]:
        return [KVCache(model.config, 512, np.float16) for _ in texts]

    alone, together = caches(), caches()
    for next_ids in (texts, [[3]] * len(texts), [[4, 5]] * len(texts)):
        want = [model.executor(ids, cache, n_outputs=1) for ids, cache in zip(next_ids, alone)]
        got = model.executor.batch([(ids, cache, 1) for ids, cache in zip(next_ids, together)])
        for each, other in zip(got, want):
            np.testing.assert_array_equal(each, other)


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
