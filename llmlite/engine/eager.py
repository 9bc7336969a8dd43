"""The eager executor: it runs every operation immediately, in NumPy, on float32. It is meant to be read and
stepped.

It is the reference for tests of the faster executor. It never holds the whole model in float32: a matrix is
dequantized one slab of rows at a time. BLAS chooses its own number of threads (OPENBLAS_NUM_THREADS).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from llmlite.description.config import ModelConfig
from llmlite.description.layers import Attention, Experts, alibi_slopes, temperatures
from llmlite.description.rope import RopeTable
from llmlite.description.weights import Weights
from llmlite.engine.eager_recurrent import EagerRecurrent
from llmlite.engine.eager_routing import SMALLEST_SUM, Routes, in_best_groups, routing_steps, softmax
from llmlite.engine.kv_cache import KVCache
from llmlite.engine.transformer import forward
from llmlite.errors import NumericsError
from llmlite.quants.tensor import QuantTensor

SLAB_BYTES = 16 * 2**20  # float32 rows of a matrix that are in memory at a time
GELU_SCALE = np.float32(np.sqrt(2 / np.pi))
SWIGLU_ALPHA, SWIGLU_LIMIT = np.float32(1.702), np.float32(7)  # gpt-oss


class EagerExecutor:
    """Runs a model step by step; see llmlite.engine.Executor."""

    name = "eager"
    max_tokens = 256  # limits the size of the scores, (T, positions) for each head of one key/value head

    def __init__(self, weights: Weights, config: ModelConfig, *, reason: str = "") -> None:
        self.weights = weights
        self.config = config
        self.reason = reason  # why no faster executor could be made

    def __call__(
        self,
        ids: Sequence[int],
        cache: KVCache,
        *,
        n_outputs: int,
        trace: dict[str, np.ndarray] | None = None,
        types: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Run `ids` after the tokens in `cache`; if `trace` is a dict, store every named intermediate in it.

        Args:
            types: each id's token type; by default 0.

        Returns:
            The logits of the last `n_outputs` tokens, float32 (n_outputs, n_vocab); for an encoder, their
            last states, float32 (n_outputs, n_embd).

        Raises:
            NumericsError: a result is not finite; names the first operation that made one.
            ContextOverflowError: the tokens don't fit the cache.
        """
        cache.reserve(len(ids))
        ops = Eager(cache.position, n_outputs, trace, cache, types)
        with np.errstate(invalid="ignore", over="ignore"):  # `name` finds the results
            logits = forward(ops, self.weights, self.config, np.asarray(ids))
        cache.extend(ids)
        return logits

    def __repr__(self) -> str:
        text = f"EagerExecutor(NumPy {np.__version__}, float32, slabs of {SLAB_BYTES >> 20} MB"
        return text + (f"; not planned: {self.reason})" if self.reason else ")")


class Eager(EagerRecurrent):
    """The operations of one step. Every x is float32, one row per token.

    Args:
        position: position of the step's first token.
        n_outputs: number of last tokens that `outputs` keeps.
        trace: dict that collects named results, or None.
        cache: states that attention reads and writes.
        types: each token's type; None if all are 0.
    """

    def __init__(
        self,
        position: int,
        n_outputs: int,
        trace: dict[str, np.ndarray] | None = None,
        cache: KVCache | None = None,
        types: Sequence[int] | None = None,
    ) -> None:
        self.position = position
        self.types = types
        self.n_outputs = n_outputs
        self.n_tokens = 0  # of the step; set by `embed`
        self.trace = trace
        self.cache = cache

    def name(
        self, x: np.ndarray, name: str, layer: int | None = None, heads: int | None = None
    ) -> np.ndarray:
        """Record x as "name-layer", as (T, heads, Dh) if the number of heads is given; return x.

        Raises:
            NumericsError: x has a number that is not finite.
        """
        if not np.isfinite(x).all():
            raise NumericsError.at(name, layer)
        if self.trace is not None:
            key = name if layer is None else f"{name}-{layer}"
            self.trace[key] = x.copy() if heads is None else x.reshape(len(x), heads, -1).copy()
        return x

    def name_routed(self, x: np.ndarray, name: str, layer: int, routes: Routes) -> np.ndarray:
        """Record rows sorted by expert as (T, n_used, width), with each token's best expert first."""
        if self.trace is not None:
            self.trace[f"{name}-{layer}"] = routes.by_token(x)
        return x

    def inside(self, name: str, layer: int, compute: Callable[[], np.ndarray]) -> None:
        """Record an intermediate of an operation, if there is a trace."""
        if self.trace is not None:
            self.trace[f"{name}-{layer}"] = np.array(compute())

    def embed(self, w: QuantTensor, ids: np.ndarray) -> np.ndarray:
        """Return the rows of w (V, D) for the ids, (T, D)."""
        self.n_tokens = len(ids)
        return w.rows(ids)

    def rms_norm(self, x: np.ndarray, gain: np.ndarray | None, eps: float, width: int = 0) -> np.ndarray:
        """x / sqrt(mean(x²) + eps) * gain; squares are summed in double, as llama.cpp does.

        Args:
            x: (T, n*width); each part of `width` columns is normalized separately.
            gain: (width,), or None for ones; then `width` gives the length of a part.
        """
        parts = x.reshape(len(x), -1, width if gain is None else len(gain))
        mean = np.mean(parts * parts, axis=-1, keepdims=True, dtype=np.float64)
        parts = parts * (1 / np.sqrt(mean + eps)).astype(np.float32)
        return (parts if gain is None else parts * gain).reshape(x.shape)

    def layer_norm(
        self, x: np.ndarray, gain: np.ndarray, bias: np.ndarray | None, eps: float, parts: int = 1
    ) -> np.ndarray:
        """(x - mean(x)) / sqrt(mean((x - mean(x))²) + eps) * gain + bias; sums in double.

        Args:
            x: (T, width).
            gain, bias: (width,).
            parts: number of equal parts of a row, each of which is normalized separately.
        """
        whole, x = x, x.reshape(len(x), parts, -1)
        centred = x - np.mean(x, axis=-1, keepdims=True, dtype=np.float64)
        variance = np.mean(centred * centred, axis=-1, keepdims=True)
        scaled = (centred / np.sqrt(variance + eps)).astype(np.float32).reshape(whole.shape) * gain
        return scaled if bias is None else scaled + bias

    def positions(self, table: np.ndarray) -> np.ndarray:
        """Return the rows of table (n_ctx, D) for the step's positions, (n, D)."""
        return table[self.position : self.position + self.n_tokens]

    def token_types(self, table: np.ndarray) -> np.ndarray:
        """Return the rows of table (n_token_types, D) for the tokens' types, (T, D)."""
        return table[np.zeros(self.n_tokens, np.int64) if self.types is None else np.asarray(self.types)]

    def matmul(self, w: QuantTensor, x: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        """Return x @ w.T + bias: (T, columns) by (rows, columns) -> (T, rows)."""
        n_rows, n_columns = w.shape
        slab = max(1, SLAB_BYTES // (4 * n_columns))
        out = np.empty((len(x), n_rows), np.float32)
        for start in range(0, n_rows, slab):
            rows = slice(start, min(start + slab, n_rows))
            np.matmul(x, w.dequantize(rows).T, out=out[:, rows])
        return out if bias is None else out + bias

    def head_matmul(self, w: QuantTensor, x: np.ndarray) -> np.ndarray:
        """Multiply each head's columns of x by its own matrix: (T, H*C) by (H, R, C) -> (T, H*R)."""
        n_head, n_rows, n_columns = w.shape
        heads = x.reshape(len(x), n_head, n_columns)
        parts = [
            self.matmul(w.slice_rows(h * n_rows, (h + 1) * n_rows), np.ascontiguousarray(heads[:, h]))
            for h in range(n_head)
        ]
        return np.concatenate(parts, axis=1)

    def route(
        self, scores: np.ndarray, spec: Experts, bias: np.ndarray | None = None, layer: int | None = None
    ) -> Routes:
        """Choose the n_used experts with the highest scores for each token; ties go to the lower index.

        With groups, choose among the experts of the best groups (`in_best_groups`).

            weight[t, j] = p[t, j] · weight_scale, p = softmax or sigmoid of the scores,
            divided by Σ p[t, j'] over the chosen j' if `spec.normalized`

        Args:
            scores: (T, n_expert).
            bias: (n_expert,), added to p for the choice only.
            layer: layer whose steps are traced; None for no trace.
        """
        if spec.gating == "sigmoid":
            p = 1 / (1 + np.exp(-scores))
        elif spec.gating == "softmax_chosen" or spec.normalized:
            p = scores  # normalizing leaves a softmax over the chosen experts
        else:
            p = softmax(scores)
        by = p if bias is None else p + bias
        if spec.n_group > 1:
            by = in_best_groups(by, spec)
        ids = np.argsort(-by, axis=-1, kind="stable")[:, : spec.n_used]  # (T, n_used)
        weights = np.take_along_axis(p, ids, axis=-1)
        if spec.gating == "sigmoid":
            if spec.normalized:
                weights = weights / np.maximum(weights.sum(-1, keepdims=True), SMALLEST_SUM)
        elif spec.gating == "softmax_chosen" or spec.normalized:
            weights = softmax(weights)
        weights = (weights * np.float32(spec.weight_scale)).astype(np.float32)
        if self.trace is not None and layer is not None:
            steps = routing_steps(scores, spec, bias, by, ids)
            self.trace.update({f"{name}-{layer}": array for name, array in steps.items()})
        order = np.argsort(ids.ravel(), kind="stable")  # (S,): expert after expert
        return Routes(weights, order, np.bincount(ids.ravel(), minlength=scores.shape[-1]))

    def spread(self, x: np.ndarray, routes: Routes) -> np.ndarray:
        """Copy each token's row to its experts, sorted by expert: (T, D) -> (S, D), S = T * n_used."""
        return x[routes.order // routes.weights.shape[1]]

    def expert_matmul(
        self, w: QuantTensor, x: np.ndarray, routes: Routes, bias: np.ndarray | None = None
    ) -> np.ndarray:
        """Return x[s] @ w[expert of s].T + bias[expert of s].

        (S, columns) by (n_expert, rows, columns) -> (S, rows)
        """
        _, n_rows, _ = w.shape
        ends = np.cumsum(routes.counts)
        parts = []
        for expert, (end, count) in enumerate(zip(ends, routes.counts)):
            matrix = w.slice_rows(expert * n_rows, (expert + 1) * n_rows)
            parts.append(self.matmul(matrix, x[end - count : end], None if bias is None else bias[expert]))
        return np.concatenate(parts)

    def scale_experts(self, x: np.ndarray, factors: np.ndarray, routes: Routes) -> np.ndarray:
        """Return x[s] * factors[expert of s]: (S, D) by (n_expert,) -> (S, D)."""
        return x * factors.repeat(routes.counts)[:, None]

    def gather(self, x: np.ndarray, routes: Routes) -> np.ndarray:
        """Return Σ weight[t, j] * x[row of t and j] for each token t: (S, D) -> (T, D)."""
        return np.einsum("tj,tjd->td", routes.weights, routes.by_token(x))

    def rope(self, x: np.ndarray, n_head: int, table: RopeTable) -> np.ndarray:
        """Rotate each pair (a, b) of a head by position * frequency:

            a' = a cos - b sin,  b' = a sin + b cos

        Args:
            x: (T, n_head*Dh). Elements from `table.spec.dim` on don't change; "norm" pairs the elements 2i
                and 2i+1, "neox" i and i+dim/2.
        """
        spec = table.spec
        n = spec.dim // 2
        cos, sin = table.angles(np.arange(self.position, self.position + len(x)))
        cos, sin = cos[:, None], sin[:, None]  # (T, 1, n)
        first, second = slice(0, 2 * n, 2), slice(1, 2 * n, 2)
        if spec.pairs == "neox":
            first, second = slice(n), slice(n, 2 * n)
        heads = x.reshape(len(x), n_head, -1)  # (T, H, Dh)
        a, b = heads[..., first], heads[..., second]
        out = heads.copy()
        out[..., first] = a * cos - b * sin
        out[..., second] = a * sin + b * cos
        return out.reshape(x.shape)

    def attention(
        self,
        q: np.ndarray,
        k: np.ndarray | None,
        v: np.ndarray | None,
        layer: int,
        spec: Attention,
        sinks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Store k and v, then let each query attend to the positions it may see:

            softmax(q · k * scale) · v

        Query heads h*G to h*G+G-1 share key/value head h, where G = n_head / n_head_kv.

        Args:
            q: (T, H*Dk).
            k, v: (T, K*Dk) and (T, K*Dv); None if another layer has stored them. v is also None if values are
                in the keys.
            sinks: (H,), a logit of each head that takes a share of the softmax without a value.

        Returns:
            (T, H*Dv)
        """
        assert self.cache is not None
        T, end = len(q), self.position + len(q)
        K, state = spec.n_head_kv, self.cache[layer]
        if k is not None:
            state.write(self.position, k.reshape(T, K, -1), None if v is None else v.reshape(T, K, -1))
        start = max(0, self.position - spec.window + 1) if spec.window and spec.causal else 0
        distance = np.arange(self.position, end)[:, None] - np.arange(start, end)  # (T, end - start)
        hidden = hidden_positions(distance, spec)
        queries = q.reshape(T, K, spec.group, -1).transpose(1, 2, 0, 3)  # (K, G, T, Dk)
        out = np.empty((*queries.shape[:3], spec.value_size), np.float32)
        scores, weights = [], []
        for head in range(K):
            keys, values = state.keys(head, start, end), state.values(head, start, end)
            score = queries[head] @ keys.T  # (G, T, end - start)
            heads = slice(head * spec.group, (head + 1) * spec.group)
            shown = score * np.float32(spec.scale)
            if spec.softcap:
                shown = np.float32(spec.softcap) * np.tanh(shown / np.float32(spec.softcap))
            if spec.alibi:
                shown = shown - alibi_slopes(spec)[heads, None, None] * np.abs(distance).astype(np.float32)
            shown = np.where(hidden, -np.inf, shown)
            weight = softmax(shown, None if sinks is None else sinks[heads, None, None])
            out[head] = weight @ values
            if self.trace is not None:
                scores.append(score)
                weights.append(weight)
        if self.trace is not None:
            self.name(np.concatenate(scores), "kq", layer)  # (H, T, end - start)
            self.name(np.concatenate(weights), "kq_soft_max", layer)
            self.name(out.reshape(-1, T, spec.value_size), "kqv", layer)  # (H, T, Dv)
        return out.transpose(2, 0, 1, 3).reshape(T, -1)

    def activate(self, kind: str, x: np.ndarray, up: np.ndarray | None = None) -> np.ndarray:
        """Return an activation of x, times `up` if it is given:

        silu        x * sigmoid(x)
        gelu        x/2 * (1 + tanh(sqrt(2/π) * (x + 0.044715 x³))), the usual approximation of x * Φ(x)
        gelu_erf    x/2 * (1 + erf(x / sqrt(2)))
        relu2       max(x, 0)²
        swiglu_oai  g * sigmoid(1.702 g) * (u + 1), g = min(x, 7), u = up between -7 and 7
        """
        with np.errstate(over="ignore"):  # exp(-x) may reach inf; the quotient is then 0, which is correct
            if kind == "silu":
                x = x / (1 + np.exp(-x))
            elif kind == "gelu":
                x = 0.5 * x * (1 + np.tanh(GELU_SCALE * (x + np.float32(0.044715) * x * x * x)))
            elif kind == "gelu_erf":
                x = (0.5 * x * (1 + erf(x * math.sqrt(0.5)))).astype(np.float32)
            elif kind == "relu2":
                x = np.square(np.maximum(x, 0))
            elif kind == "swiglu_oai":
                assert up is not None, "a gated activation needs two projections"
                x = np.minimum(x, SWIGLU_LIMIT)
                x = x / (1 + np.exp(-SWIGLU_ALPHA * x))
                return x * (np.clip(up, -SWIGLU_LIMIT, SWIGLU_LIMIT) + 1)
            else:
                raise ValueError(f"no activation {kind!r}")
        return x if up is None else x * up

    def gate(self, x: np.ndarray, by: np.ndarray) -> np.ndarray:
        """Return x * sigmoid(by), with `by` (T, width) or (T, 1)."""
        with np.errstate(over="ignore"):
            return x / (1 + np.exp(-by))

    def add(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return a + b."""
        return a + b

    def add_row(self, x: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Return x with `row` added to every row."""
        return x + row

    def scale(self, x: np.ndarray, factor: float) -> np.ndarray:
        """Return x · factor."""
        return x * np.float32(factor)

    def softcap(self, x: np.ndarray, cap: float) -> np.ndarray:
        """Return cap · tanh(x / cap)."""
        return np.float32(cap) * np.tanh(x / np.float32(cap))

    def temperature(self, x: np.ndarray, spec: Attention) -> np.ndarray:
        """Multiply each row by 1 + scale · ln(floor(position / length) + 1)."""
        positions = np.arange(self.position, self.position + len(x))
        return x * temperatures(positions, spec)[:, None]

    def columns(self, x: np.ndarray, start: int, width: int, stride: int = 0) -> np.ndarray:
        """Return columns `start` … `start + width - 1` of each row, or of each part of `stride` columns."""
        parts = x.reshape(len(x), -1, stride or x.shape[1])
        return np.ascontiguousarray(parts[:, :, start : start + width].reshape(len(x), -1))

    def join(self, a: np.ndarray, b: np.ndarray, n_head: int, n_head_b: int) -> np.ndarray:
        """Join each head's a and b: (T, H*A) and (T, H*B), or (T, B) for all heads -> (T, H*(A + B))."""
        heads = np.broadcast_to(
            b.reshape(len(b), n_head_b, -1), (len(b), n_head, b.shape[1] // n_head_b)
        )  # n_head_b is H or 1
        return np.concatenate([a.reshape(len(a), n_head, -1), heads], axis=2).reshape(len(a), -1)

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """Return the rows of the last `n_outputs` tokens."""
        return x[len(x) - self.n_outputs :]


def hidden_positions(distance: np.ndarray, spec: Attention) -> np.ndarray:
    """Return whether a query must not see a key that is `distance` positions before it."""
    if not spec.causal:
        return np.abs(distance) > spec.window // 2 if spec.window else np.zeros(distance.shape, bool)
    hidden = distance < 0
    return hidden | (distance >= spec.window) if spec.window else hidden


_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x: np.ndarray) -> np.ndarray:
    """Return the error function of every element, float64."""
    return _erf(x).astype(np.float64)
