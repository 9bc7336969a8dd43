"""The recorder's matrix products, of single matrices and of a layer's experts, and the routing of experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmlite.description.layers import Experts
from llmlite.engine import amx
from llmlite.engine import signatures as K  # noqa: N812  (kernels)
from llmlite.engine.contract import FEW_TOKENS
from llmlite.engine.families import MATMUL_TILES, Family, mixed_bytes
from llmlite.engine.recording import SLOTS, Buffer, Op, Recording, weight_facts
from llmlite.errors import UnsupportedError


@dataclass(frozen=True)
class RouteBuffers:
    """The experts that a step's rows are routed to (kernels/experts.py)."""

    counts: Buffer
    token_of: Buffer
    slot_of: Buffer
    weights: Buffer


class MatrixOperations(Recording):
    """A part of `recorder.Recorder`."""

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
        """See eager.Eager.head_matmul; the kernels of a single matrix are called for each head's rows."""
        n_head, n_rows, n_columns = w.shape
        family, matrix = self._family(w), w.slice_rows(0, n_rows)
        if family is None:
            raise UnsupportedError(
                f"{w.name}: rows of {n_columns} numbers in {w.type.name} for each head have no kernels"
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
        """Record `one`, which is for a single head's rows and matrix, for every head."""
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

    def add_row(self, x: Buffer, row: np.ndarray) -> Buffer:
        """Record x with `row` added to every row."""
        out = self._buffer(x.width, x.rows)
        row = np.ascontiguousarray(row, np.float32)
        self._op(K.ADD_ROW, (x,), (out,), rows=x.rows, a=x, row=row, out=out, width=x.width)
        return out

    def _plain_matmul(self, family: Family, w: Any, x: Buffer, out: Buffer) -> None:
        same = {"rows": x.rows, "w": w.blocks, "x": x, "out": out, "n_rows": w.shape[0], "width": w.shape[1]}
        run = family.product(self._at_once(x.rows))
        if run is family.matvec:
            self._op(run, (x,), (out,), weight_facts(w), **same)
            return
        scratch, size = self._scratch(family.scratch_bytes(self._padded(x.rows), w.shape[1]))
        self._op(run, (x,), (out, scratch), weight_facts(w), **same, scratch=scratch, scratch_bytes=size)

    def _quantized_matmul(self, family: Family, w: Any, x: Buffer, out: Buffer) -> None:
        q, d, sums32, sums16, offsets32, offsets16, *mixed = self._activations(x)
        if family.has_minimum:
            sums32, sums16 = offsets32, offsets16
        sums = sums32 if family.sub == 32 else sums16
        same = {"rows": x.rows, "w": w.blocks, "q": q, "d": d, "sums": sums, "out": out}
        same |= {"n_rows": w.shape[0], "width": w.shape[1]}
        n = self._at_once(x.rows)
        run = family.product(n, self.tiles)
        if run is family.matvec:
            self._op(run, (q, *mixed, d, sums), (out,), weight_facts(w), **same, mixed=mixed[0])
            return
        n = n if n <= FEW_TOKENS else self._padded(x.rows)
        scratch, size = self._scratch(family.scratch_bytes(n, w.shape[1], self.tiles))
        if run is family.matmul_few:
            self._op(
                run, (q, *mixed, d, sums), (out, scratch), weight_facts(w), **same, mixed=mixed[0],
                scratch=scratch, scratch_bytes=size,
            )  # fmt: skip
            return
        if run is MATMUL_TILES:
            same |= {"block": family.tile_block, "config": amx.config(family.sub), "sub": family.sub}
        else:
            width = w.shape[1]
            same |= {"multiply": family.multiply(width), "paired": int(family.is_paired(width))}
        self._op(
            run, (q, d, sums), (out, scratch), weight_facts(w), **same, unpack=family.unpack,
            row_bytes=w.n_bytes // w.shape[0], zero=family.zero, scratch=scratch, scratch_bytes=size,
        )  # fmt: skip

    def _activations(self, x: Buffer) -> tuple[Buffer, ...]:
        """Record x as bytes, scales, sums over 32 and over 16, and sums times scales, once for all its
        readers.

        For a few tokens, also record the bytes of whole 256 in a second order.
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
            raise UnsupportedError(f"{w.name}: experts in {w.type.name}, which has no kernels")
        out = self._buffer(n_rows, x.rows)
        matrix = w.slice_rows(0, n_rows)
        plain = self._plain_matmul if not family.sub else self._quantized_matmul
        before = len(self.ops)
        plain(family, matrix, x, out)
        one = self.ops.pop()  # the product with a single matrix; operations on activations remain
        assert len(self.ops) - before <= 1
        strides = np.zeros((len(one.args), 2), np.int64)
        for i, value in enumerate(one.args):
            if value is matrix.blocks:
                strides[i, 0] = matrix.n_bytes
            elif isinstance(value, Buffer) and value.rows == x.rows and value.name != "scratch":
                strides[i, 1] = value.width * value.itemsize
        frames, size = self._scratch(8 * (1 + len(one.args)))
        first = (0, *one.args[1:])  # an expert's step record begins with the count of its rows
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


def _matmul_slabs(w: Any, x: np.ndarray, out: np.ndarray) -> None:
    from llmlite.engine.eager import Eager

    out[:] = Eager(0, 0).matmul(w, x)
