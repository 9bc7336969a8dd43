"""The operations of the forward pass, and the arguments of a layer's functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from llmlite.description.layers import Attention, DeltaNet, Experts, Layer, Mamba, Mamba2
from llmlite.description.lora import LowRank
from llmlite.description.rope import RopeTable
from llmlite.description.weights import Weights

if TYPE_CHECKING:
    from llmlite.quants.tensor import QuantTensor

X = TypeVar("X")  # see Operations


class Operations(Protocol[X]):
    """The operations of the forward pass, each for any number of tokens.

    X is the executor's own type: an array, or a record of a future one. The formulas are in
    llmlite/engine/eager.py.
    """

    def embed(self, w: QuantTensor, ids: Any) -> X:
        """Return the rows of w for the ids."""

    def rms_norm(self, x: X, gain: np.ndarray | None, eps: float, width: int = 0) -> X:
        """Divide each part of a row, as long as gain or `width`, by its root mean square; times gain."""

    def layer_norm(self, x: X, gain: np.ndarray, bias: np.ndarray | None, eps: float, parts: int = 1) -> X:
        """Subtract each row's mean, divide by its standard deviation, multiply by gain, and add bias."""

    def positions(self, table: np.ndarray) -> X:
        """Return the rows of table for the positions of the step's tokens."""

    def token_types(self, table: np.ndarray) -> X:
        """Return the rows of table for the types of the step's tokens: 0, or 1 in a pair's second text."""

    def matmul(self, w: QuantTensor, x: X, bias: np.ndarray | None = None) -> X:
        """Return x @ w.T + bias."""

    def head_matmul(self, w: QuantTensor, x: X) -> X:
        """Multiply each head's part of a row by the head's matrix."""

    def route(
        self, scores: X, spec: Experts, bias: np.ndarray | None = None, layer: int | None = None
    ) -> Any:
        """Choose the experts of each token, and their weights."""

    def spread(self, x: X, routes: Any) -> X:
        """Copy each token's row to each of its experts, with the rows of one expert next to each other."""

    def expert_matmul(self, w: QuantTensor, x: X, routes: Any, bias: np.ndarray | None = None) -> X:
        """Multiply each row of `spread` by its expert's matrix, and add the expert's bias."""

    def scale_experts(self, x: X, factors: np.ndarray, routes: Any) -> X:
        """Multiply each row of `spread` by its expert's factor."""

    def gather(self, x: X, routes: Any) -> X:
        """Return each token's weighted sum of its rows of `spread`."""

    def rope(self, x: X, n_head: int, table: RopeTable) -> X:
        """Rotate pairs of each head's elements by position * frequency."""

    def attention(
        self, q: X, k: X | None, v: X | None, layer: int, spec: Attention, sinks: np.ndarray | None
    ) -> X:
        """Store k and v; return for each query the values, weighted by its scores with their keys."""

    def convolve(self, x: X, taps: np.ndarray, bias: np.ndarray | None, layer: int) -> X:
        """Return sums of each column's latest values, weighted by taps; keep the last values as state."""

    def multiply(self, a: X, b: X) -> X:
        """Return a · b, element by element."""

    def multiply_row(self, x: X, row: np.ndarray) -> X:
        """Multiply every row of x by `row`."""

    def scan(
        self, x: X, dt: X, a: np.ndarray, d: np.ndarray, dt_bias: np.ndarray, layer: int, spec: Mamba2
    ) -> X:
        """Token by token, decay the state, add x through b, read it through c; rows of x: heads | b | c."""

    def delta_rule(
        self, x: X, qk: X, beta: X, alpha: X, a: np.ndarray, dt_bias: np.ndarray, layer: int, spec: DeltaNet
    ) -> X:
        """Token by token, decay each head's state by alpha, correct it at a key by beta, and read it."""

    def project(self, x: X, w: np.ndarray, bias: np.ndarray) -> X:
        """Multiply the first columns of x, as many as w has rows, by w, and add bias."""

    def scan_columns(self, x: X, dt: X, db: X, a: np.ndarray, d: np.ndarray, layer: int, spec: Mamba) -> X:
        """Do the same as `scan`, with separate rates for each column; b and c are the last columns of db."""

    def activate(self, kind: str, x: X, up: X | None = None) -> X:
        """Return an activation (layers.ACTIVATIONS) of x, times `up` if it is given."""

    def gate(self, x: X, by: X) -> X:
        """Multiply x by the sigmoid of `by`, row by row; `by` has the width of x, or 1."""

    def add(self, a: X, b: X) -> X:
        """Return a + b."""

    def add_row(self, x: X, row: np.ndarray) -> X:
        """Add `row` to every row of x."""

    def scale(self, x: X, factor: float) -> X:
        """Return x · factor."""

    def softcap(self, x: X, cap: float) -> X:
        """Return cap · tanh(x / cap)."""

    def temperature(self, x: X, spec: Attention) -> X:
        """Multiply each row by 1 + scale · ln(floor(position / length) + 1)."""

    def columns(self, x: X, start: int, width: int, stride: int = 0) -> X:
        """Return columns `start` … `start + width - 1` of each row, or of each part of `stride` columns."""

    def join(self, a: X, b: X, n_head: int, n_head_b: int) -> X:
        """Join each head's part of a with its part of b; if n_head_b is 1, all heads share b."""

    def outputs(self, x: X) -> X:
        """Return only the rows of tokens whose logits are needed."""

    def name(self, x: X, name: str, layer: int | None = None, heads: int | None = None) -> X:
        """Give x the name "name-layer"; return x."""

    def name_routed(self, x: X, name: str, layer: int, routes: Any) -> X:
        """Do the same as `name`, for rows that `spread` has sorted by expert."""

    def inside(self, name: str, layer: int, compute: Callable[[], Any]) -> None:
        """Record compute(), an intermediate of an operation, if there is a trace; otherwise do nothing."""


def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + e^-x), for the eager executor's traces."""
    return 1 / (1 + np.exp(-x))


def side_by_side(parts: Any) -> Any:
    """Return the columns of several arrays, one array after another, for the eager executor's traces."""
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class LayerContext(Generic[X]):
    """The arguments of a layer's functions.

    Attributes:
        ops: the executor's operations.
        i: index of the layer.
        layer: its record.
        w: its tensors by name.
        weights: the whole model's weights.
        is_last: whether it is the last layer.
        inputs: numbers that each layer adds of its own, one layer's columns after another's, or None.
    """

    ops: Operations[X]
    i: int
    layer: Layer
    w: Mapping[str, Any]
    weights: Weights
    is_last: bool
    inputs: X | None = None

    def name(self, x: X, name: str, heads: int | None = None) -> X:
        """Give x the name "name-layer"; return x."""
        return self.ops.name(x, name, self.i, heads=heads)

    def inside(self, name: str, compute: Callable[[], Any]) -> None:
        """Record compute() as "name-layer" if there is a trace."""
        self.ops.inside(name, self.i, compute)

    def matmul(self, name: str, x: X) -> X:
        """Return x @ W.T, plus the bias if the file has one, plus the adapters' products if there are any."""
        y = self.ops.matmul(self.w[f"{name}.weight"], x, self.w.get(f"{name}.bias"))
        return adapted(self.ops, y, x, self.w.get(f"{name}.lora"))

    def has(self, name: str) -> bool:
        """Return whether the layer has a tensor of that name."""
        return f"{name}.weight" in self.w

    def norm(self, name: str, x: X) -> X:
        """Return the norm of that name, or x itself if the layer has none."""
        if not self.has(name):
            return x
        gain, bias = self.w[f"{name}.weight"], self.w.get(f"{name}.bias")
        return self.name(normed(self.ops, self.layer.norm, gain, bias, self.layer.eps, x), name)


def normed(ops: Operations[X], kind: str, gain: np.ndarray, bias: np.ndarray | None, eps: float, x: X) -> X:
    """Return the RMSNorm (kind "rms") or LayerNorm ("layer") of x."""
    return ops.rms_norm(x, gain, eps) if kind == "rms" else ops.layer_norm(x, gain, bias, eps)


def adapted(ops: Operations[X], y: X, x: X, low_rank: LowRank | None) -> X:
    """Return y, a matrix times x, plus the product of its adapters: B (A x)."""
    return y if low_rank is None else ops.add(y, ops.matmul(low_rank.b, ops.matmul(low_rank.a, x)))
