"""One text under a grammar, token by token."""

from __future__ import annotations

import numpy as np

from llmlite.errors import GrammarError
from llmlite.grammar.automaton import Readings
from llmlite.grammar.matcher import Matcher

SHOWN = 60  # characters of the text so far in an error


class TokenConstraint:
    """One text under a grammar, token by token. See `llmlite.grammar.Constraint`."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._generation = matcher.generation
        self._readings = matcher.automaton.start()
        self._text = b""
        self._n_bytes = 0

    @property
    def finished(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.automaton.end in self._readings

    @property
    def complete(self) -> bool:
        """Whether the text must end here: the mask allows only end-of-generation tokens."""
        if not self.finished:
            return False
        with self._matcher.lock:
            self._refresh()
            return len(self._readings) == 1 or not self._matcher.fits_any(self._readings)

    def mask(self) -> np.ndarray:
        """Return which tokens may come next: bool (V,), read-only.

        End-of-generation tokens are allowed only if `finished`.

        Raises:
            GrammarError: no token fits, because the vocabulary can't spell the text that the grammar requires
                here; or the text has too many readings.
        """
        with self._matcher.lock:
            self._refresh()
            found = self._matcher.mask(self._readings)
        if not found.any():
            raise GrammarError(
                f"{self._place()}: a dead end: the grammar demands {self._demanded()} here, and no token of "
                "the vocabulary fits it"
            )
        return found

    def allowed(self, token_ids: np.ndarray) -> np.ndarray:
        """Return whether each of some tokens may come next: `mask()[token_ids]`, without the whole mask.

        Args:
            token_ids: int (N,), 0 to V - 1.

        Returns:
            bool (N,). At a dead end, all are False, whereas `mask` raises.

        Raises:
            GrammarError: the text has too many readings.
        """
        with self._matcher.lock:
            self._refresh()
            return self._matcher.allowed(self._readings, token_ids)

    def accept(self, token_id: int) -> None:
        """Advance by a token. An end-of-generation token changes nothing.

        Raises:
            GrammarError: the token doesn't fit here; the state is unchanged.
        """
        trie = self._matcher.trie
        if not 0 <= token_id < trie.n_vocab:
            raise GrammarError(f"token {token_id}: expected 0 to {trie.n_vocab - 1}, the vocabulary's last")
        if token_id in trie.eog:
            if not self.finished:
                raise GrammarError(
                    f"{self._place()}: the text can't end here: the grammar demands {self._demanded()}"
                )
            return
        piece = trie.pieces[token_id]
        if not piece:
            raise GrammarError(f"{self._place()}: token {token_id} has no text that a grammar could allow")
        self.accept_bytes(piece)

    def accept_bytes(self, piece: bytes) -> None:
        """Advance by bytes, from any tokens.

        Raises:
            GrammarError: the bytes don't fit; the state is unchanged.
        """
        with self._matcher.lock:
            self._refresh()
            self._readings = self._after(piece)
        self._n_bytes += len(piece)
        self._text = (self._text + piece)[-4 * SHOWN :]

    def copy(self) -> TokenConstraint:
        """Return an independent constraint that continues from here."""
        made = TokenConstraint.__new__(TokenConstraint)
        made.__dict__.update(self.__dict__)
        return made

    def __deepcopy__(self, memo: object) -> TokenConstraint:
        return self.copy()  # only the matcher's results are shared

    def _after(self, piece: bytes) -> Readings:
        automaton, readings = self._matcher.automaton, self._readings
        for number, byte in enumerate(piece):
            readings = automaton.step(readings, int(automaton.class_of[byte]))
            if not readings:
                raise GrammarError(
                    f"{self._place(piece[:number])}: {bytes([byte])!r} of {piece!r} doesn't fit: the grammar "
                    f"demands {self._demanded()}"
                )
        return readings

    def _refresh(self) -> None:
        self._matcher.tidy()
        if self._generation != self._matcher.generation:
            self._readings = self._matcher.automaton.adopted(self._readings)
            self._generation = self._matcher.generation

    def _place(self, more: bytes = b"") -> str:
        text = (self._text + more).decode("utf-8", "replace")
        shown = text if len(text) <= SHOWN else "…" + text[-SHOWN:]
        return f"byte {self._n_bytes + len(more)}, after {shown!r}"

    def _demanded(self) -> str:
        ranges = sorted(set(self._matcher.automaton.expected(self._readings)))
        parts = [
            _shown(low) if low == high else f"{_shown(low)} to {_shown(high)}" for low, high in ranges[:8]
        ]
        parts += ["…"] if len(ranges) > 8 else []
        parts += ["the end"] if self.finished else []
        return " or ".join(parts)


def _shown(byte: int) -> str:
    return repr(chr(byte)) if 0x20 <= byte < 0x7F else f"byte 0x{byte:02X}"
