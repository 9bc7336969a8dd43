"""Text as it is made: one token after the other, handed on in pieces that never split a character."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    from llmlite.model import Model
    from llmlite.sampling import Sampler


class Generation:
    """One answer of a model. Iterate to get its text piece by piece; the work is done as you iterate.

        for piece in model.generate("Once upon a time", stream=True):
            print(piece, end="", flush=True)

    Attributes:
        text: what has been handed out so far.
        ids: the tokens made so far, without the one that ended the text.
        stop_reason: None while it runs; then "eos" (the model ended it), "stop" (a stop string came up)
            or "length" (max_tokens are made, or the context is full).
        n_prompt: tokens of the prompt. n_reused: how many of them still stood in the model's cache.
        prompt_seconds: reading the rest of the prompt and choosing the first token.
        decode_seconds: making the other tokens. Time the caller takes between pieces is not counted.

    Args:
        model: what runs.
        prompt_ids: the prompt.
        max_tokens: at most so many tokens are made.
        sampler: chooses a token from logits.
        stop: strings that end the text; they are not part of it.

    Raises:
        ValueError: an empty prompt or stop string, or max_tokens < 0.
    """

    def __init__(
        self,
        model: Model,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int,
        sampler: Sampler,
        stop: Sequence[str] = (),
    ) -> None:
        if not isinstance(max_tokens, SupportsIndex):
            raise TypeError(f"max_tokens: expected a whole number, got {max_tokens!r:.80}")
        if max_tokens < 0:
            raise ValueError(f"max_tokens must be 0 or more, got {max_tokens}")
        self._model = model
        self._prompt_ids = list(prompt_ids)
        self._max_tokens = max_tokens
        self._sampler = sampler
        self._stops = _StopStrings(stop)
        self.text = ""
        self.ids: list[int] = []
        self.stop_reason: str | None = None
        self.n_prompt = len(self._prompt_ids)
        self.n_reused = 0
        self.prompt_seconds = 0.0
        self.decode_seconds = 0.0
        self._n_chosen = 0  # tokens sampled, the one that ended the text included
        self._pieces = self._run()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def prompt_tokens_per_second(self) -> float:
        """Speed of reading the prompt, over the tokens that were really read; 0 before that."""
        return (self.n_prompt - self.n_reused) / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Speed of making all tokens but the first, whose time is the prompt's; 0 before the second."""
        return max(0, self._n_chosen - 1) / self.decode_seconds if self.decode_seconds else 0.0

    def _run(self) -> Iterator[str]:
        decoder = self._model.tokenizer.stream(skip_special=True)
        while self.stop_reason is None:
            if len(self.ids) >= self._max_tokens or self.n_prompt + len(self.ids) > self._model.n_ctx:
                self.stop_reason = "length"
                break
            token = self._next_token()
            if token in self._model.tokenizer.eog_ids:
                self.stop_reason = "eos"
                break
            self.ids.append(token)
            yield from self._hand_out(self._stops.push(decoder.push(token)))
            if self._stops.found:
                self.stop_reason = "stop"
        if self.stop_reason != "stop":
            yield from self._hand_out(self._stops.push(decoder.flush()) + self._stops.flush())
            if self._stops.found:  # a stop string completed by the last bytes
                self.stop_reason = "stop"

    def _next_token(self) -> int:
        start = time.perf_counter()
        reused, logits = self._model._next_logits(self._prompt_ids + self.ids)
        token = self._sampler(logits)
        seconds = time.perf_counter() - start
        if self._n_chosen == 0:
            self.n_reused, self.prompt_seconds = reused, seconds
        else:
            self.decode_seconds += seconds
        self._n_chosen += 1
        return token

    def _hand_out(self, piece: str) -> Iterator[str]:
        if piece:
            self.text += piece
            yield piece

    def __repr__(self) -> str:
        return (
            f"Generation({len(self.ids)} tokens, stop_reason={self.stop_reason!r}, "
            f"prompt {self.prompt_tokens_per_second:.1f} tokens/s, "
            f"decode {self.decode_tokens_per_second:.1f} tokens/s)"
        )


class _StopStrings:
    """Passes text on up to the first stop string; holds back an end that may be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        stops = [stops] if isinstance(stops, str) else list(stops)
        for stop in stops:
            if not isinstance(stop, str):
                raise TypeError(f"stop: expected texts, got {stop!r:.80}")
        if "" in stops:
            raise ValueError("a stop string must not be empty")
        self.stops = stops
        self.held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Return what can be shown for sure now."""
        if self.found:
            return ""
        text = self.held + text
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self.held = True, ""
            return text[: min(places)]
        n_held = max((_overlap(text, stop) for stop in self.stops), default=0)
        self.held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def flush(self) -> str:
        """Return what was held back: nothing more comes."""
        text, self.held = self.held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of text are the beginning of stop."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
