"""Byte-level byte-pair encoding: GPT-2's scheme, used by Llama 3, Qwen and most others."""

from __future__ import annotations

import warnings
from functools import cached_property

from llmlite.tokenizers import pretokenizers
from llmlite.tokenizers.base import Tokenizer, utf8
from llmlite.tokenizers.merging import merge, pairs_of_characters
from llmlite.tokenizers.vocabulary import Vocabulary
from llmlite.tokenizers.words import WordCache


def _byte_alphabet() -> list[str]:
    """Return the printable character that represents each byte in token texts: Ġ for a space, for example.

    Printable Latin-1 characters represent themselves. The other 68 bytes get the characters from U+0100 on.
    Source: GPT-2's encoder.py, bytes_to_unicode.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(moved)) for byte in range(256)]


BYTE_TO_CHAR = _byte_alphabet()
CHAR_TO_BYTE = {char: byte for byte, char in enumerate(BYTE_TO_CHAR)}
# Bytes decoded as Latin-1 are characters 0 to 255, which str.translate maps in one pass.
_TO_ALPHABET = {byte: char for byte, char in enumerate(BYTE_TO_CHAR) if ord(char) != byte}


class BPETokenizer(Tokenizer):
    """Byte-level BPE (`tokenizer.ggml.model` = gpt2).

    Raises:
        TokenizerError: the pre-tokenizer is unknown, or the metadata contradicts itself.
    """

    model = "gpt2"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.pre = _pre_name(vocabulary)
        self._pre = pretokenizers.by_name(self.pre)
        self._default_add_bos = self._pre.add_bos
        super().__init__(vocabulary)
        self._words = WordCache(self._encode_word)

    def pretokens(self, text: str) -> list[str]:
        """Return the text's words, which merges never cross: the first step of encoding, for inspection."""
        return self._pre.split(text)

    def _encode_text(self, text: str, at_start: bool, ids: list[int]) -> None:
        self._words.extend(ids, self._pre.split(text))

    def _encode_word(self, word: str) -> list[int]:
        spelled = utf8(word).decode("latin-1").translate(_TO_ALPHABET)
        known = self.vocabulary.ids
        if self._pre.ignore_merges and spelled in known:
            return [known[spelled]]
        parts = merge(list(spelled), self._ranks, " ", self._pairs)
        try:
            return [known[part] for part in parts]
        except KeyError:
            return [token_id for part in parts for token_id in self._ids_of_part(part)]

    def _ids_of_part(self, part: str) -> list[int]:
        """Return the ids of a merged part, or of its bytes if it isn't in the vocabulary.

        Falcon's vocabulary, for example, has no token for some control characters. Such a byte becomes the
        unknown token. If there is none, the byte is omitted with a warning; llama.cpp and the tokenizers
        library omit it silently.
        """
        known = self.vocabulary.ids
        if part in known:
            return [known[part]]
        ids = [known.get(char, self.unk_id) for char in part]
        if None in ids:
            lost = ", ".join(f"0x{CHAR_TO_BYTE[char]:02X}" for char, i in zip(part, ids) if i is None)
            warnings.warn(f"this vocabulary has no token for byte {lost}, which is omitted", stacklevel=2)
        return [token_id for token_id in ids if token_id is not None]

    @cached_property
    def _pairs(self) -> dict[str, int]:
        return pairs_of_characters(self._ranks, " ")

    @cached_property
    def _ranks(self) -> dict[str, int]:
        return self.vocabulary.merge_ranks()

    def _normal_piece(self, token_id: int) -> bytes:
        text = self.vocabulary.texts[token_id]
        try:
            return bytes([CHAR_TO_BYTE[char] for char in text])
        except KeyError:  # an added token in plain text, such as a CJK word
            return text.encode("utf-8", "surrogateescape")


def _pre_name(vocabulary: Vocabulary) -> str:
    name = vocabulary.text("pre")
    if name:
        return name
    warnings.warn(
        "tokenizer.ggml.pre is missing: the file doesn't say how to cut text into words; 'default' is used, "
        "which may give other tokens than those that the model was trained on",
        stacklevel=5,
    )
    return "default"
