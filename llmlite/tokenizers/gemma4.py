"""Gemma 4's tokenizer: merges as in byte-level BPE, but of characters, with ▁ for a space."""

from __future__ import annotations

import re
from functools import cached_property

from llmlite.tokenizers.merging import merge, pairs_of_characters
from llmlite.tokenizers.spm import SPACE, SentencePiece
from llmlite.tokenizers.vocabulary import Vocabulary
from llmlite.tokenizers.words import SafeCuts, WordCache

_LINES = re.compile("[^\n]+|\n+")


class Gemma4Tokenizer(SentencePiece):
    """BPE over characters (`tokenizer.ggml.model` = gemma4). BOS is always added.

    Line ends never merge with other characters. A run of line ends that is a token becomes this token.

    Raises:
        TokenizerError: the metadata contradicts itself.

    Source: llama.cpp, src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_GEMMA4.
    """

    model = "gemma4"
    _default_add_space_prefix = False

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self.add_bos = self.bos_id is not None  # whatever the file says, as in llama.cpp
        self._words = WordCache(self._encode_word)

    def pretokens(self, text: str) -> list[str]:
        """Return the lines of a text, and the runs of line ends between them."""
        return _LINES.findall(text)

    def _encode_text(self, text: str, at_start: bool, ids: list[int]) -> None:
        for line in self.pretokens(text.replace(" ", SPACE)):
            self._words.extend(ids, [line] if line[0] == "\n" else self._cuts.split(line))

    def _encode_word(self, word: str) -> list[int]:
        known = self.vocabulary.ids
        if word in known and (word[0] == "\n" or len(word) == 1):
            return [known[word]]
        ids = []
        for part in merge(list(word), self._ranks, " ", self._pairs):
            token_id = known.get(part)
            ids += self._ids_of_bytes(part) if token_id is None else [token_id]
        return ids

    @cached_property
    def _cuts(self) -> SafeCuts:
        return SafeCuts(merge.replace(" ", "") for merge in self.vocabulary.merges())

    @cached_property
    def _pairs(self) -> dict[str, int]:
        return pairs_of_characters(self._ranks, " ")

    @cached_property
    def _ranks(self) -> dict[str, int]:
        return self.vocabulary.merge_ranks()
