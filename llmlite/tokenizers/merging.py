"""Merge neighbours by rank: the inner loop that BPE and SentencePiece share."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from itertools import islice, pairwise, repeat
from operator import add

from llmlite.tokenizers.rounds import merge_in_rounds

LONG = 20_000  # parts; for longer words, the first merges are done in rounds by NumPy
_NONE = -1
# A heap entry is one integer, rank * 2**40 + position: integers compare faster than tuples.
_SHIFT = 40
_POSITION = (1 << _SHIFT) - 1


def pairs_of_characters(ranks: Mapping[str, int], joint: str) -> dict[str, int]:
    """Return the ranks of pairs of single characters: the two characters -> rank.

    `merge` looks these pairs up first. A small table is faster for them than all of `ranks`.

    Args:
        ranks, joint: as for `merge`.
    """
    n = 2 + len(joint)
    return {key[0] + key[-1]: rank for key, rank in ranks.items() if len(key) == n}


def merge(
    parts: list[str], ranks: dict[str, int], joint: str, pairs: Mapping[str, int] | None = None
) -> list[str]:
    """Merge neighbouring parts, lowest rank first and leftmost among equals, until no pair has a rank.

    The time is O(n log n) in the number of parts, so a megabyte without a space takes only seconds.

    Args:
        parts: the text, cut into characters.
        ranks: the rank of each pair (left, right), under the key `left + joint + right`.
        joint: a space for BPE merges; empty for SentencePiece, whose ranks belong to the merged text.
        pairs: the result of `pairs_of_characters` for the same ranks, if every part is one character.

    Returns:
        The merged parts.

    Source: llama.cpp, src/llama-vocab.cpp, llm_tokenizer_bpe_session and llm_tokenizer_spm_session.
    """
    if len(parts) >= LONG:
        return _merge_by_heap(merge_in_rounds(parts, ranks, joint), ranks, joint)
    return _merge_by_heap(parts, ranks, joint, pairs)


def _merge_by_heap(
    parts: list[str], ranks: dict[str, int], joint: str, pairs: Mapping[str, int] | None = None
) -> list[str]:
    """Do one merge after the other; a heap has the next one."""
    rank_of = ranks.get
    # pair_rank[i]: rank of the pair that starts at part i; -1 if it doesn't merge
    if pairs is None:
        pair_rank = [rank_of(left + joint + right, _NONE) for left, right in pairwise(parts)]
    else:
        pair_rank = list(map(pairs.get, map(add, parts, islice(parts, 1, None)), repeat(_NONE)))
    heap = [(rank << _SHIFT) | i for i, rank in enumerate(pair_rank) if rank != _NONE]
    if not heap:
        return parts
    heapify(heap)
    n_parts = len(parts)
    pair_rank.append(_NONE)
    texts: list[str | None] = list(parts)  # None if a part was merged into its left neighbour
    following = list(range(1, n_parts + 1))
    previous = list(range(-1, n_parts - 1))

    while heap:
        entry = heappop(heap)
        i = entry & _POSITION
        if pair_rank[i] != entry >> _SHIFT:
            continue  # outdated: one of the two parts was merged
        right = following[i]
        text = texts[i] = texts[i] + texts[right]  # type: ignore[operator]  # neither is None: their pair has a rank
        texts[right] = None
        pair_rank[right] = _NONE
        after = following[i] = following[right]
        if after < n_parts:
            previous[after] = i
            rank = pair_rank[i] = rank_of(text + joint + texts[after], _NONE)  # type: ignore[operator]
            if rank != _NONE:
                heappush(heap, (rank << _SHIFT) | i)
        else:
            pair_rank[i] = _NONE
        before = previous[i]
        if before >= 0:
            rank = pair_rank[before] = rank_of(texts[before] + joint + text, _NONE)  # type: ignore[operator]
            if rank != _NONE:
                heappush(heap, (rank << _SHIFT) | before)
    return [text for text in texts if text is not None]
