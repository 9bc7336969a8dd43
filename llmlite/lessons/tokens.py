"""The text of tokens, as the lessons show it."""

from __future__ import annotations

from llmlite.tokenizers import Tokenizer

# Characters that are invisible in a table, and the signs that are shown for them.
SEEN = {" ": "␣", "\n": "↵", "\t": "⇥"}


def visible(tokenizer: Tokenizer, token: int) -> str:
    """Return a token's text with spaces, line ends and tabs made visible.

    A token that isn't valid UTF-8, such as a part of a character, is shown as bytes: "<E2><82>". A token
    without text is shown as its id: "<2>".
    """
    piece = tokenizer.piece(token)
    try:
        text = piece.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<{byte:02X}>" for byte in piece)
    return "".join(SEEN.get(letter, letter) for letter in text) or f"<{token}>"
