"""Unigram, its normalization table, and Gemma 4's merges of characters, on small vocabularies."""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlite.errors import TokenizerError
from llmlite.tokenizers.charsmap import CharsMap
from tests.support.charsmap_builder import charsmap
from tests.support.vocabularies import BYTES, FOLDED, MERGES, PIECES, gemma4, random_texts, ugm


def texts_of(tokenizer: Any, text: str, **options: bool) -> list[str]:
    return [tokenizer.token(i) for i in tokenizer.encode(text, **options)]


def library_unigram(tokenizer: Any, *, fold: bool = False, byte_fallback: bool = False) -> Any:
    """The same vocabulary in the tokenizers library."""
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is the oracle here")
    vocabulary = list(zip(tokenizer.vocabulary.texts, tokenizer._scores))
    built = library.Tokenizer(library.models.Unigram(vocabulary, 2, byte_fallback))
    if fold:
        built.normalizer = library.normalizers.Precompiled(charsmap(FOLDED))
    built.pre_tokenizer = library.pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    return built


def best_by_hand(tokenizer: Any, text: str) -> float:
    """The highest sum of scores of all ways to cut a text, each way tried."""
    scores = {t: s for t, s in zip(tokenizer.vocabulary.texts, tokenizer._scores) if t in PIECES}
    unknown = min(scores.values()) - 10
    best = -math.inf
    for cuts in itertools.product((False, True), repeat=max(0, len(text) - 1)):
        parts, start = [], 0
        for end in (*(i + 1 for i, cut in enumerate(cuts) if cut), len(text)):
            parts.append(text[start:end])
            start = end
        if all(part in scores or len(part) == 1 for part in parts):
            best = max(best, sum(scores.get(part, unknown) for part in parts))
    return best


@given(st.text("abc日本é", min_size=1, max_size=9))
@settings(max_examples=150, deadline=None)
def test_no_way_to_cut_a_text_scores_higher(text: str) -> None:
    tokenizer = ugm(add_space_prefix=False)
    ids = tokenizer.encode(text, add_special=False)
    # a run of unknown characters is one token in the result: take the path before they are joined
    path = [i for piece in tokenizer._cuts.split(text) for i in tokenizer._encode_word(piece)]
    unknown = min(PIECES.values()) - 10
    found = sum(unknown if i == 2 else tokenizer._scores[i] for i in path)
    assert found == pytest.approx(best_by_hand(tokenizer, text), abs=1e-9)
    assert len(ids) <= len(path)


class NoCuts:
    def split(self, text: str) -> list[str]:
        return [text]


CUT, WHOLE = ugm(), ugm()
WHOLE.__dict__["_cuts"] = NoCuts()


@given(st.text("abcthe é日本x", max_size=30))
@settings(max_examples=300, deadline=None)
def test_cutting_a_text_changes_nothing(text: str) -> None:
    assert CUT.encode(text) == WHOLE.encode(text)


@pytest.mark.parametrize("fold", [False, True])
def test_random_texts_agree_with_the_tokenizers_library(fold: bool) -> None:
    changes = {"precompiled_charsmap": list(charsmap(FOLDED))} if fold else {}
    tokenizer = ugm(**changes)
    built = library_unigram(tokenizer, fold=fold)
    # The library puts no ▁ before a text that starts with one; it matches parts of letters with marks, too.
    draws = [text.replace("\u0301", "").lstrip(" \t\u3000") for text in random_texts(300, seed=4)]
    mixed = ["".join(text) for text in itertools.product(("ab", "a the", "Ａ", "日本", "b\t", "x"), repeat=3)]
    for text in (*draws, *mixed):
        assert tokenizer.encode(text, add_special=False, parse_special=False) == built.encode(text).ids, (
            ascii(text)
        )


def test_what_has_no_token_is_one_unknown_token_or_its_bytes() -> None:
    assert texts_of(ugm(), "axyz日", add_special=False) == ["▁a", "<unk>"]
    pieces = {**dict.fromkeys(BYTES, -20.0), **PIECES}
    tokenizer = ugm(pieces, token_type=[3, 3, 2] + [6] * 256 + [1] * len(PIECES) + [4])
    assert texts_of(tokenizer, "a€", add_special=False) == ["▁a", "<0xE2>", "<0x82>", "<0xAC>"]
    assert tokenizer.decode(tokenizer.encode("a€ b日", add_special=False)) == "a€ b日"


def test_eos_comes_after_the_text_and_special_tokens_are_read() -> None:
    assert texts_of(ugm(), "a<tool>ab") == ["▁a", "<tool>", "▁ab", "</s>"]
    assert texts_of(ugm(add_eos_token=False), "a") == ["▁a"]


def test_extra_spaces_go_if_the_file_says_so() -> None:
    assert texts_of(ugm(), "  a  b ", add_special=False) == ["▁", "▁", "▁a", "▁", "▁", "b", "▁"]
    tokenizer = ugm(remove_extra_whitespaces=True)
    assert texts_of(tokenizer, "  a  b ", add_special=False) == ["▁a", "▁", "b"]
    assert tokenizer.encode("   ", add_special=False) == []


def test_the_longest_replacement_wins() -> None:
    table = CharsMap(charsmap(FOLDED))
    assert table.replacements == FOLDED
    assert table.apply("e\u0301é e ab\u0301abﬁ\x7f\u3000Ａx") == "ée e cabab ax"
    assert CharsMap(charsmap({"x": "y"})).apply("") == ""


GOOD = charsmap(FOLDED)


@pytest.mark.parametrize(
    "table",
    [b"", GOOD[:3], GOOD[:8], b"\xff" * 40, GOOD[:-1], GOOD[: 4 + int.from_bytes(GOOD[:4], "little")]],
    ids=["empty", "no length", "cut off", "length beyond", "no last zero", "no texts"],
)
def test_a_malformed_normalization_table_is_refused(table: bytes) -> None:
    with pytest.raises(TokenizerError, match="precompiled_charsmap"):
        ugm(precompiled_charsmap=list(table))


def test_a_table_that_runs_in_a_circle_is_refused() -> None:
    units = [0] * 512
    units[0] = 256 << 10
    for label in range(1, 256):
        units[256 ^ label] = label | label << 10  # every unit's children are at 256 again
    table = (2048).to_bytes(4, "little") + b"".join(unit.to_bytes(4, "little") for unit in units) + b"a\0"
    with pytest.raises(TokenizerError, match="a cycle in it"):
        ugm(precompiled_charsmap=list(table))


@given(st.binary(max_size=len(GOOD)), st.integers(0, len(GOOD)))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_table_or_an_error(noise: bytes, at: int) -> None:
    table = (GOOD[:at] + noise + GOOD[at + len(noise) :])[: len(GOOD) + 8]
    with contextlib.suppress(TokenizerError):
        CharsMap(table).apply("e\u0301 Ａ ab\u0301")


def test_unigram_needs_an_unknown_token() -> None:
    with pytest.raises(TokenizerError, match="unknown_token_id"):
        ugm(tokens=["a", "b"], scores=[0.0, 0.0], token_type=[1, 1])


# Gemma 4


def test_gemma4_merges_characters_and_takes_runs_of_line_ends_whole() -> None:
    tokenizer = gemma4(add_bos_token=False)  # it is added all the same
    assert texts_of(tokenizer, "ab the\n\n a") == ["<bos>", "ab", "▁", "the", "\n\n", "▁a"]
    assert texts_of(tokenizer, "a ab\n\n\n") == ["<bos>", "a", "▁ab", "\n", "\n", "\n"]
    assert texts_of(tokenizer, "€", add_special=False) == ["<0xE2>", "<0x82>", "<0xAC>"]
    text = "ab  the €\n\n\n é日本"
    assert tokenizer.decode(tokenizer.encode(text), skip_special=True) == text


@given(st.text("ab the\né日本x", max_size=30))
@settings(max_examples=300, deadline=None)
def test_gemma4_agrees_with_the_tokenizers_library(text: str) -> None:
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is the oracle here")
    tokenizer = gemma4()
    texts = tokenizer.vocabulary.ids
    pairs = [tuple(merge.split(" ")) for merge in MERGES]
    built = library.Tokenizer(
        library.models.BPE(vocab=texts, merges=pairs, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    built.normalizer = library.normalizers.Replace(" ", "▁")
    built.add_tokens(["\n\n"])
    if "\n\n\n" not in text:  # there the library cuts off two, llama.cpp none
        assert tokenizer.encode(text, add_special=False) == built.encode(text).ids
