"""The eager executor's operations against their formulas, and its steps against each other."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from llmlite.description.config import ModelConfig
from llmlite.description.layers import Attention, FeedForward, Layer, Rope
from llmlite.description.rope import RopeTable
from llmlite.description.weights import Weights
from llmlite.engine import eager, make_executor
from llmlite.engine.eager import Eager, EagerExecutor
from llmlite.engine.kv_cache import KVCache
from llmlite.quants.tensor import QuantTensor
from tests.support.tiny_models import tiny_model

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def executor_of(architecture: str = "llama", type_name: str = "F32") -> EagerExecutor:
    model = tiny_model(architecture)
    tensors = model.tensors(type_name)
    config = ModelConfig.from_metadata(model.metadata, tensors)
    return EagerExecutor(Weights.from_tensors(tensors, config), config)


def test_embed_takes_rows() -> None:
    w = QuantTensor.quantize(normal(10, 32), "Q8_0")
    np.testing.assert_array_equal(Eager(0, 1).embed(w, np.array([3, 3, 0])), w.dequantize()[[3, 3, 0]])


@pytest.mark.parametrize("type_name", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize("slab_bytes", [1, 1000, 2**24])
def test_matmul_in_slabs_is_the_whole_product(
    type_name: str, slab_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eager, "SLAB_BYTES", slab_bytes)
    w, x, bias = QuantTensor.quantize(normal(37, 64), type_name), normal(5, 64), normal(37)
    got = Eager(0, 1).matmul(w, x, bias)
    np.testing.assert_allclose(got, x @ w.dequantize().T + bias, rtol=1e-5, atol=1e-5)


def test_matmul_never_holds_more_than_a_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "SLAB_BYTES", 4 * 64 * 8)
    sizes = []
    dequantize = QuantTensor.dequantize

    def spy(self: QuantTensor, rows: slice | None = None) -> np.ndarray:
        sizes.append(dequantize(self, rows).nbytes)
        return dequantize(self, rows)

    monkeypatch.setattr(QuantTensor, "dequantize", spy)
    Eager(0, 1).matmul(QuantTensor.quantize(normal(37, 64), "Q8_0"), normal(1, 64))
    assert max(sizes) == 4 * 64 * 8
    assert len(sizes) == 5


def test_rms_norm_is_its_formula() -> None:
    x, gain = normal(4, 64) * 100, normal(64)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * gain
    np.testing.assert_allclose(Eager(0, 1).rms_norm(x, gain, 1e-5), expected, rtol=1e-6, atol=1e-6)


def rotated(x: np.ndarray, position: int, frequencies: np.ndarray, partner: np.ndarray) -> np.ndarray:
    """RoPE of one head: each pair (first, partner) is a complex number, turned by e^(i angle)."""
    first = np.setdiff1d(np.arange(2 * len(frequencies)), partner)
    turned = (x[first] + 1j * x[partner]) * np.exp(1j * position * frequencies)
    out = x.astype(np.float64)
    out[first], out[partner] = turned.real, turned.imag
    return out


@pytest.mark.parametrize("n", [4, 3])  # 3: the last two elements of a head stay
@pytest.mark.parametrize("pairs", ["norm", "neox"])
def test_rope_turns_pairs(pairs: str, n: int) -> None:
    x, frequencies = normal(3, 2 * 8), np.linspace(1, 0.01, n, dtype=np.float32)
    partner = np.arange(1, 2 * n, 2) if pairs == "norm" else np.arange(n, 2 * n)
    table = RopeTable(Rope(dim=2 * n, pairs=pairs), frequencies)
    got = Eager(5, 1).rope(x, 2, table).reshape(3, 2, 8)
    for t in range(3):
        for head in range(2):
            expected = rotated(x.reshape(3, 2, 8)[t, head], 5 + t, frequencies, partner)
            np.testing.assert_allclose(got[t, head], expected, rtol=1e-5, atol=1e-6)


def one_layer(mixer: Attention) -> SimpleNamespace:
    """What a cache reads of the configuration of a model with this one layer."""
    return SimpleNamespace(layers=(Layer(mixer=mixer, feed_forward=FeedForward(n_ff=32)),))


def test_attention_is_softmax_over_the_past() -> None:
    T, H, K, Dh = 6, 4, 2, 8
    q, k, v = normal(T, H * Dh), normal(T, K * Dh), normal(T, K * Dh)
    spec = Attention(n_head=H, n_head_kv=K, key_size=Dh, value_size=Dh, scale=0.5)
    trace: dict[str, np.ndarray] = {}
    cache = KVCache(one_layer(spec), T)
    got = Eager(0, 1, trace, cache).attention(q, k, v, 0, spec).reshape(T, H, Dh)
    for t in range(T):
        for head in range(H):
            past = slice(head // 2 * Dh, head // 2 * Dh + Dh)
            scores = k[: t + 1, past] @ q[t, head * Dh : head * Dh + Dh]
            weights = np.exp(scores * 0.5) / np.exp(scores * 0.5).sum()
            np.testing.assert_allclose(got[t, head], weights @ v[: t + 1, past], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(
                trace["kq_soft_max-0"][head, t, : t + 1], weights, rtol=1e-4, atol=1e-6
            )
            assert not trace["kq_soft_max-0"][head, t, t + 1 :].any()


def test_gated_silu_is_its_formula_without_a_warning() -> None:
    gate = np.array([[-200.0, -1.0, 0.0, 3.0]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        got = Eager(0, 1).activate("silu", gate, np.full_like(gate, 2))
    np.testing.assert_allclose(got, [[0, -2 / (1 + np.e), 0, 6 / (1 + np.exp(-3))]], rtol=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("type_name", ["F32", "Q8_0"])
def test_prefill_equals_stepwise(architecture: str, type_name: str) -> None:
    executor = executor_of(architecture, type_name)
    ids = RANDOM.integers(0, 256, 41)
    whole = executor(ids, KVCache(executor.config, 64), n_outputs=41)
    for size in (1, 2, 7, 40):
        cache = KVCache(executor.config, 64)
        chunks = [ids[start : start + size] for start in range(0, 41, size)]
        steps = np.concatenate([executor(chunk, cache, n_outputs=len(chunk)) for chunk in chunks])
        np.testing.assert_allclose(steps, whole, atol=1e-4, err_msg=f"chunks of {size}")
        assert cache.ids == list(ids)


def test_only_the_outputs_asked_for_are_computed() -> None:
    executor = executor_of()
    ids = [5, 6, 7, 8]
    whole = executor(ids, KVCache(executor.config, 8), n_outputs=4)
    trace: dict[str, np.ndarray] = {}
    last = executor(ids, KVCache(executor.config, 8), n_outputs=1, trace=trace)
    assert last.shape == (1, executor.config.n_vocab)
    np.testing.assert_allclose(last, whole[3:], atol=1e-5)
    assert len(trace["l_out-0"]) == 4
    assert len(trace["ffn_norm-1"]) == 1  # the last layer's feed-forward too


def test_an_interrupted_step_leaves_the_cache_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = executor_of()
    cache = KVCache(executor.config, 8)
    executor([1, 2], cache, n_outputs=1)
    expected = executor([3], cache, n_outputs=1)
    cache.truncate(2)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Eager, "activate", interrupt)
        executor([4, 5], cache, n_outputs=1)
    assert cache.ids == [1, 2]
    np.testing.assert_array_equal(executor([3], cache, n_outputs=1), expected)


def test_half_precision_cache_stays_close() -> None:
    executor = executor_of()
    ids = list(range(40))
    full = executor(ids, KVCache(executor.config, 64), n_outputs=40)
    half = executor(ids, KVCache(executor.config, 64, np.float16), n_outputs=40)
    assert 0 < np.abs(half - full).max() < 0.1


def test_an_unknown_executor_is_refused() -> None:
    executor = executor_of()
    with pytest.raises(ValueError, match="executor must be one of auto, planned, eager"):
        make_executor("fast", executor.weights, executor.config)
