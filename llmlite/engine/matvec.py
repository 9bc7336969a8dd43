"""One matrix times one vector as a separate plan, and the machine's peak arithmetic, for ladders."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from llmlite.engine.cpu import usable_threads
from llmlite.engine.families import FAMILIES
from llmlite.engine.plan import Plan, Share
from llmlite.engine.recorder import Recorder
from llmlite.engine.signatures import PEAK, SCALAR_MATVEC, TAKE_OUTPUTS
from llmlite.errors import UnsupportedError
from llmlite.quants.tensor import QuantTensor

SCALAR = frozenset(("Q4_0", "Q8_0", "Q4_K"))  # types in kernels/scalar.py
PEAK_ROUNDS = 500_000  # of 12 vector operations; they take tens of milliseconds
PEAK_OPERATIONS = {"f32": 12 * 16 * 2, "int8": 12 * 64 * 2}  # multiplications and additions in a round


class MatVec:
    """The product W x by compiled kernels; call it with x.

    Args:
        w: (rows, width).
        n_threads: number of threads; by default, as many as a model would use.
        scalar: multiply one weight at a time (types in SCALAR) instead of vectors.

    Raises:
        UnsupportedError: there is no such kernel for w's type or width.
        KernelError: kernels can't be compiled or loaded here.
    """

    def __init__(self, w: QuantTensor, *, n_threads: int | None = None, scalar: bool = False) -> None:
        if w.type.name not in SCALAR if scalar else w.type.id not in FAMILIES:
            raise UnsupportedError(f"no {'scalar' if scalar else 'vector'} kernel for {w.type.name}")
        multiple = 32 if scalar else FAMILIES[w.type.id].multiple
        if w.n_columns % multiple:
            raise UnsupportedError(f"rows of {w.n_columns} weights: kernels take multiples of {multiple}")
        self.n_threads = n_threads or usable_threads()
        self._x = np.zeros(w.n_columns, np.float32)
        recorder = Recorder(max_tokens=1, max_outputs=1, n_threads=self.n_threads)
        x = recorder._buffer(w.n_columns)
        recorder._op(TAKE_OUTPUTS, (), (x,), x=self._x, out=x, width=w.n_columns)
        if scalar:
            out = recorder._buffer(w.shape[0])
            recorder._op(
                SCALAR_MATVEC[w.type.name.lower()], (x,), (out,), {"label": w.name}, rows=x.rows, w=w.blocks,
                x=x, out=out, n_rows=w.shape[0], width=w.shape[1],
            )  # fmt: skip
        else:
            out = recorder.matmul(w, x)
        self._plan = Plan(recorder, out)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return W x, float32 (rows,), for x float32 (width,)."""
        with self._plan.lock:
            self._x[:] = x
            return self._plan.run([Share([0], n_outputs=1)])[0].copy()


class PeakArithmetic:
    """The peak rate of the vector units with all operands in registers, on all threads at once.

    Args:
        kind: "f32" (fused multiply-add) or "int8" (the dot product that matrix kernels use on this CPU).
        n_threads: number of threads; by default, as many as a model would use.
        rounds: number of rounds of twelve vector operations.
    """

    def __init__(self, kind: str, n_threads: int | None = None, rounds: int = PEAK_ROUNDS) -> None:
        if kind not in PEAK_OPERATIONS:
            raise ValueError(f"kind must be one of {', '.join(PEAK_OPERATIONS)}, got {kind!r}")
        self.n_threads = n_threads or usable_threads()
        self.operations = PEAK_OPERATIONS[kind] * rounds * self.n_threads
        self._numbers = np.full(32, 0.5, np.float32)
        recorder = Recorder(max_tokens=1, max_outputs=1, n_threads=self.n_threads)
        sums = recorder._buffer(16 * self.n_threads)
        recorder._op(PEAK[kind], (), (sums,), numbers=self._numbers, repeats=rounds, out=sums)
        self._plan = Plan(recorder, sums)

    def measure(self, repeat: int = 5) -> float:
        """Return the best of `repeat` runs, in operations (multiplications and additions) per second."""
        best = 0.0
        with self._plan.lock:
            for _ in range(repeat):
                begin = perf_counter()
                self._plan.run([Share([0])])
                best = max(best, self.operations / (perf_counter() - begin))
        return best
