"""Convert tekken.json, Mistral's byte-level BPE, to the keys of a GGUF file."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from llmlite.gguf import Typed
from llmlite.huggingface.tokenizer_files import TokenizerFiles
from llmlite.tokenizers import PRE_TOKENIZERS, BPETokenizer, TokenType
from llmlite.tokenizers.bpe import BYTE_TO_CHAR
from llmlite.tokenizers.pretokenizers import name_of

ROLES = {"<s>": "bos", "</s>": "eos", "<unk>": "unknown", "<pad>": "padding"}


def metadata(files: TokenizerFiles, n_vocab: int) -> dict[str, Any]:
    """Return the keys: special tokens come first, then the ranked ones; the merges follow from the ranks.

    Two neighbours merge if their joined bytes are a token, the lowest rank first. So each token gives a merge
    for every pair of tokens that it can be made of.

    Args:
        files: the tokenizer's files.
        n_vocab: number of rows of the embedding.

    Raises:
        TokenizerError: the tables contradict each other.
        UnsupportedError: llmlite doesn't know the expression that cuts words.

    Source: mistral-common, tokens/tokenizers/tekken.py.
    """
    settings, ranked = files.part("config"), files.tokenizer.get("vocab")
    n_special = settings.get("default_num_special_tokens", 1000)
    if type(n_special) is not int or not 0 <= n_special < n_vocab:
        files.fail("config.default_num_special_tokens", f"a number below vocab_size, {n_vocab}", n_special)
    if not isinstance(ranked, list) or not ranked:
        files.fail("vocab", "a list of tokens", ranked)
    pattern = settings.get("pattern")
    if not isinstance(pattern, str):
        files.fail("config.pattern", "a regular expression", pattern)
    pre = name_of([pattern], ignore_merges=PRE_TOKENIZERS["tekken"].ignore_merges)
    if pre is None:
        files.refuse(f"words are cut by an expression that has no name in llmlite: {pattern!r:.120}")
    texts = [f"<SPECIAL_{i}>" for i in range(n_special)]
    types = [TokenType.CONTROL] * n_special
    for entry in files.tokenizer.get("special_tokens") or []:
        rank, text = (entry.get("rank"), entry.get("token_str")) if isinstance(entry, dict) else (None, None)
        if type(rank) is not int or not 0 <= rank < n_special or not isinstance(text, str) or not text:
            files.fail("special_tokens", f"texts with ranks below {n_special}", entry)
        texts[rank] = text
        types[rank] = TokenType.CONTROL if entry.get("is_control", True) else TokenType.USER_DEFINED
    pieces = [_piece(files, i, entry) for i, entry in enumerate(ranked[: n_vocab - n_special])]
    texts += ["".join(map(BYTE_TO_CHAR.__getitem__, piece)) for piece in pieces]
    types += [TokenType.NORMAL] * len(pieces)
    texts += [f"[PAD{i}]" for i in range(len(texts), n_vocab)]
    types += [TokenType.UNUSED] * (n_vocab - len(types))
    found: dict[str, Any] = {
        "tokenizer.ggml.model": BPETokenizer.model,
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": Typed(texts, "[string]"),
        "tokenizer.ggml.token_type": Typed([int(kind) for kind in types], "[i32]"),
        "tokenizer.ggml.merges": Typed(_merges(texts[n_special : n_special + len(pieces)]), "[string]"),
        "tokenizer.ggml.add_bos_token": "<s>" in texts[:n_special],
    }
    for text, role in ROLES.items():
        if text in texts[:n_special]:
            found[f"tokenizer.ggml.{role}_token_id"] = Typed(texts.index(text), "u32")
    return found


def _piece(files: TokenizerFiles, rank: int, entry: Any) -> bytes:
    encoded = entry.get("token_bytes") if isinstance(entry, dict) and entry.get("rank") == rank else None
    try:
        piece = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else b""
    except (binascii.Error, ValueError):
        piece = b""
    if not piece:
        files.fail(f"vocab[{rank}]", f"rank {rank} and token_bytes in Base64", entry)
    return piece


def _merges(texts: list[str]) -> list[str]:
    """Return all pairs of tokens that make a token, ordered by its rank, then by the ranks of the parts."""
    ranks = {text: rank for rank, text in enumerate(texts)}
    merges: list[str] = []
    for text in texts:
        ways = [
            (ranks[text[:cut]], ranks[text[cut:]], cut)
            for cut in range(1, len(text))
            if text[:cut] in ranks and text[cut:] in ranks
        ]
        merges += [f"{text[:cut]} {text[cut:]}" for _, _, cut in sorted(ways)]
    return merges
