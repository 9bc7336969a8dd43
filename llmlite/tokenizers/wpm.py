"""WordPiece: BERT's tokenizer, the longest match from the left of each word."""

from __future__ import annotations

import unicodedata
from types import MappingProxyType

from llmlite.tokenizers.base import Tokenizer
from llmlite.tokenizers.vocabulary import Vocabulary
from llmlite.tokenizers.words import WordCache

WORD_START = "▁"  # GGUF spells the start of a word; BERT's own files mark the rest with ## instead

MAX_WORD_LENGTH = 100  # BERT makes longer words one unknown token

# Ideographs stand alone. The ranges are BERT's; 0x2B920 is its own slip for 0x2B820, kept as it is.
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

    Text is lower-cased and stripped of accents unless the file says otherwise, so decoding doesn't give it
    back exactly.

    Raises:
        TokenizerError: the metadata contradicts itself.

    Source: BERT's tokenization.py; llama.cpp, src/llama-vocab.cpp, llm_tokenizer_wpm_session. Where they
    differ, BERT's way is taken, as models were trained on it: a Hangul syllable becomes all of its letters
    (llama.cpp keeps the first), vertical tab, form feed and U+0085 are dropped (llama.cpp cuts there),
    spacing marks (category Mc) stay (llama.cpp drops them), and a word of more than 100 characters is unknown
    as a whole (llama.cpp cuts it up).
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
        """The words of a text: cleaned, cut at white space, punctuation and ideographs each alone."""
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
            else:  # one unknown part makes the whole word unknown
                return [] if self.unk_id is None else [self.unk_id]
            ids.append(token_id)
            start = end
        return ids

    def _normal_piece(self, token_id: int) -> bytes:
        return self.vocabulary.texts[token_id].replace(WORD_START, " ").encode("utf-8", "surrogateescape")


class _Replacements(dict[int, str]):
    """What each character becomes, for str.translate: a blank at the end of a word, nothing if dropped."""

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
    return lowered if len(lowered) == 1 else char  # one code point for one, as llama.cpp's table has it


def _stands_alone(char: str, category: str) -> bool:
    if category[0] == "P" or (category[0] == "S" and char < "\x7f"):
        return True
    code = ord(char)
    return any(first <= code <= last for first, last in _IDEOGRAPHS)
