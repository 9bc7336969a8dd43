"""How many blocks fit the time, of what length, and who has to stay out so that five blocks finish."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from llmlite.bench.summary import MIN_BLOCKS

Key = TypeVar("Key", bound=Hashable)
SHORTEST = 16  # tokens written; fewer say little


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one turn of an entry takes, from a first probe.

    Args:
        prefill: seconds of all prompts and of filling the cache. step: seconds of one token, all depths
            together. once: seconds outside the blocks: its fresh processes for memory.
    """

    prefill: float
    step: float
    once: float = 0.0

    def seconds(self, n_gen: int) -> float:
        return self.prefill + n_gen * self.step


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be done: blocks, tokens written at each depth, and the entries left out, slowest first."""

    n_blocks: int
    n_gen: int
    left_out: tuple[Hashable, ...]
    seconds_per_block: float


def plan(
    turns: Mapping[Key, Turn], essential: Sequence[Key], *, seconds: float | None, n_blocks: int, n_gen: int
) -> Plan:
    """Fit blocks into `seconds`: first fewer blocks, then shorter writing, then fewer entries.

    At least MIN_BLOCKS are kept (or `n_blocks`, if that is less), because fewer can't call a difference. Of
    the entries those that aren't essential go first, the slowest before the faster. The last one stays.

    Args:
        turns: what each entry's turn takes. essential: entries that go last.
        seconds: for all blocks together; None for no limit. n_blocks, n_gen: what was asked for.
    """
    kept = dict(turns)
    left_out: list[Key] = []
    least = min(n_blocks, MIN_BLOCKS)
    while True:
        for length in _lengths(n_gen):
            block = sum(turn.seconds(length) for turn in kept.values())
            once = sum(turn.once for turn in kept.values())
            fits = n_blocks if seconds is None or block <= 0 else int((seconds - once) / block)
            if fits >= least or (len(kept) <= 1 and length == _lengths(n_gen)[-1]):
                n = max(1, min(n_blocks, max(fits, 1)))
                return Plan(n_blocks=n, n_gen=length, left_out=tuple(left_out), seconds_per_block=block)
        slowest = max(
            kept, key=lambda key: (key not in essential, least * kept[key].seconds(SHORTEST) + kept[key].once)
        )
        left_out.append(slowest)
        del kept[slowest]


def _lengths(n_gen: int) -> list[int]:
    found = [n_gen]
    while found[-1] // 2 >= SHORTEST:
        found.append(found[-1] // 2)
    return found
