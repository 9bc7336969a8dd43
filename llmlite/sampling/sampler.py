"""A chain of steps, the random state and the memory of one sequence."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmlite import deterministic
from llmlite.errors import SamplingError
from llmlite.sampling.candidates import (
    Adjustment,
    Candidates,
    Context,
    Option,
    check_whole,
    ranked,
    ranked_some,
    ranked_top,
)
from llmlite.sampling.cuts import XTC, Greedy, MinP, TopK, TopNSigma, TopP, Typical
from llmlite.sampling.history import Dry, LogitBias, LogitsProcessor, Penalties, Processor
from llmlite.sampling.partial import drawn, nucleus, place_of
from llmlite.sampling.temperature import DynamicTemperature, Mirostat, Temperature

MOST_TRIED = 256  # of the likeliest tokens; for more, a mask costs less than tests
FEW = 8  # tokens are few if they are fewer than one in this many of the vocabulary


class MaskSource(Protocol):
    """An object that tells which tokens may come next: `llmlite.grammar.AskedConstraint`, or your own."""

    def mask(self) -> np.ndarray:
        """Return which tokens may come next: bool (V,)."""
        ...

    def allowed(self, token_ids: np.ndarray) -> np.ndarray:
        """Return `mask()[token_ids]`."""
        ...


@dataclass(frozen=True)
class SamplerStep:
    """The result of one step of the chain.

    Attributes:
        option: the step.
        ids: tokens kept, the likeliest first, int64 (N,).
        probabilities: their probabilities, float64 (N,), with the sum 1.
    """

    option: Option
    ids: np.ndarray
    probabilities: np.ndarray


class Sampler:
    """A chain of steps that chooses the next token of one sequence. For another sequence, use `fresh()`.

    Options have llama.cpp's names, and each is off by default except the first three. Steps run in
    llama.cpp's order: processors, logit bias, penalties, DRY, top-nσ, top-k, typical, top-p, min-p, XTC,
    temperature. With mirostat, only the first four of these run, then temperature and mirostat.

    Args:
        temperature: 0 always chooses the likeliest token; a higher one gives more varied text.
        top_k: choose among the k likeliest tokens; 0 is off.
        top_p: choose among the likeliest tokens that together have this share; 1 is off.
        min_p: choose among the tokens at least this many times as likely as the likeliest; 0 is off.
        typical_p: see `Typical`; 1 is off.
        top_n_sigma: see `TopNSigma`; 0 is off.
        xtc_probability, xtc_threshold: see `XTC`; probability 0 is off.
        dynatemp_range, dynatemp_exponent: see `DynamicTemperature`; range 0 is off.
        repeat_penalty, frequency_penalty, presence_penalty, repeat_last_n: see `Penalties`.
        dry_multiplier (0 is off), dry_base, dry_allowed_length, dry_penalty_last_n, dry_breakers: see `Dry`.
        mirostat: 0 (off), 1 or 2.
        mirostat_tau, mirostat_eta: see `Mirostat`.
        logit_bias: token id -> number added to its logit; -inf forbids it.
        processors: functions (ids, logits) -> logits, called in this order before all other steps; see
            `Processor`.
        seed: the same seed gives the same draws; None asks the system for one.
        chain: the steps, in any order, instead of all options above except the seed.

    Raises:
        ValueError: an option is outside its range, or mirostat isn't the last step of the chain.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.0,
        typical_p: float = 1.0,
        top_n_sigma: float = 0.0,
        xtc_probability: float = 0.0,
        xtc_threshold: float = 0.1,
        dynatemp_range: float = 0.0,
        dynatemp_exponent: float = 1.0,
        repeat_penalty: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        repeat_last_n: int = 64,
        dry_multiplier: float = 0.0,
        dry_base: float = 1.75,
        dry_allowed_length: int = 2,
        dry_penalty_last_n: int = -1,
        dry_breakers: Sequence[Sequence[int]] = (),
        mirostat: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        logit_bias: Mapping[int, float] | None = None,
        processors: Sequence[LogitsProcessor] = (),
        seed: int | None = None,
        chain: Sequence[Option] | None = None,
    ) -> None:
        _check_seed(seed)
        before: list[Option] = [
            *(Processor(function=function) for function in processors),
            LogitBias(biases=logit_bias or {}),
            Penalties(
                repeat=repeat_penalty,
                frequency=frequency_penalty,
                presence=presence_penalty,
                last_n=repeat_last_n,
            ),
            Dry(
                multiplier=dry_multiplier,
                base=dry_base,
                allowed_length=dry_allowed_length,
                last_n=dry_penalty_last_n,
                breakers=tuple(map(tuple, dry_breakers)),
            ),
        ]
        cuts: list[Option] = [
            TopNSigma(n=top_n_sigma),
            TopK(k=top_k),
            Typical(p=typical_p),
            TopP(p=top_p),
            MinP(p=min_p),
            XTC(probability=xtc_probability, threshold=xtc_threshold),
        ]
        heat: Option = Temperature(t=temperature)
        dynamic = DynamicTemperature(t=temperature, range=dynatemp_range, exponent=dynatemp_exponent)
        heat = dynamic if dynatemp_range else heat
        surprise = Mirostat(version=mirostat or 2, tau=mirostat_tau, eta=mirostat_eta)  # checks its options
        check_whole("mirostat", mirostat, 0, "0 (off), 1 or 2")
        if chain is not None:
            self.chain = tuple(chain)
        elif temperature == 0 and not dynatemp_range:
            self.chain = _only_on([*before, Greedy()])
        elif mirostat:
            self.chain = _only_on([*before, heat, surprise])
        else:
            self.chain = _only_on([*before, *cuts, heat])
        if any(isinstance(option, Mirostat) for option in self.chain[:-1]):
            raise ValueError("mirostat draws the token: it must be the last step of the chain")
        self._start(seed)

    def _start(self, seed: int | None) -> None:
        self.seed = seed
        self._bits = np.random.PCG64(seed)
        self._state: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"Sampler({', '.join(map(repr, self.chain))}, seed={self.seed})"

    def fresh(self, seed: int | None = None) -> Sampler:
        """Return a sampler with the same chain for another sequence, without shared state.

        Raises:
            ValueError: the seed isn't a whole number.
        """
        _check_seed(seed)
        made = copy.copy(self)
        made._start(seed)
        return made

    def copy(self) -> Sampler:
        """Return a sampler that would draw the same tokens as this one from here on."""
        made = copy.copy(self)
        made._bits = copy.deepcopy(self._bits)
        made._state = dict(self._state)
        return made

    def __call__(
        self,
        logits: np.ndarray,
        ids: Sequence[int] | np.ndarray = (),
        *,
        mask: np.ndarray | None = None,
        constraint: MaskSource | None = None,
    ) -> int:
        """Choose a token.

        Args:
            logits: float (V,); -inf forbids a token.
            ids: the tokens of the sequence so far, with the prompt. Penalties, DRY and processors read them;
                they are neither kept nor changed.
            mask: bool (V,), False for tokens that a grammar forbids; see `Constraint.mask`.
            constraint: given instead of a mask. The token is the same as with `mask=constraint.mask()`, but
                the mask is made only if tests of the likeliest tokens don't determine the token.

        Raises:
            SamplingError: the logits contain NaN or +inf, or only -inf; or the chain or the mask leaves no
                token.
            GrammarError: raised by the constraint.
        """
        context = Context(ids=ids, n_vocab=len(logits), uniform=self._uniform, state=self._state)
        raw, candidates = logits, None
        if constraint is not None:
            if mask is not None:
                raise ValueError("mask and constraint: give one of them")
            candidates = self._settled(_checked(logits), context, constraint)
            mask = constraint.mask() if candidates is None else None
        if candidates is None:
            raw, candidates = self._run(_checked(logits, mask), context, None)
        if candidates is None and np.count_nonzero(raw > -np.inf) > 1:
            return drawn(raw, self._uniform())
        if candidates is None:
            candidates = ranked(raw)
        if len(candidates.ids) == 1:
            place, weights = 0, np.ones(1)  # nothing to draw, so no random number is used
        else:
            weights = deterministic.exp(candidates.logits - candidates.logits[0])
            place = place_of(weights, self._uniform())
        if self.chain and isinstance(self.chain[-1], Mirostat):
            self.chain[-1].observe(float(weights[place] / deterministic.total(weights)), context)
        return int(candidates.ids[place])

    def steps(
        self, logits: np.ndarray, ids: Sequence[int] | np.ndarray = (), *, mask: np.ndarray | None = None
    ) -> list[SamplerStep]:
        """Return what each step would keep in the next call with these logits, without a draw.

        Arguments and errors are those of a call of the sampler.
        """
        ahead = self.copy()
        context = Context(ids=ids, n_vocab=len(logits), uniform=ahead._uniform, state=ahead._state)
        steps: list[SamplerStep] = []
        ahead._run(_checked(logits, mask), context, steps)
        return steps

    explain = steps

    def _settled(self, logits: np.ndarray, context: Context, constraint: MaskSource) -> Candidates | None:
        """Run the chain on the likeliest tokens that a constraint allows; return None if it needs all of
        them.

        For a chain that keeps the k likeliest tokens, only the first k allowed ones matter. If hardly any of
        the likeliest tokens is allowed, these k are searched among the few that the mask allows.
        """
        raw, chain = logits, self.chain
        while chain and (chain[0].off or (isinstance(chain[0], Adjustment) and chain[0].one_by_one)):
            if not chain[0].off:
                raw = chain[0].adjust(raw.astype(np.float64), None, context)  # type: ignore[attr-defined]
            chain = chain[1:]
        k = _n_needed(chain[0]) if chain else 0
        if not 0 < k <= MOST_TRIED // 2:
            return None
        n = 1 if k == 1 else k + 24  # tokens that are tested
        while n:
            candidates = ranked_top(raw, n)
            allowed = np.flatnonzero(constraint.allowed(candidates.ids))
            all_tried = len(candidates.ids) < n  # the others are forbidden already
            if len(allowed) >= k or (all_tried and len(allowed)):
                kept = Candidates(candidates.ids[allowed], candidates.logits[allowed])
                return self._run(raw, context, None, (chain, kept.first(k)))[1]
            n = _next_tried(n, k, len(allowed))
        ids = np.flatnonzero(constraint.mask())
        ids = ids[raw[ids] > -np.inf] if len(ids) * FEW < len(raw) else ids[:0]
        return self._run(raw, context, None, (chain, ranked_some(raw[ids], ids, k)))[1] if len(ids) else None

    def _run(
        self,
        logits: np.ndarray,
        context: Context,
        steps: list[SamplerStep] | None,
        settled: tuple[Sequence[Option], Candidates] | None = None,
    ) -> tuple[np.ndarray, Candidates | None]:
        """Run the chain; adjustments get the whole vocabulary unsorted until a step needs an order.

        Returns:
            The adjusted logits, float (V,), and the remaining candidates, or None if no step needed an order.
        """
        raw = logits
        chain, candidates = (self.chain, None) if settled is None else settled
        for option in chain:
            if candidates is None and (option.off or isinstance(option, Adjustment)):
                if not option.off:
                    raw = option.adjust(raw.astype(np.float64), None, context)  # type: ignore[attr-defined]
                if steps is not None:
                    left = ranked(raw)
                    steps.append(SamplerStep(option, left.ids, left.probabilities))
                continue
            if candidates is None:
                if type(option) is TopP:
                    candidates = nucleus(raw, option.p)
                else:
                    candidates = option(ranked_top(raw, _n_needed(option)), context)
            else:
                candidates = option(candidates, context)
            if steps is not None:
                steps.append(SamplerStep(option, candidates.ids, candidates.probabilities))
        return raw, candidates

    def _uniform(self) -> float:
        """Return a number in [0, 1) from the generator's upper 53 bits, all of which NumPy guarantees."""
        return (int(self._bits.random_raw()) >> 11) * 2.0**-53


def _n_needed(option: Option) -> int:
    """Return how many of the likeliest tokens a first step needs; 0 for all."""
    if isinstance(option, TopK):
        return option.k
    return 1 if isinstance(option, Greedy) else 0


def _next_tried(n: int, k: int, n_allowed: int) -> int:
    """Return how many of the likeliest tokens to test, to find k allowed ones; 0 if that would hardly work.

    Args:
        k: number of allowed tokens needed.
        n: number of tokens tested.
        n_allowed: number of these that are allowed, fewer than k.
    """
    if n == 1:
        return 32
    if n >= MOST_TRIED or n_allowed * MOST_TRIED < k * n:
        return 0
    return min(MOST_TRIED, k * n // n_allowed + 24)


def _only_on(options: Sequence[Option]) -> tuple[Option, ...]:
    """Leave out steps that are off, except the four best-known ones."""
    shown = (TopK, TopP, MinP, Temperature)
    return tuple(option for option in options if isinstance(option, shown) or not option.off)


def _check_seed(seed: int | None) -> None:
    if seed is not None:
        check_whole("seed", seed, 0, "None or a whole number, 0 or more")


def _checked(logits: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    logits = np.asarray(logits)
    if logits.ndim != 1 or not len(logits) or logits.dtype.kind != "f":
        raise SamplingError(f"logits: expected floats of shape (V,), got {logits.dtype} {logits.shape}")
    highest = logits.max()  # NaN is the maximum if there is one, so this pass also finds it
    if np.isnan(highest):
        place = int(np.flatnonzero(np.isnan(logits))[0])
        raise SamplingError(
            f"logits[{place}] is NaN: the forward pass has gone wrong, no token can be chosen"
        )
    if highest == np.inf:
        raise SamplingError(f"logits[{int(np.argmax(logits))}] is infinite: the forward pass has overflowed")
    if highest == -np.inf:
        raise SamplingError("every logit is -inf: all tokens are forbidden")
    if mask is None:
        return logits
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != logits.shape:
        raise SamplingError(f"mask: expected bool {logits.shape}, got {mask.dtype} {mask.shape}")
    masked = np.where(mask, logits, -np.inf).astype(logits.dtype)
    if masked.max() == -np.inf:
        raise SamplingError("the mask forbids every token that the logits allow")
    return masked
