"""Read bandwidth of this machine's memory, which limits decode: each token reads every weight once."""

from __future__ import annotations

import tempfile
from time import perf_counter

import numpy as np

from llmlite.engine.cpu import usable_threads
from llmlite.engine.plan import Piece, Plan
from llmlite.engine.recorder import Recorder
from llmlite.engine.signatures import READ_ALL

CHUNK = 2**20
AT_LEAST = 64 * 2**20  # bytes read in one run; less, and it would mostly wait for its threads


class ReadBandwidth:
    """Reads a block of memory larger than the caches, with all threads of the team.

    A small block is read several times in a row, so that the start of the threads doesn't count.

    Args:
        n_threads: by default those the executor would take. n_bytes: of the block.
        mapped: whether the block is a file in the system's cache, as a model's weights are: its pages are
            small.

    Raises:
        OSError: with `mapped`, there is no room for the temporary file.
    """

    def __init__(
        self, n_threads: int | None = None, n_bytes: int = 256 * 2**20, *, mapped: bool = False
    ) -> None:
        self.n_threads = n_threads or usable_threads()
        n_bytes = n_bytes // 256 * 256
        # ones: untouched zeros would be one page
        self._data = _mapped_ones(n_bytes) if mapped else np.ones(n_bytes, np.uint8)
        recorder = Recorder(max_tokens=1, max_outputs=1, n_threads=self.n_threads)
        sums = recorder._buffer(16 * self.n_threads)
        self.passes = max(1, AT_LEAST // max(self._data.nbytes, 1))
        for _ in range(self.passes):
            recorder._op(READ_ALL, (), (sums,), data=self._data, n_bytes=self._data.nbytes, out=sums)
        self._plan = Plan(recorder, sums)

    @property
    def n_bytes(self) -> int:
        """Bytes of the block: the number asked for, rounded down to a multiple of 256."""
        return self._data.nbytes

    def seconds(self) -> float:
        """Return the seconds that one reading of the block takes."""
        with self._plan.lock:
            begin = perf_counter()
            self._plan.run([Piece([0])])
            return (perf_counter() - begin) / self.passes

    def measure(self, repeat: int = 5) -> float:
        """Return the best of `repeat` readings, in bytes per second."""
        return self.n_bytes / min(self.seconds() for _ in range(repeat))


def _mapped_ones(n_bytes: int) -> np.ndarray:
    """Ones in a temporary file that is mapped, uint8 (n_bytes,).

    They are written to the file, not to the mapping: a full disk is then an error, not a crash.
    """
    with tempfile.TemporaryFile() as file:
        for start in range(0, n_bytes, CHUNK):
            file.write(b"\1" * min(CHUNK, n_bytes - start))
        file.flush()
        return np.memmap(file, np.uint8, "r", shape=(n_bytes,))
