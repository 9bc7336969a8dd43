"""Tokens in the running, and what a step of the chain may ask: the sequence, random numbers, its state."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from llmlite import deterministic
from llmlite.errors import SamplingError

COLUMNS = 1024  # that a vocabulary is cut into, to find its likeliest tokens


@dataclass(frozen=True)
class Candidates:
    """Tokens still in the running, the likeliest first; of equals the lower id comes first.

    Attributes:
        ids: int64 (N,).
        logits: float64 (N,), in descending order.
    """

    ids: np.ndarray
    logits: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax over the candidates: exp(l - max) / Σ exp(l - max). float64 (N,), the same everywhere."""
        weights = deterministic.exp(self.logits - self.logits[0])
        return weights / deterministic.total(weights)

    def first(self, count: int) -> Candidates:
        """The `count` likeliest."""
        return Candidates(self.ids[:count], self.logits[:count])


def _no_random_numbers() -> float:
    raise RuntimeError("this step draws a random number: call it through a Sampler")


@dataclass(kw_only=True)
class Context:
    """What a step may ask beside the candidates.

    Attributes:
        ids: the tokens of the sequence so far, the prompt's included; a sequence, never changed.
        n_vocab: size of the vocabulary; 0 if it isn't known.
        uniform: gives a random number in [0, 1).
        state: numbers that a step keeps from one token of the sequence to the next, by its own key.
    """

    ids: Sequence[int] | np.ndarray = ()
    n_vocab: int = 0
    uniform: Callable[[], float] = _no_random_numbers
    state: dict[str, float] = field(default_factory=dict)

    def last(self, count: int) -> np.ndarray:
        """The last `count` tokens of the sequence; all if count is -1. int64 (n,)."""
        recent = self.ids if count < 0 else self.ids[max(0, len(self.ids) - count) :]
        return np.asarray(recent, dtype=np.int64)


class Option(Protocol):
    """One step of the chain: candidates in, fewer or reshaped candidates out."""

    def __call__(self, candidates: Candidates, context: Context = ...) -> Candidates: ...

    @property
    def off(self) -> bool:
        """Whether the setting lets everything through unchanged."""
        ...

    @property
    def label(self) -> str:
        """The step with its setting, as the command line spells it: "top-k 40"."""
        ...


class Adjustment:
    """A step that works on logits in any order, so that a whole vocabulary need not be sorted for it.

    Its `adjust` does the work. Called with candidates, it sorts the result again.

    Attributes:
        one_by_one: whether what becomes of a logit depends on no other logit, so that it makes no difference
            whether a mask comes before this step or after it.
    """

    off = False
    one_by_one = False

    def adjust(self, logits: np.ndarray, ids: np.ndarray | None, context: Context) -> np.ndarray:
        """Return the changed logits; -inf takes a token out of the running.

        Args:
            logits: float64 (N,); may be changed in place.
            ids: int64 (N,), whose logits they are; None: token i is at place i (N is the whole vocabulary).
        """
        raise NotImplementedError

    def __call__(self, candidates: Candidates, context: Context | None = None) -> Candidates:
        context = Context() if context is None else context
        logits, ids = self.adjust(candidates.logits.copy(), candidates.ids, context), candidates.ids
        kept = logits > -np.inf
        if kept.any() and not kept.all():
            logits, ids = logits[kept], ids[kept]
        if (logits[1:] < logits[:-1]).all() and logits[0] > -np.inf:
            return Candidates(ids, logits)  # still in order
        return ranked(logits, ids)


def ranked(logits: np.ndarray, ids: np.ndarray | None = None) -> Candidates:
    """Sort candidates in descending order, without the forbidden ones; of equals the lower id comes first.

    Args:
        logits: float (N,). ids: int64 (N,), or None for 0 … N - 1.

    Raises:
        SamplingError: no candidate is left.
    """
    kept = np.flatnonzero(logits > -np.inf)
    if not len(kept):
        raise SamplingError("every logit is -inf: all tokens are forbidden")
    logits = logits[kept]
    ids = kept if ids is None else ids[kept]
    rising = len(ids) < 2 or bool((ids[1:] > ids[:-1]).all())
    order = np.argsort(-logits, kind="stable") if rising else np.lexsort((ids, -logits))
    return Candidates(ids[order], logits[order].astype(np.float64))


def ranked_top(logits: np.ndarray, k: int) -> Candidates:
    """Sort the k likeliest tokens of a whole vocabulary; equals `ranked(logits).first(k)`.

    Raises:
        As `ranked`.
    """
    if not 0 < k < len(logits):
        return ranked(logits)
    if k == 1:
        best = int(logits.argmax())  # of equals the first
        if logits[best] > -np.inf:
            return Candidates(np.array([best]), logits[best : best + 1].astype(np.float64))
    bound = _bound(logits, k)
    # of few tokens that a grammar allows, most columns have none: then all that are allowed
    ids = np.flatnonzero(logits >= bound if bound > -np.inf else logits > -np.inf)
    return ranked_some(logits[ids], ids, k)


def ranked_some(logits: np.ndarray, ids: np.ndarray, k: int) -> Candidates:
    """Sort the k likeliest of some tokens; equals `ranked(logits, ids).first(k)`.

    Raises:
        As `ranked`.
    """
    if len(ids) > k:
        kept = np.flatnonzero(logits >= np.partition(logits, len(logits) - k)[len(logits) - k])
        logits, ids = logits[kept], ids[kept]
    return ranked(logits, ids).first(k)


def _bound(logits: np.ndarray, k: int) -> np.floating:
    """A number that at least k logits reach, and few more: the k-th highest of the maxima of COLUMNS columns.

    A partition of the whole vocabulary would take several times as long.
    """
    rows = len(logits) // COLUMNS
    if 4 * k > COLUMNS or rows < 2:
        return np.partition(logits, len(logits) - k)[len(logits) - k]
    highest = logits[: rows * COLUMNS].reshape(rows, COLUMNS).max(axis=0)
    return np.partition(highest, COLUMNS - k)[COLUMNS - k]


def is_number(value: object) -> bool:
    """Whether a value is a real number (NaN and infinity included), and no truth value."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def check_share(name: str, value: float) -> None:
    """Raise a ValueError unless the value is between 0 and 1."""
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must lie between 0 and 1; got {value!r}")


def check_real(name: str, value: float, low: float = -np.inf, words: str = "a finite number") -> None:
    """Raise a ValueError unless the value is finite and at least `low`."""
    if not is_number(value) or not np.isfinite(value) or value < low:
        raise ValueError(f"{name} must be {words}; got {value!r}")


def check_whole(name: str, value: int, low: int, words: str) -> None:
    """Raise a ValueError unless the value is a whole number and at least `low`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < low:
        raise ValueError(f"{name} must be {words}; got {value!r}")
