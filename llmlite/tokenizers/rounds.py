"""Merge a very long word by NumPy: all pairs of one rank at once, while there are many of them.

The plain twin is the heap of merging.py, which does one merge at a time.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any

_NONE = 1 << 62  # above every rank
_WINDOW = 64  # rounds
_FEW = 8  # merges per round, on average over the window: fewer are faster one at a time


def merge_in_rounds(parts: list[str], ranks: dict[str, int], joint: str) -> list[str]:
    """Do the first merges of a long word, lowest rank first. The caller does the rest.

    All merges of a rank at once give the same result as one merge at a time, if the new pairs have higher
    ranks. This is true of merges that were learned from text, because a text is learned after its parts. If a
    merge breaks the rule, `parts` is returned unchanged.

    Args:
        parts, ranks, joint: as for `merging.merge`.
    """
    return _Rounds(parts, ranks, joint).run()


class _Rounds:
    """The word as a linked list: arrays over its characters, in which a part is at its first one's index."""

    def __init__(self, parts: list[str], ranks: dict[str, int], joint: str) -> None:
        import numpy as np

        self.np, self.ranks, self.joint, self.parts = np, ranks, joint, parts
        self.texts = list(dict.fromkeys(parts))
        self.numbers = {text: number for number, text in enumerate(self.texts)}
        n = self.n = len(parts)
        self.ids = np.fromiter(map(self.numbers.__getitem__, parts), np.int64, n)
        self.following = np.arange(1, n + 2)
        self.previous = np.arange(-1, n)
        self.alive = np.ones(n, bool)
        self.pair_rank = np.full(n, -1)
        self.places: dict[int, list[Any]] = {}  # rank -> places of pairs that have or had this rank
        self.heap: list[int] = []

    def run(self) -> list[str]:
        """Merge rank by rank, and return the remaining parts."""
        self._rank_pairs(self.np.arange(self.n - 1))
        heapify(self.heap)
        n_merged = 0
        for n_rounds in count(1):
            if not self.heap:
                break
            rank = heappop(self.heap)
            n_now = self._merge(rank)
            if n_now is None:
                return self.parts
            n_merged += n_now
            if n_rounds % _WINDOW == 0:
                if n_merged < _WINDOW * _FEW:
                    break
                n_merged = 0
        return [self.texts[number] for number in self.ids[self.alive].tolist()]

    def _merge(self, rank: int) -> int | None:
        """Do all merges of one rank. Return their number, or None if a new pair should have come before."""
        np = self.np
        waiting = self.places.pop(rank)
        places = waiting[0] if len(waiting) == 1 else np.unique(np.concatenate(waiting))
        places = places[self.pair_rank[places] == rank]
        if not len(places):
            return 0
        places = self._leftmost(places)
        right = self.following[places]
        after = self.following[right]
        joined = self._joined(self.ids[places], self.ids[right])
        self.ids[places], old = joined, self.ids[places]
        # If the next pair follows directly, a merged part has an unmerged neighbour for a moment.
        close = np.flatnonzero(after[:-1] == places[1:])
        if len(close) and self._lowest_rank(self.ids[places[close]], old[close + 1]) <= rank:
            return None
        self.following[places] = after
        self.previous[after] = places
        self.alive[right] = False
        self.pair_rank[right] = self.pair_rank[places] = -1
        before = self.previous[places]
        touched = np.unique(np.concatenate((before[before >= 0], places[after < self.n])))
        lowest = self._rank_pairs(touched)
        return None if lowest <= rank else len(places)

    def _leftmost(self, places: Any) -> Any:
        """Select every other one, from the left, of pairs that share a part (aaa)."""
        np = self.np
        shares = np.zeros(len(places), bool)
        shares[1:] = self.following[places[:-1]] == places[1:]
        if not shares.any():
            return places
        order = np.arange(len(places))
        starts = np.maximum.accumulate(np.where(shares, 0, order))
        return places[(order - starts) % 2 == 0]

    def _joined(self, left: Any, right: Any) -> Any:
        """Return the number of each joined text."""
        if (left == left[0]).all() and (right == right[0]).all():  # always so in BPE
            return self._number(int(left[0]), int(right[0]))
        pairs, which = self.np.unique(left << 32 | right, return_inverse=True)
        return self.np.array([self._number(pair >> 32, pair & 0xFFFFFFFF) for pair in pairs.tolist()])[which]

    def _lowest_rank(self, left: Any, right: Any) -> int:
        """Return the lowest rank of these pairs."""
        pairs = self.np.unique(left << 32 | right).tolist()
        texts = self.texts
        ranks = (self.ranks.get(texts[p >> 32] + self.joint + texts[p & 0xFFFFFFFF], _NONE) for p in pairs)
        return min(ranks)

    def _number(self, left: int, right: int) -> int:
        text = self.texts[left] + self.texts[right]
        number = self.numbers.setdefault(text, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        return number

    def _rank_pairs(self, places: Any) -> int:
        """Look up the ranks of the pairs that start at `places` (ascending), and return the lowest."""
        np, texts, joint, rank_of = self.np, self.texts, self.joint, self.ranks.get
        n_texts = len(texts)
        keys = self.ids[places] * n_texts + self.ids[self.following[places]]
        if n_texts * n_texts <= 4 * len(places):  # a table is faster than sorting
            held = np.zeros(n_texts * n_texts, bool)
            held[keys] = True
            pairs = np.flatnonzero(held)
            which = (np.cumsum(held) - 1)[keys]
        else:
            pairs, which = np.unique(keys, return_inverse=True)
        found = [rank_of(texts[p // n_texts] + joint + texts[p % n_texts], -1) for p in pairs.tolist()]
        ranks = np.array(found, np.int64)[which]
        self.pair_rank[places] = ranks
        ranked = ranks >= 0
        places, ranks = places[ranked], ranks[ranked]
        if not len(places):
            return _NONE
        order = np.argsort(ranks, kind="stable")
        places, ranks = places[order], ranks[order]
        starts = [0, *(np.flatnonzero(ranks[1:] != ranks[:-1]) + 1).tolist(), len(ranks)]
        for start, end, rank in zip(starts, starts[1:], ranks[starts[:-1]].tolist()):
            if rank in self.places:
                self.places[rank].append(places[start:end])
            else:
                self.places[rank] = [places[start:end]]
                heappush(self.heap, rank)
        return int(ranks[0])
