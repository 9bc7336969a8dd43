"""Tokens as a lesson shows them."""

from __future__ import annotations

from llmlite.tokenizers import Tokenizer

# What would not be seen in a table: a space, a line's end, a tab.
SEEN = {" ": "␣", "\n": "↵", "\t": "⇥"}


def visible(tokenizer: Tokenizer, token: int) -> str:
    """Return a token's text with its spaces and line ends made visible; part of a character as bytes."""
    piece = tokenizer.piece(token)
    try:
        text = piece.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<{byte:02X}>" for byte in piece)
    return "".join(SEEN.get(letter, letter) for letter in text) or f"<{token}>"
