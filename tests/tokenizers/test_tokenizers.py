"""Tokenizers: llama.cpp's vectors, the tokenizers library on random text, special tokens, streams."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlite import gguf, tokenizers
from llmlite.errors import TokenizerError
from llmlite.tokenizers import PRE_TOKENIZERS, TokenType
from llmlite.tokenizers.bpe import BYTE_TO_CHAR
from llmlite.tokenizers.merging import merge, pairs_of_characters
from tests.support.vocabularies import random_texts

SEPARATOR = "\n__ggml_vocab_test__\n"
NAMES = ["gpt-2", "llama-bpe", "qwen2", "deepseek-llm", "falcon", "llama-spm", "bert-bge"]
_LOADED: dict[str, Any] = {}


def load(path: Path) -> Any:
    """The tokenizer of a file, kept for the next test."""
    key = str(path)
    if key not in _LOADED:
        _LOADED[key] = tokenizers.from_metadata(gguf.read(path).metadata)
    return _LOADED[key]


def vocabulary_file(vocabs: Path, name: str) -> Path:
    return vocabs / f"ggml-vocab-{name}.gguf"


def tiny_metadata(**changes: Any) -> dict[str, Any]:
    """A small GPT-2 vocabulary; `changes` replace or (None) remove keys of tokenizer.ggml."""
    words = ["he", "ll", "hell", "hello", "Ġw", "aa", "aaaa"]
    merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "a a", "aa aa"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>", "<|im_start|>x"]
    texts = [*BYTE_TO_CHAR, *words, *special]
    types = [1] * (len(texts) - len(special)) + [3, 3, 3, 4, 3]
    values: dict[str, Any] = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": texts,
        "token_type": types,
        "merges": merges,
        "bos_token_id": texts.index("<|endoftext|>"),
        "eos_token_id": texts.index("<|im_end|>"),
    }
    values.update(changes)
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


TINY = tokenizers.from_metadata(tiny_metadata())


@pytest.fixture
def tiny() -> Any:
    """256 bytes, a few merges, special tokens of each kind."""
    return TINY


# ---------------------------------------------------------------- against llama.cpp's vectors


@pytest.mark.parametrize("name", NAMES)
def test_llama_cpps_vectors_come_out_the_same(vocabs: Path, name: str) -> None:
    path = vocabulary_file(vocabs, name)
    tokenizer = load(path)
    texts = Path(f"{path}.inp").read_bytes().decode("utf-8").split(SEPARATOR)
    vectors = [[int(n) for n in line.split()] for line in Path(f"{path}.out").read_text().splitlines()]
    assert len(vectors) >= 46
    for text, expected in zip(texts, vectors):
        assert tokenizer.encode(text, add_special=False) == expected, repr(text)
        if name != "bert-bge":  # which lowers the case
            assert tokenizer.decode(expected) == text


# ---------------------------------------------------------------- against the tokenizers library


def by_the_library(tokenizer: Any) -> Any:
    """The same vocabulary, merges and expressions in Hugging Face's tokenizers."""
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is the oracle here")
    pre = PRE_TOKENIZERS[tokenizer.pre]
    steps = [library.pre_tokenizers.Split(library.Regex(e), "isolated") for e in pre.expressions]
    steps.append(library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    merges = [tuple(m.split(" ")) for m in tokenizer.vocabulary.merges()]
    model = library.models.BPE(vocab=tokenizer.vocabulary.ids, merges=merges, ignore_merges=pre.ignore_merges)
    built = library.Tokenizer(model)
    built.pre_tokenizer = library.pre_tokenizers.Sequence(steps)
    return built


def assert_agrees_with_the_library(tokenizer: Any, count: int) -> None:
    library = by_the_library(tokenizer)
    for text in random_texts(count, seed=1):
        ids = tokenizer.encode(text, add_special=False, parse_special=False)
        assert ids == library.encode(text, add_special_tokens=False).ids, ascii(text)
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2"])
def test_random_unicode_agrees_with_the_tokenizers_library(vocabs: Path, name: str) -> None:
    assert_agrees_with_the_library(load(vocabulary_file(vocabs, name)), 2000)


def test_the_bundled_vocabulary_agrees_with_the_tokenizers_library(tales: Path) -> None:
    assert_agrees_with_the_library(load(tales), 2000)


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2"])
def test_every_pre_tokenizer_of_the_slice_agrees_without_any_file(tiny: Any, pre: str) -> None:
    assert_agrees_with_the_library(tokenizers.from_metadata(tiny_metadata(pre=pre)), 500)


@pytest.mark.parametrize(
    "pre", sorted({id(record): name for name, record in PRE_TOKENIZERS.items()}.values())
)
def test_pre_tokens_are_those_of_the_library(pre: str) -> None:
    library = pytest.importorskip("tokenizers")
    record = PRE_TOKENIZERS[pre]
    theirs = library.pre_tokenizers.Sequence(
        [library.pre_tokenizers.Split(library.Regex(e), "isolated") for e in record.expressions]
    )
    for text in random_texts(200, seed=2):
        words = record.split(text)
        assert "".join(words) == text
        assert words == [word for word, _ in theirs.pre_tokenize_str(text)], ascii(text)


@pytest.mark.parametrize("name", ["deepseek-llm", "deepseek-v3", "falcon", "smollm", "tiny_aya"])
@given(text=st.text(st.sampled_from("aB é1 2'.,!\n\t 你好$ß"), max_size=80))
@settings(max_examples=60, deadline=None)
def test_pieces_cut_before_are_cut_as_by_one_expression_after_another(name: str, text: str) -> None:
    pre = PRE_TOKENIZERS[name]
    pieces = [text]
    for expression in pre.expressions:
        cut = []
        for piece in pieces:
            if len(piece) < 2:
                cut.append(piece)
                continue
            end = 0
            for match in regex.finditer(expression, piece):
                cut += [piece[end : match.start()], match.group()]
                end = match.end()
            cut.append(piece[end:])
        pieces = [piece for piece in cut if piece]
    assert [word for word in pre.split(text) if word] == pieces


# ---------------------------------------------------------------- merging


def merge_by_the_book(parts: list[str], ranks: dict[str, int], joint: str) -> list[str]:
    """The definition: merge the pair of lowest rank, leftmost first, until there is none."""
    parts = list(parts)
    while True:
        ranked = [
            (ranks[key], i)
            for i in range(len(parts) - 1)
            if (key := parts[i] + joint + parts[i + 1]) in ranks
        ]
        if not ranked:
            return parts
        _, i = min(ranked)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_merging_follows_the_definition_whatever_the_ranks(data: st.DataObject) -> None:
    joint = data.draw(st.sampled_from([" ", ""]))
    word = data.draw(st.text("abc", min_size=1, max_size=12))
    piece = st.text("abc", min_size=1, max_size=3)
    pairs = data.draw(st.lists(st.tuples(piece, piece), max_size=25))
    ranks = {left + joint + right: data.draw(st.integers(0, 5)) for left, right in pairs}
    if joint:  # a BPE pair has a rank of its own
        ranks = {key: rank for rank, key in enumerate(ranks)}
    expected = merge_by_the_book(list(word), ranks, joint)
    assert merge(list(word), ranks, joint) == expected
    assert merge(list(word), ranks, joint, pairs_of_characters(ranks, joint)) == expected


def test_a_long_run_without_a_break_stays_fast(tiny: Any) -> None:
    start = time.process_time()
    ids = tiny.encode("a" * 200_000, add_special=False)
    assert time.process_time() - start < 20  # about 0.3 s here; quadratic merging would take days
    assert ids == [tiny.token_id("aaaa")] * 50_000


def test_a_large_vocabulary_is_ready_in_well_under_a_second(vocabs: Path) -> None:
    metadata = gguf.read(vocabulary_file(vocabs, "qwen2")).metadata
    start = time.process_time()
    tokenizers.from_metadata(metadata)
    assert time.process_time() - start < 1  # 0.1 s here


def test_what_was_cached_gives_the_same_ids(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmlite.tokenizers.words.CACHE_WORDS", 3)
    text = "hello world hell well aaaaa hello w"
    fresh = tokenizers.from_metadata(tiny_metadata())
    expected = tiny.encode(text)
    for _ in range(5):
        assert fresh.encode(text) == expected
        assert len(fresh._words._ids) <= 3


# ---------------------------------------------------------------- special tokens


def test_special_tokens_are_cut_out_first(tiny: Any) -> None:
    ids = tiny.encode("<|im_start|>hello<|im_end|>", add_special=False)
    assert [tiny.token(i) for i in ids] == ["<|im_start|>", "hello", "<|im_end|>"]
    assert tiny.decode(ids) == "<|im_start|>hello<|im_end|>"
    assert tiny.decode(ids, skip_special=True) == "hello"


def test_without_parse_special_a_strangers_control_token_is_only_text(tiny: Any) -> None:
    ids = tiny.encode("<|im_end|><tool>", add_special=False, parse_special=False)
    assert tiny.token_id("<|im_end|>") not in ids
    assert ids[-1] == tiny.token_id("<tool>"), "user-defined tokens are parts of the text"
    assert tiny.decode(ids) == "<|im_end|><tool>"


def test_the_longest_special_token_wins(tiny: Any) -> None:
    ids = tiny.encode("<|im_start|>x<|im_start|>y", add_special=False)
    assert [tiny.token(i) for i in ids] == ["<|im_start|>x", "<|im_start|>", "y"]


def test_bos_and_eos_are_added_as_the_file_says() -> None:
    bos, eos = 263, 265
    for add_bos in (True, False, None):
        for add_eos in (True, False, None):
            tokenizer = tokenizers.from_metadata(tiny_metadata(add_bos_token=add_bos, add_eos_token=add_eos))
            assert (tokenizer.bos_id, tokenizer.eos_id) == (bos, eos)
            expected = [bos] * bool(add_bos) + [tokenizer.token_id("hello")] + [eos] * bool(add_eos)
            assert tokenizer.encode("hello") == expected
            assert tokenizer.encode("hello", add_special=False) == [tokenizer.token_id("hello")]
            assert tokenizer.encode("") == [bos] * bool(add_bos) + [eos] * bool(add_eos)


def test_llama_bpe_adds_bos_where_the_file_is_silent() -> None:
    assert tokenizers.from_metadata(tiny_metadata(pre="llama-bpe")).add_bos
    assert not tokenizers.from_metadata(tiny_metadata(pre="llama-bpe", add_bos_token=False)).add_bos


def test_a_double_bos_is_warned_of() -> None:
    tokenizer = tokenizers.from_metadata(tiny_metadata(add_bos_token=True))
    with pytest.warns(UserWarning, match="begins with a BOS token, and the model adds another"):
        tokenizer.encode("<|endoftext|>hello")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer.encode("<|endoftext|>hello", add_special=False)


def test_every_token_that_ends_a_reply_is_known(tiny: Any) -> None:
    assert {tiny.token(i) for i in tiny.eog_ids} == {"<|endoftext|>", "<|im_end|>"}
    other = tokenizers.from_metadata(tiny_metadata(eot_token_id=5))
    assert 5 in other.eog_ids


def test_an_unmarked_control_token_is_recognised_by_its_text() -> None:
    tokenizer = tokenizers.from_metadata(tiny_metadata(token_type=None))
    assert tokenizer.token_type(tokenizer.token_id("<|im_end|>")) == TokenType.CONTROL
    assert tokenizer.encode("<|im_end|>", add_special=False) == [tokenizer.token_id("<|im_end|>")]


def test_gpt_oss_keeps_end_as_a_part_of_the_text() -> None:
    texts = [*BYTE_TO_CHAR, "<|end|>", "<|return|>", "<|call|>"]
    metadata = tiny_metadata(
        tokens=texts, token_type=None, merges=["a a"], bos_token_id=None, eos_token_id=None
    )
    tokenizer = tokenizers.from_metadata(metadata)
    assert {tokenizer.token(i) for i in tokenizer.eog_ids} == {"<|return|>", "<|call|>"}


# ---------------------------------------------------------------- back to text


def stream_text(tokenizer: Any, ids: list[int]) -> str:
    stream = tokenizer.stream()
    return "".join([*map(stream.push, ids), stream.flush()])


@given(st.binary(max_size=40))
@settings(max_examples=200, deadline=None)
def test_a_stream_of_any_bytes_equals_decoding_them_at_once(data: bytes) -> None:
    tokenizer = TINY
    ids = [tokenizer.token_id(BYTE_TO_CHAR[byte]) for byte in data]
    assert tokenizer.decode_bytes(ids) == data
    assert stream_text(tokenizer, ids) == tokenizer.decode(ids) == data.decode("utf-8", "replace")


@given(st.text(max_size=30))
@settings(max_examples=150, deadline=None)
def test_a_stream_never_splits_a_character(text: str) -> None:
    tokenizer = TINY
    stream = tokenizer.stream()
    pieces = [stream.push(i) for i in tokenizer.encode(text, add_special=False)]
    assert "".join(pieces) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)
    assert stream.flush() == ""


def test_a_broken_character_is_replaced_only_once_it_cannot_complete(tiny: Any) -> None:
    stream = tiny.stream()
    first, second, third = (tiny.token_id(BYTE_TO_CHAR[byte]) for byte in "€".encode())
    letter = tiny.token_id("a")
    assert stream.push(first) == stream.push(second) == ""
    assert stream.pending == b"\xe2\x82"
    assert stream.push(letter) == "\ufffda"
    assert [stream.push(i) for i in (first, second, third)] == ["", "", "€"]
    assert stream.push(first) == ""
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=150, deadline=None)
def test_text_survives_the_way_there_and_back(text: str) -> None:
    assert TINY.decode(TINY.encode(text, add_special=False)) == text


def test_raw_bytes_in_an_argument_survive_too(tiny: Any) -> None:
    text = b"caf\xe9 \xff".decode("utf-8", "surrogateescape")
    assert tiny.decode_bytes(tiny.encode(text, add_special=False)) == b"caf\xe9 \xff"


def test_a_lone_surrogate_is_refused_by_its_place(tiny: Any) -> None:
    with pytest.raises(TokenizerError, match=r"character 1 .*U\+D800"):
        tiny.encode("x\ud800")


def test_an_id_outside_the_vocabulary_is_refused(tiny: Any) -> None:
    for bad in (-1, tiny.n_vocab, 10**12):
        for method in (
            tiny.token,
            tiny.token_type,
            tiny.piece,
            lambda i: tiny.decode([i]),
            tiny.stream().push,
        ):
            with pytest.raises(TokenizerError, match=f"token id {bad}"):
                method(bad)


def test_unused_tokens_are_silent() -> None:
    types = [*tiny_metadata()["tokenizer.ggml.token_type"]]
    types[256] = TokenType.UNUSED
    assert tokenizers.from_metadata(tiny_metadata(token_type=types)).decode([256, 65]) == BYTE_TO_CHAR[65]


def test_a_byte_without_a_token_is_left_out_with_a_warning() -> None:
    texts = [char for char in BYTE_TO_CHAR if char != "z"]
    metadata = tiny_metadata(
        tokens=texts, token_type=None, merges=["a a"], bos_token_id=None, eos_token_id=None
    )
    with pytest.warns(UserWarning, match="0x7A"):
        ids = tokenizers.from_metadata(metadata).encode("az")
    assert ids == [texts.index("a")]
    with_unknown = {**metadata, "tokenizer.ggml.unknown_token_id": 3}
    assert tokenizers.from_metadata(with_unknown).encode("az") == [texts.index("a"), 3]


def test_ignore_merges_takes_a_known_word_whole() -> None:
    """Llama 3's vocabulary holds words that its merges don't reach."""
    texts = [*tiny_metadata()["tokenizer.ggml.tokens"], "hey"]
    types = [*tiny_metadata()["tokenizer.ggml.token_type"], 1]
    common = {"tokens": texts, "token_type": types}
    whole = tokenizers.from_metadata(tiny_metadata(pre="llama-bpe", add_bos_token=False, **common))
    merged = tokenizers.from_metadata(tiny_metadata(pre="qwen2", **common))
    assert [whole.token(i) for i in whole.encode("hey")] == ["hey"]
    assert [merged.token(i) for i in merged.encode("hey")] == ["he", "y"]
