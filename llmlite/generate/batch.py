"""Many sequences at once: each step reads the weights once for all of them.

A step brings every running sequence one token further, and reads a part of the prompts that are new.
Sequences join and leave between steps. The results are those of running each alone, bit for bit, with the
planned executor; the eager one runs one sequence after the other.
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
KEPT = 4  # caches of ended sequences, whose beginnings later ones may share
WORTH_COPYING = 16  # tokens: below, reading them again is as fast as waiting for another sequence
WORTH_KEEPING = 64  # tokens at the end of a cache that are lost if it is used again from an earlier place


class BatchGeneration(Generation):
    """A Generation that a Batch advances. Iterating it steps the batch, so the others go on too."""

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

    leader: one that is reading the same beginning, `common` tokens, right now: they are copied when it has.
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
    """What a step does for one sequence: run its tokens up to `end`, and return n_outputs results."""

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

    Each sequence has its own sampler, stop strings, constraint and cache. A beginning that two sequences
    share is read once: its keys and values are copied from a running or an ended sequence.

    `add`, `cancel` and `step` may be called from several threads; they wait for a running step.

    Args:
        model: a model that writes text.
        max_sequences: run together; more wait their turn.
        prefill_tokens: of prompts that one step reads at most, 1 to 256: the fewer, the less a new prompt
            holds up the sequences that are running.
        kept: caches of ended sequences that are kept for others that begin alike.

    Attributes:
        model, max_sequences, prefill_tokens, kept: as given.
        n_steps: steps so far. n_step_tokens: tokens that they ran.

    Raises:
        ValueError: an option outside its range.
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
        self._idle: list[KVCache] = []  # of ended sequences, the one used last at the end
        self._lock = fork_safe(threading.RLock())

    def __len__(self) -> int:
        """How many sequences `step` still has to report the end of: those running and those waiting."""
        return len(self._running) + len(self._waiting) + len(self._ended)

    @property
    def running(self) -> int:
        """How many sequences have a place."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many sequences wait for a place."""
        return len(self._waiting)

    @property
    def cache_bytes(self) -> int:
        """Bytes of all caches this batch may come to hold, each full."""
        return (self.max_sequences + self.kept) * self.model.cache.n_bytes

    def add(self, prompt: str | Sequence[int], **options: Any) -> Generation:
        """Add a sequence; it joins at the next step in which there is a place.

        Args:
            prompt: text, or token ids.
            options: as for `Model.stream`, without `draft`.

        Returns:
            The Generation, which `step` advances.

        Raises:
            As `Model.stream`: the others aren't touched.
        """
        generation = self.model._generation(prompt, options, lambda *a, **o: BatchGeneration(self, *a, **o))
        if generation._speculator is not None:
            raise ValueError("draft: sequences in a batch take no draft; use stream")
        with self._lock:
            piece = generation._begin()
            if generation.stop_reason is None:
                self._waiting.append(generation)
            else:
                self._ended.append((generation, piece))
        return generation

    def cancel(self, generation: Generation) -> None:
        """End a sequence; its place is free at once. One that has ended, or isn't of this batch, stays."""
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
        """Advance every running sequence by one token, and read a part of the prompts that are new.

        Returns:
            (generation, text) of each sequence that came further, the text perhaps empty; one that has ended
            has a `stop_reason`. One that failed has the reason "error" and its `error`; the others go on.
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
        """Give places to sequences that wait; return those that fail at it."""
        failed = []
        while self._waiting and len(self._running) < self.max_sequences:
            generation = self._waiting.popleft()
            try:
                self._running.append(self._start(generation))
            except LlmliteError as error:  # no memory for its cache
                generation.stop_reason, generation.error = "error", error
                failed.append((generation, ""))
        return failed

    def _start(self, generation: Generation) -> _Running:
        """Find a cache for a sequence, with as much of its prompt as is read already."""
        ids = generation._context
        most = 0 if generation.prompt_logprobs is not None else len(ids) - 1  # one must run to give logits
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
        """The sequence that is about to read the longest beginning of `ids`, and that beginning's length."""
        best: tuple[_Running | None, int] = (None, 0)
        for running in self._running:
            if running.reads_prompt:
                common = min(_n_common(ids, running.ids), most)
                if common > best[1] and common > running.cache.position:
                    best = running, common
        return best

    def _cache(self, best: KVCache | None, n: int) -> KVCache:
        """A cache to use: the best one itself if it is idle and little of it is lost, else a new one."""
        if best is not None and best.position - n < WORTH_KEEPING:
            for place, cache in enumerate(self._idle):
                if cache is best:
                    return self._idle.pop(place)
        return self.model._new_cache()

    def _leave(self, running: _Running) -> None:
        """Free a sequence's place; its cache is kept for others that begin alike."""
        self._running.remove(running)
        self._idle.append(running.cache)
        del self._idle[: max(0, len(self._idle) - self.kept)]

    # ---- a step ----------------------------------------------------------------------------------------

    def _work(self) -> list[_Work]:
        """What the next step runs: one token of each sequence that writes, and a part of the prompts."""
        writing = [running for running in self._running if not running.reads_prompt]
        work = [_Work(running, self._rewound(running), len(running.ids), 1) for running in writing]
        left = self.prefill_tokens
        for running in self._running:
            if not running.reads_prompt or left <= 0 or self._waits(running):
                continue
            start = self._rewound(running)
            end = min(len(running.ids), start + left)
            followers = [r.common for r in self._running if r.leader is running and r.common > start]
            end = min([end, *followers])  # there a recurrent layer must take a snapshot for them
            if running.generation.prompt_logprobs is not None:
                n_outputs = end - start
            else:
                n_outputs = 1 if end == len(running.ids) else 0
            work.append(_Work(running, start, end, n_outputs))
            left -= end - start
        return work

    def _waits(self, running: _Running) -> bool:
        """Whether a sequence waits for its leader; one whose leader is there copies what that has read."""
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
        """Where a sequence's next token goes; a step that was interrupted may have left too many."""
        if running.cache.position >= len(running.ids):
            running.cache.reuse(running.ids, len(running.ids) - 1)
        return running.cache.position

    def _run(self, work: list[_Work]) -> list[np.ndarray | LlmliteError]:
        """Run a step; if it fails, every sequence by itself, so that only the one at fault fails."""
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
            cache.reuse(ids, item.start)  # what a failed step has run already is run again
            if cache.position < item.start:
                self._read(ids[cache.position : item.start], cache, 0)
            return self._read(ids[item.start : item.end], cache, item.n_outputs)
        except LlmliteError as error:
            return error

    def _read(self, ids: list[int], cache: KVCache, n_outputs: int) -> np.ndarray:
        """Run tokens in chunks that the executor takes; results of the last n_outputs of them."""
        size, rows = self.model.executor.max_tokens, []
        for start in range(0, len(ids), size):
            chunk = ids[start : start + size]
            wanted = max(0, min(len(chunk), start + len(chunk) - (len(ids) - n_outputs)))
            found = self.model.executor(chunk, cache, n_outputs=max(1, wanted))
            rows.append(found[len(found) - wanted :])
        return np.concatenate(rows)

    def _use(self, item: _Work, rows: np.ndarray | LlmliteError, seconds: float) -> str | None:
        """Give a sequence its results; return its new text, None if its prompt isn't read yet."""
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
            except Exception as raised:  # of a sampler or constraint of the caller's own, too
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
