"""What the rest of the package asks of a grammar while a text is made."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Constraint(Protocol):
    """The state of one text that is being made under a grammar.

    constraint = grammar.constrain(tokenizer)
    while True:
        token = sampler(logits, ids, mask=constraint.mask())
        if token in tokenizer.eog_ids:
            break
        constraint.accept(token)
    """

    @property
    def finished(self) -> bool:
        """Whether the text may end here; it may go on too if `mask` allows other tokens than the last."""
        ...

    def mask(self) -> np.ndarray:
        """Which tokens may come next: bool (V,), not to be written to.

        End-of-generation tokens are allowed exactly if `finished`.

        Raises:
            GrammarError: no token fits: the vocabulary can't spell what the grammar demands here.
        """
        ...

    def accept(self, token_id: int) -> None:
        """Go on with a token. An end-of-generation token changes nothing.

        Raises:
            GrammarError: the token doesn't fit here. The state is then as it was.
        """
        ...

    def copy(self) -> Constraint:
        """Return a constraint that goes on from here by itself."""
        ...


class AskedConstraint(Constraint, Protocol):
    """A constraint that can be asked about some tokens, which is faster than making the whole mask."""

    @property
    def complete(self) -> bool:
        """Whether the text may end here and no other token may follow: the mask holds ends alone."""
        ...

    def allowed(self, token_ids: np.ndarray) -> np.ndarray:
        """Whether each of some tokens may come next: `mask()[token_ids]`, bool (N,)."""
        ...
