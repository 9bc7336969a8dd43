"""The interface of a grammar for the rest of the package, while a text is made."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Constraint(Protocol):
    """The state of one text that is made under a grammar.

    constraint = grammar.constrain(tokenizer)
    while True:
        token = sampler(logits, ids, mask=constraint.mask())
        if token in tokenizer.eog_ids:
            break
        constraint.accept(token)
    """

    @property
    def finished(self) -> bool:
        """Whether the text may end here; it may also continue, if `mask` allows tokens that don't end it."""
        ...

    def mask(self) -> np.ndarray:
        """Return which tokens may come next: bool (V,), read-only.

        End-of-generation tokens are allowed only if `finished`.

        Raises:
            GrammarError: no token fits, because the vocabulary can't spell the text that the grammar requires
                here.
        """
        ...

    def accept(self, token_id: int) -> None:
        """Advance by a token. An end-of-generation token changes nothing.

        Raises:
            GrammarError: the token doesn't fit here; the state is unchanged.
        """
        ...

    def copy(self) -> Constraint:
        """Return an independent constraint that continues from here."""
        ...


class AskedConstraint(Constraint, Protocol):
    """A constraint that can test some tokens, which is faster than a whole mask."""

    @property
    def complete(self) -> bool:
        """Whether the text must end here: the mask allows only end-of-generation tokens."""
        ...

    def allowed(self, token_ids: np.ndarray) -> np.ndarray:
        """Return whether each of some tokens may come next: `mask()[token_ids]`, bool (N,)."""
        ...
