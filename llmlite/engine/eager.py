"""The eager executor: every operation at once, in NumPy, on float32. It is meant to be read and stepped.

It is the reference the faster executor is tested against. It never holds the model in float: a matrix is
dequantized a slab of rows at a time. BLAS chooses its own number of threads (OPENBLAS_NUM_THREADS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmlite.config import ModelConfig
from llmlite.kv_cache import KVCache, LayerCache
from llmlite.tensor import QuantTensor
from llmlite.transformer import Weights, forward

SLAB_BYTES = 16 * 2**20  # float32 rows of a matrix that stand in memory at a time


GELU_SCALE = np.float32(np.sqrt(2 / np.pi))


@dataclass(frozen=True)
class Routes:
    """Which experts a step's tokens go through. S = T * n_used rows are sorted by expert.

    Attributes:
        weights: float32 (T, n_used). order: (S,), which t * n_used + j each row is. counts: (n_expert,).
    """

    weights: np.ndarray
    order: np.ndarray
    counts: np.ndarray


class EagerExecutor:
    """Runs a model step by step; see llmlite.engine.Executor."""

    name = "eager"
    max_tokens = 256  # bounds the scores, (T, positions) for each head of one key/value head

    def __init__(self, weights: Weights, config: ModelConfig, *, reason: str = "") -> None:
        self.weights = weights
        self.config = config
        self.reason = reason  # why a faster executor could not be had, for those who look

    def __call__(
        self,
        ids: Sequence[int],
        cache: KVCache,
        *,
        n_outputs: int,
        trace: dict[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Run `ids` behind the tokens in `cache`; given a dict, put every named intermediate into it.

        Returns:
            float32 (n_outputs, n_vocab), the logits of the last `n_outputs` tokens.
        """
        ops = Eager(cache.position, n_outputs, trace)
        logits = forward(ops, self.weights, self.config, cache, np.asarray(ids))
        cache.ids.extend(int(token) for token in ids)
        return logits

    def __repr__(self) -> str:
        text = f"EagerExecutor(NumPy {np.__version__}, float32, slabs of {SLAB_BYTES >> 20} MB"
        return text + (f"; not planned: {self.reason})" if self.reason else ")")


class Eager:
    """The operations of one step. Every x is float32, one row per token.

    Args:
        position: of the step's first token.
        n_outputs: how many of the last tokens `outputs` keeps.
        trace: collects named results, or None.
    """

    def __init__(self, position: int, n_outputs: int, trace: dict[str, np.ndarray] | None = None) -> None:
        self.position = position
        self.n_outputs = n_outputs
        self.n_tokens = 0  # of the step, known once they are embedded
        self.trace = trace

    def name(
        self, x: np.ndarray, name: str, layer: int | None = None, heads: int | None = None
    ) -> np.ndarray:
        """Record x as "name-layer", split into heads (T, heads, Dh) if their number is given; return x."""
        if self.trace is not None:
            key = name if layer is None else f"{name}-{layer}"
            self.trace[key] = x.copy() if heads is None else x.reshape(len(x), heads, -1).copy()
        return x

    def embed(self, w: QuantTensor, ids: np.ndarray) -> np.ndarray:
        """Rows of w (V, D), one for each id -> (T, D)."""
        self.n_tokens = len(ids)
        return w.rows(ids)

    def rms_norm(self, x: np.ndarray, gain: np.ndarray, eps: float) -> np.ndarray:
        """x / sqrt(mean(x²) + eps) * gain; squares are summed in double, as llama.cpp does.

        Args:
            x: (T, n*width). gain: (width,): each stretch of that width is normalized by itself.
        """
        parts = x.reshape(len(x), -1, len(gain))
        mean = np.mean(parts * parts, axis=-1, keepdims=True, dtype=np.float64)
        return (parts * (1 / np.sqrt(mean + eps)).astype(np.float32) * gain).reshape(x.shape)

    def layer_norm(self, x: np.ndarray, gain: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
        """(x - mean(x)) / sqrt(mean((x - mean(x))²) + eps) * gain + bias; sums in double."""
        centred = x - np.mean(x, axis=-1, keepdims=True, dtype=np.float64)
        variance = np.mean(centred * centred, axis=-1, keepdims=True)
        return (centred / np.sqrt(variance + eps)).astype(np.float32) * gain + bias

    def positions(self, table: np.ndarray) -> np.ndarray:
        """Rows of table (n_ctx, D) for the step's positions -> (n, D)."""
        return table[self.position : self.position + self.n_tokens]

    def matmul(self, w: QuantTensor, x: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        """x @ w.T + bias: (T, columns) by (rows, columns) -> (T, rows)."""
        n_rows, n_columns = w.shape
        slab = max(1, SLAB_BYTES // (4 * n_columns))
        out = np.empty((len(x), n_rows), np.float32)
        for start in range(0, n_rows, slab):
            rows = slice(start, min(start + slab, n_rows))
            np.matmul(x, w.dequantize(rows).T, out=out[:, rows])
        return out if bias is None else out + bias

    def route(self, scores: np.ndarray, n_used: int) -> Routes:
        """Choose experts: the n_used highest scores of each token; of equal ones the first.

            weight[t, j] = e^score[t, j] / Σ e^score[t, j'] over the chosen j'

        Args:
            scores: (T, n_expert).
        """
        ids = np.argsort(-scores, axis=-1, kind="stable")[:, :n_used]  # (T, n_used)
        weights = softmax(np.take_along_axis(scores, ids, axis=-1))
        order = np.argsort(ids.ravel(), kind="stable")  # (S,): expert after expert
        return Routes(weights, order, np.bincount(ids.ravel(), minlength=scores.shape[-1]))

    def spread(self, x: np.ndarray, routes: Routes) -> np.ndarray:
        """(T, D) -> (S, D), S = T * n_used: each token's row for each of its experts, expert after expert."""
        return x[routes.order // routes.weights.shape[1]]

    def expert_matmul(self, w: QuantTensor, x: np.ndarray, routes: Routes) -> np.ndarray:
        """x[s] @ w[expert of s].T: (S, columns) by (n_expert, rows, columns) -> (S, rows)."""
        _, n_rows, _ = w.shape
        ends = np.cumsum(routes.counts)
        return np.concatenate(
            [
                self.matmul(w.slice_rows(expert * n_rows, (expert + 1) * n_rows), x[end - count : end])
                for expert, (end, count) in enumerate(zip(ends, routes.counts))
            ]
        )

    def gather(self, x: np.ndarray, routes: Routes) -> np.ndarray:
        """out[t] = Σ weight[t, j] * x[row of t and j]: (S, D) -> (T, D)."""
        by_token = np.empty_like(x)
        by_token[routes.order] = x
        return np.einsum("tj,tjd->td", routes.weights, by_token.reshape(*routes.weights.shape, -1))

    def rope(self, x: np.ndarray, n_head: int, frequencies: np.ndarray, pairs: str) -> np.ndarray:
        """Turn each pair (a, b) of a head by position * frequency:

            a' = a cos - b sin,  b' = a sin + b cos

        Args:
            x: (T, n_head*Dh).
            frequencies: (n,), one for each pair; elements from 2n on stay as they are.
            pairs: "norm" pairs the elements 2i, 2i+1; "neox" i, i+n.
        """
        n = len(frequencies)
        positions = np.arange(self.position, self.position + len(x))
        angles = positions[:, None, None] * frequencies.astype(np.float64)  # (T, 1, n)
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        first, second = slice(0, 2 * n, 2), slice(1, 2 * n, 2)
        if pairs == "neox":
            first, second = slice(n), slice(n, 2 * n)
        heads = x.reshape(len(x), n_head, -1)  # (T, H, Dh)
        a, b = heads[..., first], heads[..., second]
        out = heads.copy()
        out[..., first] = a * cos - b * sin
        out[..., second] = a * sin + b * cos
        return out.reshape(x.shape)

    def attention(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, cache: LayerCache, n_head: int, scale: float
    ) -> np.ndarray:
        """Store k and v, then let each query look at all positions up to its own:

            softmax(q · k * scale) · v

        Query heads h*G to h*G+G-1 share key/value head h, where G = n_head / n_head_kv.

        Args:
            q: (T, H*Dh). k, v: (T, K*Dh).

        Returns:
            (T, H*Dh)
        """
        T, end = len(q), self.position + len(q)
        K, _, Dh = cache.v.shape
        cache.write(self.position, k.reshape(T, K, Dh), v.reshape(T, K, Dh))
        ahead = np.arange(end) > np.arange(self.position, end)[:, None]  # (T, end): the future
        queries = q.reshape(T, K, n_head // K, Dh).transpose(1, 2, 0, 3)  # (K, G, T, Dh)
        out = np.empty_like(queries)
        scores, weights = [], []
        for head in range(K):
            keys, values = cache.keys(head, end), cache.values(head, end)  # (end, Dh)
            score = queries[head] @ keys.T  # (G, T, end)
            weight = softmax(np.where(ahead, -np.inf, score * np.float32(scale)))
            out[head] = weight @ values
            if self.trace is not None:
                scores.append(score)
                weights.append(weight)
        if self.trace is not None:
            self.name(np.concatenate(scores), "kq", cache.layer)  # (H, T, end)
            self.name(np.concatenate(weights), "kq_soft_max", cache.layer)
        return out.transpose(2, 0, 1, 3).reshape(T, -1)

    def silu_mul(self, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        """gate * sigmoid(gate) * up."""
        with np.errstate(over="ignore"):  # exp(-gate) may reach inf: the quotient is then 0, as it should be
            return gate / (1 + np.exp(-gate)) * up

    def gelu(self, x: np.ndarray) -> np.ndarray:
        """x/2 * (1 + tanh(sqrt(2/π) * (x + 0.044715 x³))), the usual approximation of x * Φ(x)."""
        return 0.5 * x * (1 + np.tanh(GELU_SCALE * (x + np.float32(0.044715) * x * x * x)))

    def add(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a + b

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """The rows of the last `n_outputs` tokens."""
        return x[len(x) - self.n_outputs :]


def softmax(x: np.ndarray) -> np.ndarray:
    """exp(x) / sum(exp(x)) over the last axis; the largest x is taken off first, so that exp stays finite."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
