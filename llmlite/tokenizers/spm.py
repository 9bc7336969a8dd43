"""SentencePiece's BPE: scores instead of merges, spaces as ▁, bytes for what has no token."""

from __future__ import annotations

import re
from functools import cached_property
from types import MappingProxyType

from llmlite.tokenizers.base import Tokenizer, as_ids, utf8
from llmlite.tokenizers.bpe import CACHE_WORD_LENGTH, CACHE_WORDS
from llmlite.tokenizers.merging import merge
from llmlite.tokenizers.vocabulary import TokenType, Vocabulary

SPACE = "▁"


class SPMTokenizer(Tokenizer):
    """SentencePiece BPE (`tokenizer.ggml.model` = llama): Llama 1 and 2, Mistral, Gemma, TinyLlama.

    Neighbours merge where the joined text is a token, the highest score first. `encode` puts a space before
    the text, and again after each special token; `decode` takes these spaces away. A stream keeps them: what
    a model writes after a prompt may well begin with a space.

    Raises:
        TokenizerError: the metadata contradicts itself.
    """

    model = "llama"
    _default_add_bos = True
    _default_ids = MappingProxyType({"unk": 0, "bos": 1, "eos": 2})

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self.add_space_prefix = vocabulary.flag("add_space_prefix", True)
        self._scores = vocabulary.numbers("scores", "numbers") or [0.0] * self.n_vocab
        self._words: dict[str, list[int]] = {}
        _ = vocabulary.byte_values  # a malformed byte token is found here, not in the middle of a text

    def decode_bytes(self, ids: object, *, skip_special: bool = False) -> bytes:
        """The bytes of token ids, without the spaces that `encode` puts before a text."""
        pieces = []
        at_start = True
        for token_id in as_ids(ids, "ids"):
            piece = self.piece(token_id, skip_special=skip_special)
            if at_start and self.add_space_prefix and piece.startswith(b" "):
                piece = piece[1:]
            at_start = self.vocabulary.types[token_id] in (TokenType.CONTROL, TokenType.USER_DEFINED)
            pieces.append(piece)
        return b"".join(pieces)

    def _encode_text(self, text: str, at_start: bool, ids: list[int]) -> None:
        if at_start and self.add_space_prefix:
            text = " " + text
        words = self._words
        for word in self._cut(text.replace(" ", SPACE)):
            word_ids = words.get(word)
            if word_ids is None:
                word_ids = self._encode_word(word)
                if len(word) <= CACHE_WORD_LENGTH:
                    if len(words) >= CACHE_WORDS:
                        words.clear()
                    words[word] = word_ids
            ids += word_ids

    def _encode_word(self, word: str) -> list[int]:
        known = self.vocabulary.ids
        ids = []
        for part in merge(list(word), self._ranks, ""):
            token_id = known.get(part)
            if token_id is None:
                ids += self._ids_of_bytes(part)
            else:
                ids.append(token_id)
        return ids

    def _cut(self, text: str) -> list[str]:
        """Words, to be kept in the cache: a cut before ▁ is safe if no token holds ▁ behind a letter."""
        return _WORDS.findall(text) if self._tokens_keep_words else [text]

    @cached_property
    def _tokens_keep_words(self) -> bool:
        return not any(re.search(f"[^{SPACE}]{SPACE}", text) for text in self.vocabulary.texts)

    @cached_property
    def _ranks(self) -> dict[str, int]:
        """Rank of each merged text: 0 for the highest score; equal scores share a rank."""
        order = {score: rank for rank, score in enumerate(sorted(set(self._scores), reverse=True))}
        return {text: order[score] for text, score in zip(self.vocabulary.texts, self._scores)}

    @cached_property
    def _byte_ids(self) -> dict[int, int]:
        return {byte: token_id for token_id, byte in reversed(self.vocabulary.byte_values.items())}

    def _ids_of_bytes(self, part: str) -> list[int]:
        """A part without a token, byte by byte; without byte tokens the unknown token stands for it."""
        ids = [self._byte_ids.get(byte) for byte in utf8(part)]
        if None not in ids:
            return [token_id for token_id in ids if token_id is not None]
        return [] if self.unk_id is None else [self.unk_id]

    def _normal_piece(self, token_id: int) -> bytes:
        return self.vocabulary.texts[token_id].replace(SPACE, " ").encode("utf-8", "surrogateescape")


_WORDS = re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+")
