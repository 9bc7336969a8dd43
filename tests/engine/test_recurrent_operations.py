"""Operations that go on from a state: any cut of a text gives the same bits, and the sum over all tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llmlite.description.layers import DeltaNet, Mamba, Mamba2
from llmlite.engine.eager import Eager
from llmlite.engine.plan import Plan, Share
from llmlite.engine.planned import layer_words
from llmlite.engine.recorder import Recorder
from llmlite.engine.recording import Buffer
from tests.support.recurrent import CONVOLUTION, cache_of


def planned(
    mixer: Any, build: Callable[..., Buffer], inputs: tuple[np.ndarray, ...], cuts: list[int], n_threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run the kernel that `build(recorder, *buffers)` records, in steps of the lengths `cuts`.

    Returns:
        Its results, float32 (T, width), and the tail and the state that it leaves.
    """
    cache, rows, at = cache_of(mixer), [], 0
    recorder = Recorder(max_tokens=256, max_outputs=1, n_threads=n_threads)
    sources = [Buffer(each.shape[1], n_rows=256) for each in inputs]
    plan = Plan(recorder, build(recorder, *sources), keep_all=True)
    for n in cuts:
        words = np.array([layer_words(cache[0], cache.recurrent.turn)], np.int64)
        share = Share([0] * n, at, words.ctypes.data, 0)
        plan._describe([share], [])
        for source, values in zip(sources, inputs):
            plan.array(source)[:] = values[at : at + n]
        rows.append(plan.run([share]).copy())
        cache.extend([0] * n)
        at += n
    turn = cache.recurrent.turn
    return np.concatenate(rows), cache[0].tail(turn).copy(), cache[0].state(turn).copy()


def planned_convolution(x: np.ndarray, taps: np.ndarray, bias: Any, cuts: list[int], n_threads: int) -> Any:
    return planned(CONVOLUTION, lambda ops, x: ops.convolve(x, taps, bias, 0), (x,), cuts, n_threads)[:2]


def planned_scan(cuts: list[int], n_threads: int, inputs: tuple[np.ndarray, ...]) -> Any:
    vectors = inputs[2:]
    out, _, state = planned(
        MAMBA2, lambda ops, x, dt: ops.scan(x, dt, *vectors, 0, MAMBA2), inputs[:2], cuts, n_threads
    )
    return out, state


def planned_columns(cuts: list[int], n_threads: int, inputs: tuple[np.ndarray, ...]) -> Any:
    vectors = inputs[3:]
    out, _, state = planned(
        MAMBA, lambda ops, *rows: ops.scan_columns(*rows, *vectors, 0, MAMBA), inputs[:3], cuts, n_threads
    )
    return out, state


def planned_delta(spec: DeltaNet, cuts: list[int], n_threads: int, inputs: tuple[np.ndarray, ...]) -> Any:
    vectors = inputs[4:]
    out, _, state = planned(
        spec, lambda ops, *rows: ops.delta_rule(*rows, *vectors, 0, spec), inputs[:4], cuts, n_threads
    )
    return out, state


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
