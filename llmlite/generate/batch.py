"""Many sequences at once: each step reads the weights once for all of them.

A step advances every running sequence by one token, and reads a part of the new prompts. Sequences join and
leave between steps. With the planned executor, each result has the same bits as if the sequence had run
alone; the eager executor runs one sequence after another.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlite.engine.kv_cache import CHUNK, KVCache
from llmlite.errors import LlmliteError
from llmlite.generate.generation import Generation
from llmlite.system.locks import fork_safe

if TYPE_CHECKING:
    from llmlite.model import Model

MAX_SEQUENCES = 8
KEPT = 4  # caches of ended sequences, whose prefixes later sequences may share
WORTH_COPYING = 16  # tokens; reading fewer again is as fast as waiting for another sequence
WORTH_KEEPING = 64  # tokens at the end of a cache that would be lost if it is reused from an earlier position


class BatchGeneration(Generation):
    """A Generation that a Batch advances. Iteration steps the batch, so the other sequences advance too."""

    def __init__(self, batch: Batch, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._batch = batch

    def cancel(self) -> None:
        """End the text here and free its place in the batch."""
        self._batch.cancel(self)

    def _run(self) -> Iterator[str]:
        shown = 0
        while True:
            if len(self.text) > shown:
                piece, shown = self.text[shown:], len(self.text)
                yield piece
            elif self.error is not None:
                raise self.error
            elif self.stop_reason is not None:
                return
            else:
                self._batch.step()


@dataclass(eq=False)
class _Running:
    """A sequence that has a cache.

    Attributes:
        leader: a sequence that is reading the same prefix of `common` tokens; they are copied afterwards.
    """

    generation: Generation
    cache: KVCache
    leader: _Running | None = None
    common: int = 0
    started: float = field(default_factory=time.perf_counter)

    @property
    def ids(self) -> list[int]:
        return self.generation._context

    @property
    def reads_prompt(self) -> bool:
        return not self.generation._n_chosen


@dataclass
class _Work:
    """The part of a step for one sequence: run its tokens up to `end`, and return n_outputs results."""

    running: _Running
    start: int
    end: int
    n_outputs: int

    @property
    def request(self) -> tuple[list[int], KVCache, int]:
        return self.running.ids[self.start : self.end], self.running.cache, self.n_outputs


class Batch:
    """Sequences that run together; `Model.batch` makes one.

        batch = model.batch()
        first = batch.add("Once upon a time", max_tokens=50)
        second = batch.add("The fox", temperature=0)
        while len(batch):
            for generation, piece in batch.step():
                ...

    Each sequence has its own sampler, stop strings, constraint and cache. A prefix that two sequences share
    is read once: its keys and values are copied from a running or an ended sequence.

    `add`, `cancel` and `step` may be called from several threads; they wait for a running step.

    Args:
        model: a model that writes text.
        max_sequences: the most sequences that run together; others wait for their turn.
        prefill_tokens: the most prompt tokens that one step reads, 1 to 256. With fewer, a new prompt delays
            the running sequences less.
        kept: number of ended sequences' caches to keep for sequences with the same prefix.

    Attributes:
        model, max_sequences, prefill_tokens, kept: the arguments.
        n_steps: number of steps so far.
        n_step_tokens: number of tokens in these steps.

    Raises:
        ValueError: an option is outside its range.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_sequences: int = MAX_SEQUENCES,
        prefill_tokens: int = CHUNK,
        kept: int = KEPT,
    ) -> None:
        for name, value, low, high in (
            ("max_sequences", max_sequences, 1, 64),
            ("prefill_tokens", prefill_tokens, 1, CHUNK),
            ("kept", kept, 0, 1024),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
        self.model = model
        self.max_sequences, self.prefill_tokens, self.kept = max_sequences, prefill_tokens, kept
        self.n_steps = self.n_step_tokens = 0
        self._waiting: deque[Generation] = deque()
        self._running: list[_Running] = []
        self._ended: list[tuple[Generation, str]] = []  # not reported yet
        self._idle: list[KVCache] = []  # caches of ended sequences; the one used last is at the end
        self._lock = fork_safe(threading.RLock())

    def __len__(self) -> int:
        """Return the number of sequences whose end `step` hasn't reported, running or waiting."""
        return len(self._running) + len(self._waiting) + len(self._ended)

    @property
    def running(self) -> int:
        """Number of sequences that have a place."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Number of sequences that wait for a place."""
        return len(self._waiting)

    @property
    def cache_bytes(self) -> int:
        """Bytes of all caches that this batch may have, when each is full."""
        return (self.max_sequences + self.kept) * self.model.cache.n_bytes

    def add(self, prompt: str | Sequence[int], **options: Any) -> Generation:
        """Add a sequence; it joins at the next step with a free place.

        Args:
            prompt: text, or token ids.
            options: the options of `Model.stream`, without `draft`.

        Returns:
            The Generation, which `step` advances.

        Raises:
            The errors of `Model.stream`; other sequences aren't affected.
        """
        generation = self.model._generation(prompt, options, lambda *a, **o: BatchGeneration(self, *a, **o))
        if generation._speculator is not None:
            raise ValueError("draft: not supported in a batch; use stream")
        with self._lock:
            piece = generation._begin()
            if generation.stop_reason is None:
                self._waiting.append(generation)
            else:
                self._ended.append((generation, piece))
        return generation

    def cancel(self, generation: Generation) -> None:
        """End a sequence; its place is free at once. Ended sequences and other batches' don't change."""
        with self._lock:
            running = next((r for r in self._running if r.generation is generation), None)
            if running is not None:
                self._leave(running)
            elif generation in self._waiting:
                self._waiting.remove(generation)
            else:
                return
            generation.stop_reason = "cancelled"

    def step(self) -> list[tuple[Generation, str]]:
        """Advance every running sequence by one token, and read a part of the new prompts.

        Returns:
            (generation, text) of each sequence that advanced; the text may be empty. A sequence that has
            ended has a `stop_reason`. A sequence that failed has the reason "error" and its `error`; the
            others continue.
        """
        with self._lock, self.model._lock:
            pieces, self._ended = self._ended, []
            pieces += self._admit()
            work = self._work()
            if not work:
                return pieces
            start = time.perf_counter()
            results = self._run(work)
            seconds = time.perf_counter() - start
            self.n_steps += 1
            for item, rows in zip(work, results):
                piece = self._use(item, rows, seconds)
                if piece is not None:
                    pieces.append((item.running.generation, piece))
            return pieces

    def clear(self) -> None:
        """Forget the caches of ended sequences."""
        with self._lock:
            self._idle.clear()

    # ---- joining and leaving ---------------------------------------------------------------------------

    def _admit(self) -> list[tuple[Generation, str]]:
        """Give places to waiting sequences; return those that fail."""
        failed = []
        while self._waiting and len(self._running) < self.max_sequences:
            generation = self._waiting.popleft()
            try:
                self._running.append(self._start(generation))
            except LlmliteError as error:  # too little memory for its cache
                generation.stop_reason, generation.error = "error", error
                failed.append((generation, ""))
        return failed

    def _start(self, generation: Generation) -> _Running:
        """Find a cache for a sequence, with the longest part of its prompt that has been read."""
        ids = generation._context
        most = 0 if generation.prompt_logprobs is not None else len(ids) - 1  # one must run, for logits
        found = [(cache.longest(ids, most), cache) for cache in self._idle]
        found += [(running.cache.longest(ids, most), running.cache) for running in self._running]
        n, best = max(found, key=lambda pair: pair[0], default=(0, None))
        leader, common = self._leader(ids, most)
        running = _Running(generation, self._cache(best if n else None, n))
        if running.cache is best:
            n = running.cache.reuse(ids, most)
        elif best is not None and n:
            n = running.cache.copy_from(best, ids, most)
        generation.n_reused = n
        if leader is not None and common >= n + WORTH_COPYING:
            running.leader, running.common = leader, common
        return running

    def _leader(self, ids: list[int], most: int) -> tuple[_Running | None, int]:
        """Return the sequence that will read the longest prefix of `ids`, and the length of that prefix."""
        best: tuple[_Running | None, int] = (None, 0)
        for running in self._running:
            if running.reads_prompt:
                common = min(_n_common(ids, running.ids), most)
                if common > best[1] and common > running.cache.position:
                    best = running, common
        return best

    def _cache(self, best: KVCache | None, n: int) -> KVCache:
        """Return a cache: the best one if it is idle and little of it would be lost, else a new one."""
        if best is not None and best.position - n < WORTH_KEEPING:
            for place, cache in enumerate(self._idle):
                if cache is best:
                    return self._idle.pop(place)
        return self.model._new_cache()

    def _leave(self, running: _Running) -> None:
        """Free a sequence's place; its cache is kept for sequences with the same prefix."""
        self._running.remove(running)
        self._idle.append(running.cache)
        del self._idle[: max(0, len(self._idle) - self.kept)]

    # ---- a step ----------------------------------------------------------------------------------------

    def _work(self) -> list[_Work]:
        """Return the next step's items: one token of each sequence in decode, and parts of the prompts."""
        writing = [running for running in self._running if not running.reads_prompt]
        work = [_Work(running, self._rewound(running), len(running.ids), 1) for running in writing]
        left = self.prefill_tokens
        for running in self._running:
            if not running.reads_prompt or left <= 0 or self._waits(running):
                continue
            start = self._rewound(running)
            end = min(len(running.ids), start + left)
            followers = [r.common for r in self._running if r.leader is running and r.common > start]
            end = min([end, *followers])  # a recurrent layer must take a snapshot for them there
            if running.generation.prompt_logprobs is not None:
                n_outputs = end - start
            else:
                n_outputs = 1 if end == len(running.ids) else 0
            work.append(_Work(running, start, end, n_outputs))
            left -= end - start
        return work

    def _waits(self, running: _Running) -> bool:
        """Return whether a sequence waits for its leader; if the leader is ready, copy what it has read."""
        leader = running.leader
        if leader is None:
            return False
        if leader in self._running and leader.cache.position < running.common:
            return True
        running.leader = None
        n = leader.cache.longest(running.ids, running.common)
        if n > running.cache.position:
            running.generation.n_reused = running.cache.copy_from(leader.cache, running.ids, running.common)
        return False

    def _rewound(self, running: _Running) -> int:
        """Return the position of a sequence's next token; an interrupted step may have left too many."""
        if running.cache.position >= len(running.ids):
            running.cache.reuse(running.ids, len(running.ids) - 1)
        return running.cache.position

    def _run(self, work: list[_Work]) -> list[np.ndarray | LlmliteError]:
        """Run a step; if it fails, run every sequence alone, so that only the faulty one fails."""
        self.n_step_tokens += sum(item.end - item.start for item in work)
        if hasattr(self.model.executor, "batch"):
            try:
                return self.model.executor.batch([item.request for item in work])
            except LlmliteError as error:
                if len(work) == 1:
                    return [error]
        return [self._run_alone(item) for item in work]

    def _run_alone(self, item: _Work) -> np.ndarray | LlmliteError:
        cache, ids = item.running.cache, item.running.ids
        try:
            cache.reuse(ids, item.start)  # tokens of a failed step are run again
            if cache.position < item.start:
                self._read(ids[cache.position : item.start], cache, 0)
            return self._read(ids[item.start : item.end], cache, item.n_outputs)
        except LlmliteError as error:
            return error

    def _read(self, ids: list[int], cache: KVCache, n_outputs: int) -> np.ndarray:
        """Run tokens in chunks of the executor's size; return the results of the last n_outputs."""
        size, rows = self.model.executor.max_tokens, []
        for start in range(0, len(ids), size):
            chunk = ids[start : start + size]
            wanted = max(0, min(len(chunk), start + len(chunk) - (len(ids) - n_outputs)))
            found = self.model.executor(chunk, cache, n_outputs=max(1, wanted))
            rows.append(found[len(found) - wanted :])
        return np.concatenate(rows)

    def _use(self, item: _Work, rows: np.ndarray | LlmliteError, seconds: float) -> str | None:
        """Give a sequence its results; return its new text, or None if its prompt isn't read yet."""
        running, generation = item.running, item.running.generation
        error: Exception | None = rows if isinstance(rows, LlmliteError) else None
        piece: str | None = None
        generation._spend(seconds, running.reads_prompt)
        if not isinstance(rows, LlmliteError):
            try:
                if generation.prompt_logprobs is not None and running.reads_prompt:
                    generation._score_prompt(item.start, rows)
                if item.end == len(running.ids):
                    piece = generation._take(rows[-1])
            except Exception as raised:  # also from the caller's own sampler or constraint
                error = raised
        if error is not None:
            generation.stop_reason, generation.error = "error", error
            piece = ""
        if generation.stop_reason is not None:
            self._leave(running)
        return piece

    def __repr__(self) -> str:
        return f"Batch({len(self._running)} of {self.max_sequences} running, {len(self._waiting)} waiting)"


def _n_common(a: list[int], b: list[int]) -> int:
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return next(i for i, (x, y) in enumerate(zip(a, b)) if x != y)
