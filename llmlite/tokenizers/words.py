"""A cache of encoded words, and cuts of a text that don't change its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

# The cache's limits, which keep a long run over varied text from filling the memory.
CACHE_WORDS = 65_536
CACHE_WORD_LENGTH = 64


class WordCache:
    """A cache of the token ids of words.

    Args:
        encode: function that returns the ids of one word. They must not depend on neighbouring words.
    """

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode = encode
        self._ids: dict[str, list[int]] = {}

    def extend(self, ids: list[int], words: Iterable[str]) -> None:
        """Append the ids of each word to `ids`."""
        kept = self._ids
        known = kept.get
        for word in words:
            word_ids = known(word)
            if word_ids is None:
                word_ids = self._encode(word)
                if len(word) <= CACHE_WORD_LENGTH:
                    if len(kept) >= CACHE_WORDS:
                        kept.clear()
                    kept[word] = word_ids
            ids += word_ids


class SafeCuts:
    """Cut a text between two characters that occur side by side in no token.

    No token reaches across such a place, so both sides can be encoded separately. The pairs of characters are
    stored by a hash of 22 bits. If two pairs have the same hash, the only effect is that a cut may be missed.

    Args:
        texts: the texts of all tokens, and of all parts that merge into tokens.
    """

    _BITS = 22

    def __init__(self, texts: Iterable[str]) -> None:
        import numpy as np  # imported here, because reading a tokenizer doesn't need NumPy

        self._np = np
        self._together = np.zeros(1 << self._BITS, bool)
        # The texts are joined by line ends. Pairs with these line ends are not pairs of the texts.
        held = [text for text in texts if len(text) > 1]
        if held:
            places = self._places(self._codes("\n".join(held)))
            joints = np.cumsum([len(text) + 1 for text in held[:-1]], dtype=np.intp) - 1
            inside = np.ones(len(places), bool)
            inside[joints - 1] = inside[joints] = False
            self._together[places[inside]] = True

    def _codes(self, text: str) -> Any:
        return self._np.frombuffer(text.encode("utf-32-le", "surrogatepass"), self._np.uint32)

    def _places(self, codes: Any) -> Any:
        """Return the index in the table of each pair of neighbours."""
        np = self._np
        mixed = codes[:-1] * np.uint32(0x9E3779B1) ^ codes[1:] * np.uint32(0x85EBCA77)
        mixed ^= mixed >> np.uint32(15)
        return mixed & np.uint32((1 << self._BITS) - 1)

    def split(self, text: str) -> list[str]:
        """Return the pieces of a text. Joined, they are the text."""
        if len(text) < 2:
            return [text] if text else []
        apart = ~self._together[self._places(self._codes(text))]
        cuts = (self._np.flatnonzero(apart) + 1).tolist()
        return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
