"""Tokenizers against llama.cpp: every name in the table, and whole vocabularies, on random text."""

from __future__ import annotations

import ctypes
import itertools
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmlite import gguf, tokenizers
from llmlite.tokenizers import PRE_TOKENIZERS
from tests.support.charsmap_builder import charsmap
from tests.support.vocabularies import FOLDED, gemma4, random_texts, ugm

pytestmark = pytest.mark.conformance
# llama.cpp approximates the published expressions of these: it cuts letters with combining marks otherwise.
APPROXIMATED = {"gpt-4o", "llama4", "kanana2", "minimax-m2", "tekken", "talkie", "tiny_aya", "cohere2moe"}
TEXTS = [text.replace("\0", "") for text in random_texts(400, seed=3)]


def bert_and_llama_cpp_agree_on(text: str) -> bool:
    """Whether a text lacks the characters that llama.cpp treats otherwise than BERT does, whom we follow."""
    return not any(
        "\u1100" <= char <= "\u11ff" or "\uac00" <= char <= "\ud7ff"  # Hangul: only its first letters
        or char in "\x0b\x0c\x85"  # white space there, control characters here
        or unicodedata.category(char) in ("Mc", "Me")  # accents there, letters here
        for char in text
    )  # fmt: skip


class Peer:
    """llama.cpp's view of a vocabulary."""

    def __init__(self, api: Any, path: Path) -> None:
        options = api.llama_model_default_params()
        options.vocab_only = True
        self._api = api
        self._model = api.llama_model_load_from_file(bytes(path), options)
        assert self._model, f"llama.cpp refuses {path.name}"
        self._vocab = api.llama_model_get_vocab(self._model)
        self.adds_bos = bool(api.llama_vocab_get_add_bos(self._vocab))

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode()
        size = len(data) + 8
        ids = (self._api.llama_token * size)()
        count = self._api.llama_tokenize(self._vocab, data, len(data), ids, size, add_special, parse_special)
        assert count >= 0
        return list(ids[:count])

    def piece(self, token_id: int) -> bytes:
        buffer = ctypes.create_string_buffer(512)
        count = self._api.llama_token_to_piece(self._vocab, token_id, buffer, 512, 0, True)
        return buffer.raw[:count]

    def ends_a_reply(self, token_id: int) -> bool:
        return bool(self._api.llama_vocab_is_eog(self._vocab, token_id))

    def close(self) -> None:
        self._api.llama_model_free(self._model)


def assert_same_ids(ours: Any, peer: Peer, text: str) -> None:
    for options in ((False, False), (True, True)):
        ids = ours.encode(text, add_special=options[0], parse_special=options[1])
        assert ids == peer.encode(text, *options), ascii(text)


def assert_same_tokens(ours: Any, peer: Peer) -> None:
    for token_id in range(ours.n_vocab):
        assert ours.piece(token_id) == peer.piece(token_id), token_id
        assert (token_id in ours.eog_ids) == peer.ends_a_reply(token_id), token_id


@pytest.fixture(scope="module")
def peer_of() -> Iterator[Callable[[Path], Peer]]:
    api = pytest.importorskip("llama_cpp.llama_cpp", reason="llama-cpp-python is not installed")
    silence = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(silence, ctypes.c_void_p(0))
    api.llama_backend_init()
    peers: list[Peer] = []

    def open_peer(path: Path) -> Peer:
        peers.append(Peer(api, path))
        return peers[-1]

    yield open_peer
    for peer in peers:
        peer.close()
    api.llama_log_set(api.llama_log_callback(), ctypes.c_void_p(0))  # before `silence` is freed


def with_pre_tokenizer(source: Path, pre: str, target: Path) -> Path:
    metadata = {
        key: value for key, value in gguf.read(source).metadata.items() if key.startswith("tokenizer.")
    }
    metadata |= {"general.architecture": "llama", "tokenizer.ggml.pre": pre}
    plain = {key: list(value) if hasattr(value, "__len__") and not isinstance(value, str) else value
             for key, value in metadata.items()}  # fmt: skip
    gguf.write(target, plain, {})
    return target


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_every_pre_tokenizer_agrees_with_llama_cpp(
    pre: str, tales: Path, tmp_path: Path, peer_of: Any
) -> None:
    path = with_pre_tokenizer(tales, pre, tmp_path / "vocabulary.gguf")
    ours, peer = tokenizers.from_metadata(gguf.read(path).metadata), peer_of(path)
    assert ours.add_bos == peer.adds_bos
    for text in TEXTS:
        if pre in APPROXIMATED and not text.isascii():
            continue
        assert_same_ids(ours, peer, text)


@pytest.mark.filterwarnings("ignore:this vocabulary has no token")
@pytest.mark.parametrize(
    "name", ["gpt-2", "llama-bpe", "qwen2", "deepseek-llm", "falcon", "llama-spm", "bert-bge"]
)
def test_whole_vocabularies_agree_with_llama_cpp(name: str, vocabs: Path, peer_of: Any) -> None:
    path = vocabs / f"ggml-vocab-{name}.gguf"
    ours, peer = tokenizers.from_metadata(gguf.read(path).metadata), peer_of(path)
    for text in TEXTS:
        if name == "bert-bge" and not bert_and_llama_cpp_agree_on(text):
            continue
        assert_same_ids(ours, peer, text)
    assert_same_tokens(ours, peer)


@pytest.mark.parametrize("kind", ["ugm", "ugm, folded", "gemma4"])
def test_small_vocabularies_of_other_kinds_agree_with_llama_cpp(
    kind: str, tmp_path: Path, peer_of: Any
) -> None:
    folded = {"precompiled_charsmap": list(charsmap(FOLDED)), "remove_extra_whitespaces": True}
    ours = gemma4() if kind == "gemma4" else ugm(unknown_token_id=2, **(folded if "," in kind else {}))
    path = tmp_path / "vocabulary.gguf"
    values = dict(ours.vocabulary._metadata)
    typed = {"scores": "[f32]", "token_type": "[i32]", "precompiled_charsmap": "[u8]", "tokens": "[string]"}
    for key, name in typed.items():
        if f"tokenizer.ggml.{key}" in values:
            values[f"tokenizer.ggml.{key}"] = gguf.Typed(values[f"tokenizer.ggml.{key}"], name)
    gguf.write(path, values | {"general.architecture": "llama"}, {})
    ours, peer = tokenizers.from_metadata(gguf.read(path).metadata), peer_of(path)
    mixed = [
        "".join(text)
        for text in itertools.product(("ab", " the", "Ａ\t", "日本", "  c", "e\u0301\n"), repeat=3)
    ]
    for text in (*TEXTS, *mixed):
        if not text.strip(" "):
            continue  # SentencePiece puts its space before nothing but spaces, too; llama.cpp doesn't
        assert_same_ids(ours, peer, text)
    assert_same_tokens(ours, peer)
