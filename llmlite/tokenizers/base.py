"""The part that all tokenizers share: special tokens, BOS and EOS, and decoding."""

from __future__ import annotations

import operator
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from types import MappingProxyType
from typing import Any, SupportsIndex

from llmlite.errors import TokenizerError
from llmlite.tokenizers.special import SpecialTokens
from llmlite.tokenizers.stream import StreamDecoder
from llmlite.tokenizers.vocabulary import TokenType, Vocabulary

# Besides eos: end of turn, end of message, and the file separators of code models.
_ENDING_ROLES = ("eot", "eom", "fim_pad", "fim_rep", "fim_sep")


class Tokenizer(ABC):
    """Text to token ids and back, as `tokenizer.ggml.*` of a GGUF file describes it.

    Attributes:
        model: the value of `tokenizer.ggml.model`.
        n_vocab: number of tokens.
        bos_id, eos_id, unk_id, pad_id: special ids; None if the file has none.
        eog_ids: all ids that end a reply, including `eos_id`.
        add_bos, add_eos: whether `encode(add_special=True)` puts BOS before the text, and EOS after it.
    """

    model: str
    # defaults of this kind of vocabulary, used if the metadata has no value
    _default_add_bos = False
    _default_add_eos = False
    _default_ids: Mapping[str, int] = MappingProxyType({})

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.n_vocab = len(vocabulary)
        special_id = vocabulary.special_id
        default = self._default_ids.get
        self.bos_id = special_id("bos_token_id", "cls_token_id", default=default("bos"))
        self.eos_id = special_id("eos_token_id", default=default("eos"))
        self.unk_id = special_id("unknown_token_id", default=default("unk"))
        self.pad_id = special_id("padding_token_id", default=default("pad"))
        self.eog_ids = vocabulary.end_of_generation_ids(
            self.eos_id, *(special_id(f"{role}_token_id") for role in _ENDING_ROLES)
        )
        self.add_bos = vocabulary.flag("add_bos_token", self._default_add_bos)
        self.add_eos = vocabulary.flag("add_eos_token", self._default_add_eos)
        self._check_added("bos", self.bos_id)
        self._check_added("eos", self.eos_id)

    def _check_added(self, key: str, token_id: int | None) -> None:
        """Refuse to add a token that the file doesn't have. One with an invalid id isn't added."""
        if token_id is not None or not getattr(self, f"add_{key}"):
            return
        if self.vocabulary.get(f"{key}_token_id") is None:
            raise TokenizerError.about(
                f"tokenizer.ggml.add_{key}_token",
                f"true, expected a {key}_token_id with it, got none",
                expected=f"a {key}_token_id",
                got="none",
            )
        setattr(self, f"add_{key}", False)

    def __repr__(self) -> str:
        specials = f"bos_id={self.bos_id}, eos_id={self.eos_id}, eog_ids={sorted(self.eog_ids)}"
        return f"{type(self).__name__}(model={self.model!r}, n_vocab={self.n_vocab}, {specials})"

    def encode(
        self,
        text: str,
        *,
        add_special: bool = True,
        parse_special: bool = True,
        add_eos: bool = True,
        plain: Sequence[tuple[int, int]] = (),
    ) -> list[int]:
        """Return the token ids of a text.

        Args:
            text: any string. Bytes that aren't UTF-8 may be given as `surrogateescape` characters.
            add_special: put BOS before the text and EOS after it, if the file requires them.
            parse_special: turn the texts of control tokens (`<|im_end|>`) into these tokens. Turn this off
                for text that you don't trust. User-defined tokens are always recognized.
            add_eos: whether `add_special` adds EOS. Turn this off for a prompt: a model writes nothing after
                its end token.
            plain: parts of the text that you don't trust, as (begin, end) in characters, in order. A control
                token that overlaps such a part is encoded as text.

        Returns:
            The token ids.

        Raises:
            TokenizerError: the text has a lone surrogate.
            TypeError: the text isn't a string.

        Warns:
            UserWarning: a byte has no token and is omitted, or the text begins with a second BOS.

        Source: llama.cpp, src/llama-vocab.cpp, llama_vocab::impl::tokenize.
        """
        if not isinstance(text, str):
            raise TypeError(f"text: expected str, got {type(text).__name__}")
        if not text.isascii():
            utf8(text)  # refuses a lone surrogate here, because its position in the text is still known
        ids: list[int] = []
        if add_special:
            ids += self._prefix_ids()
        at_start = True
        for fragment in self._partition(text, parse_special, plain):
            if isinstance(fragment, int):
                ids.append(fragment)
                at_start = True
            else:
                self._encode_text(fragment, at_start, ids)
                at_start = False
        if add_special:
            if add_eos:
                ids += self._suffix_ids()
            self._warn_of_double_bos(ids)
        return ids

    def decode(self, ids: Iterable[SupportsIndex], *, skip_special: bool = False) -> str:
        """Return the text of token ids. Bytes that aren't UTF-8 become U+FFFD.

        Args:
            ids: token ids.
            skip_special: omit control and unknown tokens.

        Raises:
            TokenizerError: an id is outside the vocabulary.
            TypeError: an id isn't a whole number.
        """
        return self.decode_bytes(ids, skip_special=skip_special).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[SupportsIndex], *, skip_special: bool = False) -> bytes:
        """Return the bytes of token ids, like `decode`. They may end in the middle of a character."""
        ids = as_ids(ids, "ids")
        return b"".join(self.piece(token_id, skip_special=skip_special) for token_id in ids)

    def stream(self, *, skip_special: bool = False) -> StreamDecoder:
        """Return a decoder for tokens that arrive one at a time."""
        return StreamDecoder(lambda token_id: self.piece(token_id, skip_special=skip_special))

    def piece(self, token_id: SupportsIndex, *, skip_special: bool = False) -> bytes:
        """Return the bytes of one token. They are empty for an unused token, or for a skipped special one.

        Raises:
            TokenizerError: the id is outside the vocabulary.

        Source: llama.cpp, src/llama-vocab.cpp, llama_vocab::impl::token_to_piece.
        """
        checked = self._check(token_id)
        if skip_special and self.vocabulary.is_hidden(checked):
            return b""
        known = self._pieces.get(checked)
        if known is None:
            known = self._pieces[checked] = self._make_piece(checked)
        return known

    def token(self, token_id: SupportsIndex) -> str:
        """Return the token's text in the vocabulary's own spelling: `Ġworld`, `▁world`, `<0x0A>`."""
        return self.vocabulary.texts[self._check(token_id)]

    def token_type(self, token_id: SupportsIndex) -> TokenType:
        """Return the token's type: normal, control, byte, …"""
        return self.vocabulary.types[self._check(token_id)]

    def token_id(self, text: str) -> int | None:
        """Return the id of the token with exactly this text; None if there is none."""
        return self.vocabulary.ids.get(text)

    @abstractmethod
    def _encode_text(self, text: str, at_start: bool, ids: list[int]) -> None:
        """Append the ids of a text without special tokens. at_start: it is first or after a special token."""

    @abstractmethod
    def _normal_piece(self, token_id: int) -> bytes:
        """Return the bytes of a token of type NORMAL."""

    def special_ids(self) -> tuple[list[int], list[int]]:
        """Return the ids that `encode` puts before a text, and those that it puts after it."""
        return self._prefix_ids(), self._suffix_ids()

    def _prefix_ids(self) -> list[int]:
        return [self.bos_id] if self.add_bos and self.bos_id is not None else []

    def _suffix_ids(self) -> list[int]:
        return [self.eos_id] if self.add_eos and self.eos_id is not None else []

    @cached_property
    def _pieces(self) -> dict[int, bytes]:
        return {}

    def _make_piece(self, token_id: int) -> bytes:
        match self.vocabulary.types[token_id]:
            case TokenType.NORMAL:
                return self._normal_piece(token_id)
            case TokenType.BYTE:
                return bytes([self.vocabulary.byte_values[token_id]])
            case TokenType.UNUSED | TokenType.UNDEFINED:
                return b""
            case _:
                return self.vocabulary.texts[token_id].encode("utf-8", "surrogateescape")

    def _check(self, token_id: SupportsIndex) -> int:
        checked = operator.index(token_id)
        if not 0 <= checked < self.n_vocab:
            raise TokenizerError(
                f"token id {checked}: expected 0 to {self.n_vocab - 1}, the vocabulary's last"
            )
        return checked

    @cached_property
    def _special_tokens(self) -> SpecialTokens:
        return SpecialTokens(self.vocabulary)

    def _partition(
        self, text: str, parse_special: bool, plain: Sequence[tuple[int, int]] = ()
    ) -> Iterator[str | int]:
        """Yield the text cut at its special tokens: strings (never empty), and the special tokens' ids."""
        return iter(self._special_tokens.partition(text, hidden=parse_special, plain=plain))

    def _warn_of_double_bos(self, ids: list[int]) -> None:
        if self.add_bos and len(ids) >= 2 and ids[0] == ids[1] == self.bos_id:
            warnings.warn(
                "the text begins with a BOS token, and the model adds another one; "
                "encode with add_special=False to keep only the text's own",
                stacklevel=3,
            )


def as_ids(ids: object, name: str) -> list[int]:
    """Return a list of token ids from any sequence or array of whole numbers.

    Args:
        ids: the sequence or array.
        name: the argument's name in errors.

    Raises:
        TypeError: `ids` isn't a sequence of whole numbers, but text, bytes, a set, fractions, or the like.
    """
    no_sequences = (str, bytes, bytearray, memoryview, Mapping, Set)
    if isinstance(ids, no_sequences) or not isinstance(ids, Iterable) or getattr(ids, "shape", None) == ():
        raise TypeError(f"{name}: expected token ids, whole numbers, got {type(ids).__name__}")
    found = []
    for index, token in enumerate(ids):
        try:
            if isinstance(token, bool):
                raise TypeError
            found.append(operator.index(token))
        except TypeError:
            what = "expected a token id, a whole number"
            raise TypeError(f"{name}[{index}]: {what}, got {token!r:.80}") from None
    return found


def several(texts: object, name: str) -> list[Any]:
    """Return texts, each a str or token ids, as a list.

    Raises: TypeError naming the argument, for a single text, a mapping, or what can't be iterated.
    """
    if isinstance(texts, (str, bytes, bytearray, Mapping)) or not isinstance(texts, Iterable):
        raise TypeError(f"{name}: expected several texts, a list of them, got {type(texts).__name__}")
    return list(texts)


def utf8(text: str) -> bytes:
    """Return the text's bytes, with the raw bytes of `surrogateescape` restored.

    Raises:
        TokenizerError: the text has a surrogate that doesn't represent a byte.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X}"
        raise TokenizerError(
            f"text: character {error.start} is a lone surrogate, {found}, which has no bytes"
        ) from None
