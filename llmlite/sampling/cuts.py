"""Steps that exclude tokens by their probability."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from llmlite import deterministic
from llmlite.sampling.candidates import (
    Adjustment,
    Candidates,
    Context,
    check_real,
    check_share,
    check_whole,
)


@functools.lru_cache(maxsize=256)
def _log(share: float) -> np.ndarray:
    """Return log(share), cached because a step needs the same number for every token."""
    return deterministic.log(share)


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """Keep only the likeliest token."""

    off = False
    label = "greedy"

    def __call__(self, candidates: Candidates, context: Context | None = None) -> Candidates:
        return candidates.first(1)


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Keep the k likeliest tokens; 0 keeps all."""

    k: int

    def __post_init__(self) -> None:
        check_whole("top_k", self.k, 0, "a whole number, 0 (off) or more")

    @property
    def off(self) -> bool:
        return self.k == 0

    @property
    def label(self) -> str:
        return f"top-k {self.k}"

    def __call__(self, candidates: Candidates, context: Context | None = None) -> Candidates:
        return candidates.first(self.k) if self.k else candidates


@dataclass(frozen=True, kw_only=True)
class TopP:
    """Keep the likeliest tokens that together reach the probability p; 1 keeps all.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """

    p: float

    def __post_init__(self) -> None:
        check_share("top_p", self.p)

    @property
    def off(self) -> bool:
        return self.p >= 1

    @property
    def label(self) -> str:
        return f"top-p {self.p:g}"

    def __call__(self, candidates: Candidates, context: Context | None = None) -> Candidates:
        if self.off:
            return candidates
        reached = np.cumsum(candidates.probabilities)
        return candidates.first(1 + int(np.searchsorted(reached, self.p)))  # the token that reaches p is kept


@dataclass(frozen=True, kw_only=True)
class MinP(Adjustment):
    """Keep the tokens at least p times as likely as the likeliest one; 0 keeps all."""

    p: float

    def __post_init__(self) -> None:
        check_share("min_p", self.p)

    @property
    def off(self) -> bool:  # type: ignore[override]
        return self.p <= 0

    @property
    def label(self) -> str:
        return f"min-p {self.p:g}"

    def adjust(self, logits: np.ndarray, ids: np.ndarray | None, context: Context) -> np.ndarray:
        if not self.off:  # p(i) >= p · p(0)  <=>  l(i) >= l(0) + log p
            logits[logits < logits.max() + _log(self.p)] = -np.inf
        return logits


@dataclass(frozen=True, kw_only=True)
class TopNSigma(Adjustment):
    """Keep the tokens whose logits are at most n standard deviations below the highest; 0 keeps all.

    Source: Tang et al. 2024, "Top-nσ: Not All Logits Are You Need"; llama.cpp, src/llama-sampler.cpp.
    """

    n: float

    def __post_init__(self) -> None:
        check_real("top_n_sigma", self.n, 0, "0 (off) or more, and finite")

    @property
    def off(self) -> bool:  # type: ignore[override]
        return self.n <= 0

    @property
    def label(self) -> str:
        return f"top-n-sigma {self.n:g}"

    def adjust(self, logits: np.ndarray, ids: np.ndarray | None, context: Context) -> np.ndarray:
        if not self.off:
            allowed = logits[logits > -np.inf]
            mean = deterministic.total(allowed) / len(allowed)
            sigma = np.sqrt(deterministic.total((allowed - mean) * (allowed - mean)) / len(allowed))
            logits[logits < allowed.max() - self.n * sigma] = -np.inf
        return logits


@dataclass(frozen=True, kw_only=True)
class Typical:
    """Keep the tokens whose surprise is close to the distribution's mean; 1 keeps all.

    Tokens are kept in the order of |surprise - entropy| until together they pass the probability p.

    Source: Meister et al. 2023, "Locally Typical Sampling".
    """

    p: float

    def __post_init__(self) -> None:
        check_share("typical_p", self.p)

    @property
    def off(self) -> bool:
        return self.p >= 1

    @property
    def label(self) -> str:
        return f"typical {self.p:g}"

    def __call__(self, candidates: Candidates, context: Context | None = None) -> Candidates:
        if self.off:
            return candidates
        probabilities, surprises = _surprises(candidates)
        distance = np.abs(surprises - deterministic.total(probabilities * surprises))
        order = np.argsort(distance, kind="stable")
        reached = np.cumsum(probabilities[order])
        count = 1 + int(np.searchsorted(reached, self.p, side="right"))  # the token that passes p is kept
        kept = np.sort(order[:count])
        return Candidates(candidates.ids[kept], candidates.logits[kept])


@dataclass(frozen=True, kw_only=True)
class XTC:
    """With a given probability, exclude the top tokens: all above a threshold except the least likely of
    them.

    Attributes:
        probability: how often this happens; 0 is off.
        threshold: the share from which a token counts as a top token; above 0.5, there is at most one.

    Source: the author's proposal, https://github.com/oobabooga/text-generation-webui/pull/6335.
    """

    probability: float
    threshold: float = 0.1

    def __post_init__(self) -> None:
        check_share("xtc_probability", self.probability)
        check_share("xtc_threshold", self.threshold)

    @property
    def off(self) -> bool:
        return self.probability <= 0 or self.threshold > 0.5

    @property
    def label(self) -> str:
        return f"xtc {self.probability:g} above {self.threshold:g}"

    def __call__(self, candidates: Candidates, context: Context | None = None) -> Candidates:
        context = Context() if context is None else context
        if self.off or len(candidates.ids) < 2 or context.uniform() >= self.probability:
            return candidates
        n_top = int(np.count_nonzero(candidates.probabilities >= self.threshold))
        start = max(0, n_top - 1)
        return Candidates(candidates.ids[start:], candidates.logits[start:])


def _surprises(candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """Return each candidate's probability, and its -log, computed from the logits so that it stays finite."""
    below = candidates.logits - candidates.logits[0]
    weights = deterministic.exp(below)
    total = deterministic.total(weights)
    return weights / total, deterministic.log(total) - below
