"""What the forward pass is made of: its operations, and what a layer's functions read."""

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
    """What the forward pass is made of. X is an executor's own: an array, or a note of one to come.

    Their formulas are in llmlite/engine/eager.py. Each works on any number of tokens.
    """

    def embed(self, w: QuantTensor, ids: Any) -> X:
        """Rows of w."""

    def rms_norm(self, x: X, gain: np.ndarray | None, eps: float, width: int = 0) -> X:
        """Each stretch of a row, as long as gain or `width`, divided by its root mean square, times gain."""

    def layer_norm(self, x: X, gain: np.ndarray, bias: np.ndarray | None, eps: float, parts: int = 1) -> X:
        """Each row less its mean, divided by its standard deviation, times gain, plus bias."""

    def positions(self, table: np.ndarray) -> X:
        """Rows of table for the positions of the step's tokens."""

    def token_types(self, table: np.ndarray) -> X:
        """Rows of table for the types of the step's tokens: 0, or 1 in the second text of a pair."""

    def matmul(self, w: QuantTensor, x: X, bias: np.ndarray | None = None) -> X:
        """x @ w.T + bias."""

    def head_matmul(self, w: QuantTensor, x: X) -> X:
        """Each head's stretch of a row times the matrix of its head."""

    def route(
        self, scores: X, spec: Experts, bias: np.ndarray | None = None, layer: int | None = None
    ) -> Any:
        """For each token the experts that it goes through, and how much each of them counts."""

    def spread(self, x: X, routes: Any) -> X:
        """Each token's row once for each of its experts, those of one expert next to each other."""

    def expert_matmul(self, w: QuantTensor, x: X, routes: Any, bias: np.ndarray | None = None) -> X:
        """Each row of `spread` times the matrix of its expert, plus its bias."""

    def scale_experts(self, x: X, factors: np.ndarray, routes: Any) -> X:
        """Each row of `spread` times its expert's factor."""

    def gather(self, x: X, routes: Any) -> X:
        """For each token the weighted sum of its rows of `spread`."""

    def rope(self, x: X, n_head: int, table: RopeTable) -> X:
        """Pairs of elements of each head turned by position * frequency."""

    def attention(
        self, q: X, k: X | None, v: X | None, layer: int, spec: Attention, sinks: np.ndarray | None
    ) -> X:
        """Store k and v; for each query the values, weighted by how well their keys answer it."""

    def convolve(self, x: X, taps: np.ndarray, bias: np.ndarray | None, layer: int) -> X:
        """Each column's latest values weighed by its taps; the layer's state keeps the last of them."""

    def multiply(self, a: X, b: X) -> X:
        """a · b, number by number."""

    def multiply_row(self, x: X, row: np.ndarray) -> X:
        """x · row, for every row of x."""

    def scan(
        self, x: X, dt: X, a: np.ndarray, d: np.ndarray, dt_bias: np.ndarray, layer: int, spec: Mamba2
    ) -> X:
        """Token by token the state forgets, takes up x by b and is read by c: rows of x are heads | b | c."""

    def delta_rule(
        self, x: X, qk: X, beta: X, alpha: X, a: np.ndarray, dt_bias: np.ndarray, layer: int, spec: DeltaNet
    ) -> X:
        """Token by token each head's state forgets by alpha, is corrected at a key by beta, and is read."""

    def project(self, x: X, w: np.ndarray, bias: np.ndarray) -> X:
        """The first columns of x, as many as w has rows, times w, plus bias."""

    def scan_columns(self, x: X, dt: X, db: X, a: np.ndarray, d: np.ndarray, layer: int, spec: Mamba) -> X:
        """As `scan`, each column with rates of its own; b and c are the last columns of db."""

    def activate(self, kind: str, x: X, up: X | None = None) -> X:
        """An activation (layers.ACTIVATIONS) of x, times up if it is given."""

    def gate(self, x: X, by: X) -> X:
        """x times the sigmoid of `by`, row by row; `by` has the width of x, or 1."""

    def add(self, a: X, b: X) -> X:
        """a + b."""

    def add_row(self, x: X, row: np.ndarray) -> X:
        """x + row, for every row of x."""

    def scale(self, x: X, factor: float) -> X:
        """x · factor."""

    def softcap(self, x: X, cap: float) -> X:
        """cap · tanh(x / cap)."""

    def temperature(self, x: X, spec: Attention) -> X:
        """Each row times 1 + scale · ln(floor(position / length) + 1)."""

    def columns(self, x: X, start: int, width: int, stride: int = 0) -> X:
        """Columns `start` … `start + width - 1` of each row, or of each stretch of `stride` columns."""

    def join(self, a: X, b: X, n_head: int, n_head_b: int) -> X:
        """For each head its stretch of a, then its stretch of b: of n_head_b = 1 all heads take the same."""

    def outputs(self, x: X) -> X:
        """Only the rows of those tokens whose logits are wanted."""

    def name(self, x: X, name: str, layer: int | None = None, heads: int | None = None) -> X:
        """x itself, known from now on as "name-layer"."""

    def name_routed(self, x: X, name: str, layer: int, routes: Any) -> X:
        """As `name`, of rows that `spread` has sorted by expert."""

    def inside(self, name: str, layer: int, compute: Callable[[], Any]) -> None:
        """Give a trace what an operation has inside, as compute() tells; other executors don't ask."""


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x), for traces: only the eager executor's arrays come here."""
    return 1 / (1 + np.exp(-x))


def side_by_side(parts: Any) -> Any:
    """The columns of several arrays, one array after another, for traces."""
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class Block(Generic[X]):
    """What a layer's functions read: its number, record and tensors, and the angles it turns by.

    Attributes:
        inputs: what every layer adds of its own, one layer's columns after the other's, or None.
    """

    ops: Operations[X]
    i: int
    layer: Layer
    w: Mapping[str, Any]
    weights: Weights
    is_last: bool
    inputs: X | None = None

    def name(self, x: X, name: str, heads: int | None = None) -> X:
        """x, called "name-layer"."""
        return self.ops.name(x, name, self.i, heads=heads)

    def inside(self, name: str, compute: Callable[[], Any]) -> None:
        """In a trace, compute() is "name-layer"."""
        self.ops.inside(name, self.i, compute)

    def matmul(self, name: str, x: X) -> X:
        """x @ W.T, plus the bias if the file has one, and what adapters add: neither needs a flag."""
        y = self.ops.matmul(self.w[f"{name}.weight"], x, self.w.get(f"{name}.bias"))
        return adapted(self.ops, y, x, self.w.get(f"{name}.lora"))

    def has(self, name: str) -> bool:
        """Whether the layer has a tensor of that name."""
        return f"{name}.weight" in self.w

    def norm(self, name: str, x: X) -> X:
        """The norm of that name; x itself if the layer has none."""
        if not self.has(name):
            return x
        gain, bias = self.w[f"{name}.weight"], self.w.get(f"{name}.bias")
        return self.name(normed(self.ops, self.layer.norm, gain, bias, self.layer.eps, x), name)


def normed(ops: Operations[X], kind: str, gain: np.ndarray, bias: np.ndarray | None, eps: float, x: X) -> X:
    """RMSNorm ("rms") or LayerNorm ("layer")."""
    return ops.rms_norm(x, gain, eps) if kind == "rms" else ops.layer_norm(x, gain, bias, eps)


def adapted(ops: Operations[X], y: X, x: X, low_rank: LowRank | None) -> X:
    """y, a matrix times x, plus what adapters of that matrix add: B (A x)."""
    return y if low_rank is None else ops.add(y, ops.matmul(low_rank.b, ops.matmul(low_rank.a, x)))
