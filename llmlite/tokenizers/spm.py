"""SentencePiece's BPE: scores instead of merges, ▁ for a space, bytes for text without a token."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from types import MappingProxyType
from typing import SupportsIndex

from llmlite.tokenizers.base import Tokenizer, as_ids, utf8
from llmlite.tokenizers.merging import merge, pairs_of_characters
from llmlite.tokenizers.vocabulary import TokenType, Vocabulary
from llmlite.tokenizers.words import SafeCuts, WordCache

SPACE = "▁"


class SentencePiece(Tokenizer):
    """The part that SentencePiece's vocabularies share: ▁ for a space, byte tokens, scores.

    `decode` removes the space that `encode` puts before a text. A stream keeps it, because the text after a
    prompt often begins with a space.
    """

    _default_add_space_prefix = True

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self.add_space_prefix = vocabulary.flag("add_space_prefix", self._default_add_space_prefix)
        self._scores = vocabulary.numbers("scores", "numbers") or [0.0] * self.n_vocab
        _ = vocabulary.byte_values  # finds a malformed byte token now, not in the middle of a text

    def decode_bytes(self, ids: Iterable[SupportsIndex], *, skip_special: bool = False) -> bytes:
        """Return the bytes of token ids, without the spaces that `encode` puts before a text."""
        pieces = []
        at_start = True
        for token_id in as_ids(ids, "ids"):
            piece = self.piece(token_id, skip_special=skip_special)
            if at_start and self.add_space_prefix and piece.startswith(b" "):
                piece = piece[1:]
            at_start = self.vocabulary.types[token_id] in (TokenType.CONTROL, TokenType.USER_DEFINED)
            pieces.append(piece)
        return b"".join(pieces)

    @cached_property
    def _byte_ids(self) -> dict[int, int]:
        return {byte: token_id for token_id, byte in reversed(self.vocabulary.byte_values.items())}

    def _ids_of_bytes(self, part: str) -> list[int]:
        """Return the ids of a part's bytes, or the unknown token if there are no byte tokens."""
        ids = [self._byte_ids.get(byte) for byte in utf8(part)]
        if None not in ids:
            return [token_id for token_id in ids if token_id is not None]
        return [] if self.unk_id is None else [self.unk_id]

    def _join_unknown(self, ids: list[int], start: int) -> None:
        """Replace each run of unknown tokens by one, from index `start` on."""
        unk = self.unk_id
        if unk in ids[start:]:
            ids[start:] = [
                token_id
                for i, token_id in enumerate(ids[start:], start)
                if token_id != unk or i == start or ids[i - 1] != unk
            ]

    def _normal_piece(self, token_id: int) -> bytes:
        return self.vocabulary.texts[token_id].replace(SPACE, " ").encode("utf-8", "surrogateescape")


class SPMTokenizer(SentencePiece):
    """SentencePiece BPE (`tokenizer.ggml.model` = llama): Llama 1 and 2, Mistral, Gemma, TinyLlama.

    Neighbours merge if the joined text is a token, the highest score first. `encode` puts a space before the
    text and after each special token; `decode` removes these spaces.

    Raises:
        TokenizerError: the metadata contradicts itself.
    """

    model = "llama"
    _default_add_bos = True
    _default_ids = MappingProxyType({"unk": 0, "bos": 1, "eos": 2})

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self._words = WordCache(self._encode_word)

    def _encode_text(self, text: str, at_start: bool, ids: list[int]) -> None:
        if at_start and self.add_space_prefix:
            text = " " + text
        start = len(ids)
        self._words.extend(ids, self._cuts.split(text.replace(" ", SPACE)))
        self._join_unknown(ids, start)

    def _encode_word(self, word: str) -> list[int]:
        known = self.vocabulary.ids
        whole = known.get(word) if len(word) == 1 else None
        if whole is not None:
            return [whole]
        ids = []
        for part in merge(list(word), self._ranks, "", self._pairs):
            token_id = known.get(part)
            if token_id is None:
                ids += self._ids_of_bytes(part)
            else:
                ids.append(token_id)
        return ids

    @cached_property
    def _cuts(self) -> SafeCuts:
        return SafeCuts(self.vocabulary.texts)

    @cached_property
    def _pairs(self) -> dict[str, int]:
        return pairs_of_characters(self._ranks, "")

    @cached_property
    def _ranks(self) -> dict[str, int]:
        """The rank of each merged text: 0 for the highest score. Equal scores have the same rank."""
        order = {score: rank for rank, score in enumerate(sorted(set(self._scores), reverse=True))}
        return {text: order[score] for text, score in zip(self.vocabulary.texts, self._scores)}
