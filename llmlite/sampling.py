"""From logits to the next token: a chain of small steps that can be looked at one by one.

    sampler = Sampler(temperature=0.8, top_k=40, top_p=0.95, seed=1)
    token = sampler(logits)                    # logits: float32 (V,)
    for step in sampler.steps(logits):         # what each step kept, and with what probability
        print(step.option, step.ids, step.probabilities)

The steps come in llama.cpp's order: top-k, top-p, min-p, temperature; then a token is drawn.

Two samplers with the same options and seed, given the same logits one after the other, draw the same
tokens: on every machine, as NumPy guarantees the stream of PCG64. Logits themselves may differ in their last
bits between executors, thread counts and machines, and then so may a draw that falls on an edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmlite.errors import SamplingError


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
        """Softmax over the candidates: exp(l - max) / Σ exp(l - max). float64 (N,)."""
        weights = np.exp(self.logits - self.logits[0])
        return weights / weights.sum()

    def first(self, count: int) -> Candidates:
        """The `count` likeliest."""
        return Candidates(self.ids[:count], self.logits[:count])


class Option(Protocol):
    """One step of the chain: candidates in, fewer or reshaped candidates out."""

    def __call__(self, candidates: Candidates) -> Candidates: ...


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """Keep only the likeliest token."""

    def __call__(self, candidates: Candidates) -> Candidates:
        return candidates.first(1)


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Keep the k likeliest tokens; 0 keeps all."""

    k: int

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not hasattr(self.k, "__index__") or self.k < 0:
            raise ValueError(f"top_k must be a whole number, 0 (off) or more; got {self.k!r}")

    def __call__(self, candidates: Candidates) -> Candidates:
        return candidates.first(self.k) if self.k else candidates


@dataclass(frozen=True, kw_only=True)
class TopP:
    """Keep the likeliest tokens that together reach the probability p; 1 keeps all.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """

    p: float

    def __post_init__(self) -> None:
        _check_share("top_p", self.p)

    def __call__(self, candidates: Candidates) -> Candidates:
        if self.p >= 1:
            return candidates
        reached = np.cumsum(candidates.probabilities)
        return candidates.first(1 + int(np.searchsorted(reached, self.p)))  # the one that reaches p stays


@dataclass(frozen=True, kw_only=True)
class MinP:
    """Keep the tokens at least p times as likely as the likeliest one; 0 keeps all."""

    p: float

    def __post_init__(self) -> None:
        _check_share("min_p", self.p)

    def __call__(self, candidates: Candidates) -> Candidates:
        if self.p <= 0:
            return candidates
        # p(i) >= p · p(0)  <=>  l(i) >= l(0) + log p
        floor = candidates.logits[0] + math.log(self.p)
        return candidates.first(int(np.count_nonzero(candidates.logits >= floor)))


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """Divide the logits by t: below 1 sharper, above 1 flatter; 0 keeps only the likeliest token."""

    t: float

    def __post_init__(self) -> None:
        if not _is_number(self.t) or not 0 <= self.t < math.inf:
            raise ValueError(f"temperature must be 0 or more, and finite; got {self.t!r}")

    def __call__(self, candidates: Candidates) -> Candidates:
        if self.t == 0:
            return candidates.first(1)
        # Shifted first, so that a tiny t can't overflow the likeliest; the rest may well go to -inf.
        with np.errstate(over="ignore"):
            return Candidates(candidates.ids, (candidates.logits - candidates.logits[0]) / self.t)


@dataclass(frozen=True)
class Step:
    """What one step of the chain left.

    Attributes:
        option: the step.
        ids: int64 (N,) tokens kept, the likeliest first.
        probabilities: float64 (N,), they sum to 1.
    """

    option: Option
    ids: np.ndarray
    probabilities: np.ndarray


class Sampler:
    """Chooses the next token.

    Args:
        temperature: 0 always takes the likeliest token; the higher, the more varied.
        top_k: choose among the k likeliest; 0 is off.
        top_p: among the likeliest that together have this share; 1 is off.
        min_p: among those at least this many times as likely as the likeliest; 0 is off.
        seed: the same seed gives the same draws; None takes one from the system.
        chain: the steps themselves, instead of the four options above.

    Raises:
        ValueError: an option outside its range.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.0,
        seed: int | None = None,
        chain: Sequence[Option] | None = None,
    ) -> None:
        if seed is not None and (isinstance(seed, bool) or not hasattr(seed, "__index__") or seed < 0):
            raise ValueError(f"seed must be None or a whole number, 0 or more; got {seed!r}")
        options: tuple[Option, ...]
        options = (TopK(k=top_k), TopP(p=top_p), MinP(p=min_p), Temperature(t=temperature))  # all checked
        if chain is not None:
            options = tuple(chain)
        elif temperature == 0:
            options = (Greedy(),)
        self.chain = options
        self.seed = seed
        self._bits = np.random.PCG64(seed)

    def __repr__(self) -> str:
        return f"Sampler({', '.join(map(repr, self.chain))}, seed={self.seed})"

    def __call__(self, logits: np.ndarray) -> int:
        """Choose a token.

        Args:
            logits: float (V,); -inf forbids a token.

        Raises:
            SamplingError: NaN or +inf among the logits, or nothing but -inf.
        """
        candidates = self._candidates(logits)
        for option in self.chain:
            candidates = option(candidates)
        if len(candidates.ids) == 1:
            return int(candidates.ids[0])  # nothing to draw, so no random number is spent
        reached = np.cumsum(candidates.probabilities)
        place = int(np.searchsorted(reached, self._uniform() * reached[-1], side="right"))
        return int(candidates.ids[min(place, len(reached) - 1)])

    def steps(self, logits: np.ndarray) -> list[Step]:
        """What each step of the chain keeps, for these logits; draws nothing.

        Args and Raises: as calling the sampler.
        """
        candidates = _ranked(_checked(logits))
        steps = []
        for option in self.chain:
            candidates = option(candidates)
            steps.append(Step(option, candidates.ids, candidates.probabilities))
        return steps

    def _uniform(self) -> float:
        """A number in [0, 1) from the generator's upper 53 bits, of which NumPy guarantees every one."""
        return (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def _candidates(self, logits: np.ndarray) -> Candidates:
        """All candidates; where the first step keeps only a few, no more than those are sorted."""
        checked = _checked(logits)
        first = self.chain[0] if self.chain else None
        if isinstance(first, Greedy):
            best = int(np.argmax(checked))  # the first of equals
            return Candidates(np.array([best]), checked[best : best + 1].astype(np.float64))
        if isinstance(first, TopK) and 0 < first.k < len(checked):
            threshold = np.partition(checked, len(checked) - first.k)[len(checked) - first.k]
            return _ranked(checked, np.flatnonzero(checked >= threshold))
        return _ranked(checked)


def _ranked(logits: np.ndarray, ids: np.ndarray | None = None) -> Candidates:
    """Candidates in descending order without the forbidden ones; a stable sort, so ties keep id order."""
    if ids is None:
        ids = np.arange(len(logits))
    ids = ids[logits[ids] > -np.inf]
    order = np.argsort(-logits[ids], kind="stable")
    return Candidates(ids[order], logits[ids[order]].astype(np.float64))


def _checked(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits)
    if logits.ndim != 1 or not len(logits) or logits.dtype.kind != "f":
        raise SamplingError(f"logits: expected floats of shape (V,), got {logits.dtype} {logits.shape}")
    highest = logits.max()  # NaN wins every maximum, so this one pass finds it too
    if np.isnan(highest):
        place = int(np.flatnonzero(np.isnan(logits))[0])
        raise SamplingError(
            f"logits[{place}] is NaN: the forward pass has gone wrong, no token can be chosen"
        )
    if highest == np.inf:
        raise SamplingError(f"logits[{int(np.argmax(logits))}] is infinite: the forward pass has overflowed")
    if highest == -np.inf:
        raise SamplingError("every logit is -inf: all tokens are forbidden")
    return logits


def _check_share(name: str, value: float) -> None:
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must lie between 0 and 1; got {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
