"""Steps that sharpen or flatten probabilities: temperature, a temperature by entropy, mirostat."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from llmlite import deterministic
from llmlite.sampling.candidates import (
    Adjustment,
    Candidates,
    Context,
    check_real,
    check_whole,
    is_number,
)


@dataclass(frozen=True, kw_only=True)
class Temperature(Adjustment):
    """Divide the logits by t: below 1 sharpens, above 1 flattens; 0 keeps only the likeliest token."""

    t: float

    def __post_init__(self) -> None:
        if not is_number(self.t) or not 0 <= self.t < math.inf:
            raise ValueError(f"temperature must be 0 or more, and finite; got {self.t!r}")

    @property
    def off(self) -> bool:  # type: ignore[override]
        return self.t == 1

    @property
    def label(self) -> str:
        return f"temperature {self.t:g}"

    def adjust(self, logits: np.ndarray, ids: np.ndarray | None, context: Context) -> np.ndarray:
        return _tempered(logits, self.t)


@dataclass(frozen=True, kw_only=True)
class DynamicTemperature:
    """A temperature between t - range and t + range: low if the model is sure, high if it isn't.

    t = low + (high - low) · (entropy / largest possible entropy) ** exponent.

    Source: llama.cpp, src/llama-sampler.cpp, temp_ext.
    """

    t: float
    range: float
    exponent: float = 1.0

    def __post_init__(self) -> None:
        check_real("temperature", self.t, 0, "0 or more, and finite")
        check_real("dynatemp_range", self.range, 0, "0 (off) or more, and finite")
        check_real("dynatemp_exponent", self.exponent, 0, "0 or more, and finite")

    @property
    def off(self) -> bool:
        return self.range == 0 and self.t == 1

    @property
    def label(self) -> str:
        return f"temperature {self.t:g} ± {self.range:g}"

    def __call__(self, candidates: Candidates, context: Context | None = None) -> Candidates:
        t = self.t
        if self.range > 0:
            n = len(candidates.ids)
            if n == 1:
                return candidates
            probabilities = candidates.probabilities
            surprises = -deterministic.log(np.maximum(probabilities, 5e-324))
            openness = float(deterministic.total(probabilities * surprises) / deterministic.log(n))
            low, high = max(0.0, self.t - self.range), self.t + self.range
            t = low + (high - low) * float(deterministic.power(min(1.0, openness), self.exponent))
        logits = _tempered(candidates.logits.copy(), t)
        return Candidates(candidates.ids, logits).first(int(np.count_nonzero(logits > -np.inf)))


@dataclass(frozen=True, kw_only=True)
class Mirostat:
    """Keep the surprise of the text near tau bits for each token; the last step of a chain.

    The limit mu starts at 2 tau and moves by eta times the error of each token drawn. It belongs to the
    sampler's sequence. Version 2 excludes tokens more surprising than mu. Version 1 estimates the number of
    tokens to keep from the m likeliest ones.

    Attributes:
        version: 1 or 2.
        tau: target surprise in bits.
        eta: rate at which mu changes.
        m: number of tokens for the estimate of version 1.

    Source: Basu et al. 2021, "Mirostat"; llama.cpp, src/llama-sampler.cpp.
    """

    version: int
    tau: float = 5.0
    eta: float = 0.1
    m: int = 100

    def __post_init__(self) -> None:
        if self.version not in (1, 2) or isinstance(self.version, bool):
            raise ValueError(f"mirostat must be 0 (off), 1 or 2; got {self.version!r}")
        check_real("mirostat_tau", self.tau, 0, "0 or more, and finite")
        check_real("mirostat_eta", self.eta, 0, "0 or more, and finite")
        check_whole("mirostat_m", self.m, 2, "a whole number, 2 or more")

    off = False

    @property
    def label(self) -> str:
        return f"mirostat {self.version}, {self.tau:g} bits"

    def __call__(self, candidates: Candidates, context: Context | None = None) -> Candidates:
        context = Context() if context is None else context
        mu = context.state.get("mu", 2 * self.tau)
        probabilities = candidates.probabilities
        if self.version == 2:
            return candidates.first(max(1, int(np.count_nonzero(_bits(probabilities) <= mu))))
        return candidates.first(self._count(probabilities, mu, context.n_vocab or len(candidates.ids)))

    def observe(self, probability: float, context: Context) -> None:
        """Update mu with the probability of the token drawn, among the remaining candidates."""
        mu = context.state.get("mu", 2 * self.tau)
        error = float(_bits(np.float64(probability))) - self.tau
        context.state["mu"] = mu - self.eta * error

    def _count(self, probabilities: np.ndarray, mu: float, n_vocab: int) -> int:
        """Return the number of tokens to keep: the paper's k, from an estimate of Zipf's exponent."""
        top = probabilities[: self.m]
        top = top[top > 0]
        if len(top) < 2:
            return 1
        ranks = np.arange(1.0, len(top))
        steps = deterministic.log((ranks + 1) / ranks)
        falls = deterministic.log(top[:-1] / top[1:])
        s = float(deterministic.total(steps * falls) / deterministic.total(steps * steps))
        epsilon = s - 1
        if s <= 0:  # all equally likely: k would be infinite
            return len(probabilities)
        if epsilon == 0:  # the limit of epsilon / (1 - n**-epsilon)
            share = 1 / float(deterministic.log(n_vocab)) if n_vocab > 1 else 1.0
        else:
            share = epsilon / (1 - float(deterministic.power(n_vocab, -epsilon)))
        # k**s = share · 2**mu, in logarithms, so that nothing overflows
        log_k = (float(deterministic.log(share)) + mu * float(deterministic.log(2.0))) / s
        if not log_k < float(deterministic.log(float(len(probabilities)))):
            return len(probabilities)
        return max(1, int(deterministic.exp(log_k)))


def _bits(probabilities: np.ndarray | np.float64) -> np.ndarray:
    """Return the surprise in bits; infinite for 0."""
    return -deterministic.log(probabilities) * deterministic.INVERSE_LN2


def _tempered(logits: np.ndarray, t: float) -> np.ndarray:
    """Return (logits - max) / t; for t = 0, only the first of the highest stays above -inf."""
    best = int(np.argmax(logits))
    if t == 0:
        only = np.full(logits.shape, -np.inf)
        only[best] = logits[best]
        return only
    # The shift comes first, so that a tiny t can't overflow the likeliest; the others may become -inf.
    with np.errstate(over="ignore", invalid="ignore"):  # all may be -inf
        return (logits - logits[best]) / t
