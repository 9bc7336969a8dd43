"""Words that were encoded before, and places at which cutting a text doesn't change its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

# Words seen before keep their ids. Bounded, so that a long run over foreign text doesn't fill the memory.
CACHE_WORDS = 65_536
CACHE_WORD_LENGTH = 64


class WordCache:
    """The token ids of words, each found once.

    Args:
        encode: the ids of one word, which must not depend on its neighbours.
    """

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode = encode
        self._ids: dict[str, list[int]] = {}

    def extend(self, ids: list[int], words: Iterable[str]) -> None:
        """Append the ids of each word."""
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
    """Cuts a text between two characters that no token holds side by side.

    No token reaches across such a place, so both sides of it are encoded on their own.
    The pairs are kept by a hash of 22 bits: two pairs may share a place in the table, which only costs a cut.

    Args:
        texts: every text that a token, or a part on the way to one, can have.
    """

    _BITS = 22

    def __init__(self, texts: Iterable[str]) -> None:
        import numpy as np  # reading a file's tokenizer needs no NumPy of its own

        self._np = np
        self._together = np.zeros(1 << self._BITS, bool)
        # A line's end parts the texts; pairs with it are true ones only where a text holds it.
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
        """The place in the table of each pair of neighbours."""
        np = self._np
        mixed = codes[:-1] * np.uint32(0x9E3779B1) ^ codes[1:] * np.uint32(0x85EBCA77)
        mixed ^= mixed >> np.uint32(15)
        return mixed & np.uint32((1 << self._BITS) - 1)

    def split(self, text: str) -> list[str]:
        """The pieces of a text; joined, they are the text."""
        if len(text) < 2:
            return [text] if text else []
        apart = ~self._together[self._places(self._codes(text))]
        cuts = (self._np.flatnonzero(apart) + 1).tolist()
        return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
