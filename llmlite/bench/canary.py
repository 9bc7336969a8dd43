"""A fixed piece of work, timed before and after every block: if it gets slower, so did the machine."""

from __future__ import annotations

from statistics import median
from time import perf_counter_ns

import numpy as np

SIZE = 384  # rows of the square matrices: they fit in the second-level cache and take a few milliseconds
COPY_BYTES = 32 * 2**20  # more than a core's share of most last-level caches, so that main memory is used
REPETITIONS = 5


class Canary:
    """The same work every time: a product of two float32 matrices (arithmetic) and a copy of 32 MiB (memory).

    Args:
        repetitions: number of times each call does both.
    """

    def __init__(self, repetitions: int = REPETITIONS) -> None:
        self.repetitions = repetitions
        random = np.random.default_rng(0)
        self._a = random.standard_normal((SIZE, SIZE), dtype=np.float32)
        self._b = random.standard_normal((SIZE, SIZE), dtype=np.float32)
        self._product = np.empty((SIZE, SIZE), np.float32)
        self._source = np.ones(COPY_BYTES, np.uint8)
        self._copy = np.empty_like(self._source)
        self.sing()  # the first time pays for page faults and thread starts

    def sing(self) -> int:
        """Do the work; return the nanoseconds of one product and one copy together (median of all runs)."""
        samples = []
        for _ in range(self.repetitions):
            begin = perf_counter_ns()
            np.matmul(self._a, self._b, out=self._product)
            np.copyto(self._copy, self._source)
            samples.append(perf_counter_ns() - begin)
        return round(median(samples))
