"""Convert WordPiece (BERT, MiniLM) from tokenizer.json or vocab.txt to the keys of a GGUF file."""

from __future__ import annotations

from typing import Any

from llmlite.gguf import Typed
from llmlite.huggingface.safetensors import shown
from llmlite.huggingface.tokenizer_files import TokenizerFiles, flat
from llmlite.tokenizers import TokenType, WPMTokenizer
from llmlite.tokenizers.wpm import MAX_WORD_LENGTH, WORD_START

CONTINUED = "##"
SPECIALS = {"[CLS]": "bos", "[SEP]": "seperator", "[UNK]": "unknown", "[PAD]": "padding", "[MASK]": "mask"}


def described(
    files: TokenizerFiles, model: dict[str, Any], texts: list[str], types: list[TokenType]
) -> dict[str, Any]:
    """Return the keys for a WordPiece in tokenizer.json.

    Args:
        files: the tokenizer's files.
        model: the object `model` of tokenizer.json.
        texts, types: the text and type of every token, by id. Types are corrected.

    Raises:
        UnsupportedError: it cleans or cuts text in another way than BERT.
    """
    for what, usual in (
        ("continuing_subword_prefix", CONTINUED),
        ("max_input_chars_per_word", MAX_WORD_LENGTH),
    ):
        if model.get(what, usual) != usual:
            files.refuse(f"model.{what}: only {usual!r} is supported, got {shown(model[what])}")
    normalizers = list(flat(files.part("normalizer"), "normalizers"))
    cutters = list(flat(files.part("pre_tokenizer"), "pretokenizers"))
    if [part.get("type") for part in normalizers] != ["BertNormalizer"]:
        files.refuse(f"only BertNormalizer is supported, got {shown(normalizers)}")
    if [part.get("type") for part in cutters] != ["BertPreTokenizer"]:
        files.refuse(f"only BertPreTokenizer is supported, got {shown(cutters)}")
    for what in ("clean_text", "handle_chinese_chars"):
        if normalizers[0].get(what, True) is not True:
            files.refuse(f"normalizer.{what}: only true is supported")
    return _keys(
        texts,
        types,
        unknown=model.get("unk_token", "[UNK]"),
        lowercase=normalizers[0].get("lowercase", True) is not False,
        strip_accents=normalizers[0].get("strip_accents"),
    )


def metadata(files: TokenizerFiles, n_vocab: int) -> dict[str, Any]:
    """Return the keys for a vocab.txt, which has one token per line.

    Args:
        files: the tokenizer's files.
        n_vocab: number of rows of the embedding.

    Raises:
        TokenizerError: there are more tokens than rows, or none.
    """
    with open(files.path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        texts = file.read().removesuffix("\n").split("\n")
    if not 1 < len(texts) <= n_vocab:
        files.fail("its lines", f"at most vocab_size, {n_vocab}", len(texts))
    for name in ("tokenize_chinese_chars", "do_basic_tokenize"):
        if files.settings.get(name, True) is not True:
            files.refuse(f"{name}: only true is supported")
    types = [TokenType.CONTROL if text in SPECIALS else TokenType.NORMAL for text in texts]
    texts += [f"[PAD{i}]" for i in range(len(texts), n_vocab)]
    types += [TokenType.UNUSED] * (n_vocab - len(types))
    return _keys(
        texts,
        types,
        unknown="[UNK]",
        lowercase=files.settings.get("do_lower_case", True) is not False,
        strip_accents=files.settings.get("strip_accents"),
    ) | {"tokenizer.ggml.add_bos_token": True}


def _keys(
    texts: list[str], types: list[TokenType], *, unknown: Any, lowercase: bool, strip_accents: Any
) -> dict[str, Any]:
    if unknown in texts:
        types[texts.index(unknown)] = TokenType.UNKNOWN
    # Without these ids, a reader would use those of BERT's own vocabulary.
    ids = {name: texts.index(text) for text, name in SPECIALS.items() if text in texts}
    if unknown in texts:
        ids["unknown"] = texts.index(unknown)
    spelled = [_spelled(text) if kind == TokenType.NORMAL else text for text, kind in zip(texts, types)]
    return {
        "tokenizer.ggml.model": WPMTokenizer.model,
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": Typed(spelled, "[string]"),
        "tokenizer.ggml.token_type": Typed([int(kind) for kind in types], "[i32]"),
        **{f"tokenizer.ggml.{name}_token_id": Typed(token_id, "u32") for name, token_id in ids.items()},
        "tokenizer.ggml.normalizer.lowercase": lowercase,
        "tokenizer.ggml.normalizer.strip_accents": lowercase
        if strip_accents is None
        else bool(strip_accents),
    }


def _spelled(text: str) -> str:
    """Convert BERT's spelling, which marks the continuation of a word, to GGUF's, which marks its start.

    [unused0] and similar tokens keep their text, as in llama.cpp, because no word has a bracket and a letter.
    """
    if text.startswith(CONTINUED):
        return text[len(CONTINUED) :] or text
    return text if text.startswith("[") and text.endswith("]") and len(text) > 2 else WORD_START + text
