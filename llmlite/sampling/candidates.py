"""Candidate tokens, and the context of a step of the chain: the sequence, random numbers, its state."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from llmlite import deterministic
from llmlite.errors import SamplingError

COLUMNS = 1024  # parts that a vocabulary is cut into, to find its likeliest tokens


@dataclass(frozen=True)
class Candidates:
    """The remaining candidate tokens, the likeliest first; ties are in the order of ids.

    Attributes:
        ids: int64 (N,).
        logits: float64 (N,), in descending order.
    """

    ids: np.ndarray
    logits: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """Return the softmax exp(l - max) / Σ exp(l - max), float64 (N,), the same on every machine."""
        weights = deterministic.exp(self.logits - self.logits[0])
        return weights / deterministic.total(weights)

    def first(self, count: int) -> Candidates:
        """Return the `count` likeliest candidates."""
        return Candidates(self.ids[:count], self.logits[:count])


def _no_random_numbers() -> float:
    raise RuntimeError("this step draws a random number: call it through a Sampler")


@dataclass(kw_only=True)
class Context:
    """The facts that a step may use in addition to the candidates.

    Attributes:
        ids: the tokens of the sequence so far, with the prompt; steps must not change it.
        n_vocab: size of the vocabulary; 0 if it isn't known.
        uniform: function that returns a random number in [0, 1).
        state: numbers that a step keeps from one token to the next, under its own key.
    """

    ids: Sequence[int] | np.ndarray = ()
    n_vocab: int = 0
    uniform: Callable[[], float] = _no_random_numbers
    state: dict[str, float] = field(default_factory=dict)

    def last(self, count: int) -> np.ndarray:
        """Return the last `count` tokens of the sequence, int64 (n,); all if count is -1."""
        recent = self.ids if count < 0 else self.ids[max(0, len(self.ids) - count) :]
        return np.asarray(recent, dtype=np.int64)


class Option(Protocol):
    """One step of the chain: candidates in, fewer or reshaped candidates out."""

    def __call__(self, candidates: Candidates, context: Context = ...) -> Candidates: ...

    @property
    def off(self) -> bool:
        """Whether the step changes nothing with this setting."""
        ...

    @property
    def label(self) -> str:
        """Name and setting of the step, in the command line's spelling: "top-k 40"."""
        ...


class Adjustment:
    """A step that works on logits in any order, so that the vocabulary needn't be sorted.

    Its `adjust` does the work. If the step is called with candidates, it sorts the result again.

    Attributes:
        one_by_one: whether each new logit depends only on the old one, so that a mask may come before or
            after this step.
    """

    off = False
    one_by_one = False

    def adjust(self, logits: np.ndarray, ids: np.ndarray | None, context: Context) -> np.ndarray:
        """Return the changed logits; -inf excludes a token.

        Args:
            logits: float64 (N,); may be changed in place.
            ids: tokens of the logits, int64 (N,); None if the logits are those of the whole vocabulary, in
                order.
            context: the sequence, random numbers and state.
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
    """Sort candidates in descending order, without the forbidden ones; ties are in the order of ids.

    Args:
        logits: float (N,).
        ids: int64 (N,), or None for 0 … N - 1.

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
        SamplingError: no candidate is left.
    """
    if not 0 < k < len(logits):
        return ranked(logits)
    if k == 1:
        best = int(logits.argmax())  # the first of equals
        if logits[best] > -np.inf:
            return Candidates(np.array([best]), logits[best : best + 1].astype(np.float64))
    bound = _bound(logits, k)
    # if a grammar allows few tokens, most columns have none: take all allowed tokens
    ids = np.flatnonzero(logits >= bound if bound > -np.inf else logits > -np.inf)
    return ranked_some(logits[ids], ids, k)


def ranked_some(logits: np.ndarray, ids: np.ndarray, k: int) -> Candidates:
    """Sort the k likeliest of some tokens; equals `ranked(logits, ids).first(k)`.

    Raises:
        SamplingError: no candidate is left.
    """
    if len(ids) > k:
        kept = np.flatnonzero(logits >= np.partition(logits, len(logits) - k)[len(logits) - k])
        logits, ids = logits[kept], ids[kept]
    return ranked(logits, ids).first(k)


def _bound(logits: np.ndarray, k: int) -> np.floating:
    """Return a number that at least k logits reach, and few more: the k-th highest maximum of COLUMNS
    columns.

    A partition of the whole vocabulary would take several times as long.
    """
    rows = len(logits) // COLUMNS
    if 4 * k > COLUMNS or rows < 2:
        return np.partition(logits, len(logits) - k)[len(logits) - k]
    highest = logits[: rows * COLUMNS].reshape(rows, COLUMNS).max(axis=0)
    return np.partition(highest, COLUMNS - k)[COLUMNS - k]


def is_number(value: object) -> bool:
    """Return whether a value is a real number (also NaN or infinity), and not a bool."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def check_share(name: str, value: float) -> None:
    """Raise a ValueError unless the value is between 0 and 1."""
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1; got {value!r}")


def check_real(name: str, value: float, low: float = -np.inf, words: str = "a finite number") -> None:
    """Raise a ValueError unless the value is finite and at least `low`."""
    if not is_number(value) or not np.isfinite(value) or value < low:
        raise ValueError(f"{name} must be {words}; got {value!r}")


def check_whole(name: str, value: int, low: int, words: str) -> None:
    """Raise a ValueError unless the value is a whole number and at least `low`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < low:
        raise ValueError(f"{name} must be {words}; got {value!r}")
