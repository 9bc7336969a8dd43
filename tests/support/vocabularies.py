"""Make small vocabularies, and random texts for tokenizers."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any

from llmlite import tokenizers

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = {
    "▁": -2.25,
    "a": -3.5,
    "b": -4.0,
    "c": -4.25,
    "ab": -5.0,
    "bc": -5.5,
    "abc": -9.0,
    "▁a": -3.0,
    "▁ab": -6.5,
    "cab": -7.75,
    "é": -6.0,
    "日本": -6.25,
    "本": -6.5,
    "▁the": -4.5,
    "th": -5.0,
    "e": -3.25,
}
FOLDED = {
    "é": "e",
    "Ａ": "a",
    "e\u0301": "é",
    "\u3000": " ",
    "\t": " ",
    "ﬁ": "ab",
    "\x7f": "",
    "ab\u0301": "c",
}
MERGES = ["▁ a", "a b", "▁ ▁", "▁a b", "th e", "t h", "▁▁ ▁▁", "é é", "日 本"]


@cache
def assigned_characters() -> list[str]:
    """Return all characters of this Python's Unicode version; each library has its own, newer table."""
    return [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cs", "Cn", "Co")]


def random_texts(count: int, seed: int) -> Iterator[str]:
    """Yield texts of pieces drawn from groups that pre-tokenizers treat differently."""
    draw = random.Random(seed)
    groups = [
        assigned_characters(),
        [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u3000", "\u0085", "\u2028", "\u200b"],
        list("0123456789") + ["1234567", "٣", "Ⅷ", "½", "²"],
        ["'s", "'t", "'LL", "'Ve", "'D", " don't", "I'M", "'ſ", "’s"],
        [
            "👩\u200d👩\u200d👧",
            "🏳️\u200d🌈",
            "👍🏽",
            "é",
            "e\u0301",
            "n\u0303\u0323",
            "नमस्ते",
            "한국어",
            "ไทย",
            "日本語",
        ],
        ["hello", " world", "The", " TheCat", "foo_bar", "!!!", "...", "#$%", "<|im_end|>", " (", "://"],
        list(map(chr, range(32))) + ["\x7f", "\x9f"],
    ]
    for _ in range(count):
        yield "".join(draw.choice(draw.choice(groups)) for _ in range(draw.randrange(1, 24)))


def ugm(pieces: dict[str, float] = PIECES, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "model": "t5",
        "tokens": ["<pad>", "</s>", "<unk>", *pieces, "<tool>"],
        "scores": [0.0] * 3 + [*pieces.values(), 0.0],
        "token_type": [3, 3, 2] + [1] * len(pieces) + [4],
        "add_space_prefix": True,
    }
    values.update(changes)
    return tokenizers.from_metadata({f"tokenizer.ggml.{k}": v for k, v in values.items() if v is not None})


def gemma4(**changes: Any) -> Any:
    letters = ["▁", "a", "b", "t", "h", "e", "é", "日", "本", "\n"]
    tokens = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        *BYTES,
        *letters,
        *(m.replace(" ", "") for m in MERGES),
        "\n\n",
    ]
    kinds = [3, 3, 3, 2] + [6] * 256 + [1] * (len(tokens) - 260)
    values: dict[str, Any] = {
        "model": "gemma4",
        "tokens": tokens,
        "token_type": kinds,
        "merges": MERGES,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "unknown_token_id": 3,
    }
    values.update(changes)
    return tokenizers.from_metadata({f"tokenizer.ggml.{k}": v for k, v in values.items()})
