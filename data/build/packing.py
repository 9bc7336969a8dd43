"""Documents into rows: whole documents packed so that each row starts with a document's start."""

from dataclasses import dataclass

import numpy as np
from corpus import FAMILIES, Segment
from tokenizers import Tokenizer


@dataclass(frozen=True)
class Rows:
    """All (rows, length): ids uint16, weights float32, family uint8, answer int32 (its number, 0: none)."""

    ids: np.ndarray
    weights: np.ndarray
    family: np.ndarray
    answer: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def tokenize(tokenizer: Tokenizer, documents: list[list[Segment]]) -> list[list[tuple[Segment, list[int]]]]:
    """Return every document as (segment, ids) pairs."""
    texts = [s.content for document in documents for s in document if isinstance(s.content, str)]
    encoded = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    return [
        [(s, next(encoded).ids if isinstance(s.content, str) else list(s.content)) for s in document]
        for document in documents
    ]


def _fit(sizes: list[int], length: int, rng: np.random.Generator) -> list[list[int]]:
    """Put documents into rows of `length`, longest first, each where the least room stays."""
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # room left -> rows
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        size = sizes[index]
        room = next((r for r in range(size, length + 1) if by_room.get(r)), None)
        if room is None:
            rows.append([])
            row, room = len(rows) - 1, length
        else:
            row = by_room[room].pop()
        rows[row].append(index)
        by_room.setdefault(room - size, []).append(row)
    rng.shuffle(rows)
    return [list(rng.permutation(row)) for row in rows]


def pack(tokenizer: Tokenizer, documents: list[list[Segment]], length: int, seed: int) -> Rows:
    """Pack documents into rows of `length` tokens; longer documents are left out, gaps weigh nothing."""
    tokenized = [d for d in tokenize(tokenizer, documents) if sum(len(ids) for _, ids in d) <= length]
    plan = _fit([sum(len(ids) for _, ids in d) for d in tokenized], length, np.random.default_rng(seed))
    rows = Rows(
        np.zeros((len(plan), length), np.uint16),
        np.zeros((len(plan), length), np.float32),
        np.zeros((len(plan), length), np.uint8),
        np.zeros((len(plan), length), np.int32),
    )
    number = 0
    for row, members in enumerate(plan):
        at = 0
        for segment, ids in (pair for member in members for pair in tokenized[member]):
            here = np.s_[row, at : at + len(ids)]
            rows.ids[here], rows.weights[here] = ids, segment.weight
            rows.family[here] = FAMILIES.index(segment.family)
            if segment.weight > 1.0:
                number += 1
                rows.answer[here] = number
            at += len(ids)
    return rows
