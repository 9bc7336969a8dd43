"""Speculative decoding that never changes the text.

A draft proposes the next tokens. The model reads them in one step, which costs little more than a step of one
token, and returns the logits after each. Tokens are chosen from these logits one after another, with the same
sampler and the same random numbers as without a draft, as long as the choice is the proposed token. The
tokens after the first different choice are dropped from the cache. So the draft affects only the speed.

This needs steps of several tokens that give the same bits as steps of one, as the planned executor's do.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llmlite.errors import ContextOverflowError, UnsupportedError

if TYPE_CHECKING:
    from llmlite.generate.generation import Generation
    from llmlite.model import Model

DRAFT_TOKENS = 8
MOST_DRAFT_TOKENS = 32
LONGEST_MATCH, SHORTEST_MATCH = 4, 2  # numbers of last tokens that prompt lookup searches for
TRIAL_STEPS = 12  # steps with a draft, after which it must be faster
PLAIN_STEPS = 4  # steps timed without a draft first


@dataclass
class Speculation:
    """The use of a draft.

    Attributes:
        draft: "prompt-lookup", or the draft model's file.
        proposed: number of proposed tokens.
        accepted: number of proposed tokens that the model also chose.
        steps: number of steps with a proposal.
        tokens: number of tokens made in these steps.
        seconds: time of these steps, with the draft's time.
        plain_steps: number of steps without a proposal, of one token each.
        plain_seconds: time of the plain steps.
        worth_it: False once the draft has been switched off, because it cost more than it saved.
    """

    draft: str
    proposed: int = 0
    accepted: int = 0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    plain_steps: int = 0
    plain_seconds: float = 0.0
    worth_it: bool = True

    @property
    def accepted_share(self) -> float:
        """Share of the proposed tokens that were accepted, 0 to 1."""
        return self.accepted / self.proposed if self.proposed else 0.0

    @property
    def speed_up(self) -> float:
        """Speed of steps with a proposal over the speed of steps without; 0 if it isn't known."""
        if not self.tokens or not self.plain_steps or not self.seconds:
            return 0.0
        return (self.tokens / self.seconds) / (self.plain_steps / self.plain_seconds)

    def __str__(self) -> str:
        if not self.proposed:
            return f"draft {self.draft}: nothing proposed"
        text = f"draft {self.draft}: {self.accepted_share:.0%} of {self.proposed} proposed tokens accepted"
        if self.speed_up:
            text += f", {self.speed_up:.2f} times as fast"
        return text if self.worth_it else f"{text}: not worth it here, switched off"


class Draft(Protocol):
    """A source of proposed tokens.

    Attributes:
        name: name in the report.
    """

    name: str

    def propose(self, ids: list[int], n: int) -> list[int]:
        """Return at most `n` tokens that may follow `ids`; empty if there is no proposal."""
        ...


class PromptLookup:
    """A draft of tokens that followed the same ones earlier in the text: for summaries, edits and code."""

    name = "prompt-lookup"

    def propose(self, ids: list[int], n: int) -> list[int]:
        """Search for the latest earlier occurrence of the last 4 tokens, then of the last 3, then 2."""
        for length in range(LONGEST_MATCH, SHORTEST_MATCH - 1, -1):
            if len(ids) <= length:
                continue
            wanted, last = ids[-length:], ids[-1]
            for end in range(len(ids) - 2, length - 2, -1):
                if ids[end] == last and ids[end - length + 1 : end + 1] == wanted:
                    return ids[end + 1 : end + 1 + n]
        return []


class ModelDraft:
    """A draft of the likeliest tokens of a smaller model with the same vocabulary."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.name = str(model.gguf.path)

    def propose(self, ids: list[int], n: int) -> list[int]:
        """Let the draft model write the `n` likeliest tokens."""
        found: list[int] = []
        room = self.model.n_ctx - len(ids)
        for _ in range(min(n, room)):
            found.append(int(self.model._next_logits(ids + found)[1].argmax()))
        return found


class Speculator:
    """The steps of a Generation with a draft, which is switched off if it isn't faster.

    Args:
        model: the model that writes.
        draft: "prompt-lookup" or a model.
        n: the maximum number of tokens proposed at a time.

    Raises:
        ValueError: the draft is invalid or has another vocabulary, or n is out of range.
        UnsupportedError: the model has recurrent layers, which can't drop tokens, or no planned executor.
    """

    def __init__(self, model: Model, draft: Any, n: int | None = None) -> None:
        n = DRAFT_TOKENS if n is None else n
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST_DRAFT_TOKENS:
            raise ValueError(f"draft_tokens must be a whole number from 1 to {MOST_DRAFT_TOKENS}, got {n!r}")
        if model.cache.recurrent.states:
            raise UnsupportedError("draft: this model has recurrent layers, which can't drop tokens again")
        if model.executor.name != "planned":
            raise UnsupportedError(
                "draft: the eager executor's steps of several tokens differ in their last bits from steps of "
                "one, so a draft could change the text; it needs the planned executor"
            )
        self.n = n
        self.draft = self._draft(model, draft)
        self.report = Speculation(self.draft.name)
        executor: Any = model.executor
        executor.plan(2, 2, model.cache.dtype)  # made now, so that its time is not part of the first step

    @staticmethod
    def _draft(model: Model, draft: Any) -> Draft:
        if draft == "prompt-lookup":
            return PromptLookup()
        if not hasattr(draft, "_next_logits"):
            raise ValueError(f'draft must be "prompt-lookup" or a model, got {draft!r:.80}')
        if draft is model:
            raise ValueError("draft: a model can't be its own draft; load it a second time for a test")
        ours, theirs = (m.tokenizer.vocabulary.texts for m in (model, draft))
        if list(ours) != list(theirs):
            raise ValueError(
                f"draft: its vocabulary is different ({len(theirs)} tokens, the model's {len(ours)}), "
                "so its token ids have other meanings"
            )
        return ModelDraft(draft)

    def advance(self, generation: Generation) -> list[str]:
        """Make one or several tokens; return their text."""
        report, ids = self.report, list(generation._context)
        start = time.perf_counter()
        proposed: list[int] = []
        room = min(
            self.n, generation._max_tokens - len(generation.ids) - 1, generation._model.n_ctx - len(ids)
        )
        if report.worth_it and report.plain_steps >= PLAIN_STEPS and room > 0:
            proposed = self._proposed(ids, room)
        if not proposed:
            pieces = [generation._take(generation._model._next_logits(ids)[1])]
            report.plain_steps += 1
            report.plain_seconds += time.perf_counter() - start
            return pieces
        before = len(ids)
        pieces = []
        rows = generation._model._rows_after(ids, proposed)
        for place, row in enumerate(rows):
            n_before = len(generation.ids)
            pieces.append(generation._take(row))
            is_as_proposed = place < len(proposed) and generation._context[-1] == proposed[place]
            if generation.stop_reason is not None or len(generation.ids) == n_before or not is_as_proposed:
                break
        made = len(generation._context) - before
        report.proposed += len(proposed)
        report.accepted += sum(1 for a, b in zip(generation._context[before:], proposed) if a == b)
        report.steps += 1
        report.tokens += max(1, made)
        report.seconds += time.perf_counter() - start
        if report.steps % TRIAL_STEPS == 0 and 0 < report.speed_up < 1:
            report.worth_it = False
        return pieces

    def _proposed(self, ids: list[int], room: int) -> list[int]:
        try:
            return self.draft.propose(ids, room)
        except ContextOverflowError:  # the draft model's context is smaller
            return []
