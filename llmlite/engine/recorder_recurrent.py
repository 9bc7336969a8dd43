"""The recorder's operations for mixers with a state of fixed size (kernels/recurrent.py)."""

from __future__ import annotations

import numpy as np

from llmlite.description.layers import DeltaNet, Mamba, Mamba2
from llmlite.engine import signatures as K  # noqa: N812  (kernels)
from llmlite.engine.recording import Buffer, Recording


class RecorderRecurrent(Recording):
    """A part of `recorder.Recorder`."""

    def multiply(self, a: Buffer, b: Buffer) -> Buffer:
        """Record a · b."""
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
        """Record x with every row multiplied by `row`."""
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
