"""Cuts and draws over a whole vocabulary without sorting all of it.

The sum of all weights e^(l - max) determines where a share of the probability ends, and another order of
addition changes its last bits. So the sum is computed quickly, in float32, with a bound on its error. If the
lowest and the highest possible sum give the same place among the likeliest tokens, whose weights are exact,
that is the place. Otherwise, all are sorted. The result is always the same as with sorting.
"""

from __future__ import annotations

import numpy as np

from llmlite import deterministic
from llmlite.sampling.candidates import Candidates, ranked, ranked_top

SORTED = (256, 4096)  # numbers of likeliest tokens that are tried before all
# In float32, |l - max| <= 87 is rounded by 2**-24 of itself, exp errs by less than 4 * 2**-24, and the sum by
# pairs of V <= 2**31 terms by 40 * 2**-24; smaller terms vanish. Doubled.
ERROR = 2 * (87 + 4 + 40) * 2.0**-24


def nucleus(logits: np.ndarray, p: float) -> Candidates:
    """Return the likeliest tokens that together reach the probability p: `TopP(p=p)(ranked(logits))`.

    Args:
        logits: float (V,).
        p: 0 to 1.

    Raises:
        SamplingError: no candidate is left.
    """
    total = _total(logits)
    for n in (n for n in SORTED if n < len(logits)):
        candidates = ranked_top(logits, n)
        reached = np.cumsum(_weights(candidates))
        place = _place(reached, p * total, "left")
        if place is not None:
            return candidates.first(1 + place)
    candidates = ranked(logits)
    return candidates.first(1 + int(np.searchsorted(np.cumsum(candidates.probabilities), p)))


def drawn(logits: np.ndarray, uniform: float) -> int:
    """Return the token at the share `uniform` (0 to 1) of all weights, with the likeliest token first.

    Args:
        logits: float (V,), at least two above -inf.
        uniform: the share, 0 to 1.
    """
    total = _total(logits)
    for n in (n for n in SORTED if n < len(logits)):
        candidates = ranked_top(logits, n)
        place = _place(np.cumsum(_weights(candidates)), uniform * total, "right")
        if place is not None:
            return int(candidates.ids[place])
    candidates = ranked(logits)
    return int(candidates.ids[place_of(_weights(candidates), uniform)])


def place_of(weights: np.ndarray, uniform: float) -> int:
    """Return the index at the share `uniform` of weights (N,)."""
    reached = np.cumsum(weights)
    place = int(np.searchsorted(reached, uniform * reached[-1], side="right"))
    return min(place, len(reached) - 1)


def _total(logits: np.ndarray) -> float:
    """Return Σ e^(l - max), with a relative error of at most ERROR."""
    with np.errstate(over="ignore", invalid="ignore"):  # far below, float32 may go to -inf; all may be -inf
        below = (logits - logits.max()).astype(np.float32)
    return float(np.exp(below).sum())


def _weights(candidates: Candidates) -> np.ndarray:
    return deterministic.exp(candidates.logits - candidates.logits[0])


def _place(reached: np.ndarray, wanted: float, side: str) -> int | None:
    """Return the index in `reached` of a number known up to ERROR; None if it isn't certain."""
    low, high = np.searchsorted(reached, [wanted * (1 - ERROR), wanted * (1 + ERROR)], side=side)  # type: ignore[call-overload]
    return int(low) if low == high < len(reached) else None
