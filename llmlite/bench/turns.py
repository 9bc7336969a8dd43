"""Rounds with one turn for each contestant. A machine's speed drifts, so ratios are taken within a round."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)
Round = dict[Name, dict[str, float]]  # tokens per second, by contestant and test


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The result of one contestant in one test.

    Attributes:
        values: tokens per second in each round.
        ratios: the first contestant's speed over this one's, in each round.
    """

    values: tuple[float, ...]
    ratios: tuple[float, ...]

    def __str__(self) -> str:
        return f"{median(self.ratios):7.2f}  {min(self.ratios):.2f} to {max(self.ratios):.2f}"


def rounds(
    names: Sequence[Name], turn: Callable[[Name], dict[str, float]], n_rounds: int
) -> list[Round[Name]]:
    """Take all turns and return the results of each round.

    Every second round is in reverse order, so that no contestant always follows the same one.

    Args:
        names: the contestants.
        turn: function that measures one contestant once and returns tokens per second by test.
        n_rounds: number of rounds.
    """
    found = []
    for number in range(n_rounds):
        order = names if number % 2 == 0 else names[::-1]
        found.append({name: turn(name) for name in order})
    return found


def standing(found: Sequence[Round[Name]], test: str, first: Name, name: Name) -> Standing:
    """Return a contestant's result in a test, relative to the first contestant.

    Args:
        found: the results of all rounds.
        test: name of the test.
        first, name: the first contestant and this one.
    """
    return Standing(
        values=tuple(each[name][test] for each in found),
        ratios=tuple(each[first][test] / each[name][test] for each in found),
    )
