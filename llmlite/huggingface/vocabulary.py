"""Convert a folder's tokenizer to the `tokenizer.*` keys of a GGUF file.

tokenizer.json may have byte-level BPE (GPT-2, Llama 3, Qwen2, SmolLM2 …), if the expressions that cut words
are in `PRE_TOKENIZERS`; SentencePiece's BPE (Llama 2, Gemma), whose merges become scores; Unigram (T5,
XLM-RoBERTa); or WordPiece (BERT). Without this file, tekken.json (Mistral), tokenizer.model (SentencePiece)
or vocab.txt (BERT) is read. A normalizer to NFC is omitted, as in llama.cpp, because a GGUF file has no key
for it.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from llmlite.errors import UnsupportedError
from llmlite.gguf import Typed
from llmlite.huggingface import sentencepiece, tekken, unigram, wordpiece
from llmlite.huggingface.safetensors import shown
from llmlite.huggingface.tokenizer_files import TokenizerFiles, flat
from llmlite.tokenizers import PRE_TOKENIZERS, BPETokenizer, SPMTokenizer, TokenType
from llmlite.tokenizers.pretokenizers import name_of
from llmlite.tokenizers.spm import SPACE
from llmlite.tokenizers.vocabulary import END_IDS, Vocabulary

SPECIALS = {  # theirs -> ours, in tokenizer.ggml.*_token_id
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
    "sep_token": "seperator",  # the format's own spelling
    "mask_token": "mask",
}
BYTE = re.compile("<0x[0-9A-F]{2}>")


def tokenizer_metadata(
    folder: str, config: dict[str, Any], n_vocab: int, *, pre: str | None = None
) -> dict[str, Any]:
    """Read a folder's tokenizer as the `tokenizer.*` keys of a GGUF file.

    Args:
        folder: path of the folder.
        config: the content of config.json. Its special ids are used if the tokenizer doesn't have them.
        n_vocab: number of rows of the model's embedding. Rows without a token become unused tokens.
        pre: the `tokenizer.ggml.pre` to write. None: it is determined from the expressions that cut words.

    Raises:
        UnsupportedError: a GGUF file can't express the tokenizer, or llmlite doesn't know it.
        TokenizerError: its tables contradict each other.
        GGUFError: a file isn't JSON.
        OSError: a file can't be read.
    """
    files = TokenizerFiles(folder, config)
    if files.name != "tokenizer.json":
        read = {"tekken.json": tekken, "tokenizer.model": sentencepiece, "vocab.txt": wordpiece}[files.name]
        found = read.metadata(files, n_vocab)
        texts = list(found["tokenizer.ggml.tokens"].value)
        return found | _special_ids(files, texts, found) | _chat_template(files)
    model = files.part("model")
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind == "Unigram":
        texts, types = _tokens(files, _with_ids(files, model), n_vocab)
        found = unigram.metadata(files, model, texts, types)
        return found | _special_ids(files, texts) | _chat_template(files)
    if kind == "WordPiece":
        texts, types = _tokens(files, model, n_vocab)
        found = wordpiece.described(files, model, texts, types)
        return found | _special_ids(files, texts) | _chat_template(files)
    if kind != "BPE":
        files.refuse(f"a tokenizer of type {shown(kind)}; only BPE, Unigram and WordPiece can be converted")
    texts, types = _tokens(files, model, n_vocab)
    merges = _merges(files, model)
    if model.get("byte_fallback"):
        found = _sentencepiece(files, model, texts, types, merges)
    else:
        found = _byte_level(files, model, pre) | {"tokenizer.ggml.merges": Typed(merges, "[string]")}
    found["tokenizer.ggml.tokens"] = Typed(texts, "[string]")
    found["tokenizer.ggml.token_type"] = Typed([int(t) for t in types], "[i32]")
    found |= _special_ids(files, texts)
    return found | _end_ids(files, found) | _chat_template(files)


def _with_ids(files: TokenizerFiles, model: dict[str, Any]) -> dict[str, Any]:
    """Return Unigram's list of texts and scores in the form of other kinds: texts and their ids."""
    listed = model.get("vocab")
    if not isinstance(listed, list) or not all(
        isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) for entry in listed
    ):
        files.fail("model.vocab", "a list of texts with their scores", listed)
    return model | {"vocab": {text: i for i, (text, _) in enumerate(listed)}}


def _tokens(files: TokenizerFiles, model: dict[str, Any], n_vocab: int) -> tuple[list[str], list[TokenType]]:
    """Return every token's text and type, by id."""
    vocabulary, added = model.get("vocab"), files.tokenizer.get("added_tokens") or []
    if not isinstance(vocabulary, dict) or not vocabulary:
        files.fail("model.vocab", "texts and their ids", vocabulary)
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        files.fail("added_tokens", "a list of tokens", added)
    by_id: dict[int, tuple[str, TokenType]] = {}
    named = [(token.get("content"), token.get("id"), _added_type(token)) for token in added]
    for text, token_id, kind in (*((text, i, TokenType.NORMAL) for text, i in vocabulary.items()), *named):
        if type(token_id) is not int or not isinstance(text, str) or not text:
            files.fail("model.vocab", "a text and its id", (text, token_id))
        if not text.isascii() and not _is_utf8(text):
            files.fail("model.vocab", "texts that can be encoded in UTF-8", text)
        if not 0 <= token_id < n_vocab:
            files.fail(f"token {shown(text)}", f"an id below the model's vocab_size, {n_vocab}", token_id)
        if by_id.setdefault(token_id, (text, kind))[0] != text:
            files.fail(f"token {token_id}", "one text", (by_id[token_id][0], text))
        by_id[token_id] = (text, kind)  # if an added token is also in the vocabulary, its type counts
    _warn_of_stripping(files, added)
    rows = [by_id.get(i, (f"[PAD{i}]", TokenType.UNUSED)) for i in range(n_vocab)]
    return [text for text, _ in rows], [kind for _, kind in rows]


def _is_utf8(text: str) -> bool:
    """Return whether a text can be encoded: JSON can have half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _added_type(token: dict[str, Any]) -> TokenType:
    return TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED


def _warn_of_stripping(files: TokenizerFiles, added: list[dict[str, Any]]) -> None:
    options = ("lstrip", "rstrip", "single_word")
    greedy = [token["content"] for token in added if any(token.get(option) for option in options)]
    if greedy:
        warnings.warn(
            f"{files.path}: {shown(greedy[0])} includes or requires the blanks beside it. "
            "A GGUF file can't express that, so texts with it may give other tokens",
            stacklevel=4,
        )


def _merges(files: TokenizerFiles, model: dict[str, Any]) -> list[str]:
    """Return merges as "left right", best first, from either form of tokenizer.json."""
    merges = model.get("merges")
    if not isinstance(merges, list):
        files.fail("model.merges", "a list", merges)
    out = []
    for i, merge in enumerate(merges):
        pair = merge if isinstance(merge, list) else merge.split(" ") if isinstance(merge, str) else ()
        if len(pair) != 2 or not all(isinstance(part, str) and part and " " not in part for part in pair):
            files.fail(f"model.merges[{i}]", "two texts", merge)
        out.append(" ".join(pair))
    return out


# Byte-level BPE


def _byte_level(files: TokenizerFiles, model: dict[str, Any], pre: str | None) -> dict[str, Any]:
    """Return the keys of the model and pre-tokenizer of a byte-level BPE."""
    for part in flat(files.part("normalizer"), "normalizers"):
        if part.get("type") not in ("NFC", None):
            files.refuse(f"a normalizer {shown(part.get('type'))}, which a GGUF file can't describe")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            files.refuse(f"model.{option}, which a GGUF file can't describe")
    expressions = list(_expressions(files))
    if pre is None:
        pre = name_of(expressions, ignore_merges=bool(model.get("ignore_merges")))
    if pre is None:
        files.refuse(
            "words are cut by expressions that have no name in llmlite: "
            f"{' then '.join(map(shown, expressions))}"
        )
    if pre not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise UnsupportedError(f"unknown pre-tokenizer {pre!r}; known are {known}")
    return {"tokenizer.ggml.model": BPETokenizer.model, "tokenizer.ggml.pre": pre}


def _expressions(files: TokenizerFiles) -> Iterator[str]:
    """Yield the regular expressions that cut words, each applied to the pieces of the one before."""
    parts = list(flat(files.part("pre_tokenizer"), "pretokenizers"))
    if not any(part.get("type") == "ByteLevel" for part in parts):
        files.refuse("its pre_tokenizer has no ByteLevel: it is not byte-level BPE")
    for part in parts:
        kind = part.get("type")
        if kind == "Split" and isinstance(part.get("pattern"), dict):
            # all pieces must be kept: the matches, and the text between them
            way = part.get("behavior"), bool(part.get("invert"))
            kept = way in (("Isolated", False), ("Removed", True))
            pattern = part["pattern"].get("Regex", re.escape(str(part["pattern"].get("String"))))
            if not kept or not isinstance(pattern, str):
                files.refuse(f"its pre_tokenizer drops or joins pieces: {shown(part)}")
            yield pattern
        elif kind == "Digits":
            yield r"\p{N}" if part.get("individual_digits") else r"\p{N}+"
        elif kind == "Punctuation" and part.get("behavior") == "Contiguous":
            yield PRE_TOKENIZERS["falcon"].expressions[0]
        elif kind == "ByteLevel" and not part.get("add_prefix_space"):
            if part.get("use_regex", True):
                yield PRE_TOKENIZERS["gpt-2"].expressions[0]
        else:
            files.refuse(f"its pre_tokenizer has a part that llmlite doesn't know: {shown(part)}")


# SentencePiece's BPE


def _sentencepiece(
    files: TokenizerFiles, model: dict[str, Any], texts: list[str], types: list[TokenType], merges: list[str]
) -> dict[str, Any]:
    """Return SentencePiece's keys, with a score for each token instead of merges. Types are corrected."""
    unknown = model.get("unk_token")
    for i, text in enumerate(texts):
        if text == unknown:
            types[i] = TokenType.UNKNOWN
        elif types[i] == TokenType.NORMAL and BYTE.fullmatch(text):
            types[i] = TokenType.BYTE
    return {
        "tokenizer.ggml.model": SPMTokenizer.model,
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": Typed(_scores(files, texts, types, merges), "[f32]"),
        "tokenizer.ggml.add_space_prefix": _space_prefix(files),
    }


def _scores(
    files: TokenizerFiles, texts: list[str], types: list[TokenType], merges: list[str]
) -> list[float]:
    """Return a score for each token: the earlier it is merged, the higher.

    SentencePiece merges any two neighbours whose joined text is a token. A list of merges may omit such a
    pair. Scores can't express this, so the tokenizer is then refused.
    """
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", ""), rank)
    known, pairs = {t for t, kind in zip(texts, types) if kind == TokenType.NORMAL}, set(merges)
    for text in known:
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in known and right in known and f"{left} {right}" not in pairs:
                files.refuse(
                    f"{shown(left)} and {shown(right)} don't merge, though {shown(text)} is a token; "
                    "a GGUF file can't express that for a tokenizer with byte tokens"
                )
    return [-float(ranks.get(text, len(merges))) for text in texts]


def _space_prefix(files: TokenizerFiles) -> bool:
    """Return whether a space is put before a text. Refuse treatments of spaces other than SentencePiece's."""
    marks_spaces, prefix = False, False
    for part in flat(files.part("normalizer"), "normalizers"):
        if part.get("type") == "Prepend" and part.get("prepend") == SPACE:
            prefix = True
        elif (
            part.get("type") == "Replace"
            and part.get("content") == SPACE
            and part.get("pattern")
            in (
                {"String": " "},
                {"Regex": " "},
            )
        ):
            marks_spaces = True
        else:
            files.refuse(f"a normalizer that llmlite doesn't know: {shown(part)}")
    for part in flat(files.part("pre_tokenizer"), "pretokenizers"):
        if marks_spaces and part.get("type") == "Split" and part.get("pattern") == {"String": " "}:
            continue  # there is no space left to split at
        if part.get("type") != "Metaspace" or part.get("replacement") != SPACE:
            files.refuse(f"its pre_tokenizer has a part that llmlite doesn't know: {shown(part)}")
        marks_spaces = True
        scheme = part.get("prepend_scheme", "always" if part.get("add_prefix_space", True) else "never")
        prefix = prefix or scheme != "never"
    if not marks_spaces:
        files.refuse("a tokenizer with byte tokens, but without SentencePiece's character for spaces")
    return prefix


# All kinds


def _special_ids(
    files: TokenizerFiles, texts: list[str], known: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the ids of BOS, EOS and other special tokens, and whether BOS and EOS are added.

    The tokenizer's files have precedence over config.json.

    known: the keys from the vocabulary's own file, if it isn't tokenizer.json. Other files have precedence.
    """
    ids = {text: i for i, text in enumerate(texts)}
    around = _around(files)
    found: dict[str, Any] = {}
    for theirs, ours in SPECIALS.items():
        named, numbered = files.settings.get(theirs), files.config.get(f"{theirs}_id")
        text = named.get("content") if isinstance(named, dict) else named
        text = around.get(theirs) or text  # the tokens put around a text have precedence
        token_id = numbered[0] if isinstance(numbered, list) and numbered else numbered
        if isinstance(text, str):
            if text not in ids:
                files.fail(theirs, "a token of the vocabulary", text)
            token_id = ids[text]
        if type(token_id) is int and 0 <= token_id < len(texts):
            found[f"tokenizer.ggml.{ours}_token_id"] = Typed(token_id, "u32")
        elif f"tokenizer.ggml.{ours}_token_id" in known:
            found[f"tokenizer.ggml.{ours}_token_id"] = known[f"tokenizer.ggml.{ours}_token_id"]
    for name in ("bos", "eos"):
        said = files.settings.get(f"add_{name}_token")
        default = known.get(f"tokenizer.ggml.add_{name}_token", f"{name}_token" in around)
        adds = said if isinstance(said, bool) else default
        if adds and f"tokenizer.ggml.{name}_token_id" not in found:
            files.fail(f"add_{name}_token", f"a {name}_token with it", None)
        found[f"tokenizer.ggml.add_{name}_token"] = adds
    return found


def _end_ids(files: TokenizerFiles, found: dict[str, Any]) -> dict[str, Any]:
    """Return keys for more tokens that end a reply, except those that readers recognize by their text.

    config.json and generation_config.json may list several. A GGUF file has keys for two in addition to EOS,
    which llama.cpp reads too. The others go into a list that only llmlite reads.
    """
    n_vocab = len(found["tokenizer.ggml.tokens"].value)
    wanted: list[int] = []
    for place in (files.generation, files.config):
        given = place.get("eos_token_id")
        for token_id in given if isinstance(given, list) else [given]:
            if type(token_id) is int and 0 <= token_id < n_vocab:
                wanted.append(token_id)
            elif token_id is not None:
                warnings.warn(
                    f"{files.folder}: eos_token_id: {shown(token_id)} is not a token of the vocabulary; "
                    "it is ignored",
                    stacklevel=4,
                )
    keys: dict[str, Any] = {}
    if wanted and "tokenizer.ggml.eos_token_id" not in found:
        keys["tokenizer.ggml.eos_token_id"] = Typed(wanted[0], "u32")
    plain = {key: value.value if isinstance(value, Typed) else value for key, value in (found | keys).items()}
    known = Vocabulary(plain).end_of_generation_ids(plain.get("tokenizer.ggml.eos_token_id"))
    more = [token_id for token_id in dict.fromkeys(wanted) if token_id not in known]
    for role, token_id in zip(("eot", "eom"), more):
        keys[f"tokenizer.ggml.{role}_token_id"] = Typed(token_id, "u32")
    if more[2:]:
        keys[f"tokenizer.ggml.{END_IDS}"] = Typed(more[2:], "[u32]")
    return keys


def _around(files: TokenizerFiles) -> dict[str, str]:
    """Return the tokens that the post_processor puts around a text, under "bos_token" and "eos_token"."""
    found: dict[str, str] = {}
    for part in flat(files.part("post_processor"), "processors"):
        if part.get("type") == "ByteLevel":
            continue  # it only changes offsets
        if part.get("type") in ("BertProcessing", "RobertaProcessing"):
            for role, side in (("bos_token", "cls"), ("eos_token", "sep")):
                token = part.get(side)
                if not isinstance(token, list) or not token or not isinstance(token[0], str):
                    files.fail(f"post_processor.{side}", "a text and its id", token)
                found[role] = token[0]
            continue
        items = part.get("single")
        if part.get("type") != "TemplateProcessing" or not isinstance(items, list):
            files.refuse(f"a post_processor {shown(part.get('type'))}, which a GGUF file can't describe")
        role = "bos_token"
        for item in items:
            name, value = next(iter(item.items())) if isinstance(item, dict) and item else ("", {})
            if name == "Sequence":
                role = "eos_token"
            elif name != "SpecialToken" or role in found or not isinstance(value, dict):
                files.refuse(f"a post_processor that adds more than a token on each side: {shown(items)}")
            else:
                found[role] = str(value.get("id"))
    return found


def _chat_template(files: TokenizerFiles) -> dict[str, Any]:
    """Return the chat templates, from chat_template.jinja or tokenizer_config.json, under their names."""
    own = os.path.join(files.folder, "chat_template.jinja")
    if os.path.exists(own):
        with open(own, encoding="utf-8", errors="surrogateescape") as file:
            return {"tokenizer.chat_template": file.read()}
    given = files.settings.get("chat_template")
    if isinstance(given, str):
        return {"tokenizer.chat_template": given}
    found = {}
    for item in given if isinstance(given, list) else []:
        name, text = (item.get("name"), item.get("template")) if isinstance(item, dict) else (None, None)
        if isinstance(name, str) and isinstance(text, str):
            suffix = "" if name == "default" else f".{name}"
            found[f"tokenizer.chat_template{suffix}"] = text
    return found
