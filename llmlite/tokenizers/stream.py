"""Decode token ids as they arrive, without splitting a character."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class StreamDecoder:
    """A decoder of one token at a time, which holds a character back until its last byte has arrived.

    A token of a byte-level vocabulary may end in the middle of a character: an emoji takes four bytes, often
    spread over several tokens. `push` returns the complete characters. Bytes that can no longer become a
    character give U+FFFD, as with `bytes.decode(errors="replace")`. So all pieces joined are the whole text.

        stream = tokenizer.stream()
        text = "".join(stream.push(token_id) for token_id in ids) + stream.flush()

    Args:
        piece: function that returns the bytes of a token id.
    """

    def __init__(self, piece: Callable[[int], bytes]) -> None:
        self._piece = piece
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Return the text that this token completes; empty while a character is incomplete.

        Raises:
            TokenizerError: the id is outside the vocabulary.
        """
        return self._decoder.decode(self._piece(token_id))

    def flush(self) -> str:
        """Return the held back bytes, as U+FFFD because they aren't a character, and start again."""
        return self._decoder.decode(b"", final=True)

    @property
    def pending(self) -> bytes:
        """The bytes that are held back."""
        return self._decoder.getstate()[0]
