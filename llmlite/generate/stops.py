"""The ends of a text: strings and tokens, and strings that are control tokens."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    from llmlite.tokenizers import Tokenizer

Stop = str | SupportsIndex | Iterable[str | SupportsIndex]


class StopStrings:
    """A filter that passes text up to the first stop string, and holds back an end that may begin one.

    The first is the one that is complete first, and of these the one that begins first. So the result doesn't
    depend on the pieces in which the text comes.

    Args:
        stops: strings, none of them empty.

    Raises:
        ValueError: a string is empty.
        TypeError: something isn't a string.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        stops = [stops] if isinstance(stops, str) else list(stops)
        for stop in stops:
            if not isinstance(stop, str):
                raise TypeError(f"stop: expected texts, got {stop!r:.80}")
        if "" in stops:
            raise ValueError("a stop string must not be empty")
        self.stops = stops
        self.held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Return the text that can be shown now."""
        if self.found:
            return ""
        text = self.held + text
        found = [(place + len(stop), place) for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            self.found, self.held = True, ""
            return text[: min(found)[1]]
        n_held = max((_overlap(text, stop) for stop in self.stops), default=0)
        self.held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def flush(self) -> str:
        """Return the text that was held back, at the end."""
        text, self.held = self.held, ""
        return text


def sort_stops(stop: Stop | None, tokenizer: Tokenizer) -> tuple[list[str], frozenset[int]]:
    """Separate stop strings from stop tokens.

    A string that is the text of a control token ("<|im_end|>") means that token, because the text doesn't
    show control tokens.

    Args:
        stop: one string or token id, or several.

    Returns:
        The strings to search for in the text, and the ids that end it.

    Raises:
        ValueError: a string is empty, or an id is outside the vocabulary.
        TypeError: a value is neither string nor id.
    """
    if stop is None:
        return [], frozenset()
    if isinstance(stop, (bytes, bytearray, Mapping)):  # their items would be taken for token ids or texts
        raise TypeError(f"stop: expected texts or token ids, got {type(stop).__name__}")
    several = [stop] if isinstance(stop, str) or not isinstance(stop, Iterable) else list(stop)
    strings, ids = [], set()
    for value in several:
        if isinstance(value, str):
            token = tokenizer.token_id(value)
            if token is not None and tokenizer.vocabulary.is_hidden(token):
                ids.add(token)
            else:
                strings.append(value)
            continue
        try:
            if isinstance(value, bool):
                raise TypeError
            token = operator.index(value)
        except TypeError:
            raise TypeError(f"stop: expected texts or token ids, got {value!r:.80}") from None
        if not 0 <= token < tokenizer.n_vocab:
            raise ValueError(f"stop: token {token} is not in the vocabulary, 0 to {tokenizer.n_vocab - 1}")
        ids.add(token)
    return strings, frozenset(ids)


def _overlap(text: str, stop: str) -> int:
    """Return the number of characters at the end of text that are the beginning of stop."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
