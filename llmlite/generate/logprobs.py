"""Log-probabilities of tokens, exact: a log-softmax in float64 over the model's own logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TokenLogprob:
    """How likely the model held a token to be, before any sampler or constraint.

    Attributes:
        id: the token.
        logprob: natural logarithm of its probability, at most 0.
        top: the likeliest tokens at this place as (id, logprob), the likeliest first; of equals the lower
            id comes first. As many as were asked for.
    """

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities, float64 of the shape of `logits` (…, V): l - max - log Σ exp(l - max)."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def token_logprob(logits: np.ndarray, token: int, n_top: int) -> TokenLogprob:
    """Return what logits (V,) say of `token`, with the `n_top` likeliest beside it."""
    found = log_softmax(logits)
    top: tuple[tuple[int, float], ...] = ()
    if n_top:
        count = min(n_top, len(found))
        threshold = np.partition(found, len(found) - count)[len(found) - count]
        ids = np.flatnonzero(found >= threshold)
        ids = ids[np.argsort(-found[ids], kind="stable")][:count]
        top = tuple((int(i), float(found[i])) for i in ids)
    return TokenLogprob(int(token), float(found[token]), top)
