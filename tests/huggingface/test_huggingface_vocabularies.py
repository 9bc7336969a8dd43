"""Folders with other tokenizers than byte-level BPE: WordPiece, Unigram, tokenizer.model, tekken.json …"""

from __future__ import annotations

import base64
import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llmlite import tokenizers
from llmlite.errors import LlmliteError, TokenizerError, UnsupportedError
from llmlite.huggingface.vocabulary import tokenizer_metadata
from llmlite.tokenizers import PRE_TOKENIZERS
from tests.support.charsmap_builder import charsmap
from tests.support.vocabularies import BYTES, FOLDED, PIECES, random_texts


def read(folder: Path, n_vocab: int = 600, **config: Any) -> Any:
    """The tokenizer of a folder, by way of its metadata."""
    found = tokenizer_metadata(str(folder), config, n_vocab)
    return tokenizers.from_metadata({key: getattr(value, "value", value) for key, value in found.items()})


def write(folder: Path, name: str, value: Any) -> Path:
    (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return folder


# WordPiece

WORDS = "[PAD] [unused0] [UNK] [CLS] [SEP] [MASK] hug ##ging ##s face the cat ! . ( e é 日 本 ##a a ##b ' t"


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    library = pytest.importorskip("tokenizers", reason="the tokenizers library writes the folder")
    vocabulary = {text: i for i, text in enumerate(WORDS.split())}
    built = library.Tokenizer(library.models.WordPiece(vocabulary, unk_token="[UNK]"))
    built.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    built.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    built.post_processor = library.processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    built.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    built.save(str(tmp_path / "tokenizer.json"))
    return write(tmp_path, "tokenizer_config.json", {"cls_token": "[CLS]", "sep_token": "[SEP]"})


@pytest.mark.parametrize("source", ["tokenizer.json", "vocab.txt"])
def test_a_bert_folder_gives_the_ids_of_the_tokenizers_library(bert: Path, source: str) -> None:
    import tokenizers as library

    built = library.Tokenizer.from_file(str(bert / "tokenizer.json"))
    if source == "vocab.txt":
        (bert / "tokenizer.json").unlink()
        (bert / "vocab.txt").write_text("\n".join(WORDS.split()) + "\n", encoding="utf-8")
    tokenizer = read(bert)
    texts = ["Hugging THE cat's face!", "hugs", "É日本 e\u0301", "a" * 100, "a" * 101, "", "[MASK] a [SEP]"]
    for text in (*texts, *("hug" + t for t in ("", "ging", "x"))):
        assert tokenizer.encode(text) == built.encode(text).ids, ascii(text)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("normalizer", {"type": "Lowercase"}, "only BertNormalizer is supported"),
        ("normalizer", {"type": "BertNormalizer", "clean_text": False}, "clean_text: only true"),
        ("pre_tokenizer", {"type": "Whitespace"}, "only BertPreTokenizer is supported"),
        ("model", {"type": "WordPiece", "vocab": {"a": 0}, "max_input_chars_per_word": 9}, "only 100"),
        ("model", {"type": "WordPiece", "vocab": {"a": 0}, "continuing_subword_prefix": "@"}, "only '##'"),
    ],
)
def test_other_word_pieces_are_refused(bert: Path, part: str, change: Any, words: str) -> None:
    whole = json.loads((bert / "tokenizer.json").read_text(encoding="utf-8"))
    with pytest.raises(UnsupportedError, match=words):
        read(write(bert, "tokenizer.json", whole | {part: change, "added_tokens": []}))


# Unigram in tokenizer.json


@pytest.mark.parametrize("byte_fallback", [False, True])
def test_a_unigram_folder_gives_the_ids_of_the_tokenizers_library(
    tmp_path: Path, byte_fallback: bool
) -> None:
    library = pytest.importorskip("tokenizers", reason="the tokenizers library writes the folder")
    pieces = {**(dict.fromkeys(BYTES, -20.0) if byte_fallback else {}), **PIECES}
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces.items()]
    built = library.Tokenizer(library.models.Unigram(vocabulary, 2, byte_fallback))
    built.normalizer = library.normalizers.Precompiled(charsmap(FOLDED))
    split, space = library.pre_tokenizers.WhitespaceSplit(), library.pre_tokenizers.Metaspace()
    built.pre_tokenizer = library.pre_tokenizers.Sequence([split, space])
    built.post_processor = library.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    built.add_special_tokens(["<pad>", "</s>", "<unk>"])
    built.save(str(tmp_path / "tokenizer.json"))
    tokenizer = read(tmp_path, bos_token_id=None)
    assert (tokenizer.model, tokenizer.add_bos, tokenizer.add_eos) == ("t5", False, True)
    texts = ["ab the  abc", " a\tb ", "Ａé", "日本日", "", " ", "abx b"]
    draws = [text.replace("\u0301", "") for text in random_texts(200, seed=6)]
    # white space that isn't a space divides words there, and is a character here
    draws = [t for t in draws if t.split() == t.replace("\t", " ").replace("\u3000", " ").split(" ")]
    for text in (*texts, *draws):
        assert tokenizer.encode(text) == built.encode(text).ids, ascii(text)


# tokenizer.model: a protobuf message, written by hand


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | float | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def sentencepiece(model_type: int, trainer: bytes = b"", normalizer: bytes = b"") -> bytes:
    kinds: list[tuple[str, float, int]] = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    kinds += [(text, 0.0, 6) for text in BYTES]
    kinds += [(text, score, 1) for text, score in PIECES.items()]
    pieces = [field(1, field(1, t.encode()) + field(2, s) + field(3, kind)) for t, s, kind in kinds]
    return b"".join(pieces) + field(2, field(3, model_type) + trainer) + field(3, normalizer) + field(9, 1)


PLAIN = field(4, 0)  # remove_extra_whitespaces: false


def test_a_tokenizer_model_of_bpe_becomes_scores(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece(2, field(43, -1), PLAIN))
    tokenizer = read(tmp_path)
    assert (tokenizer.model, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == ("llama", 1, 2, None)
    assert (tokenizer.add_bos, tokenizer.add_eos, tokenizer.add_space_prefix) == (True, False, True)
    assert [tokenizer.token(i) for i in tokenizer.encode("ab€")] == [
        "<s>",
        "▁ab",
        *("<0xE2>", "<0x82>", "<0xAC>"),
    ]
    assert tokenizer.n_vocab == 600 and tokenizer.token(599) == "[PAD599]"


def test_a_tokenizer_model_of_unigram_keeps_its_normalization(tmp_path: Path) -> None:
    normalizer = field(2, charsmap(FOLDED)) + field(3, 1)
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece(1, b"", normalizer))
    tokenizer = read(tmp_path)
    assert (tokenizer.model, tokenizer.remove_extra_whitespaces) == ("t5", True)
    assert [tokenizer.token(i) for i in tokenizer.encode(" Ａb\t the ")] == ["▁ab", "▁the", "</s>"]


def test_a_space_prefix_and_added_tokens_are_as_the_files_say(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece(2, b"", PLAIN + field(3, 0)))
    write(tmp_path, "added_tokens.json", {"<tool>": 400})
    decoder = {"401": {"content": "<ask>", "special": False}, "1": {"content": "<s>", "special": True}}
    write(tmp_path, "tokenizer_config.json", {"added_tokens_decoder": decoder, "add_bos_token": False})
    tokenizer = read(tmp_path)
    assert tokenizer.encode("ab<tool>ab<ask>") == [
        *(tokenizer.token_id(t) for t in ("ab", "<tool>", "ab", "<ask>"))
    ]
    assert [int(tokenizer.token_type(i)) for i in (400, 401, 402, 1)] == [3, 4, 5, 3]


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (sentencepiece(3), UnsupportedError, "a model of type 3; only BPE and Unigram"),
        (sentencepiece(1, field(24, 1)), UnsupportedError, "spaces come after words"),
        (sentencepiece(1, b"", field(2, b"abc")), TokenizerError, "precompiled_charsmap: expected"),
        (field(1, 7), TokenizerError, "its bytes: .*field 1 is not a message"),
        (field(1, field(1, b"a") + field(3, 9)), TokenizerError, "piece 0 has type 9"),
        (field(1, field(2, 1.0)), TokenizerError, "piece 0 has no text"),
        (b"\xff" * 11, TokenizerError, "a number that doesn't end"),
        (b"\x0b", TokenizerError, "a field of kind 3"),
        (b"", TokenizerError, "its pieces: expected 1 to vocab_size, 600, got 0"),
        (b"".join(field(1, field(1, b"%d" % i)) for i in range(601)), TokenizerError, "600, got 601"),
    ],
)
def test_a_malformed_tokenizer_model_is_refused(tmp_path: Path, data: bytes, kind: Any, words: str) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(kind, match=words):
        read(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_every_truncation_of_a_tokenizer_model_is_read_or_refused(tmp_path: Path) -> None:
    whole = sentencepiece(2, b"", PLAIN)
    refused = 0
    for size in range(0, len(whole), 7):
        (tmp_path / "tokenizer.model").write_bytes(whole[:size])
        try:
            tokenizer_metadata(str(tmp_path), {}, 600)
        except LlmliteError:
            refused += 1
    assert refused > len(whole) / 7 / 2


def test_a_class_that_shifts_ids_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece(1))
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer"})
    with pytest.raises(UnsupportedError, match="XLMRobertaTokenizer changes its ids"):
        read(tmp_path)


# tekken.json

RANKED = [
    *(bytes([b]) for b in range(256)),
    b"ab",
    b" a",
    b"bc",
    b"abc",
    b" abc",
    "é".encode(),
    b"the",
    b"th",
    b"he",
]
MISTRAL = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def tekken(**changes: Any) -> dict[str, Any]:
    specials = ["<unk>", "<s>", "</s>", "[INST]"]
    whole = {
        "config": {"pattern": MISTRAL, "default_num_special_tokens": 10, "default_vocab_size": 600},
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
            for rank, piece in enumerate(RANKED)
        ],
        "special_tokens": [{"rank": i, "token_str": t, "is_control": True} for i, t in enumerate(specials)],
    }
    return whole | changes


def by_ranks(word: bytes) -> list[int]:
    """The definition: join the two neighbours whose bytes have the lowest rank, again and again."""
    ranks = {piece: rank for rank, piece in enumerate(RANKED)}
    parts = [bytes([b]) for b in word]
    while True:
        joined = [ranks.get(left + right, 1 << 30) for left, right in pairwise(parts)]
        if not joined or min(joined) == 1 << 30:
            return [10 + ranks[part] for part in parts]
        i = joined.index(min(joined))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def test_tekken_merges_by_rank(tmp_path: Path) -> None:
    tokenizer = read(write(tmp_path, "tekken.json", tekken()))
    assert (tokenizer.pre, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == ("tekken", 1, 2, 0)
    assert tokenizer.encode("[INST]the", parse_special=True) == [1, 3, 10 + RANKED.index(b"the")]
    for text in ("abc abcab the cé", "bcabc  aab", *random_texts(200, seed=8)):
        words = PRE_TOKENIZERS["tekken"].split(text)
        ranks = {piece: 10 + rank for rank, piece in enumerate(RANKED)}
        expected = [
            token_id
            for word in map(str.encode, words)
            for token_id in ([ranks[word]] if word in ranks else by_ranks(word))
        ]
        assert tokenizer.encode(text, add_special=False, parse_special=False) == expected, ascii(text)
        assert tokenizer.decode(expected) == text


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"vocab": []}, TokenizerError, "vocab: expected a list of tokens"),
        ({"vocab": [{"rank": 1, "token_bytes": "YQ=="}]}, TokenizerError, r"vocab\[0\]: expected rank 0"),
        ({"vocab": [{"rank": 0, "token_bytes": "!"}]}, TokenizerError, r"vocab\[0\]"),
        ({"config": {"pattern": "[aeiou]"}}, UnsupportedError, "has no name in llmlite"),
        ({"config": {"default_num_special_tokens": 900}}, TokenizerError, "below vocab_size, 600"),
        ({"special_tokens": [{"rank": 10, "token_str": "x"}]}, TokenizerError, "ranks below 10"),
    ],
)
def test_a_contradictory_tekken_is_refused(tmp_path: Path, changes: Any, kind: Any, words: str) -> None:
    if "config" in changes:
        changes = {"config": tekken()["config"] | changes["config"]}
    with pytest.raises(kind, match=words):
        read(write(tmp_path, "tekken.json", tekken(**changes)))
