"""The tokens of a vocabulary that an automaton allows: states, transitions and masks, computed on demand.

Three methods lead to the same answer. `Matcher.allowed` tests some tokens, byte by byte. For a state with few
possible next bytes, the mask is found by following those through the trie, node by node. All other masks are
found level by level, with the states of thousands of nodes computed at once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from llmlite.grammar.automaton import Automaton, Readings
from llmlite.grammar.trie import TokenTrie
from llmlite.system.locks import fork_safe

UNKNOWN, DEAD = -1, 0
MAX_CELLS = 4 * 2**20  # of the table of transitions: 16 MiB
MAX_MASK_BYTES = 32 * 2**20
FEW_ALIVE = 8  # if fewer than one node in this many of a level is alive, dead ones cost more than the search
FEW_NODES = 2_000  # of a trie that are visited one by one before all are computed at once


class Matcher:
    """An automaton and a trie, with all known results: states, transitions, masks.

    States are numbered in the order they occur. The memory is limited; when it is full, all results are
    dropped.
    """

    def __init__(self, automaton: Automaton, trie: TokenTrie) -> None:
        self.automaton = automaton
        self.trie = trie
        self.generation = 0
        self.lock = fork_safe(threading.RLock())  # texts in several threads may share a grammar
        self._classes = automaton.class_of.tobytes()  # a table for bytes.translate
        self._width = automaton.n_classes
        self._node_classes = trie.bytes.translate(self._classes)
        self._level_classes = [automaton.class_of[level.byte].astype(np.int64) for level in trie.levels]
        self._masks: OrderedDict[int, np.ndarray] = OrderedDict()
        self._max_masks = max(16, MAX_MASK_BYTES // trie.n_vocab)
        self._begin()

    def _begin(self) -> None:
        self._numbers: dict[Readings, int] = {frozenset(): DEAD}
        self._states: list[Readings] = [frozenset()]
        self._table = np.full(64 * self._width, UNKNOWN, dtype=np.int32)  # (states, classes), flat
        self._table[: self._width] = DEAD
        self._cells = memoryview(self._table)
        self._masks.clear()

    def tidy(self) -> None:
        """Drop all results if there are too many; constraints `adopt` their readings at a new generation."""
        if self._table.size > MAX_CELLS:
            self.generation += 1
            self.automaton.forget()
            self._begin()

    # ---- questions about tokens ------------------------------------------------------------------------

    def mask(self, readings: Readings) -> np.ndarray:
        """Return which tokens fit after these readings. End tokens fit if one reading is complete."""
        state = self._state(readings)
        known = self._masks.get(state)
        if known is not None:
            self._masks.move_to_end(state)
            return known
        found = self._by_nodes(state)
        if found is None:
            found = self._by_levels(state)
        if self.automaton.end in readings:
            found[self.trie.eog_ids] = True
        found.flags.writeable = False
        self._masks[state] = found
        if len(self._masks) > self._max_masks:
            self._masks.popitem(last=False)
        return found

    def allowed(self, readings: Readings, token_ids: np.ndarray) -> np.ndarray:
        """Return `mask(readings)[token_ids]`, bool (N,), without the mask unless it is known."""
        state = self._state(readings)
        known = self._masks.get(state)
        if known is not None:
            return known[token_ids]
        ends = self.automaton.end in readings
        pieces, eog = self.trie.pieces, self.trie.eog
        return np.array(
            [
                self._fits(state, pieces[token]) if pieces[token] else ends and token in eog
                for token in token_ids.tolist()
            ],
            dtype=bool,
        )

    def fits_any(self, readings: Readings) -> bool:
        """Return whether any token fits other than those that end a generation."""
        return next(self._nodes(self._state(readings)), None) is not None

    # ---- how masks are found ---------------------------------------------------------------------------

    def _fits(self, state: int, piece: bytes) -> bool:
        cells, width = self._cells, self._width
        for byte_class in piece.translate(self._classes):
            after = cells[state * width + byte_class]
            if after == UNKNOWN:
                after = self._learn(state, byte_class)
                cells = self._cells
            if after == DEAD:
                return False
            state = after
        return True

    def _nodes(self, state: int, most: int | None = None) -> Iterator[int]:
        """Return the nodes with tokens that lead from a state to one that isn't dead.

        Args:
            most: the maximum number of nodes to visit; if there are more, the last item is -1.
        """
        starts, tokens = memoryview(self.trie.first_child), memoryview(self.trie.first_token)
        cells, width, classes = self._cells, self._width, self._node_classes
        left = len(classes) if most is None else most
        todo = [(0, state)]
        while todo:
            node, state = todo.pop()
            first, end = starts[node], starts[node + 1]
            left -= end - first
            if left < 0:
                yield -1
                return
            row = state * width
            for child, byte_class in enumerate(classes[first:end], first):
                after = cells[row + byte_class]
                if after == UNKNOWN:
                    after = self._learn(state, byte_class)
                    cells = self._cells
                if after != DEAD:
                    todo.append((child, after))
                    if tokens[child] != tokens[child + 1]:
                        yield child

    def _by_nodes(self, state: int, most: int = FEW_NODES) -> np.ndarray | None:
        """Return the mask, bool (V,), if it doesn't need too many nodes."""
        nodes = np.fromiter(self._nodes(state, most), dtype=np.int64)
        if len(nodes) and nodes[-1] < 0:
            return None
        found = np.zeros(self.trie.n_vocab, dtype=bool)
        first = self.trie.first_token[nodes]
        found[self.trie.tokens[_ranges(first, self.trie.first_token[nodes + 1] - first)]] = True
        return found

    def _by_levels(self, state: int) -> np.ndarray:
        """Return the mask for any state, bool (V,).

        While many nodes of a level are alive, the states of all its nodes are computed. After that, only
        those of live nodes are computed.
        """
        found = np.zeros(self.trie.n_vocab, dtype=bool)
        nodes: np.ndarray | None = None  # the nodes of `states`; None for all
        states = np.array([state], dtype=np.int64)
        for level, classes in zip(self.trie.levels, self._level_classes):
            if nodes is None:
                states = self._moved(states[level.parent], classes)
                found[level.tokens] = states[level.token_node] != DEAD
                n_alive = int(np.count_nonzero(states))
                if n_alive * FEW_ALIVE < len(states):
                    nodes = np.flatnonzero(states)
                    states = states[nodes]
            else:
                first = level.starts[nodes]
                counts = level.starts[nodes + 1] - first
                nodes = _ranges(first, counts)
                states = self._moved(np.repeat(states, counts), classes[nodes])
                alive = np.flatnonzero(states)
                n_alive = len(alive)
                nodes, states = nodes[alive], states[alive]
                first = level.token_starts[nodes]
                found[level.tokens[_ranges(first, level.token_starts[nodes + 1] - first)]] = True
            if not n_alive:
                break
        return found

    def _moved(self, states: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return the states after one byte each, given by its class."""
        cells = states * self._width + classes
        after = self._table[cells]
        if len(after) and after.min() == UNKNOWN:
            for cell in np.unique(cells[after == UNKNOWN]).tolist():
                self._learn(*divmod(cell, self._width))
            after = self._table[cells]
        return after.astype(np.int64)

    def _learn(self, state: int, byte_class: int) -> int:
        """Compute a new transition; `_table` and `_cells` may be replaced by new arrays."""
        after = self._number(self.automaton.step(self._states[state], byte_class))
        self._table[state * self._width + byte_class] = after
        return after

    def _state(self, readings: Readings) -> int:
        return self._number(self.automaton.bounded(readings, self.trie.longest))

    def _number(self, readings: Readings) -> int:
        found = self._numbers.get(readings)
        if found is None:
            found = self._numbers[readings] = len(self._states)
            self._states.append(readings)
            if (found + 1) * self._width > len(self._table):
                self._table = np.concatenate([self._table, np.full_like(self._table, UNKNOWN)])
                self._cells = memoryview(self._table)
        return found


def _ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return first[0], first[0] + 1, … (counts[0] of them), first[1], …"""
    total = int(counts.sum())
    ends = np.cumsum(counts)
    return np.arange(total) + np.repeat(first - (ends - counts), counts)
