"""The memory of recurrent layers: states of fixed size, and snapshots of them to continue from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

LINE = 16  # float32 numbers in a cache line; each part of a state begins on a line


class RecurrentMixer(Protocol):
    """The state of a recurrent layer, as its record (llmlite.description.layers) describes it.

    Attributes:
        tail_shape: shape of the earlier tokens' rows that its convolution needs, (taps - 1, width).
        state_shape: shape of its recurrent state; (0,) if it has none.
    """

    @property
    def tail_shape(self) -> tuple[int, int]: ...

    @property
    def state_shape(self) -> tuple[int, ...]: ...


class RecurrentMemory:
    """The states of all recurrent layers of one sequence.

    A row holds the states of all layers. A step reads one row and writes another; they change places only
    when the step is over, so a step that fails changes nothing. Snapshots are additional rows: copies from
    which a text can be continued. One is taken at the end of every step of several tokens, which is the end
    of a prompt or of a part of it, and at every position that `every` divides. If all rows are in use, the
    snapshot whose loss leaves the smallest gap is dropped.

    Args:
        specs: the records of the recurrent layers.
        zeros: function (shape) -> float32 zeros, whose pages the system provides when they are first written.
        n_snapshots: the maximum number of snapshots.
        every: distance of snapshots in decode, in positions.

    Attributes:
        rows: float32 (2 + n_snapshots, width): the two rows of steps, then the snapshots.
        now: the row, 0 or 1, that the next step reads, and the number of tokens it has seen. One assignment
            replaces both, so they belong together even after an interruption.
        kept: position -> the row of its snapshot.
        states: one for each layer, in the order of `specs`.
    """

    def __init__(
        self,
        specs: Sequence[RecurrentMixer],
        zeros: Callable[[tuple[int, int]], np.ndarray],
        *,
        n_snapshots: int,
        every: int,
    ) -> None:
        self.states: list[RecurrentState] = []
        width = 0
        for spec in specs:
            self.states.append(RecurrentState(self, spec, width))
            width += self.states[-1].width
        self.rows = zeros((2 + n_snapshots, width))
        self.every = every
        self.now = 0, 0
        self.kept: dict[int, int] = {}

    @property
    def turn(self) -> int:
        """The row, 0 or 1, that the next step reads."""
        return self.now[0]

    @property
    def position(self) -> int:
        """Number of tokens that this row has seen."""
        return self.now[1]

    @property
    def snapshot_bytes(self) -> int:
        """Bytes of one snapshot."""
        return self.rows[0].nbytes

    def commit(self, n: int) -> None:
        """Finish a step of `n` tokens: its row becomes the one that is read."""
        self.now = 1 - self.turn, self.position + n
        if len(self.rows) > 2 and (n > 1 or self.position % self.every == 0):
            self._keep()

    def longest(self, n: int) -> int:
        """Return the largest number of tokens, at most `n`, after which the states can continue."""
        return max(at for at in (0, self.position, *self.kept) if at <= n)

    def truncate(self, n: int) -> None:
        """Return to the state after the first `n` tokens; `n` must come from `longest`."""
        if n >= self.position:
            return
        self.kept = {at: row for at, row in self.kept.items() if at <= n}
        other = 1 - self.turn
        self.rows[other] = self.rows[self.kept[n]] if n else 0
        self.now = other, n

    def copy_from(self, source: RecurrentMemory, n: int) -> None:
        """Copy the state after the first `n` tokens from `source`; `n` must come from `source.longest`.

        The state also becomes a snapshot, so that this sequence can return to it.
        """
        self.kept = {}
        self.rows[1 - self.turn] = source.rows[source.turn if n == source.position else source.kept[n]]
        self.now = 1 - self.turn, n
        if len(self.rows) > 2:
            self._keep()

    def _keep(self) -> None:
        free = set(range(2, len(self.rows))) - set(self.kept.values())
        row = free.pop() if free else self.kept.pop(self._least())
        self.rows[row] = self.rows[self.turn]
        self.kept[self.position] = row

    def _least(self) -> int:
        """Return the snapshot whose neighbours are nearest to each other."""
        at = [0, *sorted(self.kept), self.position]
        return min(zip(at, at[1:], at[2:]), key=lambda near: near[2] - near[0])[1]


class RecurrentState:
    """One layer's part of the rows of a memory; a `kv_cache.LayerState`.

    Attributes:
        spec: the layer's record.
        start: index of its first number in a row.
        width: number of its numbers.
    """

    def __init__(self, memory: RecurrentMemory, spec: RecurrentMixer, start: int) -> None:
        self.memory, self.spec, self.start = memory, spec, start
        self._tail_size = _whole_lines(spec.tail_shape)
        self.width = self._tail_size + _whole_lines(spec.state_shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of the full state with its snapshots, which don't depend on the context."""
        return len(self.memory.rows) * self.width * 4

    def tail(self, row: int) -> np.ndarray:
        """Return the convolution's tail in row 0 or 1, float32 `tail_shape`, with the latest token last."""
        return self._part(row, self.start, self.spec.tail_shape)

    def state(self, row: int) -> np.ndarray:
        """Return the recurrent state in row 0 or 1, float32 `state_shape`."""
        return self._part(row, self.start + self._tail_size, self.spec.state_shape)

    def _part(self, row: int, start: int, shape: tuple[int, ...]) -> np.ndarray:
        return self.memory.rows[row, start : start + int(np.prod(shape))].reshape(shape)

    def reusable(self, n: int) -> bool:
        """Return whether the model can continue after the first `n` tokens."""
        return self.memory.longest(n) == n

    def longest(self, n: int) -> int:
        """Return the largest number of tokens, at most `n`, after which this layer can continue."""
        return self.memory.longest(n)

    def reserve(self, position: int, n: int) -> None:
        """Do nothing: a state has room for any number of tokens."""

    def truncate(self, n: int) -> None:
        """Forget everything after the first `n` tokens, for all layers of the memory at once."""
        self.memory.truncate(n)


def _whole_lines(shape: tuple[int, ...]) -> int:
    return -(-int(np.prod(shape)) // LINE) * LINE
