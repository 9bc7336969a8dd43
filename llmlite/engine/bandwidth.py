"""Read bandwidth of this machine's memory, which limits decode: each token reads every weight once."""

from __future__ import annotations

import tempfile
from time import perf_counter

import numpy as np

from llmlite.engine.cpu import usable_threads
from llmlite.engine.families import FAMILIES
from llmlite.engine.plan import Plan, Share
from llmlite.engine.recorder import Recorder
from llmlite.engine.signatures import READ_ALL, TAKE_OUTPUTS
from llmlite.quants.record import QuantType
from llmlite.quants.tensor import QuantTensor

CHUNK = 2**20
WIDTH = 4096  # of a row of weights
MOST_PASSES = 4096  # of a tiny block
AT_LEAST = 64 * 2**20  # bytes read in one run; a shorter run would mostly wait for its threads


class ReadBandwidth:
    """A measurement that reads a block of memory with all threads of the team.

    A small block is read several times in a row, so that starting the threads hardly counts.

    Args:
        n_threads: number of threads; by default, as many as the executor would use.
        n_bytes: size of the block.
        mapped: whether the block is a file in the system's cache, as a model's weights are.
        weights: read the block as one matrix of this type, with the type's kernel for decode. If memory is
            fast, the kernel's arithmetic counts too. A type without a kernel is read as plain memory.

    Raises:
        OSError: with `mapped`, there is no room for the temporary file.
    """

    def __init__(
        self,
        n_threads: int | None = None,
        n_bytes: int = 256 * 2**20,
        *,
        mapped: bool = False,
        weights: QuantType | None = None,
    ) -> None:
        self.n_threads = n_threads or usable_threads()
        unit = 256
        if weights is not None and weights.id in FAMILIES:
            unit = WIDTH // weights.block_size * weights.type_size
        n_bytes = max(1, n_bytes // unit) * unit
        # ones, because zeros that were never written would all be the same page
        self._data = _mapped_ones(n_bytes) if mapped else np.ones(n_bytes, np.uint8)
        recorder = Recorder(max_tokens=1, max_outputs=1, n_threads=self.n_threads)
        self.passes = min(max(1, AT_LEAST // n_bytes), MOST_PASSES)
        if weights is None or weights.id not in FAMILIES:
            out = recorder._buffer(16 * self.n_threads)
            for _ in range(self.passes):
                recorder._op(READ_ALL, (), (out,), data=self._data, n_bytes=n_bytes, out=out)
        else:
            blocks = self._data.reshape(-1, weights.type_size)
            w = QuantTensor("a block", weights, (n_bytes // unit, WIDTH), blocks)
            self._x = np.ones(WIDTH, np.float32)
            x = recorder._buffer(WIDTH)
            recorder._op(TAKE_OUTPUTS, (), (x,), x=self._x, out=x, width=WIDTH)
            for _ in range(self.passes):
                out = recorder.matmul(w, x)
        self._plan = Plan(recorder, out)

    @property
    def n_bytes(self) -> int:
        """Bytes of the block: the requested number, rounded down to whole rows, or to a multiple of 256."""
        return self._data.nbytes

    def seconds(self) -> float:
        """Return the seconds that one reading of the block takes."""
        with self._plan.lock:
            begin = perf_counter()
            self._plan.run([Share([0], n_outputs=1)])
            return (perf_counter() - begin) / self.passes

    def measure(self, repeat: int = 5) -> float:
        """Return the best of `repeat` readings, in bytes per second."""
        return self.n_bytes / min(self.seconds() for _ in range(repeat))


def _mapped_ones(n_bytes: int) -> np.ndarray:
    """Return ones in a temporary file that is mapped, uint8 (n_bytes,).

    They are written to the file, not to the mapping, so that a full disk is an error and not a crash.
    """
    with tempfile.TemporaryFile() as file:
        for start in range(0, n_bytes, CHUNK):
            file.write(b"\1" * min(CHUNK, n_bytes - start))
        file.flush()
        return np.memmap(file, np.uint8, "r", shape=(n_bytes,))
