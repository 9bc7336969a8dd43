"""WordPiece, BERT's tokenizer: the longest match from the left of each word."""

from __future__ import annotations

import unicodedata
from types import MappingProxyType

from llmlite.tokenizers.base import Tokenizer
from llmlite.tokenizers.vocabulary import Vocabulary
from llmlite.tokenizers.words import WordCache

WORD_START = "▁"  # GGUF marks the start of a word; BERT's own files mark the other parts with ##

MAX_WORD_LENGTH = 100  # in BERT, a longer word is one unknown token

# Each ideograph is a word. The ranges are BERT's, including its typing error 0x2B920 for 0x2B820.
_IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class WPMTokenizer(Tokenizer):
    """WordPiece (`tokenizer.ggml.model` = bert). CLS comes before the text and SEP after it.

    By default, text is lower-cased and accents are removed, so decoding doesn't restore it exactly.

    Raises:
        TokenizerError: the metadata contradicts itself.

    Source: BERT's tokenization.py; llama.cpp, src/llama-vocab.cpp, llm_tokenizer_wpm_session. If they differ,
    BERT is followed, because models were trained with it. A Hangul syllable becomes all of its letters
    (llama.cpp keeps the first). Vertical tab, form feed and U+0085 are dropped (llama.cpp cuts there).
    Spacing marks, category Mc, are kept (llama.cpp drops them). A word of more than 100 characters is one
    unknown token (llama.cpp cuts it into parts).
    """

    model = "bert"
    _default_add_bos = True
    _default_ids = MappingProxyType({"bos": 101, "unk": 100})

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self.sep_id = vocabulary.special_id("seperator_token_id", "separator_token_id", default=102)
        self.lowercase = vocabulary.flag("normalizer.lowercase", True)
        self.strip_accents = vocabulary.flag("normalizer.strip_accents", self.lowercase)
        self._longest = max(map(len, vocabulary.texts))
        self._table = _Replacements(lowercase=self.lowercase, strip_accents=self.strip_accents)
        self._words = WordCache(self._encode_word)

    def pretokens(self, text: str) -> list[str]:
        """Return the cleaned words of a text. Each punctuation mark and each ideograph is a word."""
        if self.strip_accents:
            text = unicodedata.normalize("NFD", text)
        return text.translate(self._table).split()

    def _suffix_ids(self) -> list[int]:
        return [] if self.sep_id is None else [self.sep_id]

    def _encode_text(self, text: str, at_start: bool, ids: list[int]) -> None:
        self._words.extend(ids, self.pretokens(text))

    def _encode_word(self, word: str) -> list[int]:
        if len(word) > MAX_WORD_LENGTH:
            return [] if self.unk_id is None else [self.unk_id]
        word = WORD_START + word
        known = self.vocabulary.ids
        ids = []
        start = 0
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                token_id = known.get(word[start:end])
                if token_id is not None:
                    break
            else:  # if one part is unknown, the whole word is
                return [] if self.unk_id is None else [self.unk_id]
            ids.append(token_id)
            start = end
        return ids

    def _normal_piece(self, token_id: int) -> bytes:
        return self.vocabulary.texts[token_id].replace(WORD_START, " ").encode("utf-8", "surrogateescape")


class _Replacements(dict[int, str]):
    """The replacement of each character, for str.translate: a blank for white space, nothing to drop it."""

    def __init__(self, *, lowercase: bool, strip_accents: bool) -> None:
        super().__init__()
        self._lowercase, self._strip_accents = lowercase, strip_accents

    def __missing__(self, code: int) -> str:
        self[code] = found = self._found(chr(code))
        return found

    def _found(self, char: str) -> str:
        category = unicodedata.category(char)
        if char in "\t\n\r" or category[0] == "Z":
            return " "
        if char in "\0\ufffd" or category[0] == "C" or (self._strip_accents and category == "Mn"):
            return ""
        kept = _lower(char) if self._lowercase else char
        return f" {kept} " if _stands_alone(char, category) else kept


def _lower(char: str) -> str:
    lowered = char.lower()
    return lowered if len(lowered) == 1 else char  # only one code point for one, as in llama.cpp's table


def _stands_alone(char: str, category: str) -> bool:
    if category[0] == "P" or (category[0] == "S" and char < "\x7f"):
        return True
    code = ord(char)
    return any(first <= code <= last for first, last in _IDEOGRAPHS)
