"""The recorder: the operations that a forward pass calls, written down instead of computed.

It has the methods of `llmlite.engine.eager.Eager`; each returns the `Buffer` that will hold the result when
the plan runs. Nothing is compiled here: kernels are named (`signatures`), not made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmlite.description.layers import Attention, DeltaNet, Experts, Mamba, Mamba2, alibi_slopes, temperatures
from llmlite.description.rope import RopeTable
from llmlite.engine import signatures as K  # noqa: N812  (kernels)
from llmlite.engine.contract import (
    ATTENTION_PART,
    ATTENTION_PARTS,
    ATTENTION_ROWS,
    ATTENTION_ROWS_IN_KEYS,
    ATTENTION_SHARED,
    FEW_TOKENS,
    STEP,
    TILE_TOKENS,
    AttentionRecord,
    attention_scratch,
    attention_tile,
)
from llmlite.engine.families import FAMILIES, Family, mixed_bytes
from llmlite.engine.jit import Kernel
from llmlite.engine.kv_cache import require_blocks
from llmlite.errors import UnsupportedError

# What a buffer's rows are counted by: fields of the step record. SLOTS: rows -> rows times experts used.
N_TOKENS, N_OUTPUTS = STEP.n_tokens, STEP.n_outputs
SLOTS = {STEP.n_tokens: STEP.n_slots, STEP.n_outputs: STEP.n_output_slots}


@dataclass(eq=False)
class Buffer:
    """Rows of numbers that live in the plan's arena from the operation that writes them to the last that
    reads them.

    Attributes:
        width, itemsize: of one row. rows: the field of the step record that says how many there are.
        n_rows: the most there can be. planes: of so many heads, each of which has as many rows of its own:
            the rows of one head follow those of the other, and n_rows counts all.
        first, last: stages of the plan. offset: in the arena.
    """

    width: int
    itemsize: int = 4
    rows: int = N_TOKENS
    n_rows: int = 1
    planes: int = 1
    first: int | None = None
    last: int = -1
    offset: int = 0
    name: str = ""

    @property
    def n_bytes(self) -> int:
        """Bytes in the arena: whole vectors."""
        return -(-self.width * self.itemsize * self.n_rows // 64) * 64

    @property
    def plane_bytes(self) -> int:
        """Bytes from one head's rows to the next one's."""
        return self.width * self.itemsize * (self.n_rows // self.planes)


@dataclass(frozen=True)
class RouteBuffers:
    """Where a step's rows go among experts (kernels/experts.py)."""

    counts: Buffer
    token_of: Buffer
    slot_of: Buffer
    weights: Buffer


@dataclass(eq=False)
class Op:
    """One operation: a kernel and its arguments, or a Python function that computes on arrays.

    Attributes:
        args: Buffers, arrays (kept alive: the record holds their address), kernels, integers, floats, and
            dataclasses of all these (records of their own), in the kernel's order.
        reads, writes: Buffers, and tokens such as `Recorder.cache` that stand for memory outside the arena.
        label: the weight's name, or what the result is called. bytes_read: of weights, each run.
        work: multiply-adds per row, times two.
    """

    kernel: Kernel | None
    args: tuple
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    label: str = ""
    type: str = ""
    bytes_read: int = 0
    work: int = 0
    function: Any = None
    stage: int = 0
    inputs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The kernel's name, or "numpy:…" for the slow way."""
        return self.kernel.name if self.kernel else f"numpy:{self.type}"


@dataclass(frozen=True, eq=False)
class PositionTable:
    """Numbers that depend on a position alone: a row of `width` float32 for each.

    Attributes:
        key: what it is made of; operations with the same key share a table.
        rows: (positions (n,)) -> float32 (n, width).
    """

    key: Any
    width: int
    rows: Callable[[np.ndarray], np.ndarray]


class Recorder:
    """Writes operations down.

    Args:
        max_tokens, max_outputs: the longest step, and how many logits rows it may ask for.
        n_threads: how many threads get scratch memory.
        kv: how keys and values are kept, one of `llmlite.engine.kv_cache.DTYPES`.

    Raises (from any operation):
        UnsupportedError: a width, or something else, that the kernels don't take.
    """

    def __init__(self, *, max_tokens: int, max_outputs: int, n_threads: int, kv: str = "f16") -> None:
        self.limits = {N_TOKENS: max_tokens, N_OUTPUTS: max_outputs}
        self.n_used = 0  # experts for each row, known when one is routed
        self.n_threads = n_threads
        self.kv = kv
        self.ops: list[Op] = []
        self.cache = Buffer(0, name="cache")
        self.tables: list[PositionTable] = []
        self._quantized: dict[Buffer, tuple[Buffer, ...]] = {}

    # ---- what forward calls --------------------------------------------------------------------------------

    def name(self, x: Buffer, name: str, layer: int | None = None, heads: int | None = None) -> Buffer:
        """Call x "name-layer" in profiles and errors."""
        x.name = name if layer is None else f"{name}-{layer}"
        return x

    def name_routed(self, x: Buffer, name: str, layer: int, routes: RouteBuffers) -> Buffer:
        """As `name`."""
        return self.name(x, name, layer)

    def inside(self, name: str, layer: int, compute: Callable[[], Any]) -> None:
        """Nothing: only traces ask what an operation has inside, and the eager executor makes them."""

    def embed(self, w: Any, ids: Any) -> Buffer:
        """Rows of w for the step's ids."""
        out = self._buffer(w.shape[1])
        family = self._family(w)
        if family is None:
            return self._python(_embed_rows, w, (), out)
        facts = {"label": w.name, "type": w.type.name}
        self._op(family.embed, (), (out,), facts, w=w.blocks, out=out, width=w.shape[1])
        return out

    def rms_norm(self, x: Buffer, gain: np.ndarray | None, eps: float, width: int = 0) -> Buffer:
        """See eager.Eager.rms_norm."""
        out = self._buffer(x.width, x.rows)
        width = width if gain is None else len(gain)
        same: dict[str, Any] = {
            "width": width,
            "parts": x.width // width,
            "eps": float(eps),
            "number": self._number(),
        }
        if gain is None:
            self._op(K.RMS_NORM_PLAIN, (x,), (out,), rows=x.rows, x=x, out=out, **same)
        else:
            self._op(K.RMS_NORM, (x,), (out,), rows=x.rows, x=x, gain=gain, out=out, **same)
        return out

    def layer_norm(self, x: Buffer, gain: np.ndarray, bias: np.ndarray | None, eps: float) -> Buffer:
        """See eager.Eager.layer_norm."""
        out = self._buffer(x.width, x.rows)
        self._op(
            K.LAYER_NORM, (x,), (out,), rows=x.rows, x=x, gain=gain, bias=0 if bias is None else bias,
            out=out, width=x.width, eps=float(eps), number=self._number(),
        )  # fmt: skip
        return out

    def positions(self, table: np.ndarray) -> Buffer:
        """See eager.Eager.positions."""
        out = self._buffer(table.shape[1])
        self._whole_vectors(out.width, K.POSITIONS)
        self._op(K.POSITIONS, (), (out,), table=table, out=out, width=table.shape[1])
        return out

    def token_types(self, table: np.ndarray) -> Buffer:
        """See eager.Eager.token_types."""
        out = self._buffer(table.shape[1])
        self._whole_vectors(out.width, K.TOKEN_TYPES)
        self._op(K.TOKEN_TYPES, (), (out,), table=table, out=out, width=table.shape[1])
        return out

    def matmul(self, w: Any, x: Buffer, bias: np.ndarray | None = None) -> Buffer:
        """See eager.Eager.matmul."""
        out = self._buffer(w.shape[0], x.rows)
        family = self._family(w)
        if family is None:
            self._python(_matmul_slabs, w, (x,), out)
        elif not family.sub:
            self._plain_matmul(family, w, x, out)
        else:
            self._quantized_matmul(family, w, x, out)
        return out if bias is None else self.add_row(out, bias)

    def head_matmul(self, w: Any, x: Buffer) -> Buffer:
        """See eager.Eager.head_matmul: the kernels of one matrix, called for each head's rows."""
        n_head, n_rows, n_columns = w.shape
        family, matrix = self._family(w), w.slice_rows(0, n_rows)
        if family is None:
            raise UnsupportedError(
                f"{w.name}: rows of {n_columns} numbers in {w.type.name} for each head, which have no kernels"
            )
        self._whole_vectors(n_rows, K.MERGE_HEADS)
        apart = self._buffer(n_columns, x.rows, planes=n_head)
        sizes = {"n_head": n_head, "width": n_columns, "plane": apart.plane_bytes}
        self._op(K.SPLIT_HEADS, (x,), (apart,), rows=x.rows, x=x, out=apart, **sizes)
        out, before = self._buffer(n_rows, x.rows, planes=n_head), len(self.ops)
        (self._quantized_matmul if family.sub else self._plain_matmul)(family, matrix, apart, out)
        self.ops[before:] = [self._each_head(op, n_head, matrix, w, x) for op in self.ops[before:]]
        whole = self._buffer(n_head * n_rows, x.rows)
        sizes = {"n_head": n_head, "width": n_rows, "plane": out.plane_bytes}
        self._op(K.MERGE_HEADS, (out,), (whole,), rows=x.rows, x=out, out=whole, **sizes)
        return whole

    def _each_head(self, one: Op, n_head: int, matrix: Any, w: Any, x: Buffer) -> Op:
        """`one`, recorded for a single head's rows and matrix, for every head."""
        strides = np.zeros(len(one.args), np.int64)
        for i, value in enumerate(one.args):
            if value is matrix.blocks:
                strides[i] = matrix.n_bytes
            elif isinstance(value, Buffer) and value.planes > 1:
                strides[i] = value.plane_bytes
        frames, size = self._scratch(8 * (1 + len(one.args)))
        args = (n_head, one.kernel, len(one.args), frames, size, strides, *one.args)
        facts: dict[str, Any] = {"label": one.label or x.name}
        if one.bytes_read:
            facts |= {"type": w.type.name, "bytes_read": w.n_bytes, "work": n_head * one.work}
        return Op(K.EACH_HEAD, args, one.reads, (*one.writes, frames), **facts)

    def add(self, a: Buffer, b: Buffer) -> Buffer:
        """a + b."""
        return self._elements(K.ADD, a, a=a, b=b)

    def add_row(self, x: Buffer, row: np.ndarray) -> Buffer:
        """x + row, for every row of x."""
        out = self._buffer(x.width, x.rows)
        row = np.ascontiguousarray(row, np.float32)
        self._op(K.ADD_ROW, (x,), (out,), rows=x.rows, a=x, row=row, out=out, width=x.width)
        return out

    def scale(self, x: Buffer, factor: float) -> Buffer:
        """x · factor."""
        return self._elements(K.SCALE, x, x=x, factor=float(factor))

    def softcap(self, x: Buffer, cap: float) -> Buffer:
        """cap · tanh(x / cap)."""
        return self._elements(K.SOFTCAP, x, x=x, cap=float(cap))

    def activate(self, kind: str, x: Buffer, up: Buffer | None = None) -> Buffer:
        """See eager.Eager.activate."""
        if up is None:
            return self._elements(K.ACTIVATIONS[kind], x, x=x)
        return self._elements(K.GATED_ACTIVATIONS[kind], x, x=x, up=up)

    def gate(self, x: Buffer, by: Buffer) -> Buffer:
        """x · sigmoid(by)."""
        if by.width == x.width:
            return self._elements(K.GATE, x, x=x, by=by)
        self._whole_vectors(x.width, K.GATE_BY_ONE)
        return self._elements(K.GATE_BY_ONE, x, x=x, by=by)

    def columns(self, x: Buffer, start: int, width: int, stride: int = 0) -> Buffer:
        """See eager.Eager.columns."""
        stride = stride or x.width
        parts = x.width // stride
        out = self._buffer(parts * width, x.rows)
        self._op(
            K.COLUMNS, (x,), (out,), rows=x.rows, x=x, out=out, parts=parts, stride=stride, start=start,
            width=width,
        )  # fmt: skip
        return out

    def join(self, a: Buffer, b: Buffer, n_head: int, n_head_b: int) -> Buffer:
        """See eager.Eager.join."""
        a_width, b_width = a.width // n_head, b.width // n_head_b
        out = self._buffer(n_head * (a_width + b_width), a.rows)
        self._op(
            K.JOIN, (a, b), (out,), rows=a.rows, a=a, b=b, out=out, parts=n_head, a_width=a_width,
            b_width=b_width, b_parts=n_head_b,
        )  # fmt: skip
        return out

    def outputs(self, x: Buffer) -> Buffer:
        """See eager.Eager.outputs."""
        out = self._buffer(x.width, N_OUTPUTS)
        self._op(K.TAKE_OUTPUTS, (x,), (out,), x=x, out=out, width=x.width)
        return out

    # ---- positions and attention ---------------------------------------------------------------------------

    def rope(self, x: Buffer, n_head: int, table: RopeTable) -> Buffer:
        """See eager.Eager.rope."""
        dim = table.spec.dim
        number = self._table(table, dim, lambda at: np.concatenate(table.angles(at), axis=1))
        out = self._buffer(x.width)
        self._op(
            K.ROPE, (x,), (out,), x=x, out=out, table=number, n_head=n_head, head_size=x.width // n_head,
            rope_dim=dim, distance=1 if table.spec.pairs == "norm" else dim // 2,
        )  # fmt: skip
        return out

    def temperature(self, x: Buffer, spec: Attention) -> Buffer:
        """See eager.Eager.temperature."""
        key = ("temperature", spec.temperature_scale, spec.temperature_length)
        number = self._table(key, 1, lambda at: temperatures(at, spec)[:, None])
        out = self._buffer(x.width)
        self._whole_vectors(x.width, K.TEMPERATURE)
        self._op(K.TEMPERATURE, (x,), (out,), x=x, out=out, table=number, width=x.width)
        return out

    def attention(
        self, q: Buffer, k: Buffer | None, v: Buffer | None, layer: int, spec: Attention,
        sinks: np.ndarray | None = None,
    ) -> Buffer:  # fmt: skip
        """See eager.Eager.attention."""
        if self.kv == "q8_0":
            require_blocks(spec)
        sizes: dict[str, Any] = {
            "n_head_kv": spec.n_head_kv,
            "key_size": spec.key_size,
            "value_size": spec.value_size,
        }
        if k is not None:
            stored = sizes | ({"value_size": 0} if spec.values_in_keys else {})
            v = k if v is None else v  # no number of it is read then
            self._op(K.STORE[self.kv], (k, v), (self.cache,), k=k, v=v, layer=layer, **stored)
        if spec.values_in_keys:
            self._whole_vectors(spec.value_size, K.attention(self.kv, spec))
        n_tokens, least = self.limits[N_TOKENS], ATTENTION_ROWS
        if spec.values_in_keys and n_tokens > FEW_TOKENS:  # few have too few units for all threads
            least = ATTENTION_ROWS_IN_KEYS
        tile = attention_tile(n_tokens * spec.group, spec.key_size, spec.value_size, least)
        scratch, size = self._scratch(attention_scratch(tile, spec.key_size, spec.value_size))
        out, label = self._buffer(spec.out_width), f"layer {layer}"
        n_parts = self._n_parts(spec)
        record = AttentionRecord(
            q=q, out=out, n_parts=n_parts, scratch=scratch, scratch_bytes=size, tile_rows=tile, layer=layer,
            n_head=spec.n_head, **sizes, scale=float(spec.scale), window=spec.window, causal=int(spec.causal),
            softcap=float(spec.softcap), sinks=0 if sinks is None else sinks,
            slopes=alibi_slopes(spec) if spec.alibi else 0,
        )  # fmt: skip
        writes = [out, scratch]
        if n_parts:  # of a few tokens: threads share parts, which are merged in order after that
            whole = -(-spec.value_size // 16) * 16
            record.parts = self._buffer(n_parts * spec.n_head * whole)
            record.states = self._buffer(n_parts * spec.n_head * 2)
            writes += [record.parts, record.states]
        self._op(K.attention(self.kv, spec), (q, self.cache), writes, {"label": label}, spec=record)
        if n_parts:
            reads = (record.parts, record.states, out)
            self._op(K.MERGE_PARTS, reads, (out, scratch), {"label": label}, spec=record)
        return out

    def _n_parts(self, spec: Attention) -> int:
        """How many parts of positions threads may share; 0 in a prompt, whose tokens they share."""
        if self.limits[N_TOKENS] > ATTENTION_SHARED:
            return 0
        if spec.window and spec.causal:
            return min(ATTENTION_PARTS, (spec.window + ATTENTION_SHARED) // ATTENTION_PART + 2)
        return ATTENTION_PARTS

    def _table(self, key: Any, width: int, rows: Callable[[np.ndarray], np.ndarray]) -> int:
        """The number of the table with this key; it is added if it is new."""
        for number, table in enumerate(self.tables):
            if table.key == key:
                return number
        self.tables.append(PositionTable(key, width, rows))
        return len(self.tables) - 1

    # ---- recurrent mixers ----------------------------------------------------------------------------------

    def multiply(self, a: Buffer, b: Buffer) -> Buffer:
        """a · b."""
        return self._elements(K.MULTIPLY, a, a=a, b=b)

    def convolve(self, x: Buffer, taps: np.ndarray, bias: np.ndarray | None, layer: int) -> Buffer:
        """See eager.Eager.convolve."""
        self._whole_vectors(x.width, K.CONVOLVE)
        out = self._buffer(x.width)
        self._op(
            K.CONVOLVE, (x,), (out,), {"label": f"layer {layer}"}, x=x, taps=taps,
            bias=0 if bias is None else bias, out=out, layer=layer, n_taps=len(taps), width=x.width,
        )  # fmt: skip
        return out

    def multiply_row(self, x: Buffer, row: np.ndarray) -> Buffer:
        """x · row, for every row of x."""
        self._whole_vectors(x.width, K.MULTIPLY_ROW)
        return self._elements(K.MULTIPLY_ROW, x, x=x, row=row)

    def scan(
        self, x: Buffer, dt: Buffer, a: np.ndarray, d: np.ndarray, dt_bias: np.ndarray, layer: int,
        spec: Mamba2,
    ) -> Buffer:  # fmt: skip
        """See eager.Eager.scan."""
        self._whole_vectors(spec.head_size, K.SCAN)
        out = self._buffer(spec.inner_width)
        self._op(
            K.SCAN, (x, dt), (out,), {"label": f"layer {layer}"}, x=x, dt=dt, a=a, d=d, dt_bias=dt_bias,
            out=out, layer=layer, n_head=spec.n_head, head_size=spec.head_size, n_group=spec.n_group,
            state_size=spec.state_size,
        )  # fmt: skip
        return out

    def delta_rule(
        self, x: Buffer, qk: Buffer, beta: Buffer, alpha: Buffer, a: np.ndarray, dt_bias: np.ndarray,
        layer: int, spec: DeltaNet,
    ) -> Buffer:  # fmt: skip
        """See eager.Eager.delta_rule."""
        self._whole_vectors(spec.head_size, K.DELTA_RULE)
        out = self._buffer(spec.value_width)
        self._op(
            K.DELTA_RULE, (x, qk, beta, alpha), (out,), {"label": f"layer {layer}"}, x=x, qk=qk, beta=beta,
            alpha=alpha, a=a, dt_bias=dt_bias, out=out, layer=layer, n_head=spec.n_head,
            n_head_k=spec.n_head_k, head_size=spec.head_size, tiled=int(spec.tiled),
            scale=spec.head_size**-0.5,
        )  # fmt: skip
        return out

    def project(self, x: Buffer, w: np.ndarray, bias: np.ndarray) -> Buffer:
        """See eager.Eager.project."""
        n_columns, width = w.shape
        self._whole_vectors(width, K.PROJECT)
        out = self._buffer(width)
        self._op(
            K.PROJECT, (x,), (out,), x=x, x_width=x.width, w=w, bias=bias, out=out, n_columns=n_columns,
            width=width,
        )  # fmt: skip
        return out

    def scan_columns(
        self, x: Buffer, dt: Buffer, db: Buffer, a: np.ndarray, d: np.ndarray, layer: int, spec: Mamba
    ) -> Buffer:
        """See eager.Eager.scan_columns."""
        self._whole_vectors(spec.width, K.SCAN_COLUMNS)
        out = self._buffer(spec.width)
        self._op(
            K.SCAN_COLUMNS, (x, dt, db), (out,), {"label": f"layer {layer}"}, x=x, dt=dt, db=db, a=a, d=d,
            out=out, layer=layer, width=spec.width, rank=spec.rank, state_size=spec.state_size,
        )  # fmt: skip
        return out

    # ---- experts -------------------------------------------------------------------------------------------

    def route(
        self, scores: Buffer, spec: Experts, bias: np.ndarray | None = None, layer: int | None = None
    ) -> RouteBuffers:
        """See eager.Eager.route."""
        n_expert, rows, n_used = scores.width, scores.rows, spec.n_used
        self.n_used = n_used
        for counted, slots in SLOTS.items():
            self.limits[slots] = self.limits[counted] * n_used
        ids, token_of, slot_of = (self._buffer(n_used, rows, 8) for _ in range(3))
        weights, counts = self._buffer(n_used, rows), Buffer(2 * n_expert, 8)
        same: dict[str, Any] = {"n_expert": n_expert, "n_used": n_used}
        groups = {"n_group": spec.n_group, "n_group_used": spec.n_group_used}
        how = same | groups | {"factor": float(spec.weight_scale)}
        chosen: dict[str, Any] = {"rows": rows, "scores": scores, "ids": ids, "weights": weights}
        if spec.gating == "sigmoid":
            address = 0 if bias is None else bias  # 0: no address
            sigmoid: dict[str, Any] = {"bias": address, "normalized": int(spec.normalized)}
            self._op(K.ROUTE_SIGMOID, (scores,), (ids, weights, scores), **chosen, **how, **sigmoid)
        elif spec.gating == "softmax_chosen" or spec.normalized:
            self._op(K.ROUTE_SHARE, (scores,), (ids, weights), **chosen, **how)
        else:
            self._op(K.ROUTE_SOFTMAX, (scores,), (ids, weights), **chosen, **how)
        written: dict[str, Any] = {"counts": counts, "token_of": token_of, "slot_of": slot_of}
        self._op(K.SORT_ROWS, (ids,), tuple(written.values()), rows=rows, ids=ids, **written, **same)
        return RouteBuffers(counts, token_of, slot_of, weights)

    def spread(self, x: Buffer, routes: RouteBuffers) -> Buffer:
        """See eager.Eager.spread."""
        self._whole_vectors(x.width, K.SPREAD)
        out = self._buffer(x.width, SLOTS[x.rows])
        reads = (x, routes.token_of)
        self._op(
            K.SPREAD, reads, (out,), slots=out.rows, x=x, token_of=routes.token_of, out=out, width=x.width
        )
        return out

    def expert_matmul(
        self, w: Any, x: Buffer, routes: RouteBuffers, bias: np.ndarray | None = None
    ) -> Buffer:
        """See eager.Eager.expert_matmul."""
        n_expert, n_rows, _ = w.shape
        family = self._family(w)
        if family is None:
            raise UnsupportedError(f"{w.name}: experts in {w.type.name}, which has no kernels of its own")
        out = self._buffer(n_rows, x.rows)
        matrix = w.slice_rows(0, n_rows)
        plain = self._plain_matmul if not family.sub else self._quantized_matmul
        before = len(self.ops)
        plain(family, matrix, x, out)
        one = self.ops.pop()  # the multiplication by a single matrix: what is left are the activations
        assert len(self.ops) - before <= 1
        strides = np.zeros((len(one.args), 2), np.int64)
        for i, value in enumerate(one.args):
            if value is matrix.blocks:
                strides[i, 0] = matrix.n_bytes
            elif isinstance(value, Buffer) and value.rows == x.rows and value.name != "scratch":
                strides[i, 1] = value.width * value.itemsize
        frames, size = self._scratch(8 * (1 + len(one.args)))
        first = (0, *one.args[1:])  # the step that an expert sees begins with the count of its rows
        args = (routes.counts, n_expert, one.kernel, len(first), frames, size, strides, *first)
        used = min(n_expert, self.limits[x.rows]) / n_expert
        facts = {"label": w.name, "type": w.type.name, "bytes_read": int(w.n_bytes * used), "work": one.work}
        reads, writes = (*one.reads, routes.counts), (*one.writes, frames)
        self.ops.append(Op(K.EACH_EXPERT, args, reads, writes, **facts))
        return out if bias is None else self._expert_bias(out, bias, routes, n_expert)

    def _expert_bias(self, x: Buffer, bias: np.ndarray, routes: RouteBuffers, n_expert: int) -> Buffer:
        self._whole_vectors(x.width, K.ADD_EXPERT_ROWS)
        out = self._buffer(x.width, x.rows)
        self._op(
            K.ADD_EXPERT_ROWS, (x, routes.counts), (out,), x=x, bias=bias, counts=routes.counts, out=out,
            width=x.width, n_expert=n_expert,
        )  # fmt: skip
        return out

    def scale_experts(self, x: Buffer, factors: np.ndarray, routes: RouteBuffers) -> Buffer:
        """See eager.Eager.scale_experts."""
        self._whole_vectors(x.width, K.SCALE_EXPERT_ROWS)
        out = self._buffer(x.width, x.rows)
        self._op(
            K.SCALE_EXPERT_ROWS, (x, routes.counts), (out,), x=x, factors=factors, counts=routes.counts,
            out=out, width=x.width, n_expert=len(factors),
        )  # fmt: skip
        return out

    def gather(self, x: Buffer, routes: RouteBuffers) -> Buffer:
        """See eager.Eager.gather."""
        self._whole_vectors(x.width, K.GATHER)
        out = self._buffer(x.width, routes.weights.rows)
        self._op(
            K.GATHER, (x, routes.slot_of, routes.weights), (out,), rows=out.rows, x=x, slot_of=routes.slot_of,
            weights=routes.weights, out=out, width=x.width, n_used=self.n_used,
        )  # fmt: skip
        return out

    # ---- matrices ------------------------------------------------------------------------------------------

    def _family(self, w: Any) -> Family | None:
        family = FAMILIES.get(w.type.id)
        return family if family and w.shape[-1] % 32 == 0 else None

    def _plain_matmul(self, family: Family, w: Any, x: Buffer, out: Buffer) -> None:
        same = {"rows": x.rows, "w": w.blocks, "x": x, "out": out, "n_rows": w.shape[0], "width": w.shape[1]}
        run = family.product(self._at_once(x.rows))
        if run is family.matvec:
            self._op(run, (x,), (out,), _facts(w), **same)
            return
        scratch, size = self._scratch(family.scratch_bytes(self._padded(x.rows), w.shape[1]))
        self._op(run, (x,), (out, scratch), _facts(w), **same, scratch=scratch, scratch_bytes=size)

    def _quantized_matmul(self, family: Family, w: Any, x: Buffer, out: Buffer) -> None:
        q, d, sums32, sums16, offsets32, offsets16, *mixed = self._activations(x)
        if family.has_minimum:
            sums32, sums16 = offsets32, offsets16
        sums = sums32 if family.sub == 32 else sums16
        same = {"rows": x.rows, "w": w.blocks, "q": q, "d": d, "sums": sums, "out": out}
        same |= {"n_rows": w.shape[0], "width": w.shape[1]}
        n = self._at_once(x.rows)
        run = family.product(n)
        if run is family.matvec:
            self._op(run, (q, *mixed, d, sums), (out,), _facts(w), **same, mixed=mixed[0])
            return
        n = n if n <= FEW_TOKENS else self._padded(x.rows)
        scratch, size = self._scratch(family.scratch_bytes(n, w.shape[1]))
        if run is family.matmul_few:
            self._op(
                run, (q, *mixed, d, sums), (out, scratch), _facts(w), **same, mixed=mixed[0],
                scratch=scratch, scratch_bytes=size,
            )  # fmt: skip
            return
        self._op(
            run, (q, d, sums), (out, scratch), _facts(w), **same, unpack=family.unpack,
            row_bytes=w.n_bytes // w.shape[0], zero=family.zero, scratch=scratch, scratch_bytes=size,
        )  # fmt: skip

    def _activations(self, x: Buffer) -> tuple[Buffer, ...]:
        """x as bytes, scales, sums over 32 and over 16, these times scales: once for all its readers.

        For few tokens also the bytes in a second order, of whole 256.
        """
        if x not in self._quantized:
            rows, width, planes = x.rows, x.width, x.planes
            parts = {
                "q": self._buffer(width, rows, 1, planes),
                "d": self._buffer(width // 32, rows, 4, planes),
                "sums32": self._buffer(width // 32, rows, 4, planes),
                "sums16": self._buffer(width // 16, rows, 4, planes),
                "offsets32": self._buffer(width // 32, rows, 4, planes),
                "offsets16": self._buffer(width // 16, rows, 4, planes),
            }
            run = K.QUANTIZE
            if self._at_once(x.rows) <= FEW_TOKENS:
                parts["mixed"] = self._buffer(mixed_bytes(width), rows, 1, planes)
                run = K.QUANTIZE_MIXED
            same = {"rows": rows, "x": x, "width": width, "number": self._number()}
            self._op(run, (x,), tuple(parts.values()), {"label": x.name}, **same, **parts)
            self._quantized[x] = tuple(parts.values())
        return self._quantized[x]

    # ---- writing down --------------------------------------------------------------------------------------

    def _number(self) -> int:
        """The next operation's number, as it is reported: its place plus 1."""
        return len(self.ops) + 1

    def _at_once(self, rows: int) -> int:
        """The most rows that one matrix may meet: a token uses an expert once."""
        return self.limits[rows] // self.n_used if rows in SLOTS.values() else self.limits[rows]

    def _padded(self, rows: int) -> int:
        """As `_at_once`, in whole tiles of tokens."""
        return -(-self._at_once(rows) // TILE_TOKENS) * TILE_TOKENS

    def _buffer(self, width: int, rows: int = N_TOKENS, itemsize: int = 4, planes: int = 1) -> Buffer:
        """A new buffer; matrix kernels read whole groups of tokens."""
        n_rows = self.limits[rows]
        if rows in SLOTS.values():  # a group of rows may reach past the last expert's
            n_rows += TILE_TOKENS
        elif n_rows > 1:
            n_rows = self._padded(rows)
        return Buffer(width, itemsize, rows, n_rows * planes, planes)

    def _scratch(self, bytes_per_thread: int) -> tuple[Buffer, int]:
        size = -(-bytes_per_thread // 64) * 64
        return Buffer(size * self.n_threads, 1, name="scratch"), size

    def _elements(self, run: Kernel, like: Buffer, **args: Any) -> Buffer:
        """An operation on every number by itself; the result has the shape of `like`."""
        out = self._buffer(like.width, like.rows)
        reads = tuple(value for value in args.values() if isinstance(value, Buffer))
        self._op(run, reads, (out,), rows=like.rows, out=out, width=like.width, **args)
        return out

    def _op(
        self, run: Kernel, reads: Sequence, writes: Sequence, facts: dict[str, Any] | None = None, **args: Any
    ) -> None:
        """Write an operation down: `args` by the kernel's own parameter names."""
        if run.parameters is None or args.keys() != set(run.parameters):  # a kernel would read other memory
            raise TypeError(f"{run}: takes {run.parameters}, got {tuple(args)}")
        ordered = tuple(args[name] for name in run.parameters)
        self.ops.append(Op(run, ordered, tuple(reads), tuple(writes), **(facts or {})))

    def _whole_vectors(self, width: int, run: Kernel) -> None:
        """Refuse rows that some kernels, which take 16 numbers at a time, would run over."""
        if width % 16:
            raise UnsupportedError(f"rows of {width} numbers: {run.name} takes multiples of 16")

    def _python(self, function: Any, w: Any, reads: tuple[Buffer, ...], out: Buffer) -> Buffer:
        """An operation without a kernel: NumPy, between two runs of the team."""
        op = Op(None, (w, *reads, out), reads, (out,), function=function, **_facts(w))
        self.ops.append(op)
        return out


def _facts(w: Any) -> dict[str, Any]:
    return {
        "label": w.name,
        "type": w.type.name,
        "bytes_read": w.n_bytes,
        "work": 2 * w.shape[0] * w.shape[1],
    }


def _embed_rows(w: Any, ids: np.ndarray, out: np.ndarray) -> None:
    out[:] = w.rows(ids)


def _matmul_slabs(w: Any, x: np.ndarray, out: np.ndarray) -> None:
    from llmlite.engine.eager import Eager

    out[:] = Eager(0, 0).matmul(w, x)
