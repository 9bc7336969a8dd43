"""The thread that runs the model: many texts at once, one step after another.

Request handlers run in an event loop and must never wait for the model, so this thread does all of the
model's work. A job is a text to write. It waits in a queue until one of `max_sequences` places is free, joins
the batch, and leaves it when its text ends or its client is gone. A task is a short piece of other work, such
as a group of embeddings. At most one task runs between two steps.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmlite.serve.faults import queue_full

if TYPE_CHECKING:
    from llmlite.model import Model
    from llmlite.serve.metrics import Metrics

log = logging.getLogger("llmlite.serve")
RECENT = 32  # finished jobs that the estimate of the waiting time uses


@dataclass(frozen=True)
class Started:
    """Event: a job has joined the batch."""


@dataclass(frozen=True)
class Piece:
    """Event: new text of a job.

    Attributes:
        text: the text since the last piece.
        ids: the tokens since the last piece.
        logprobs: their log-probabilities, or () if none were requested.
    """

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[Any, ...]


@dataclass(frozen=True)
class Ended:
    """Event: a job's text is complete.

    Attributes:
        reason: `stop_reason` of its Generation.
        n_prompt: tokens of the prompt.
        n_cached: tokens of the prompt that a cache already held.
        n_made: tokens written.
        ids: the tokens written.
        waited: seconds in the queue.
        prompt_seconds: seconds from joining the batch to the first token.
        decode_seconds: seconds from the first token to the end.
        prompt_logprobs: log-probabilities of the prompt's tokens, or None if none were requested.
        end_logprob: as in Generation.
    """

    reason: str
    n_prompt: int
    n_cached: int
    n_made: int
    ids: tuple[int, ...]
    waited: float
    prompt_seconds: float
    decode_seconds: float
    prompt_logprobs: tuple[Any, ...] | None
    end_logprob: Any = None


@dataclass(frozen=True)
class Failed:
    """Event: a job failed, with this error."""

    error: Exception


Event = Started | Piece | Ended | Failed


def at_once(work: Callable[..., None], *args: Any) -> None:
    """Call `work` immediately, in this thread."""
    work(*args)


@dataclass(eq=False)
class Job:
    """A text to write.

    Attributes:
        prompt_ids: the prompt's token ids.
        options: options of `Batch.add`.
        deliver: called with each event.
        post: calls a function in the thread that wants the events (an event loop's `call_soon_threadsafe`).
            The default calls it in the engine's thread. All jobs with the same `post` share one call in each
            step, because every call wakes a thread that competes with the model's thread for Python's lock.
        arrived: when it was made, in seconds of `time.monotonic`.
        started: when it joined the batch; 0.0 before.
        first: when its first token was written; 0.0 before.
        generation: the batch's Generation; None before it joins.
        n_sent: tokens that were delivered.
        cancelled: whether the client left.
    """

    prompt_ids: Sequence[int]
    options: dict[str, Any]
    deliver: Callable[[Event], None]
    post: Callable[..., Any] = at_once
    arrived: float = field(default_factory=time.monotonic)
    started: float = 0.0
    first: float = 0.0
    generation: Any = None
    n_sent: int = 0
    cancelled: bool = False


@dataclass(eq=False)
class Task:
    """A piece of work other than writing a text."""

    work: Callable[[], Any]
    future: Future[Any]


class Engine:
    """The owner of a model's batch.

    Args:
        model: a loaded model.
        max_sequences: texts that are written at the same time.
        prefill_tokens: the most prompt tokens read in one step.
        max_queue: jobs and tasks that may wait.
        metrics: counters to update.
    """

    def __init__(
        self, model: Model, *, max_sequences: int, prefill_tokens: int, max_queue: int, metrics: Metrics
    ) -> None:
        self.model, self.metrics = model, metrics
        self.max_sequences, self.prefill_tokens, self.max_queue = max_sequences, prefill_tokens, max_queue
        self._condition = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._tasks: deque[Task] = deque()
        self._running: dict[Any, Job] = {}
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._outbox: list[tuple[Job, Event]] = []
        self._stopping = False
        self._batch: Any = None
        self._thread = threading.Thread(target=self._run, name="llmlite-engine", daemon=True)

    # ---- for the event loop ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, seconds: float = 10.0) -> None:
        """End all jobs and the thread; wait at most `seconds` for the thread."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def is_alive(self) -> bool:
        """Whether the thread is running and not about to end."""
        return self._thread.is_alive() and not self._stopping

    @property
    def n_running(self) -> int:
        """The number of jobs in the batch."""
        return len(self._running)

    @property
    def n_waiting(self) -> int:
        """The number of jobs and tasks in the queue."""
        return len(self._waiting) + len(self._tasks)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue all of these jobs, or none.

        Raises:
            Fault: If the queue is full (429), or the server is shutting down (503).
        """
        with self._condition:
            self._admit(len(jobs))
            self._waiting.extend(jobs)
            self._condition.notify()

    def task(self, work: Callable[[], Any]) -> Future[Any]:
        """Queue a piece of work; return its future.

        Raises:
            Fault: If the queue is full (429), or the server is shutting down (503).
        """
        task = Task(work, Future())
        with self._condition:
            self._admit(1)
            self._tasks.append(task)
            self._condition.notify()
        return task.future

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Cancel these jobs. Jobs that have already ended don't change."""
        with self._condition:
            for job in jobs:
                job.cancelled = True
            self._condition.notify()

    def retry_after(self) -> int:
        """Return the likely number of seconds until a place in the queue is free: 1 to 60."""
        mean = sum(self._seconds) / len(self._seconds) if self._seconds else 1.0
        return max(1, min(60, round(mean * (1 + self.n_waiting / self.max_sequences))))

    def _admit(self, count: int) -> None:
        from llmlite.serve.faults import Fault

        if self._stopping:
            raise Fault(
                503, "the server is shutting down", code="shutting_down", headers={"retry-after": "5"}
            )
        free = max(0, self.max_sequences - len(self._running))
        if self.n_waiting + count > self.max_queue + free:
            self.metrics.rejected.inc()
            raise queue_full(self.max_queue, self.retry_after())

    # ---- the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self._waiting or self._running or self._tasks or self._stopping):
                    self._condition.wait()
                if self._stopping:
                    break
            try:
                self._turn()
            except Exception as error:  # an error in one step must not end the server
                log.exception("a step failed")
                self._fail_all(error)
        self._fail_all(RuntimeError("the server is shutting down"))

    def _turn(self) -> None:
        self._drop_cancelled()
        self._join()
        self._flush()
        self._one_task()
        if self._running:
            self._step()
            self._flush()

    def _drop_cancelled(self) -> None:
        with self._condition:
            gone = [job for job in self._waiting if job.cancelled]
            if gone:
                self._waiting = deque(job for job in self._waiting if not job.cancelled)
        for generation, job in list(self._running.items()):
            if job.cancelled:
                self._batch.cancel(generation)
                del self._running[generation]
                gone.append(job)
        self.metrics.cancelled.inc(len(gone))

    def _join(self) -> None:
        while len(self._running) < self.max_sequences:
            with self._condition:
                if not self._waiting:
                    return
                job = self._waiting.popleft()
            job.started = time.monotonic()
            try:
                if self._batch is None:
                    self._batch = self.model.batch(
                        max_sequences=self.max_sequences, prefill_tokens=self.prefill_tokens
                    )
                generation = job.generation = self._batch.add(job.prompt_ids, **job.options)
            except Exception as error:  # bad options: only this job fails
                self._send(job, Failed(error))
                continue
            self._running[generation] = job
            self._send(job, Started())

    def _one_task(self) -> None:
        with self._condition:
            if not self._tasks:
                return
            task = self._tasks.popleft()
        if not task.future.set_running_or_notify_cancel():
            self.metrics.cancelled.inc()
            return
        try:
            task.future.set_result(task.work())
        except Exception as error:
            task.future.set_exception(error)

    def _step(self) -> None:
        pieces: dict[Any, str] = {}
        for generation, piece in self._batch.step():
            pieces[generation] = pieces.get(generation, "") + piece
        for generation, job in list(self._running.items()):
            piece = pieces.get(generation, "")
            if piece or generation.stop_reason is not None:
                self._report(job, generation, piece)
            if generation.stop_reason is not None:
                del self._running[generation]

    def _report(self, job: Job, generation: Any, piece: str) -> None:
        now = time.monotonic()
        ids = tuple(generation.ids[job.n_sent :])
        if ids or piece:
            if not job.first:
                job.first = now
                self.metrics.first_token.observe(now - job.arrived)
            logprobs = tuple((generation.logprobs or ())[job.n_sent :])
            job.n_sent += len(ids)
            self.metrics.made.inc(len(ids))
            self._send(job, Piece(piece, ids, logprobs))
        if generation.stop_reason == "error":
            self._send(job, Failed(generation.error or RuntimeError("the text failed")))
        elif generation.stop_reason is not None:
            self._send(job, self._ended(job, generation, now))

    def _ended(self, job: Job, generation: Any, now: float) -> Ended:
        first = job.first or now
        self._seconds.append(now - job.started)
        self.metrics.read.inc(generation.n_prompt - generation.n_reused)
        self.metrics.cached.inc(generation.n_reused)
        scores = getattr(generation, "prompt_logprobs", None)
        return Ended(
            reason=generation.stop_reason,
            n_prompt=generation.n_prompt,
            n_cached=generation.n_reused,
            n_made=len(generation.ids),
            ids=tuple(generation.ids),
            waited=job.started - job.arrived,
            prompt_seconds=first - job.started,
            decode_seconds=now - first,
            prompt_logprobs=None if scores is None else tuple(scores),
            end_logprob=generation.end_logprob,
        )

    def _fail_all(self, error: Exception) -> None:
        """Fail all running jobs and drop the batch; if the engine is stopping, also fail all that wait."""
        with self._condition:
            jobs = list(self._running.values())
            tasks: list[Task] = []
            if self._stopping:
                jobs += self._waiting
                tasks += self._tasks
                self._waiting.clear()
                self._tasks.clear()
            self._running.clear()
            self._batch = None
        for job in jobs:
            self._send(job, Failed(error))
        for task in itertools.chain(tasks):
            if task.future.set_running_or_notify_cancel():
                task.future.set_exception(error)
        self._flush()

    def _send(self, job: Job, event: Event) -> None:
        self._outbox.append((job, event))

    def _flush(self) -> None:
        """Deliver the events that were sent."""
        sent, self._outbox = self._outbox, []
        together: dict[Callable[..., Any], list[tuple[Job, Event]]] = {}
        for job, event in sent:
            together.setdefault(job.post, []).append((job, event))
        for post, events in together.items():
            try:
                post(_deliver, events)
            except RuntimeError:  # the event loop was closed, so nobody is listening any more
                for job, _ in events:
                    job.cancelled = True


def _deliver(events: Sequence[tuple[Job, Event]]) -> None:
    for job, event in events:
        job.deliver(event)
