"""Merging a long word in rounds against one merge at a time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlite.tokenizers import merging, rounds

LEARNT = ["a b", "b c", "ab c", "a a", "aa a", "c ab", "ab ab", "aa aa", "é a"]


@pytest.mark.parametrize("few", [0, 8])
@given(st.text("abcé", max_size=60), st.permutations(LEARNT) | st.just(LEARNT))
@settings(max_examples=300, deadline=None)
def test_rounds_and_single_merges_give_the_same_parts(few: int, text: str, merges: list[str]) -> None:
    """Orders that no training gives are among them: rounds must leave those alone."""
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "_FEW", few)
        patch.setattr(rounds, "_WINDOW", 2)
        first = rounds.merge_in_rounds(list(text), ranks, " ") if text else []
    assert merging._merge_by_heap(first, ranks, " ") == merging._merge_by_heap(list(text), ranks, " ")


@given(st.text("abc", min_size=1, max_size=60))
@settings(max_examples=300, deadline=None)
def test_rounds_keep_to_the_left_where_texts_share_a_rank(text: str) -> None:
    ranks = {
        "ab": 0,
        "ba": 0,
        "aba": 1,
        "abab": 2,
        "cc": 0,
        "ccc": 1,
    }  # as SentencePiece has it: equal scores
    first = rounds.merge_in_rounds(list(text), ranks, "")
    assert merging._merge_by_heap(first, ranks, "") == merging._merge_by_heap(list(text), ranks, "")


def test_long_words_go_by_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = {merge: rank for rank, merge in enumerate(LEARNT)}
    parts = list("aabcabaaab" * 40)
    expected = merging._merge_by_heap(parts, ranks, " ")
    seen: list[int] = []
    honest = merging.merge_in_rounds
    monkeypatch.setattr(merging, "merge_in_rounds", lambda *a: seen.append(len(a[0])) or honest(*a))
    monkeypatch.setattr(merging, "LONG", 400)
    assert merging.merge(parts, ranks, " ") == expected and seen == [400]
