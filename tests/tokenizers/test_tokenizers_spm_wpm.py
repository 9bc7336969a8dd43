"""SentencePiece and WordPiece on small vocabularies, next to the vectors of test_tokenizers.py."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlite import gguf, tokenizers
from llmlite.errors import TokenizerError

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = {
    "▁": -5.0,
    "a": -6.0,
    "b": -6.5,
    "ab": -3.0,
    "▁a": -1.0,
    "▁ab": -2.0,
    "▁▁": -0.5,
    "é": -7.0,
    "ba": -3.0,
}


def spm(extra: dict[str, float] | None = None, **changes: Any) -> Any:
    pieces = {**PIECES, **(extra or {})}
    values: dict[str, Any] = {
        "model": "llama",
        "tokens": ["<unk>", "<s>", "</s>", *BYTES, *pieces, "<tool>"],
        "scores": [0.0] * 259 + [*pieces.values(), 0.0],
        "token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces) + [4],
    }
    values.update(changes)
    return tokenizers.from_metadata({f"tokenizer.ggml.{k}": v for k, v in values.items() if v is not None})


def texts_of(tokenizer: Any, text: str, **options: bool) -> list[str]:
    return [tokenizer.token(i) for i in tokenizer.encode(text, **options)]


def test_the_highest_score_merges_first_and_the_leftmost_of_equals() -> None:
    assert texts_of(spm(), "aba") == ["<s>", "▁ab", "a"]
    assert texts_of(spm(add_space_prefix=False), "aba") == ["<s>", "ab", "a"], "ab and ba score alike"


def test_what_has_no_token_is_spelled_in_bytes() -> None:
    assert texts_of(spm(), "a€\n") == ["<s>", "▁a", "<0xE2>", "<0x82>", "<0xAC>", "<0x0A>"]


def test_the_space_prefix_comes_again_after_a_special_token() -> None:
    tokenizer = spm()
    assert texts_of(tokenizer, "a<tool>a</s>a", add_special=False) == ["▁a", "<tool>", "▁a", "</s>", "▁a"]
    assert tokenizer.decode(tokenizer.encode("a<tool>a</s>a")) == "<s>a<tool>a</s>a"
    assert texts_of(spm(add_space_prefix=False), "a<tool>a", add_special=False) == ["a", "<tool>", "a"]


def test_a_stream_keeps_the_space_that_a_continuation_begins_with() -> None:
    tokenizer = spm()
    ids = tokenizer.encode("a a", add_special=False)
    stream = tokenizer.stream()
    assert "".join(map(stream.push, ids)) == " a a"
    assert tokenizer.decode(ids) == "a a"


CUT, WHOLE = spm(), spm()


class NoCuts:
    def split(self, text: str) -> list[str]:
        return [text]


WHOLE.__dict__["_cuts"] = NoCuts()


@given(st.text("ab é▁€\n", max_size=25))
@settings(max_examples=150, deadline=None)
def test_cutting_at_spaces_changes_nothing(text: str) -> None:
    tokenizer, whole = CUT, WHOLE
    ids = tokenizer.encode(text)
    assert ids == whole.encode(text)
    assert tokenizer.decode(ids, skip_special=True) == text.replace("▁", " ")


def test_a_text_is_cut_where_no_token_holds_both_neighbours() -> None:
    cuts = spm()._cuts
    assert cuts.split("▁ab▁ba") == ["▁ab", "▁", "ba"]
    assert cuts.split("bé▁▁a") == ["b", "é", "▁▁a"]
    assert [cuts.split(""), cuts.split("b")] == [[], ["b"]]


def test_a_vocabulary_with_tokens_across_spaces_is_not_cut_there() -> None:
    tokenizer = spm({"a▁b": -0.1, "a▁": -0.2})
    assert tokenizer._cuts.split("▁a▁b") == ["▁a▁b"]
    assert texts_of(tokenizer, "a b", add_special=False) == ["▁", "a▁b"]


def test_special_ids_have_defaults() -> None:
    tokenizer = spm()
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos) == (0, 1, 2, True)
    assert tokenizer.eog_ids == {2}


@pytest.mark.parametrize("text", ["<0xG0>", "<0x1>", "<0x 1>", "byte", "<0x+1>", "<0x1_>"])
def test_a_malformed_byte_token_is_named(text: str) -> None:
    tokens = ["<unk>", "<s>", "</s>", *BYTES[:7], text]
    with pytest.raises(TokenizerError, match=r"tokens\[10\]: a byte token, expected <0x00> to <0xFF>"):
        spm(tokens=tokens, scores=[0.0] * 11, token_type=[2, 3, 3] + [6] * 8)


def test_a_vocabulary_without_byte_tokens_uses_the_unknown_token() -> None:
    tokenizer = spm(tokens=["<unk>", "<s>", "</s>", "▁", "a"], scores=[0.0] * 5, token_type=[2, 3, 3, 1, 1])
    assert texts_of(tokenizer, "a€", add_special=False) == ["▁", "a", "<unk>"]


def wpm(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "model": "bert",
        "tokens": [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "▁hug",
            "ging",
            "▁face",
            "▁!",
            "▁é",
            "▁e",
            "▁中",
            "▁Hug",
        ],
        "token_type": [3, 3, 3, 3] + [1] * 8,
        "cls_token_id": 2,
        "unknown_token_id": 1,
        "seperator_token_id": 3,
    }
    values.update(changes)
    return tokenizers.from_metadata({f"tokenizer.ggml.{k}": v for k, v in values.items() if v is not None})


def test_the_longest_match_wins_and_cls_and_sep_frame_it() -> None:
    assert texts_of(wpm(), "Hugging FACE!") == ["[CLS]", "▁hug", "ging", "▁face", "▁!", "[SEP]"]


def test_one_unknown_part_makes_the_word_unknown() -> None:
    assert texts_of(wpm(), "hugs face", add_special=False) == ["[UNK]", "▁face"]


def test_accents_go_and_ideographs_stand_alone() -> None:
    assert texts_of(wpm(), "É中中\x07\u200d", add_special=False) == ["▁e", "▁中", "▁中"]


def test_case_and_accents_stay_where_the_file_says_so() -> None:
    tokenizer = wpm(**{"normalizer.lowercase": False})
    assert texts_of(tokenizer, "Hug é", add_special=False) == ["▁Hug", "▁é"]


@pytest.mark.parametrize("name", ["llama-spm", "bert-bge"])
def test_random_text_agrees_with_the_tokenizers_library(vocabs: Path, name: str) -> None:
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is the oracle here")
    tokenizer = tokenizers.from_metadata(gguf.read(vocabs / f"ggml-vocab-{name}.gguf").metadata)
    build = _library_wpm if name == "bert-bge" else _library_spm
    built = build(library, tokenizer)
    draw = random.Random(0)
    pieces = [
        "the",
        " cat",
        "don't",
        "  ",
        "\n",
        "é",
        "ñ",
        "日本",
        "한국어",
        "\x0b",
        "\x85",
        "\u2028",
        "\x1d",
        "🗝️",
        "123",
        "xyzzy",
        "!?",
        " Übung",
        "ß",
        "\t",
        "a",
    ]
    for _ in range(500):
        text = "".join(draw.choice(pieces) for _ in range(draw.randrange(1, 15)))
        ours = tokenizer.encode(text, add_special=False)
        assert ours == built.encode(text, add_special_tokens=False).ids, ascii(text)


def _library_spm(library: Any, tokenizer: Any) -> Any:
    """Unigram scores as merges: every way to split a token into two, the highest score first."""
    ids, types = tokenizer.vocabulary.ids, tokenizer.vocabulary.types
    normal = [text for text, i in ids.items() if types[i] == 1]
    merges = [
        (tokenizer._scores[ids[text]], -len(text[:cut]), text[:cut], text[cut:])
        for text in normal
        for cut in range(1, len(text))
        if text[:cut] in ids and text[cut:] in ids
    ]
    merges.sort(key=lambda merge: (-merge[0], ids[merge[2]], ids[merge[3]]))
    model = library.models.BPE(
        vocab=ids,
        merges=[(left, right) for _, _, left, right in merges],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    built = library.Tokenizer(model)
    built.normalizer = library.normalizers.Sequence(
        [library.normalizers.Prepend("▁"), library.normalizers.Replace(" ", "▁")]
    )
    return built


def _library_wpm(library: Any, tokenizer: Any) -> Any:
    """BERT's own spelling: ## marks what continues a word, nothing marks its start."""
    ids = {}
    for text, token_id in tokenizer.vocabulary.ids.items():
        special = tokenizer.vocabulary.types[token_id] != 1
        ids[text if special else text[1:] if text.startswith("▁") else "##" + text] = token_id
    built = library.Tokenizer(
        library.models.WordPiece(vocab=ids, unk_token="[UNK]", max_input_chars_per_word=1000)
    )
    built.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    built.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    return built
