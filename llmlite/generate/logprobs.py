"""Log-probabilities of tokens, exact: a log-softmax in float64 over the model's own logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmlite.sampling import log_probabilities


@dataclass(frozen=True)
class TokenLogprob:
    """The model's log-probability of a token, before any sampler or constraint.

    Attributes:
        id: the token.
        logprob: natural logarithm of its probability, at most 0.
        top: the likeliest tokens at this place as (id, logprob), the likeliest first, with ties in the order
            of ids; as many as requested.
    """

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def token_logprob(logits: np.ndarray, token: int, n_top: int) -> TokenLogprob:
    """Return the log-probability of `token` from logits (V,), with the `n_top` likeliest tokens."""
    found = log_probabilities(logits)
    top: tuple[tuple[int, float], ...] = ()
    if n_top:
        count = min(n_top, len(found))
        threshold = np.partition(found, len(found) - count)[len(found) - count]
        ids = np.flatnonzero(found >= threshold)
        ids = ids[np.argsort(-found[ids], kind="stable")][:count]
        top = tuple((int(i), float(found[i])) for i in ids)
    return TokenLogprob(int(token), float(found[token]), top)
