"""Steps that change logits by earlier tokens or by the user's settings: bias, penalties, DRY, functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from llmlite import deterministic
from llmlite.errors import SamplingError
from llmlite.sampling.candidates import Adjustment, Context, check_real, check_whole, is_number

LogitsProcessor = Callable[[Any, np.ndarray], np.ndarray]

LARGEST_EXPONENT_LOG = 88.7228391  # log of float32's maximum: the limit of llama.cpp's penalty
DRY_BREAKERS = ("\n", ":", '"', "*")  # llama.cpp's


@dataclass(frozen=True, kw_only=True)
class LogitBias(Adjustment):
    """Add a number to the logits of some tokens; -inf forbids one.

    Attributes:
        biases: token id -> number to add.
    """

    biases: Mapping[int, float] = field(hash=False)
    one_by_one = True

    def __post_init__(self) -> None:
        if not isinstance(self.biases, Mapping):
            raise ValueError(f"logit_bias must map token ids to numbers; got {self.biases!r:.80}")
        for token, bias in self.biases.items():
            check_whole("logit_bias: a token id", token, 0, "a whole number, 0 or more")
            if not is_number(bias) or math.isnan(bias) or bias == math.inf:
                raise ValueError(f"logit_bias[{token}] must be a number or -inf; got {bias!r}")
        object.__setattr__(self, "biases", dict(self.biases))  # the caller may change the mapping

    @property
    def off(self) -> bool:  # type: ignore[override]
        return not self.biases

    @property
    def label(self) -> str:
        return f"logit bias of {len(self.biases)}"

    def adjust(self, logits: np.ndarray, ids: np.ndarray | None, context: Context) -> np.ndarray:
        if self.biases:
            tokens = np.array(list(self.biases), dtype=np.int64)
            if ids is None and tokens.max() >= len(logits):
                last = len(logits) - 1
                raise SamplingError(f"logit_bias: token {tokens.max()}, expected 0 to {last}, the last one")
            places, found = _places(tokens, ids)
            logits[places] += np.array(list(self.biases.values()), dtype=np.float64)[found]
        return logits


@dataclass(frozen=True, kw_only=True)
class Penalties(Adjustment):
    """Make tokens of the recent past less likely.

    Attributes:
        repeat: positive logits are divided by it, others multiplied; 1 is off.
        frequency: number subtracted for each occurrence of the token.
        presence: number subtracted once if the token occurred.
        last_n: number of last tokens that count, including the prompt's; 0 is off, -1 means all.

    Source: Keskar et al. 2019, "CTRL", 4.1, with llama.cpp's sign (src/llama-sampler.cpp); OpenAI's API
    reference for the other two.
    """

    repeat: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0
    last_n: int = 64
    one_by_one = True

    def __post_init__(self) -> None:
        check_real("repeat_penalty", self.repeat, 1e-6, "above 0, and finite")
        check_real("frequency_penalty", self.frequency)
        check_real("presence_penalty", self.presence)
        check_whole("repeat_last_n", self.last_n, -1, "a whole number, -1 (all tokens) or more")

    @property
    def off(self) -> bool:  # type: ignore[override]
        return self.last_n == 0 or (self.repeat == 1 and self.frequency == 0 and self.presence == 0)

    @property
    def label(self) -> str:
        return f"penalties {self.repeat:g}/{self.frequency:g}/{self.presence:g} over {self.last_n}"

    def adjust(self, logits: np.ndarray, ids: np.ndarray | None, context: Context) -> np.ndarray:
        if self.off or not len(context.ids):
            return logits
        tokens, counts = np.unique(context.last(self.last_n), return_counts=True)
        places, found = _places(tokens, ids, len(logits))
        old = logits[places]
        new = np.where(old <= 0, old * self.repeat, old / self.repeat)
        logits[places] = new - (counts[found] * self.frequency + self.presence)
        return logits


@dataclass(frozen=True, kw_only=True)
class Dry(Adjustment):
    """Don't repeat yourself: a token gets less likely, the longer the repetition that it would continue.

    If the last n tokens occurred before, the token that followed loses multiplier · base**(n - allowed).

    Attributes:
        multiplier: factor of the penalty; 0 is off.
        base: at least 1.
        allowed_length: shorter repetitions have no penalty.
        last_n: number of last tokens that are searched; 0 is off, -1 means all.
        breakers: token sequences that a repetition can't cross; see `sequence_breakers`.

    Source: the author's proposal, https://github.com/oobabooga/text-generation-webui/pull/5677; llama.cpp,
    src/llama-sampler.cpp.
    """

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    last_n: int = -1
    breakers: tuple[tuple[int, ...], ...] = ()
    one_by_one = True

    def __post_init__(self) -> None:
        check_real("dry_multiplier", self.multiplier, 0, "0 (off) or more, and finite")
        check_real("dry_base", self.base, 1, "1 or more, and finite")
        check_whole("dry_allowed_length", self.allowed_length, 0, "a whole number, 0 or more")
        check_whole("dry_penalty_last_n", self.last_n, -1, "a whole number, -1 (all tokens) or more")
        try:
            breakers = tuple(tuple(int(token) for token in sequence) for sequence in self.breakers)
        except (TypeError, ValueError):
            raise ValueError("dry_breakers must be sequences of token ids; see sequence_breakers") from None
        if () in breakers:
            raise ValueError("dry_breakers: a sequence must hold at least one token id")
        object.__setattr__(self, "breakers", breakers)

    @property
    def off(self) -> bool:  # type: ignore[override]
        return self.multiplier == 0 or self.last_n == 0

    @property
    def label(self) -> str:
        return f"dry {self.multiplier:g}, {self.base:g} from {self.allowed_length}"

    def adjust(self, logits: np.ndarray, ids: np.ndarray | None, context: Context) -> np.ndarray:
        if self.off or len(context.ids) <= self.allowed_length:
            return logits
        lengths = self._repetitions(context.last(self.last_n))
        for breaker in self.breakers:
            if len(breaker) == 1:
                lengths.pop(breaker[0], None)
        if lengths:
            tokens = np.array(sorted(lengths), dtype=np.int64)
            exponents = np.array([lengths[token] for token in tokens.tolist()]) - self.allowed_length
            powers = np.cumprod(
                np.append(1.0, np.full(int(exponents.max()), self.base))
            )  # not pow, for the same bits everywhere
            places, found = _places(tokens, ids, len(logits))
            logits[places] -= self.multiplier * powers[exponents[found]]
        return logits

    def _longest_counted(self, n_tokens: int) -> int:
        """Return the length from which a penalty no longer grows."""
        if self.base <= 1.000001:
            return n_tokens
        return min(n_tokens, self.allowed_length + int(LARGEST_EXPONENT_LOG / deterministic.log(self.base)))

    def _repetitions(self, window: np.ndarray) -> dict[int, int]:
        """Return, for each token, the length of the longest counted repetition that it would continue."""
        limit = self._unbroken(window, self._longest_counted(len(window)))
        if len(window) <= self.allowed_length or limit < self.allowed_length:
            return {}
        ends = np.arange(len(window) - 1)  # a repetition may end here, and continue with the next token
        lengths = np.zeros(len(ends), dtype=np.int64)
        alive = ends
        for length in range(limit):  # one more token backwards, for all places at once
            alive = alive[alive >= length]
            alive = alive[window[alive - length] == window[len(window) - 1 - length]]
            if not len(alive):
                break
            lengths[alive] = length + 1
        longest: dict[int, int] = {}
        counted = np.flatnonzero(lengths >= self.allowed_length)
        for token, length in zip(window[counted + 1].tolist(), lengths[counted].tolist()):
            longest[token] = max(length, longest.get(token, 0))
        return longest

    def _unbroken(self, window: np.ndarray, longest: int) -> int:
        """Return the number of tokens after the last breaker, at most `longest`."""
        if not self.breakers:
            return longest
        tails: dict[int, list[tuple[int, ...]]] = {}
        for head, *tail in self.breakers:
            tails.setdefault(head, []).append(tuple(tail))
        reach = longest + max(map(len, self.breakers))
        recent = window[max(0, len(window) - reach) :].tolist()
        for back in range(len(recent)):
            place = len(recent) - 1 - back
            fitting = [
                len(tail)
                for tail in tails.get(recent[place], ())
                if len(tail) <= back and tuple(recent[place + 1 : place + 1 + len(tail)]) == tail
            ]
            if fitting:
                return min(longest, back - max(fitting))
        return longest


@dataclass(frozen=True, kw_only=True)
class Processor(Adjustment):
    """A user's function (ids, logits) -> logits.

    Attributes:
        function: gets the sequence so far, and logits, float64 (V,), in which -inf is a forbidden token. The
            logits are a copy, which it may change. It returns floats of the same shape.
    """

    function: LogitsProcessor

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(
                f"a processor must be a function (ids, logits) -> logits; got {self.function!r:.80}"
            )

    @property
    def label(self) -> str:
        return f"processor {getattr(self.function, '__name__', type(self.function).__name__)}"

    def adjust(self, logits: np.ndarray, ids: np.ndarray | None, context: Context) -> np.ndarray:
        n_vocab = len(logits) if ids is None else max(context.n_vocab, int(ids.max()) + 1)
        whole = logits.copy()
        if ids is not None:
            whole = np.full(n_vocab, -np.inf)
            whole[ids] = logits
        changed = np.asarray(self.function(context.ids, whole))
        if changed.shape != (n_vocab,) or changed.dtype.kind != "f":
            got = f"{changed.dtype} {changed.shape}"
            raise SamplingError(f"{self.label}: expected floats of shape ({n_vocab},) back, got {got}")
        if np.isnan(changed).any() or np.isposinf(changed).any():
            raise SamplingError(f"{self.label} returned NaN or +inf among the logits")
        changed = changed.astype(np.float64)
        return changed if ids is None else changed[ids]


class _Tokenizer(Protocol):
    n_vocab: int

    def piece(self, token_id: int) -> bytes: ...

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...


def sequence_breakers(
    tokenizer: _Tokenizer, texts: Iterable[str] = DRY_BREAKERS
) -> tuple[tuple[int, ...], ...]:
    """Find the token sequences that contain one of the texts, for `Dry`.

    A token that contains a text is a breaker. A token that ends with the beginning of a text is a breaker if
    the tokens of the rest follow. Texts are cut to 40 bytes, and rests to 20 tokens, as in llama.cpp.

    Raises:
        ValueError: a text is empty.
    """
    found: dict[tuple[int, ...], None] = {}
    pieces = [tokenizer.piece(token) for token in range(tokenizer.n_vocab)]
    for text in [texts] if isinstance(texts, str) else texts:
        if not text:
            raise ValueError("dry_breakers: a text must not be empty")
        wanted = text.encode("utf-8", "surrogateescape")[:40]
        tails = {
            n: tuple(
                tokenizer.encode(
                    wanted[n:].decode("utf-8", "surrogateescape"), add_special=False, parse_special=False
                )
            )[:20]
            for n in range(1, len(wanted))
        }
        for token, piece in enumerate(pieces):
            if wanted in piece:
                found[(token,)] = None
                continue
            for n, tail in tails.items():
                if piece.endswith(wanted[:n]):
                    found[(token, *tail)] = None
    return tuple(found)


def _places(
    tokens: np.ndarray, ids: np.ndarray | None, n_vocab: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of some distinct tokens among the candidates, and which of them are present."""
    if ids is None:
        found = np.flatnonzero((tokens >= 0) & (tokens < n_vocab)) if n_vocab else np.arange(len(tokens))
        return tokens[found], found
    order = np.argsort(ids, kind="stable")
    spots = np.minimum(np.searchsorted(ids, tokens, sorter=order), len(ids) - 1)
    found = np.flatnonzero(ids[order[spots]] == tokens)
    return order[spots[found]], found
