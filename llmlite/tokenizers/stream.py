"""Text from token ids as they come, one character never split in two."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Turns tokens into text one at a time, holding back a character until its last byte has come.

    A token of a byte-level vocabulary may end in the middle of a character: an emoji takes four bytes, often
    spread over several tokens. `push` returns what is complete. Bytes that can no longer become a character
    give U+FFFD, as `bytes.decode(errors="replace")` has it: all pieces joined equal the decoded whole.

        stream = tokenizer.stream()
        text = "".join(stream.push(token_id) for token_id in ids) + stream.flush()
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
        """Return the bytes held back, as U+FFFD if they aren't a character, and begin anew."""
        return self._decoder.decode(b"", final=True)

    @property
    def pending(self) -> bytes:
        """The bytes held back so far."""
        return self._decoder.getstate()[0]
