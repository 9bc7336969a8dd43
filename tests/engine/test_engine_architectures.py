"""Operations that only some architectures have, and planned models of those, against the eager ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmlite.description.config import ModelConfig
from llmlite.description.layers import ACTIVATIONS, Experts
from llmlite.description.weights import Weights
from llmlite.engine.eager import Eager, EagerExecutor
from llmlite.engine.kv_cache import KVCache
from llmlite.engine.planned import PlannedExecutor
from llmlite.errors import ContextOverflowError, ModelError, UnsupportedError
from llmlite.quants.tensor import QuantTensor
from tests.support.planned import (
    close,
    computed,
    ids_of,
    normal,
    quantized_activations,
    random_weights,
    weights_of,
)
from tests.support.tiny_models import tiny_model

ARCHITECTURES = [
    ("qwen3", {}),
    ("llama", {"n_expert": 4}),
    ("qwen3moe", {"n_expert": 6, "n_expert_used": 3}),
    ("gpt2", {"n_head_kv": 4}),
    ("gemma2", {}),
    ("gemma3", {"n_layer": 7}),
]


def mixture(n_expert: int, n_used: int) -> Experts:
    """A softmax over the chosen experts."""
    return Experts(n_expert=n_expert, n_used=n_used, n_ff=64)


def test_layer_norm_equals_the_eager_one() -> None:
    x, gain, bias = normal(5, 192) * 3 + 1, normal(192), normal(192)
    want = Eager(0, 0).layer_norm(x, gain, bias, 1e-5)
    close(computed(lambda ops, x: ops.layer_norm(x, gain, bias, 1e-5), x), want)


def test_layer_norm_of_each_head_equals_the_eager_one_and_that_of_the_head_alone() -> None:
    x, gain = normal(5, 4 * 40) * 3 + 1, normal(4 * 40)
    want = Eager(0, 0).layer_norm(x, gain, None, 1e-5, parts=4)
    close(computed(lambda ops, x: ops.layer_norm(x, gain, None, 1e-5, parts=4), x), want)
    third = Eager(0, 0).layer_norm(x[:, 80:120], gain[80:120], None, 1e-5)
    assert np.array_equal(want[:, 80:120], third)


def test_rms_norm_of_each_head_by_itself_equals_the_eager_one() -> None:
    x, gain = normal(5, 192) * 3, normal(64)
    want = Eager(0, 0).rms_norm(x, gain, 1e-5)
    close(computed(lambda ops, x: ops.rms_norm(x, gain, 1e-5), x), want)
    close(want[:, 64:128], Eager(0, 0).rms_norm(x[:, 64:128], gain, 1e-5))


@pytest.mark.parametrize("kind", [kind for kind in ACTIVATIONS if kind != "swiglu_oai"])  # is a gated one
@pytest.mark.parametrize("width", [64, 37])
def test_activations_without_a_gate_equal_the_eager_ones_also_far_out(kind: str, width: int) -> None:
    x = normal(3, width) * 4
    x[0, :5] = -200, 200, -11, 1e-6, 0
    close(computed(lambda ops, x: ops.activate(kind, x), x), Eager(0, 0).activate(kind, x))


def test_positions_are_rows_of_their_table() -> None:
    table, x = normal(40, 64), normal(3, 64)
    got = computed(lambda ops, x: ops.add(x, ops.positions(table)), x, position=35)
    np.testing.assert_array_equal(got, x + table[35:38])


@pytest.mark.parametrize("type_name", ["F32", "F16", "Q8_0", "Q4_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("T", [1, 2, 7, 40])
def test_expert_matmul_equals_numpy_on_the_same_bytes(type_name: str, T: int) -> None:
    n_expert, n_used, rows, columns = 6, 2, 37, 512
    w = random_weights(type_name, n_expert * rows, columns)
    w = QuantTensor("w", w.type, (n_expert, rows, columns), w.blocks)
    router, x = QuantTensor.quantize(normal(n_expert, columns), "F32", "router"), normal(T, columns)

    def build(ops: Any, x: Any) -> Any:
        routes = ops.route(ops.matmul(router, x), mixture(n_expert, n_used))
        return ops.expert_matmul(w, ops.spread(x, routes), routes)

    eager = Eager(0, 0)
    routes = eager.route(eager.matmul(router, x), mixture(n_expert, n_used))
    exact = x if w.type.block_size == 1 else quantized_activations(x).astype(np.float32)
    close(computed(build, x), eager.expert_matmul(w, eager.spread(exact, routes), routes))


@pytest.mark.parametrize("n_used", [1, 3, 5])
def test_rows_spread_over_experts_gather_to_their_weighted_sum(n_used: int) -> None:
    router, x = QuantTensor.quantize(normal(5, 64), "F32", "router"), normal(30, 64)

    def build(ops: Any, x: Any) -> Any:
        routes = ops.route(ops.matmul(router, x), mixture(5, n_used))
        return ops.gather(ops.spread(x, routes), routes)

    close(computed(build, x), x)  # the weights of a token sum to 1
    close(build(Eager(0, 0), x), x)


@pytest.mark.parametrize("gating", ["sigmoid", "softmax", "softmax_normalized"])
@pytest.mark.parametrize(("n_group", "n_group_used", "n_used"), [(4, 2, 3), (8, 3, 6), (2, 1, 8), (16, 5, 4)])
def test_experts_in_the_best_groups_are_those_that_the_definition_names(
    gating: str, n_group: int, n_group_used: int, n_used: int
) -> None:
    """Written out token by token: groups by their best expert, after a sigmoid by their two best."""
    E, T = 32, 40
    router, x, bias = QuantTensor.quantize(normal(E, 64), "F32", "router"), normal(T, 64), normal(E) - 1
    w = QuantTensor("w", router.type, (E, 16, 64), QuantTensor.quantize(normal(16 * E, 64), "F32").blocks)
    kind, _, normalized = gating.partition("_")
    spec = Experts(
        n_expert=E, n_used=n_used, n_ff=64, gating=kind, normalized=bool(normalized), n_group=n_group,
        n_group_used=n_group_used,
    )  # fmt: skip

    def build(ops: Any, x: Any) -> Any:
        routes = ops.route(ops.matmul(router, x), spec, bias if kind == "sigmoid" else None)
        return ops.gather(ops.expert_matmul(w, ops.spread(x, routes), routes), routes)

    want = np.empty((T, 16), np.float32)
    for t, scores in enumerate(Eager(0, 0).matmul(router, x)):
        p = 1 / (1 + np.exp(-scores)) if kind == "sigmoid" else np.exp(scores) / np.exp(scores).sum()
        by = p + bias if kind == "sigmoid" else p
        groups = by.reshape(n_group, -1)
        best = [sorted(group)[-1] + (sorted(group)[-2] if kind == "sigmoid" else 0) for group in groups]
        allowed = sorted(range(n_group), key=lambda g: -best[g])[:n_group_used]
        left = [e for e in range(E) if e // (E // n_group) in allowed]
        chosen = sorted(left, key=lambda e: -by[e])[:n_used]
        share = p[chosen] / p[chosen].sum() if normalized else p[chosen]
        want[t] = sum(s * (w.dequantize()[e] @ x[t]) for e, s in zip(chosen, share))
    close(build(Eager(0, 0), x), want)
    close(computed(build, x), want)


def test_of_equal_scores_the_first_experts_are_chosen() -> None:
    w = QuantTensor.quantize(normal(4, 64), "F32", "w")
    w = QuantTensor("w", w.type, (4, 1, 64), w.blocks)
    router = QuantTensor.quantize(np.zeros((4, 64), np.float32), "F32", "router")
    x = normal(3, 64)

    def build(ops: Any, x: Any) -> Any:
        routes = ops.route(ops.matmul(router, x), mixture(4, 2))
        return ops.expert_matmul(w, ops.spread(x, routes), routes)

    want = x @ w.dequantize()[:2, 0].T  # (3, 2)
    close(computed(build, x).ravel(), want.T.ravel())


@pytest.mark.parametrize(("architecture", "options"), ARCHITECTURES)
def test_a_planned_model_gives_the_eager_logits(architecture: str, options: dict[str, Any]) -> None:
    weights, config = weights_of(architecture=architecture, **options)
    ids = ids_of(config, 300)
    want = EagerExecutor(weights, config)(ids, KVCache(config, 512, np.float32), n_outputs=300)
    executor = PlannedExecutor(weights, config, kv_dtype=np.float32)
    got = executor(ids, KVCache(config, 512, np.float32), n_outputs=300)
    close(got, want, 2e-5)
    cache = KVCache(config, 512, np.float32)
    for start, end in ((0, 1), (1, 3), (3, 10), (10, 74), (74, 300)):
        last = executor(ids[start:end], cache, n_outputs=1)
        assert np.abs(last[0] - want[end - 1]).max() <= 2e-5 * np.abs(want).max()


def test_a_token_reads_only_the_experts_it_uses() -> None:
    weights, config = weights_of("Q8_0", n_expert=4)
    rows = {row["label"]: row for row in PlannedExecutor(weights, config).profile(n_tokens=1)}
    up = rows["blk.0.ffn_up_exps.weight"]
    one = config.n_embd * config.n_ff
    assert (up["operation"], up["operations"], up["bytes"]) == (
        "each_expert",
        2 * 2 * one,
        2 * one // 32 * 34,
    )


def test_positions_beyond_those_learned_are_refused() -> None:
    weights, config = weights_of(architecture="gpt2", n_head_kv=4, n_ctx=32)
    with pytest.raises(ContextOverflowError, match="33 positions: the model knows 32"):
        PlannedExecutor(weights, config)(ids_of(config, 33), KVCache(config, 64), n_outputs=1)


def test_experts_of_a_type_without_kernels_are_left_to_the_eager_executor() -> None:
    weights, config = weights_of("TQ2_0", n_embd=256, n_ff=256, n_expert=4)
    with pytest.raises(UnsupportedError, match="ffn_gate_exps.weight: experts in TQ2_0"):
        PlannedExecutor(weights, config)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("expert_used_count", 9, ModelError),
        ("expert_count", 100000, ModelError),
        ("expert_gating_func", 2, UnsupportedError),
        ("expert_shared_count", 1, UnsupportedError),
    ],
)
def test_impossible_or_unknown_mixtures_are_refused(key: str, value: int, error: type) -> None:
    tiny = tiny_model(n_expert=4)
    tiny.metadata[f"llama.{key}"] = value
    with pytest.raises(error, match=key):
        ModelConfig.from_metadata(tiny.metadata, tiny.tensors())


def test_a_mixture_without_its_router_is_refused() -> None:
    tensors = tiny_model(n_expert=4).tensors()
    config = ModelConfig.from_metadata(tiny_model(n_expert=4).metadata, tensors)
    del tensors["blk.1.ffn_gate_inp.weight"]
    with pytest.raises(ModelError, match="ffn_gate_inp.weight: this tensor is missing"):
        Weights.from_tensors(tensors, config)
