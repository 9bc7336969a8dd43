"""SentencePiece's Unigram: cut a text into the tokens with the highest sum of scores."""

from __future__ import annotations

import math
from functools import cached_property
from types import MappingProxyType

from llmlite.errors import TokenizerError
from llmlite.tokenizers.charsmap import KEY, CharsMap
from llmlite.tokenizers.spm import SPACE, SentencePiece
from llmlite.tokenizers.vocabulary import TokenType, Vocabulary
from llmlite.tokenizers.words import SafeCuts, WordCache

_UNKNOWN_PENALTY = 10.0  # an unknown character's score is this much below the lowest one (kUnkPenalty)
_HEAD = 2  # lengths of tokens are looked up by their first two characters


class UGMTokenizer(SentencePiece):
    """Unigram (`tokenizer.ggml.model` = t5): T5, XLM-RoBERTa, multilingual embeddings.

    A character without a token becomes its bytes if the vocabulary has byte tokens. Otherwise a run of such
    characters becomes one unknown token. Normalization may drop or replace characters, so decoding doesn't
    always restore the text.

    Raises:
        TokenizerError: the metadata contradicts itself.

    Source: SentencePiece, src/unigram_model.cc; llama.cpp, src/llama-vocab.cpp, llm_tokenizer_ugm_session.
    llama.cpp differs in two points: it uses no byte tokens here, and puts no space before a text of spaces.
    """

    model = "t5"
    _default_add_eos = True
    _default_add_space_prefix = False
    _default_ids = MappingProxyType({"eos": 1, "unk": 2, "pad": 0})

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        if self.unk_id is None:
            raise TokenizerError.missing("tokenizer.ggml.unknown_token_id", "Unigram needs an unknown token")
        self.remove_extra_whitespaces = vocabulary.flag("remove_extra_whitespaces", False)
        table = vocabulary.integers("precompiled_charsmap")
        self._charsmap = None
        if table is not None:
            # Some files store signed bytes, others unsigned ones.
            if any(not -128 <= value < 256 for value in table):
                raise TokenizerError.at(KEY, "bytes", "larger numbers")
            self._charsmap = CharsMap(bytes(value & 0xFF for value in table))
        self._words = WordCache(self._encode_word)

    def normalize(self, text: str) -> str:
        """Return the text in the form that is cut into tokens: characters replaced, ▁ for a space."""
        if self._charsmap is not None:
            text = self._charsmap.apply(text)
        if self.remove_extra_whitespaces:
            return "".join(SPACE + word for word in text.split(" ") if word)
        if self.add_space_prefix and text:
            text = " " + text
        return text.replace(" ", SPACE)

    def _encode_text(self, text: str, at_start: bool, ids: list[int]) -> None:
        start = len(ids)
        self._words.extend(ids, self._cuts.split(self.normalize(text)))
        self._join_unknown(ids, start)

    def _encode_word(self, word: str) -> list[int]:
        """Return the ids of the best path, found character by character from the best paths before it."""
        score_of, lengths_of, unknown = self._score_of.get, self._lengths.get, self._unknown_score
        n = len(word)
        best = [-math.inf] * (n + 1)
        best[0] = 0.0
        length_of = [1] * (n + 1)  # of the last token on the best path to this place
        for start in range(n):
            so_far = best[start]
            own = score_of(word[start])
            if (score := so_far + (unknown if own is None else own)) > best[start + 1]:
                best[start + 1], length_of[start + 1] = score, 1
            for length in lengths_of(word[start : start + _HEAD], ()):
                token = score_of(word[start : start + length])
                if token is not None and start + length <= n and so_far + token > best[start + length]:
                    best[start + length], length_of[start + length] = so_far + token, length
        ids: list[int] = []
        known, end = self.vocabulary.ids, n
        while end:
            part = word[end - length_of[end] : end]
            ids += [known[part]] if part in self._score_of else reversed(self._ids_of_bytes(part))
            end -= length_of[end]
        ids.reverse()
        return ids

    @cached_property
    def _score_of(self) -> dict[str, float]:
        """The score of each text that may be chosen. User-defined tokens score 0, above all others."""
        chosen = (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
        vocabulary = self.vocabulary
        return {
            text: 0.0 if kind is TokenType.USER_DEFINED else score
            for text, kind, score in zip(vocabulary.texts, vocabulary.types, self._scores)
            if kind in chosen
        }

    @cached_property
    def _unknown_score(self) -> float:
        normal = [s for s, kind in zip(self._scores, self.vocabulary.types) if kind is TokenType.NORMAL]
        return min(normal, default=0.0) - _UNKNOWN_PENALTY

    @cached_property
    def _lengths(self) -> dict[str, list[int]]:
        """First two characters -> the lengths of the tokens that start with them."""
        found: dict[str, set[int]] = {}
        for text in self._score_of:
            if len(text) >= _HEAD:
                found.setdefault(text[:_HEAD], set()).add(len(text))
        return {head: sorted(lengths) for head, lengths in found.items()}

    @cached_property
    def _cuts(self) -> SafeCuts:
        return SafeCuts(self._score_of)
