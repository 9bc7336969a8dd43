"""The recorder: it records the operations that a forward pass calls, instead of computing them.

It has the methods of `llmlite.engine.eager.Eager`; each returns the `Buffer` that will hold the result when
the plan runs. Matrices and recurrent mixers have separate files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llmlite.description.layers import Attention, alibi_slopes, temperatures
from llmlite.description.rope import RopeTable
from llmlite.engine import signatures as K  # noqa: N812  (kernels)
from llmlite.engine.contract import (
    ATTENTION_PART,
    ATTENTION_PARTS,
    ATTENTION_ROWS,
    ATTENTION_ROWS_IN_KEYS,
    ATTENTION_SHARED,
    FEW_TOKENS,
    AttentionRecord,
    attention_scratch,
    attention_tile,
)
from llmlite.engine.kv_cache import require_blocks
from llmlite.engine.recorder_matrices import MatrixOperations, RouteBuffers
from llmlite.engine.recorder_recurrent import RecorderRecurrent
from llmlite.engine.recording import N_OUTPUTS, N_TOKENS, Buffer


class Recorder(MatrixOperations, RecorderRecurrent):
    """A recorder of operations.

    Args:
        max_tokens: tokens of the longest step.
        max_outputs: the maximum number of logits rows in a step.
        n_threads: number of threads that get scratch memory.
        kv: type of keys and values, one of `llmlite.engine.kv_cache.DTYPES`.
        tiles: whether AMX multiplies quantized weights with many tokens (`amx_check`).

    Raises (from any operation):
        UnsupportedError: the kernels don't support a width or another property.
    """

    def name(self, x: Buffer, name: str, layer: int | None = None, heads: int | None = None) -> Buffer:
        """Give x the name "name-layer" in profiles and errors."""
        x.name = name if layer is None else f"{name}-{layer}"
        return x

    def name_routed(self, x: Buffer, name: str, layer: int, routes: RouteBuffers) -> Buffer:
        """Do the same as `name`."""
        return self.name(x, name, layer)

    def inside(self, name: str, layer: int, compute: Callable[[], Any]) -> None:
        """Do nothing: only traces need intermediates, and only the eager executor makes traces."""

    def embed(self, w: Any, ids: Any) -> Buffer:
        """Record the rows of w for the step's ids."""
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

    def layer_norm(
        self, x: Buffer, gain: np.ndarray, bias: np.ndarray | None, eps: float, parts: int = 1
    ) -> Buffer:
        """See eager.Eager.layer_norm."""
        out = self._buffer(x.width, x.rows)
        self._op(
            K.LAYER_NORM, (x,), (out,), rows=x.rows, x=x, gain=gain, bias=0 if bias is None else bias,
            out=out, width=x.width // parts, parts=parts, eps=float(eps), number=self._number(),
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

    def add(self, a: Buffer, b: Buffer) -> Buffer:
        """Record a + b."""
        return self._elements(K.ADD, a, a=a, b=b)

    def scale(self, x: Buffer, factor: float) -> Buffer:
        """Record x · factor."""
        return self._elements(K.SCALE, x, x=x, factor=float(factor))

    def softcap(self, x: Buffer, cap: float) -> Buffer:
        """Record cap · tanh(x / cap)."""
        return self._elements(K.SOFTCAP, x, x=x, cap=float(cap))

    def activate(self, kind: str, x: Buffer, up: Buffer | None = None) -> Buffer:
        """See eager.Eager.activate."""
        if up is None:
            return self._elements(K.ACTIVATIONS[kind], x, x=x)
        return self._elements(K.GATED_ACTIVATIONS[kind], x, x=x, up=up)

    def gate(self, x: Buffer, by: Buffer) -> Buffer:
        """Record x · sigmoid(by)."""
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
            v = k if v is None else v  # then none of its numbers is read
            self._op(K.STORE[self.kv], (k, v), (self.cache,), k=k, v=v, layer=layer, **stored)
        if spec.values_in_keys:
            self._whole_vectors(spec.value_size, K.attention(self.kv, spec))
        n_tokens, least = self.limits[N_TOKENS], ATTENTION_ROWS
        if spec.values_in_keys and n_tokens > FEW_TOKENS:  # a few tokens have too few units for all threads
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
        if n_parts:  # a few tokens: threads share the parts, which are then merged in order
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
        """Return the number of parts of positions that threads may share; 0 in a prompt, whose tokens they
        share.
        """
        if self.limits[N_TOKENS] > ATTENTION_SHARED:
            return 0
        if spec.window and spec.causal:
            return min(ATTENTION_PARTS, (spec.window + ATTENTION_SHARED) // ATTENTION_PART + 2)
        return ATTENTION_PARTS


def _embed_rows(w: Any, ids: np.ndarray, out: np.ndarray) -> None:
    out[:] = w.rows(ids)
