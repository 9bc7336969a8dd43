"""Plan the number and length of blocks in a given time, and the entries to leave out if time is short."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from llmlite.bench.summary import MIN_BLOCKS

Key = TypeVar("Key", bound=Hashable)
SHORTEST = 16  # tokens generated; the time of fewer is unreliable


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The time that one turn of an entry takes, estimated from a first probe.

    Attributes:
        prefill: seconds for all prompts and for filling the cache.
        step: seconds for one token, summed over all depths.
        once: seconds outside the blocks, for the fresh processes in which memory is measured.
    """

    prefill: float
    step: float
    once: float = 0.0

    def seconds(self, n_gen: int) -> float:
        return self.prefill + n_gen * self.step


@dataclass(frozen=True, kw_only=True)
class TimePlan:
    """The number of blocks, the tokens generated at each depth, and the entries left out.

    Attributes:
        n_blocks: number of blocks.
        n_gen: tokens generated at each depth.
        left_out: entries that are left out, in the order in which they were dropped.
        seconds_per_block: expected time of a block.
    """

    n_blocks: int
    n_gen: int
    left_out: tuple[Hashable, ...]
    seconds_per_block: float


def plan(
    turns: Mapping[Key, Turn],
    essential: Sequence[Key],
    *,
    seconds: float | None,
    n_blocks: int,
    n_gen: int,
    backends: Mapping[Key, str] | None = None,
    least_backends: int = 1,
) -> TimePlan:
    """Fit blocks into `seconds`: first with fewer blocks, then with fewer tokens, then with fewer entries.

    At least MIN_BLOCKS are kept (or `n_blocks`, if that is less), because fewer can't establish a difference.
    Entries that aren't essential are dropped before essential ones, and slower entries before faster ones. If
    only `least_backends` backends are left, they are kept, even if fewer blocks fit.

    Args:
        turns: the time that a turn of each entry takes.
        essential: entries to drop last.
        seconds: time for all blocks together; None for no limit.
        n_blocks, n_gen: the numbers asked for.
        backends: the backend of each entry; None if each entry has a different one.
        least_backends: number of backends to keep in any case.
    """
    kept = dict(turns)
    name_of = {key: backends[key] if backends else key for key in turns}
    left_out: list[Key] = []
    least = min(n_blocks, MIN_BLOCKS)
    while True:
        names = Counter(name_of[key] for key in kept)
        droppable = [key for key in kept if len(names) > least_backends or names[name_of[key]] > 1]
        for length in _lengths(n_gen):
            block = sum(turn.seconds(length) for turn in kept.values())
            once = sum(turn.once for turn in kept.values())
            fits = n_blocks if seconds is None or block <= 0 else int((seconds - once) / block)
            if fits >= least or (not droppable and length == _lengths(n_gen)[-1]):
                n = max(1, min(n_blocks, max(fits, 1)))
                return TimePlan(n_blocks=n, n_gen=length, left_out=tuple(left_out), seconds_per_block=block)
        slowest = max(
            droppable,
            key=lambda key: (key not in essential, least * kept[key].seconds(SHORTEST) + kept[key].once),
        )
        left_out.append(slowest)
        del kept[slowest]


def _lengths(n_gen: int) -> list[int]:
    found = [n_gen]
    while found[-1] // 2 >= SHORTEST:
        found.append(found[-1] // 2)
    return found
