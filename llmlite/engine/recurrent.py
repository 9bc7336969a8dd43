"""What recurrent layers remember: states of a fixed size, and snapshots of them to go on from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

LINE = 16  # float32 numbers in a cache line: each part of a state begins with one


class RecurrentMixer(Protocol):
    """What a recurrent layer's record (llmlite.description.layers) says of its state.

    Attributes:
        tail_shape: of the rows that its convolution needs of earlier tokens, (taps - 1, width).
        state_shape: of its recurrent state; (0,) if it has none.
    """

    @property
    def tail_shape(self) -> tuple[int, int]: ...

    @property
    def state_shape(self) -> tuple[int, ...]: ...


class RecurrentMemory:
    """The states of all recurrent layers of one sequence.

    A row holds the states of all layers. A step reads one row and writes another; only when it is over do
    they change places, so a step that fails leaves everything as it was. Snapshots are further rows: copies
    from which a text can be read on. One is taken at the end of every step of several tokens, which is the
    end of a prompt or of a part of it, and at every position that `every` divides. If all rows are taken, the
    snapshot whose loss leaves the smallest gap makes room.

    Args:
        specs: the records of the recurrent layers.
        zeros: (shape) -> float32 zeros; the system hands out their pages when they are first written.
        n_snapshots: the most that are kept. every: a position is kept while tokens come one by one.

    Attributes:
        rows: float32 (2 + n_snapshots, width): the two rows of steps, then the snapshots.
        now: the row, 0 or 1, that the next step reads, and how many tokens it has seen. It is replaced in
            one assignment, so an interruption never leaves a row under another row's number of tokens.
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
        """How many tokens that row has seen."""
        return self.now[1]

    @property
    def snapshot_bytes(self) -> int:
        """Bytes of one snapshot."""
        return self.rows[0].nbytes

    def commit(self, n: int) -> None:
        """Note that a step of `n` tokens is over: its row becomes the one that is read."""
        self.now = 1 - self.turn, self.position + n
        if len(self.rows) > 2 and (n > 1 or self.position % self.every == 0):
            self._keep()

    def longest(self, n: int) -> int:
        """Return the largest number of tokens, at most `n`, after which the states can go on."""
        return max(at for at in (0, self.position, *self.kept) if at <= n)

    def truncate(self, n: int) -> None:
        """Go back to the state after the first `n` tokens, which `longest` must have named."""
        if n >= self.position:
            return
        self.kept = {at: row for at, row in self.kept.items() if at <= n}
        other = 1 - self.turn
        self.rows[other] = self.rows[self.kept[n]] if n else 0
        self.now = other, n

    def copy_from(self, source: RecurrentMemory, n: int) -> None:
        """Take over the state after the first `n` tokens, which `source.longest` must have named.

        It becomes a snapshot too: this sequence can come back to it.
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
        """The snapshot whose neighbours are nearest to each other."""
        at = [0, *sorted(self.kept), self.position]
        return min(zip(at, at[1:], at[2:]), key=lambda near: near[2] - near[0])[1]


class RecurrentState:
    """One layer's share of a memory's rows; a `kv_cache.LayerState`.

    Attributes:
        spec: the layer's record. start: where its numbers begin in a row. width: how many there are.
    """

    def __init__(self, memory: RecurrentMemory, spec: RecurrentMixer, start: int) -> None:
        self.memory, self.spec, self.start = memory, spec, start
        self._tail_size = _whole_lines(spec.tail_shape)
        self.width = self._tail_size + _whole_lines(spec.state_shape)

    @property
    def n_bytes(self) -> int:
        """Bytes when full, snapshots included: the same for any context."""
        return len(self.memory.rows) * self.width * 4

    def tail(self, row: int) -> np.ndarray:
        """The convolution's tail in row 0 or 1, float32 `tail_shape`: the latest token comes last."""
        return self._part(row, self.start, self.spec.tail_shape)

    def state(self, row: int) -> np.ndarray:
        """The recurrent state in row 0 or 1, float32 `state_shape`."""
        return self._part(row, self.start + self._tail_size, self.spec.state_shape)

    def _part(self, row: int, start: int, shape: tuple[int, ...]) -> np.ndarray:
        return self.memory.rows[row, start : start + int(np.prod(shape))].reshape(shape)

    def reusable(self, n: int) -> bool:
        """Return whether the model can go on after the first `n` tokens."""
        return self.memory.longest(n) == n

    def longest(self, n: int) -> int:
        """Return the largest number of tokens, at most `n`, after which this layer can go on."""
        return self.memory.longest(n)

    def reserve(self, position: int, n: int) -> None:
        """A state has room for any number of tokens."""

    def truncate(self, n: int) -> None:
        """Forget everything after the first `n` tokens: for all layers of the memory at once."""
        self.memory.truncate(n)


def _whole_lines(shape: tuple[int, ...]) -> int:
    return -(-int(np.prod(shape)) // LINE) * LINE
