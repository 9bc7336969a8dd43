"""Convert a Unigram of tokenizer.json (T5, XLM-RoBERTa) to the keys of a GGUF file."""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import Any

import numpy as np

from llmlite.errors import TokenizerError
from llmlite.gguf import Typed
from llmlite.huggingface.safetensors import shown
from llmlite.huggingface.tokenizer_files import TokenizerFiles, flat
from llmlite.tokenizers import TokenType, UGMTokenizer
from llmlite.tokenizers.spm import SPACE

BYTE = re.compile("<0x[0-9A-F]{2}>")


def metadata(
    files: TokenizerFiles, model: dict[str, Any], texts: list[str], types: list[TokenType]
) -> dict[str, Any]:
    """Return the keys for tokens, scores and normalization.

    Args:
        files: the tokenizer's files.
        model: the object `model` of tokenizer.json.
        texts, types: the text and type of every token, by id. Types are corrected.

    Raises:
        UnsupportedError: a GGUF file can't express the normalizer or the pre-tokenizer.
        TokenizerError: the tables contradict each other.
    """
    unknown = model.get("unk_id")
    if type(unknown) is not int or not 0 <= unknown < len(texts):
        files.fail("model.unk_id", "the id of the unknown token", unknown)
    types[unknown] = TokenType.UNKNOWN
    if model.get("byte_fallback"):
        for i, text in enumerate(texts):
            if BYTE.fullmatch(text):
                types[i] = TokenType.BYTE
    scores = [0.0] * len(texts)
    for i, (_, score) in enumerate(model["vocab"]):
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            files.fail(f"model.vocab[{i}]", "a score", score)
        scores[i] = float(score)
    return {
        "tokenizer.ggml.model": UGMTokenizer.model,
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": Typed(texts, "[string]"),
        "tokenizer.ggml.scores": Typed(scores, "[f32]"),
        "tokenizer.ggml.token_type": Typed([int(kind) for kind in types], "[i32]"),
        "tokenizer.ggml.unknown_token_id": Typed(unknown, "u32"),
        **_normalization(files),
    }


def charsmap(table: bytes) -> Typed:
    """Return a normalization table in the form of a GGUF file."""
    return Typed(np.frombuffer(table, np.uint8).tolist(), "[u8]")


def _normalization(files: TokenizerFiles) -> dict[str, Any]:
    found: dict[str, Any] = {}
    merges_spaces = False
    for part in flat(files.part("normalizer"), "normalizers"):
        kind = part.get("type")
        if kind == "Precompiled":
            try:
                table = base64.b64decode(part.get("precompiled_charsmap") or "", validate=True)
            except (binascii.Error, ValueError, TypeError):
                files.fail("normalizer.precompiled_charsmap", "Base64", part.get("precompiled_charsmap"))
            if table:
                found["tokenizer.ggml.precompiled_charsmap"] = charsmap(table)
        elif kind == "Replace" and part.get("pattern") == {"Regex": " {2,}"}:
            merges_spaces = True  # to one space, or to one ▁
        elif kind != "Strip":
            files.refuse(f"a normalizer that llmlite doesn't know: {shown(part)}")
    prefix = False
    marked = False
    for part in flat(files.part("pre_tokenizer"), "pretokenizers"):
        if part.get("type") == "WhitespaceSplit":
            merges_spaces = True
        elif part.get("type") == "Metaspace" and part.get("replacement") == SPACE:
            marked = True
            scheme = part.get("prepend_scheme", "always" if part.get("add_prefix_space", True) else "never")
            prefix = scheme != "never"
        else:
            files.refuse(f"its pre_tokenizer has a part that llmlite doesn't know: {shown(part)}")
    if not marked:
        files.refuse("a Unigram without SentencePiece's character for spaces")
    if merges_spaces and not prefix:
        files.refuse(
            "runs of spaces become one, but no space comes before a text, which a GGUF file can't express"
        )
    found["tokenizer.ggml.add_space_prefix"] = prefix
    found["tokenizer.ggml.remove_extra_whitespaces"] = merges_spaces
    return found


def check_charsmap(files: TokenizerFiles, table: bytes) -> None:
    """Refuse a normalization table that can't be read."""
    from llmlite.tokenizers.charsmap import CharsMap

    try:
        CharsMap(table)
    except TokenizerError as error:
        files.fail("precompiled_charsmap", "SentencePiece's table", str(error))
