"""Convert tokenizer.model, SentencePiece's own file, to the keys of a GGUF file: BPE and Unigram.

The file is a protobuf message. Only the fields needed here are read, by their numbers in SentencePiece's
sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from llmlite.gguf import Typed
from llmlite.huggingface.tokenizer_files import TokenizerFiles
from llmlite.huggingface.unigram import charsmap, check_charsmap
from llmlite.tokenizers import SPMTokenizer, TokenType, UGMTokenizer

KINDS = {1: UGMTokenizer.model, 2: SPMTokenizer.model}  # TrainerSpec.ModelType: UNIGRAM, BPE
ROLES = {"unknown": (40, 0), "bos": (41, 1), "eos": (42, 2), "padding": (43, -1)}  # their fields and defaults
# These classes of transformers put their own tokens before the file's, so the file's ids aren't the model's.
SHIFTED = (
    "XLMRoberta",
    "Camembert",
    "MBart",
    "Barthez",
    "NllbTokenizer",
    "M2M100",
    "Pegasus",
    "Fairseq",
    "XGLM",
)


def metadata(files: TokenizerFiles, n_vocab: int) -> dict[str, Any]:
    """Return the keys for tokens, scores, types, special ids and normalization.

    Args:
        files: the tokenizer's files.
        n_vocab: number of rows of the embedding.

    Raises:
        TokenizerError: the file is malformed, or has more tokens than the model.
        UnsupportedError: its tokens are words or characters, or its ids aren't the model's.
    """
    chosen = files.settings.get("tokenizer_class")
    if isinstance(chosen, str) and chosen.startswith(SHIFTED):
        files.refuse(
            f"{chosen} changes its ids; convert a tokenizer.json, which transformers' save_pretrained writes"
        )
    with open(files.path, "rb") as file:
        data = file.read()
    try:
        pieces, trainer, normalizer = _message(data)
    except (ValueError, struct.error) as error:
        files.fail("its bytes", "SentencePiece's protobuf message", str(error))
    if not 0 < len(pieces) <= n_vocab:
        files.fail("its pieces", f"1 to vocab_size, {n_vocab}", len(pieces))
    kind = KINDS.get(trainer.get(3, 1))
    if kind is None:
        files.refuse(f"a model of type {trainer[3]}; only BPE and Unigram can be converted")
    if trainer.get(24):
        files.refuse("spaces come after words in its tokens, which a GGUF file can't express")
    texts = [text for text, _, _ in pieces]
    scores = [score for _, score, _ in pieces]
    types = [kind for _, _, kind in pieces]
    _add(files, n_vocab, texts, scores, types)
    return {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": Typed(texts, "[string]"),
        "tokenizer.ggml.scores": Typed(scores, "[f32]"),
        "tokenizer.ggml.token_type": Typed([int(t) for t in types], "[i32]"),
        "tokenizer.ggml.add_space_prefix": bool(normalizer.get(3, 1)),
        **_normalization(files, kind, normalizer),
        **{
            f"tokenizer.ggml.{role}_token_id": Typed(_signed(trainer.get(field, default)), "u32")
            for role, (field, default) in ROLES.items()
            if 0 <= _signed(trainer.get(field, default)) < len(pieces)
        },
        "tokenizer.ggml.add_bos_token": kind == SPMTokenizer.model,
        "tokenizer.ggml.add_eos_token": kind == UGMTokenizer.model,
    }


def _normalization(files: TokenizerFiles, kind: str, normalizer: dict[int, Any]) -> dict[str, Any]:
    table, merges_spaces = normalizer.get(2, b""), bool(normalizer.get(4, 1))
    if kind == SPMTokenizer.model:
        if table or merges_spaces:
            files.warn(
                "this BPE replaces characters or joins spaces before it cuts a text. "
                "A GGUF file can't express that, so texts with such characters give other tokens"
            )
        return {}
    found: dict[str, Any] = {"tokenizer.ggml.remove_extra_whitespaces": merges_spaces}
    if table:
        check_charsmap(files, table)
        found["tokenizer.ggml.precompiled_charsmap"] = charsmap(table)
    return found


def _add(
    files: TokenizerFiles, n_vocab: int, texts: list[str], scores: list[float], types: list[TokenType]
) -> None:
    """Add the tokens of other files to the pieces, correct types, and fill the rest with unused tokens."""
    n_pieces = len(texts)
    for i in range(n_pieces, n_vocab):
        texts.append(f"[PAD{i}]")
        scores.append(-1000.0)
        types.append(TokenType.UNUSED)
    added: dict[int, tuple[Any, TokenType]] = {}
    for text, token_id in files.optional("added_tokens.json").items():
        if type(token_id) is int:
            added[token_id] = text, TokenType.CONTROL
    declared = files.settings.get("added_tokens_decoder")
    for name, token in (declared if isinstance(declared, dict) else {}).items():
        if isinstance(token, dict) and name.isdecimal():
            kind = TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED
            added[int(name)] = token.get("content"), kind
    for token_id, (text, kind) in added.items():
        if not isinstance(text, str) or not text or not 0 <= token_id < n_vocab:
            files.fail(f"added token {token_id}", f"a text and an id below {n_vocab}", (text, token_id))
        if token_id < n_pieces and types[token_id] != TokenType.NORMAL:
            continue  # for unknown, control and byte tokens, this file's types count
        texts[token_id], types[token_id] = text, kind


def _message(data: bytes) -> tuple[list[tuple[str, float, TokenType]], dict[int, Any], dict[int, Any]]:
    """Parse ModelProto: (text, score, type) of each piece, TrainerSpec and NormalizerSpec by field number."""
    pieces: list[tuple[str, float, TokenType]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(data):
        if number not in (1, 2, 3):
            continue
        if not isinstance(value, bytes):
            raise ValueError(f"field {number} is not a message")
        inner = dict(_fields(value))
        if number == 1:
            pieces.append(_piece(len(pieces), inner))
        elif number == 2:
            trainer |= {key: found for key, found in inner.items() if isinstance(found, int)}
        else:
            normalizer |= inner
    if not isinstance(normalizer.get(2, b""), bytes):
        raise ValueError("the normalization table is a number")
    return pieces, trainer, normalizer


def _piece(index: int, fields: dict[int, Any]) -> tuple[str, float, TokenType]:
    text, score, kind = fields.get(1), fields.get(2, b"\0\0\0\0"), fields.get(3, 1)
    if not isinstance(text, bytes) or not text or not isinstance(score, bytes) or len(score) != 4:
        raise ValueError(f"piece {index} has no text or no score")
    if not isinstance(kind, int) or kind not in range(1, 7):
        raise ValueError(f"piece {index} has type {kind!r}")
    # the numbers are the same as llama.cpp's: 1 normal, 2 unknown, 3 control …
    return text.decode("utf-8", "surrogateescape"), struct.unpack("<f", score)[0], TokenType(kind)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and value of each field of a message: a varint as int, everything else as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            n_bytes, at = _varint(data, at)
        elif kind in (1, 5):
            n_bytes = 8 if kind == 1 else 4
        else:
            raise ValueError(f"byte {at}: a field of kind {kind}")
        if at + n_bytes > len(data):
            raise ValueError(f"byte {at}: a field of {n_bytes} bytes reaches beyond the end, {len(data)}")
        yield key >> 3, data[at : at + n_bytes]
        at += n_bytes


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError(f"byte {at}: a number that doesn't end")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _signed(value: int) -> int:
    """Return a varint as a signed number. protobuf stores a negative int32 in 64 bits."""
    return value - (1 << 64) if value >> 63 else value
