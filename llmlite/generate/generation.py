"""Text while it is made: one token after another, in pieces that never split a character."""

from __future__ import annotations

import inspect
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, SupportsIndex, TypedDict, cast

import numpy as np

from llmlite.errors import SamplingError
from llmlite.generate.logprobs import TokenLogprob, token_logprob
from llmlite.generate.stops import Stop, StopStrings, sort_stops
from llmlite.sampling import Sampler

if TYPE_CHECKING:
    from llmlite.generate.speculation import Speculation, Speculator
    from llmlite.grammar import AskedConstraint, Constraint
    from llmlite.model import Model

StopReason = Literal["eos", "stop", "length", "cancelled", "error"]
CHUNK = 256  # prompt tokens in a step
MAX_LOGPROBS = 1000  # the maximum number of likeliest tokens kept with each token


class Usage(TypedDict):
    """The number of tokens of an answer.

    Attributes:
        prompt_tokens: tokens of the prompt.
        cached_tokens: tokens of the prompt that came from a cache.
        completion_tokens: tokens of the answer, without the token that ended it.
        total_tokens: tokens of prompt and answer.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    total_tokens: int


class Generation:
    """One answer of a model. Iterate to get its text piece by piece; the work is done during the iteration.

        for piece in model.stream("Once upon a time"):
            print(piece, end="", flush=True)

    Attributes:
        text: the text so far.
        ids: the tokens so far, without the one that ended the text.
        stop_reason: None while it runs; then "eos" (the model ended it, or its grammar is complete), "stop"
            (a stop string or stop token occurred), "length" (max_tokens are made, or the context is full),
            "cancelled", or "error" (in a batch: see `error`).
        error: the error that ended it, if stop_reason is "error"; else None.
        n_prompt: number of prompt tokens.
        n_reused: number of prompt tokens that were in a cache.
        logprobs: a TokenLogprob for each of `ids`, if requested; else None.
        end_logprob: TokenLogprob of the token that ended the text (an end token or a stop token, which is not
            in `ids`), if logprobs were requested and there was one; else None.
        prompt_logprobs: one for each prompt token, if requested; else None. The first is None, because
            nothing comes before it.
        speculation: the use of a draft, if one was requested; else None.
        prompt_seconds: time to read the rest of the prompt and choose the first token.
        decode_seconds: time to make the other tokens. The caller's time between pieces is not counted; in a
            batch, each step counts in full for each of its sequences.

    Args:
        model: the model to run.
        prompt_ids: token ids of the prompt.
        max_tokens: the maximum number of tokens to write.
        sampler: function that chooses a token: sampler(logits), or sampler(logits, ids) with all tokens so
            far.
        stop: strings and token ids that end the text; they are not part of it.
        constraint: object that restricts the tokens.
        logprobs: keep each token's log-probability, and those of this many of the likeliest tokens.
        prompt_logprobs: keep those of the prompt too, which is then read from its beginning.
        speculator: object that proposes tokens, which are then checked several at a time.

    Raises:
        ValueError: the prompt or a stop string is empty, max_tokens < 0, or logprobs is out of range.
    """

    def __init__(
        self,
        model: Model,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int,
        sampler: Callable[..., int],
        stop: Stop | None = (),
        constraint: Constraint | None = None,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
        speculator: Speculator | None = None,
    ) -> None:
        self._max_tokens = _whole("max_tokens", max_tokens)
        self._model = model
        self._prompt_ids = list(prompt_ids)
        self._context = list(prompt_ids)  # then the answer's tokens
        self._sampler = sampler
        self._sees_ids = _takes_ids(sampler)
        strings, self._stop_ids = sort_stops(stop, model.tokenizer)
        self._stops = StopStrings(strings)
        self._constraint = constraint
        parts = ("allowed", "complete")
        self._asks = (
            cast("AskedConstraint", constraint) if all(hasattr(type(constraint), p) for p in parts) else None
        )
        self._n_top = 0 if logprobs is None else _whole("logprobs", logprobs, MAX_LOGPROBS)
        self._decoder = model.tokenizer.stream(skip_special=True)
        self._speculator = speculator
        self.text = ""
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] | None = None if logprobs is None else []
        self.end_logprob: TokenLogprob | None = None
        self.prompt_logprobs: list[TokenLogprob | None] | None = [None] if prompt_logprobs else None
        self.stop_reason: StopReason | None = None
        self.error: Exception | None = None
        self.n_prompt = len(self._prompt_ids)
        self.n_reused = 0
        self.prompt_seconds = 0.0
        self.decode_seconds = 0.0
        self._n_chosen = 0  # tokens sampled, with the one that ended the text
        self._pieces = self._run()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def usage(self) -> Usage:
        """Tokens of prompt and answer so far."""
        return {
            "prompt_tokens": self.n_prompt,
            "cached_tokens": self.n_reused,
            "completion_tokens": len(self.ids),
            "total_tokens": self.n_prompt + len(self.ids),
        }

    @property
    def speculation(self) -> Speculation | None:
        """The use of the draft so far."""
        return None if self._speculator is None else self._speculator.report

    @property
    def prompt_tokens_per_second(self) -> float:
        """Speed of prefill, for the tokens that were really read; 0 before that."""
        return (self.n_prompt - self.n_reused) / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Speed of decode without the first token, which counts as prefill; 0 before the second token."""
        return max(0, self._n_chosen - 1) / self.decode_seconds if self.decode_seconds else 0.0

    def cancel(self) -> None:
        """End the text here without waiting for a running step. A text that has ended doesn't change."""
        if self.stop_reason is None:
            self.stop_reason = "cancelled"

    # ---- alone: the model's own cache, one token after another ----------------------------------------

    def _run(self) -> Iterator[str]:
        piece = self._begin()
        if piece:
            yield piece
        if self.stop_reason is None and self.prompt_logprobs is not None:
            yield from self._shown(self._timed(self._read_prompt))
        while self.stop_reason is None:
            yield from self._shown(self._timed(self._advance))

    def _timed(self, work: Callable[[], list[str]]) -> list[str]:
        start, is_first = time.perf_counter(), self._n_chosen == 0
        pieces = work()
        seconds = time.perf_counter() - start
        self._spend(seconds, is_first)
        return pieces

    def _spend(self, seconds: float, is_first: bool) -> None:
        if is_first:
            self.prompt_seconds += seconds
        else:
            self.decode_seconds += seconds

    @staticmethod
    def _shown(pieces: Iterable[str]) -> Iterator[str]:
        return (piece for piece in pieces if piece)

    def _read_prompt(self) -> list[str]:
        """Read the prompt from its beginning, and score each of its tokens."""
        last = None
        for start, rows in self._model._prompt_rows(self._prompt_ids):
            self._score_prompt(start, rows)
            last = rows[-1]
            if self.stop_reason is not None:  # cancelled
                return []
        assert last is not None
        return [self._take(last)]

    def _advance(self) -> list[str]:
        """Run the model for one more token, or for several if a draft proposes them."""
        if self._speculator is not None and self._n_chosen:
            return self._speculator.advance(self)
        if self._n_chosen or self.n_prompt <= CHUNK:
            reused, logits = self._model._next_logits(list(self._context))
        else:  # a long prompt: `cancel` takes effect between its chunks
            found = self._model._next_logits(list(self._context), halted=lambda: self.stop_reason is not None)
            if found is None:
                return []
            reused, logits = found
        if self._n_chosen == 0:
            self.n_reused = reused
        return [self._take(logits)]

    # ---- from logits to text, alone or in a batch -------------------------------------------------------

    def _begin(self) -> str:
        return self._end("length") if self._is_full() else ""

    def _is_full(self) -> bool:
        return len(self.ids) >= self._max_tokens or len(self._context) > self._model.n_ctx

    def _score_prompt(self, start: int, rows: np.ndarray) -> None:
        """Record the next tokens' log-probabilities; row i of rows (T, V) follows prompt token start + i."""
        assert self.prompt_logprobs is not None
        for row, token in zip(rows, self._prompt_ids[start + 1 : start + 1 + len(rows)]):
            self.prompt_logprobs.append(token_logprob(row, token, self._n_top))

    def _take(self, logits: np.ndarray) -> str:
        """Choose the next token from logits (V,); return the text that it completes."""
        token = self._choose(logits)
        self._n_chosen += 1
        score = None if self.logprobs is None else token_logprob(logits, token, self._n_top)
        is_eog = token in self._model.tokenizer.eog_ids
        if is_eog or token in self._stop_ids:
            self.end_logprob = score
            return self._end("eos" if is_eog else "stop")
        if self.logprobs is not None and score is not None:
            self.logprobs.append(score)
        self.ids.append(token)
        self._context.append(token)
        piece = self._stops.push(self._decoder.push(token))
        self.text += piece
        if self._stops.found:
            self.stop_reason = "stop"
        elif self._constraint is not None and self._accepted(token):
            piece += self._end("eos")
        elif self._is_full():
            piece += self._end("length")
        return piece

    def _choose(self, logits: np.ndarray) -> int:
        if self._constraint is not None:
            if self._asks is not None and type(self._sampler) is Sampler:
                return self._sampler(logits, self._context, constraint=self._asks)
            allowed = self._constraint.mask()
            if not allowed.any():
                raise SamplingError(
                    f"after {len(self.ids)} tokens the constraint allows no token, not even an end token; "
                    f"the text so far ends in {self.text[-40:]!r}"
                )
            logits = np.where(allowed, logits, np.float32(-np.inf))
        elif self.logprobs is not None and type(self._sampler) is not Sampler:
            logits = logits.copy()  # a function may change them, and the scores are the model's own
        token = self._sampler(logits, self._context) if self._sees_ids else self._sampler(logits)
        try:
            return operator.index(token)
        except TypeError:
            raise TypeError(f"sampler: expected a token id, a whole number, got {token!r:.80}") from None

    def _accepted(self, token: int) -> bool:
        """Pass a token to the constraint; return whether the text must end now."""
        assert self._constraint is not None
        self._constraint.accept(token)
        if not self._constraint.finished:
            return False
        if self._asks is not None:
            return self._asks.complete
        allowed = self._constraint.mask()
        n_ends = sum(bool(allowed[i]) for i in self._model.tokenizer.eog_ids)
        return int(np.count_nonzero(allowed)) == n_ends

    def _end(self, reason: StopReason) -> str:
        """End the text and return the part held back; the last bytes may complete a stop string."""
        self.stop_reason = reason
        piece = self._stops.push(self._decoder.flush()) + self._stops.flush()
        if self._stops.found:
            self.stop_reason = "stop"
        self.text += piece
        return piece

    def __repr__(self) -> str:
        return (
            f"Generation({len(self.ids)} tokens, stop_reason={self.stop_reason!r}, "
            f"prompt {self.prompt_tokens_per_second:.1f} tokens/s, "
            f"decode {self.decode_tokens_per_second:.1f} tokens/s)"
        )


def _whole(name: str, value: SupportsIndex, most: int | None = None) -> int:
    if not isinstance(value, SupportsIndex) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a whole number, got {value!r:.80}")
    number = value.__index__()
    if number < 0 or (most is not None and number > most):
        raise ValueError(f"{name} must be 0 or more{'' if most is None else f', up to {most}'}, got {value}")
    return number


def _takes_ids(sampler: Callable[..., int]) -> bool:
    """Return whether a sampler takes the tokens so far in addition to the logits."""
    try:
        parameters = inspect.signature(sampler).parameters.values()
    except (TypeError, ValueError):  # a built-in function without a signature
        return False
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(places) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)
