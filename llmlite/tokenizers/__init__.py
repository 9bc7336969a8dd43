"""Tokenizers: text to token ids and back, as the metadata of a GGUF file describes it.

    tokenizer = tokenizers.from_metadata(gguf.read(path).metadata)
    ids = tokenizer.encode("Once upon a time")
    tokenizer.decode(ids)

Each kind has a module: bpe, spm, ugm, gemma4, wpm. `MODELS` maps `tokenizer.ggml.model` to its class, and
`PRE_TOKENIZERS` is the table of pre-tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlite.errors import TokenizerError
from llmlite.tokenizers.base import Tokenizer, as_ids, several
from llmlite.tokenizers.bpe import BPETokenizer
from llmlite.tokenizers.gemma4 import Gemma4Tokenizer
from llmlite.tokenizers.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from llmlite.tokenizers.spm import SPMTokenizer
from llmlite.tokenizers.stream import StreamDecoder
from llmlite.tokenizers.ugm import UGMTokenizer
from llmlite.tokenizers.vocabulary import TokenType, Vocabulary
from llmlite.tokenizers.wpm import WPMTokenizer

__all__ = [
    "MODELS",
    "PRE_TOKENIZERS",
    "BPETokenizer",
    "Gemma4Tokenizer",
    "PreTokenizer",
    "SPMTokenizer",
    "StreamDecoder",
    "TokenType",
    "Tokenizer",
    "UGMTokenizer",
    "Vocabulary",
    "WPMTokenizer",
    "as_ids",
    "from_metadata",
    "several",
]

MODELS: dict[str, type[Tokenizer]] = {
    kind.model: kind for kind in (BPETokenizer, SPMTokenizer, WPMTokenizer, UGMTokenizer, Gemma4Tokenizer)
}


def from_metadata(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer that a file's metadata describes.

    Merges are read when the first text is encoded.

    Args:
        metadata: a file's metadata, with the keys `tokenizer.ggml.*`.

    Raises:
        TokenizerError: there is no tokenizer in the metadata, its kind is unknown, or its tables contradict
            each other.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model is None:
        raise TokenizerError.missing("tokenizer.ggml.model", "the file has no tokenizer")
    if not isinstance(model, str) or model not in MODELS:
        known, got = ", ".join(MODELS), f"{model!r:.80}"
        raise TokenizerError.about(
            "tokenizer.ggml.model",
            f"unknown tokenizer {got}; known: {known}",
            expected=f"one of {known}",
            got=got,
        )
    return MODELS[model](Vocabulary(metadata))
