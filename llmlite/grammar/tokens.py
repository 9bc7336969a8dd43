"""Masks over a vocabulary: the trie of all tokens' bytes, walked together with an automaton."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmlite.errors import GrammarError
from llmlite.grammar.automaton import Automaton, Readings

UNKNOWN, DEAD = -1, 0
MAX_CELLS = 4 * 2**20  # of the table of transitions: 16 MiB
MAX_MASK_BYTES = 32 * 2**20
SHOWN = 60  # characters of the text so far in an error
FEW_ALIVE = 8  # one in so many nodes of a level: below, the dead ones cost more than finding the children


class Vocabulary(Protocol):
    """The part of a tokenizer's vocabulary that grammars use."""

    def is_hidden(self, token_id: int) -> bool: ...


class TokenizerLike(Protocol):
    """The part of a tokenizer that grammars use."""

    n_vocab: int
    eog_ids: Iterable[int]
    vocabulary: Vocabulary

    def piece(self, token_id: int) -> bytes: ...


@dataclass(frozen=True)
class Level:
    """The nodes of one depth of a trie.

    Attributes:
        starts: where the children of each node of the depth above begin. parent: of each node.
        byte: uint8, that leads to each node.
        token_starts: where each node's tokens begin. tokens: that end at this depth. token_node: of each, the
            node.
    """

    starts: np.ndarray
    parent: np.ndarray
    byte: np.ndarray
    token_starts: np.ndarray
    tokens: np.ndarray
    token_node: np.ndarray


class TokenTrie:
    """All tokens' bytes as a trie, level by level; children of a node stand side by side.

    Control tokens, unused ones and those that end a generation are left out.

    Attributes:
        pieces: the bytes of each token. n_vocab, eog_ids: the tokenizer's.
        longest: bytes of the longest token.
    """

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self.n_vocab = tokenizer.n_vocab
        self.eog_ids = np.array(sorted(tokenizer.eog_ids), dtype=np.int64)
        ends = set(self.eog_ids.tolist())
        hidden = tokenizer.vocabulary.is_hidden
        self.pieces = [
            b"" if token in ends or hidden(token) else tokenizer.piece(token) for token in range(self.n_vocab)
        ]
        order = sorted(
            (token for token in range(self.n_vocab) if self.pieces[token]), key=self.pieces.__getitem__
        )
        self.longest = max((len(self.pieces[token]) for token in order), default=0)
        self.n_tokens = len(order)
        self._levels = list(self._build(order))

    def _build(self, order: list[int]) -> Iterable[Level]:
        tokens = np.array(order, dtype=np.int64)
        lengths = np.array([len(self.pieces[token]) for token in order], dtype=np.int64)
        blob = np.frombuffer(b"".join(self.pieces[token] for token in order), dtype=np.uint8)
        offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        node = np.zeros(len(order), dtype=np.int64)  # of each token still alive, at this depth
        n_nodes, depth = 1, 0
        while len(tokens):
            byte = blob[offsets + depth]
            new = np.ones(len(tokens), dtype=bool)  # tokens are sorted: equal neighbours share a node
            new[1:] = (node[1:] != node[:-1]) | (byte[1:] != byte[:-1])
            child = np.cumsum(new) - 1
            starts = np.searchsorted(node[new], np.arange(n_nodes + 1))
            depth += 1
            ended = lengths == depth
            token_starts = np.searchsorted(child[ended], np.arange(int(child[-1]) + 2))
            yield Level(starts, node[new], byte[new].copy(), token_starts, tokens[ended], child[ended])
            alive = ~ended
            tokens, lengths, offsets, node = tokens[alive], lengths[alive], offsets[alive], child[alive]
            n_nodes = int(child[-1]) + 1

    def walk(self, start: int, matcher: Matcher) -> np.ndarray:
        """Which tokens lead from a state to one that isn't dead. bool (V,).

        While many nodes of a level are alive, the states of all of them are computed; then of those alone.
        """
        found = np.zeros(self.n_vocab, dtype=bool)
        nodes: np.ndarray | None = None  # that `states` are of; None: all
        states = np.array([start], dtype=np.int64)
        for level in self._levels:
            if nodes is None:
                states = matcher.moved(states[level.parent], level.byte)
                found[level.tokens] = states[level.token_node] != DEAD
                n_alive = int(np.count_nonzero(states))
                if n_alive * FEW_ALIVE < len(states):
                    nodes = np.flatnonzero(states)
                    states = states[nodes]
            else:
                first = level.starts[nodes]
                counts = level.starts[nodes + 1] - first
                nodes = _ranges(first, counts)
                states = matcher.moved(np.repeat(states, counts), level.byte[nodes])
                alive = np.flatnonzero(states)
                n_alive = len(alive)
                nodes, states = nodes[alive], states[alive]
                first = level.token_starts[nodes]
                found[level.tokens[_ranges(first, level.token_starts[nodes + 1] - first)]] = True
            if not n_alive:
                break
        return found


class Matcher:
    """An automaton and a trie, with everything found out about them so far: states, transitions, masks.

    States are numbered as they are met. What is kept is bounded; when it is full it begins anew.
    """

    def __init__(self, automaton: Automaton, trie: TokenTrie) -> None:
        self.automaton = automaton
        self.trie = trie
        self.generation = 0
        self._classes = automaton.class_of.astype(np.int64)
        self._width = automaton.n_classes
        self._masks: OrderedDict[int, np.ndarray] = OrderedDict()
        self._max_masks = max(16, MAX_MASK_BYTES // trie.n_vocab)
        self._begin()

    def _begin(self) -> None:
        self._numbers: dict[Readings, int] = {frozenset(): DEAD}
        self._states: list[Readings] = [frozenset()]
        self._table = np.full((64, self._width), UNKNOWN, dtype=np.int32)
        self._table[DEAD] = DEAD
        self._masks.clear()

    def tidy(self) -> None:
        """Begin anew if too much is kept; constraints `adopt` their readings when they see the generation."""
        if self._table.size > MAX_CELLS:
            self.generation += 1
            self.automaton.forget()
            self._begin()

    def mask(self, readings: Readings) -> np.ndarray:
        """Which tokens fit after these readings; end-of-generation tokens if one of them is complete."""
        state = self._number(self.automaton.bounded(readings, self.trie.longest))
        known = self._masks.get(state)
        if known is not None:
            self._masks.move_to_end(state)
            return known
        found = self.trie.walk(state, self)
        if self.automaton.end in readings:
            found[self.trie.eog_ids] = True
        found.flags.writeable = False
        self._masks[state] = found
        if len(self._masks) > self._max_masks:
            self._masks.popitem(last=False)
        return found

    def moved(self, states: np.ndarray, byte: np.ndarray) -> np.ndarray:
        """The states after one byte each; transitions not met before are found out now."""
        cells = states * self._width + self._classes[byte]
        after = self._table.ravel()[cells]
        if len(after) and after.min() == UNKNOWN:
            unknown = np.unique(cells[after == UNKNOWN])
            for cell in unknown.tolist():
                state, byte_class = divmod(cell, self._width)
                target = self._number(self.automaton.step(self._states[state], byte_class))
                self._table[state, byte_class] = target
            after = self._table.ravel()[cells]
        return after.astype(np.int64)

    def _number(self, readings: Readings) -> int:
        found = self._numbers.get(readings)
        if found is None:
            found = self._numbers[readings] = len(self._states)
            self._states.append(readings)
            if found >= len(self._table):
                self._table = np.concatenate([self._table, np.full_like(self._table, UNKNOWN)])
        return found


class TokenConstraint:
    """One text under a grammar, token by token. See `llmlite.grammar.Constraint`."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._generation = matcher.generation
        self._readings = matcher.automaton.start()
        self._text = b""
        self._n_bytes = 0

    @property
    def finished(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.automaton.end in self._readings

    def mask(self) -> np.ndarray:
        """Which tokens may come next: bool (V,), read-only. End-of-generation tokens exactly if `finished`.

        Raises:
            GrammarError: no token fits: the vocabulary can't spell what the grammar demands here; or the text
                has too many readings.
        """
        self._refresh()
        found = self._matcher.mask(self._readings)
        if not found.any():
            raise GrammarError(
                f"{self._place()}: a dead end: the grammar demands {self._demanded()} here, and no token of "
                "the vocabulary fits it"
            )
        return found

    def accept(self, token_id: int) -> None:
        """Go on with a token. An end-of-generation token changes nothing.

        Raises:
            GrammarError: the token doesn't fit here. The state is then as it was.
        """
        trie = self._matcher.trie
        if not 0 <= token_id < trie.n_vocab:
            raise GrammarError(f"token {token_id}: expected 0 to {trie.n_vocab - 1}, the vocabulary's last")
        if token_id in trie.eog_ids:
            if not self.finished:
                raise GrammarError(
                    f"{self._place()}: the text can't end here: the grammar demands {self._demanded()}"
                )
            return
        piece = trie.pieces[token_id]
        if not piece:
            raise GrammarError(f"{self._place()}: token {token_id} has no text that a grammar could allow")
        self.accept_bytes(piece)

    def accept_bytes(self, piece: bytes) -> None:
        """Go on with bytes, whatever tokens they come from.

        Raises:
            GrammarError: they don't fit. The state is then as it was.
        """
        self._refresh()
        automaton = self._matcher.automaton
        readings = self._readings
        for number, byte in enumerate(piece):
            readings = automaton.step(readings, int(automaton.class_of[byte]))
            if not readings:
                raise GrammarError(
                    f"{self._place(piece[:number])}: {bytes([byte])!r} of {piece!r} doesn't fit: the grammar "
                    f"demands {self._demanded()}"
                )
        self._readings = readings
        self._n_bytes += len(piece)
        self._text = (self._text + piece)[-4 * SHOWN :]

    def copy(self) -> TokenConstraint:
        """Return a constraint that goes on from here by itself."""
        made = TokenConstraint.__new__(TokenConstraint)
        made.__dict__.update(self.__dict__)
        return made

    def _refresh(self) -> None:
        self._matcher.tidy()
        if self._generation != self._matcher.generation:
            self._readings = self._matcher.automaton.adopted(self._readings)
            self._generation = self._matcher.generation

    def _place(self, more: bytes = b"") -> str:
        text = (self._text + more).decode("utf-8", "replace")
        shown = text if len(text) <= SHOWN else "…" + text[-SHOWN:]
        return f"byte {self._n_bytes + len(more)}, after {shown!r}"

    def _demanded(self) -> str:
        ranges = sorted(set(self._matcher.automaton.expected(self._readings)))
        parts = [
            _shown(low) if low == high else f"{_shown(low)} to {_shown(high)}" for low, high in ranges[:8]
        ]
        parts += ["…"] if len(ranges) > 8 else []
        parts += ["the end"] if self.finished else []
        return " or ".join(parts)


def _shown(byte: int) -> str:
    return repr(chr(byte)) if 0x20 <= byte < 0x7F else f"byte 0x{byte:02X}"


def _ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """first[0], first[0] + 1, … (counts[0] of them), first[1], …"""
    total = int(counts.sum())
    ends = np.cumsum(counts)
    return np.arange(total) + np.repeat(first - (ends - counts), counts)
