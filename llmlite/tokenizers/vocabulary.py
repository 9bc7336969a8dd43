"""The tables of `tokenizer.ggml.*`, read from metadata and checked before use."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any

from llmlite.errors import TokenizerError

PREFIX = "tokenizer.ggml."

# Control tokens that end a model's turn, in addition to `eos_token_id`. Files seldom list them, so they are
# recognized by their text (llama.cpp: llama-vocab.cpp, "end-of-generation").
END_OF_GENERATION = frozenset(
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> "
    "<|eom_id|> <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> "
    "<｜end▁of▁sentence｜> [e~[ "
    "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD] <|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame> "
    "<|file_sep|>".split()
)
END_IDS = "eog_token_ids"  # more ids that end a reply: llmlite's own key, written by `llmlite convert`
# gpt-oss marks the parts of a reply with these. They belong to the text, so they are always parsed and shown.
ALWAYS_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")


class TokenType(IntEnum):
    """The purpose of a token (`tokenizer.ggml.token_type`; numbers as in llama.h, enum llama_token_type)."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_TYPES = tuple(TokenType)
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_HIDDEN = frozenset({TokenType.CONTROL, TokenType.UNKNOWN})


class Vocabulary:
    """Token texts, types, scores and special ids of one file.

    Args:
        metadata: the file's metadata.

    Attributes:
        texts: the token texts, in order of their ids.
        ids: text -> id.
        types: the type of each token.

    Raises:
        TokenizerError: a table is missing, has a wrong length or type, or has an id outside the vocabulary;
            or two tokens have the same text.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata
        self.texts = _texts(metadata)
        self.ids = _ids_by_text(self.texts)
        self.types = self._read_types()
        self._mark_special_tokens()

    def __getstate__(self) -> dict[str, Any]:
        """Return the content of a pickle: the tokenizer's own keys as plain values, without the file."""
        kept = {key: _plain(self._metadata[key]) for key in self._metadata if key.startswith(PREFIX)}
        return {**self.__dict__, "_metadata": kept}

    def __len__(self) -> int:
        return len(self.texts)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the metadata value `tokenizer.ggml.<key>`, a NumPy scalar as a Python number."""
        value = self._metadata.get(PREFIX + key, default)
        return value.item() if getattr(value, "shape", None) == () else value

    def text(self, key: str) -> str:
        """Return the string of a metadata key without its prefix; "" if the key is missing.

        Raises:
            TokenizerError: the value isn't a string.
        """
        value = self.get(key, "")
        if not isinstance(value, str):
            raise TokenizerError.at(f"{PREFIX}{key}", "a string", type(value).__name__)
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return the boolean of a metadata key without its prefix; the default if the key is missing.

        Raises:
            TokenizerError: the value isn't a boolean.
        """
        value = self.get(key, default)
        if not isinstance(value, int) or value not in (0, 1):
            raise TokenizerError.at(f"{PREFIX}{key}", "a boolean", f"{value!r:.80}")
        return bool(value)

    def special_id(self, *keys: str, default: int | None = None) -> int | None:
        """Return the id of the first metadata key that has a valid one, or the default.

        Some files have 4294967295 for "none", and some have the ids of a larger vocabulary. So an id outside
        the vocabulary is ignored with a warning, as in llama.cpp.

        Args:
            keys: keys, without their prefix.
            default: the id if no key has one. It is ignored if it is outside the vocabulary.

        Raises:
            TokenizerError: a value isn't an integer.
        """
        default = default if default is not None and default < len(self) else None
        for key in keys:
            value = self.get(key)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise TokenizerError.at(f"{PREFIX}{key}", "a token id", f"{value!r:.80}")
            if not 0 <= value < len(self):
                warnings.warn(
                    f"{PREFIX}{key}: expected an id below the vocabulary's {len(self)} tokens, got {value}; "
                    f"using {'none' if default is None else default}",
                    stacklevel=5,
                )
                continue
            return value
        return default

    def numbers(self, key: str, kind: str) -> list[Any] | None:
        """Return a numeric array with one entry per token, as a list; None if the file has none.

        Args:
            key: the key, without its prefix.
            kind: "integers" or "numbers".

        Raises:
            TokenizerError: the value is another type, or has another length.
        """
        values = self.get(key)
        if values is None:
            return None
        _check_array(PREFIX + key, values)
        if len(values) != len(self):
            raise TokenizerError.at(f"{PREFIX}{key}", f"{len(self)} entries, one per token", len(values))
        return self._checked(key, values, kind)

    def integers(self, key: str) -> list[int] | None:
        """Return an array of whole numbers of any length, as a list; None if the file has none."""
        values = self.get(key)
        if values is None:
            return None
        _check_array(PREFIX + key, values)
        return self._checked(key, values, "integers")

    def _checked(self, key: str, values: Any, kind: str) -> list[Any]:
        listed = values.tolist() if hasattr(values, "tolist") else list(values)
        allowed: tuple[type, ...] = (int,) if kind == "integers" else (int, float)
        for index, value in enumerate(listed):
            if not isinstance(value, allowed) or value != value:
                raise TokenizerError.at(f"{PREFIX}{key}", kind, f"{value!r:.80}", index=index)
        return listed

    def merges(self) -> list[str]:
        """Return the merges of a BPE vocabulary, best first, each in the form "left right"."""
        merges = self.get("merges")
        if merges is None:
            raise TokenizerError.missing(f"{PREFIX}merges", "a BPE vocabulary needs its merges")
        _check_array(PREFIX + "merges", merges)
        listed = list(merges)
        for index, merge in enumerate(listed):
            # A token's text never contains a space: byte 0x20 is spelled Ġ.
            if not isinstance(merge, str) or merge.count(" ") != 1 or merge[0] == " " or merge[-1] == " ":
                raise TokenizerError.at(
                    f"{PREFIX}merges", "two texts separated by one space", f"{merge!r:.80}", index=index
                )
        return listed

    def merge_ranks(self) -> dict[str, int]:
        """Return the rank of each merge, under its text "left right". Of equal merges, the first counts."""
        merges = self.merges()
        return dict(zip(reversed(merges), range(len(merges) - 1, -1, -1)))

    @cached_property
    def byte_values(self) -> dict[int, int]:
        """Token id -> byte, for tokens of type BYTE, which are spelled <0xNN>."""
        values = {}
        for token_id, token_type in enumerate(self.types):
            if token_type == TokenType.BYTE:
                values[token_id] = _byte_value(token_id, self.texts[token_id])
        return values

    def is_hidden(self, token_id: int) -> bool:
        """Return whether the token is a control or unknown token, which a reader doesn't see."""
        return self.types[token_id] in _HIDDEN

    def end_of_generation_ids(self, *special_ids: int | None) -> frozenset[int]:
        """Return the ids that end a reply: those given, those in the file, and those known by their text."""
        found = {self.ids[text] for text in END_OF_GENERATION if text in self.ids}
        texts = {self.texts[token_id] for token_id in found}
        # Two vocabularies reuse a common text for something else; llama.cpp makes the same exceptions.
        if texts >= {"<|return|>", "<|call|>"} or texts >= {"<|calls|>", "<|flush|>"}:
            found.discard(self.ids.get("<|end|>", -1))
        if "<|tool_response>" in texts:
            found.discard(self.ids.get("</s>", -1))
        found.update(i for i in special_ids if i is not None)
        return frozenset(found.union(self._listed_ends()))

    def _listed_ends(self) -> list[int]:
        listed = self.get(END_IDS)
        if listed is None:
            return []
        _check_array(PREFIX + END_IDS, listed)
        ids = listed.tolist() if hasattr(listed, "tolist") else list(listed)
        for index, token_id in enumerate(ids):
            if type(token_id) is not int or not 0 <= token_id < len(self):
                expected = f"an id below the vocabulary's {len(self)} tokens"
                raise TokenizerError.at(PREFIX + END_IDS, expected, f"{token_id!r:.80}", index=index)
        return ids

    def _read_types(self) -> list[TokenType]:
        listed = self.numbers("token_type", "integers")
        if listed is None:
            return [TokenType.NORMAL] * len(self)
        known = range(len(_TYPES))
        return [_TYPES[value] if value in known else TokenType.UNDEFINED for value in listed]

    def _mark_special_tokens(self) -> None:
        """Correct the types of special tokens that are recognized only by their text, as llama.cpp does."""
        for text in END_OF_GENERATION:
            token_id = self.ids.get(text)
            if token_id is not None and self.types[token_id] in (TokenType.NORMAL, TokenType.USER_DEFINED):
                self.types[token_id] = TokenType.CONTROL
        for text in ALWAYS_SHOWN:
            if text in self.ids:
                self.types[self.ids[text]] = TokenType.USER_DEFINED


def _texts(metadata: Mapping[str, Any]) -> list[str]:
    key = PREFIX + "tokens"
    tokens = metadata.get(key)
    if tokens is None:
        raise TokenizerError.missing(key, "the file has no vocabulary")
    _check_array(key, tokens)
    texts = list(tokens)
    if not texts:
        raise TokenizerError.at(key, "at least one token", "none")
    for token_id, text in enumerate(texts):
        if not isinstance(text, str):
            raise TokenizerError.at(key, "a string", type(text).__name__, index=token_id)
        if not text:
            texts[token_id] = f"[EMPTY_{token_id}]"  # llama.cpp's name for it
    return texts


def _ids_by_text(texts: list[str]) -> dict[str, int]:
    ids = dict(zip(texts, range(len(texts))))
    if len(ids) < len(texts):
        seen: dict[str, int] = {}
        for token_id, text in enumerate(texts):
            first = seen.setdefault(text, token_id)
            if first != token_id:
                raise TokenizerError.at(
                    f"{PREFIX}tokens",
                    "a text of its own",
                    f"{text!r:.80}",
                    f", which is token {first}",
                    index=token_id,
                )
    return ids


def _byte_value(token_id: int, text: str) -> int:
    match = _BYTE.fullmatch(text)
    if match is None:
        expected, got = "<0x00> to <0xFF>", f"{text!r:.80}"
        raise TokenizerError.about(
            f"{PREFIX}tokens",
            f"a byte token, expected {expected}, got {got}",
            index=token_id,
            expected=expected,
            got=got,
        )
    return int(match[1], 16)


def _plain(value: Any) -> Any:
    """Return a metadata value that doesn't refer to its file: a list for an array of strings."""
    is_strings = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return list(value) if is_strings else value


def _check_array(key: str, values: object) -> None:
    is_array = isinstance(values, Sequence) or hasattr(values, "tolist")
    if not is_array or isinstance(values, (str, bytes)):
        raise TokenizerError.at(key, "an array", type(values).__name__)
