"""All tokens of a vocabulary as a trie of their bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class VocabularyLike(Protocol):
    """The part of a tokenizer's vocabulary that grammars use."""

    def is_hidden(self, token_id: int) -> bool: ...


class TokenizerLike(Protocol):
    """The part of a tokenizer that grammars use."""

    n_vocab: int
    eog_ids: Iterable[int]
    vocabulary: VocabularyLike

    def piece(self, token_id: int) -> bytes: ...


@dataclass(frozen=True)
class Level:
    """The nodes of one depth of a trie.

    Attributes:
        starts: index of the first child of each node of the depth above.
        parent: parent of each node.
        byte: byte that leads to each node, uint8.
        token_starts: index of each node's first token.
        tokens: tokens that end at this depth.
        token_node: node of each of these tokens.
    """

    starts: np.ndarray
    parent: np.ndarray
    byte: np.ndarray
    token_starts: np.ndarray
    tokens: np.ndarray
    token_node: np.ndarray


class TokenTrie:
    """All tokens' bytes as a trie, level by level; the children of a node are adjacent.

    Control tokens, unused ones and those that end a generation are left out.

    Attributes:
        pieces: bytes of each token.
        n_vocab, eog_ids: the tokenizer's.
        eog: eog_ids as a set.
        longest: number of bytes of the longest token.
        levels: the nodes of each depth.
        bytes: byte that leads to each node. Nodes are numbered level by level; the root is 0 and has no byte.
        first_child: index of each node's first child, int32 (nodes + 1,); the children of node n end at the
            first child of n + 1.
        first_token: the same for the tokens that end at each node, as an index of `tokens`.
    """

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self.n_vocab = tokenizer.n_vocab
        self.eog_ids = np.array(sorted(tokenizer.eog_ids), dtype=np.int64)
        self.eog = ends = frozenset(self.eog_ids.tolist())
        hidden = tokenizer.vocabulary.is_hidden
        self.pieces = [
            b"" if token in ends or hidden(token) else tokenizer.piece(token) for token in range(self.n_vocab)
        ]
        order = sorted(
            (token for token in range(self.n_vocab) if self.pieces[token]), key=self.pieces.__getitem__
        )
        self.longest = max((len(self.pieces[token]) for token in order), default=0)
        self.n_tokens = len(order)
        self.levels = list(self._build(order))
        sizes = [1, *(len(level.byte) for level in self.levels)]
        offsets = np.cumsum([0, *sizes])
        children = [level.starts[:-1] + offset for level, offset in zip(self.levels, offsets[1:])]
        last = np.full(sizes[-1] + 1, offsets[-1])  # the deepest nodes have none
        self.first_child = np.concatenate([*children, last]).astype(np.int32)
        self.bytes = b"\0" + b"".join(level.byte.tobytes() for level in self.levels)
        n_before = np.cumsum([0, *(len(level.tokens) for level in self.levels)])
        firsts = [level.token_starts[:-1] + n for level, n in zip(self.levels, n_before)]
        self.first_token = np.concatenate([[0], *firsts, n_before[-1:]]).astype(np.int32)
        self.tokens = np.concatenate([np.zeros(0, np.int64), *(level.tokens for level in self.levels)])

    def _build(self, order: list[int]) -> Iterable[Level]:
        tokens = np.array(order, dtype=np.int64)
        lengths = np.array([len(self.pieces[token]) for token in order], dtype=np.int64)
        blob = np.frombuffer(b"".join(self.pieces[token] for token in order), dtype=np.uint8)
        offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        node = np.zeros(len(order), dtype=np.int64)  # node at this depth of each token that is still alive
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
