"""A place in a text that is read from left to right."""

from __future__ import annotations


class Scanner:
    """The text of a grammar or a pattern, and how far it has been read.

    Attributes:
        text: the whole text.
        place: the index of the next character.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0

    def peek(self) -> str:
        """Return the next character; "" at the end."""
        return self.text[self.place : self.place + 1]

    def take(self, wanted: str) -> bool:
        """Step over `wanted` if the text continues with it; return whether it does."""
        found = self.text.startswith(wanted, self.place)
        self.place += len(wanted) if found else 0
        return found
