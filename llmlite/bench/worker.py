"""A backend in its own process: JSON lines in, JSON lines out (see process.py).

Each input line is one request, {"do": "prefill", ...}. Each output line is its answer, {"ok": true, ...} or
{"ok": false, "error": ...}. Only one library is loaded in the process. The environment sets the library's
number of threads before any import. This module imports next to nothing, so only the backend's imports are
timed.
"""

from __future__ import annotations

import json
import os
import sys
from time import perf_counter_ns, process_time_ns
from typing import TYPE_CHECKING, Any, TextIO

from llmlite.bench import offline

if TYPE_CHECKING:
    from llmlite.bench.backends import Backend

# A thread counts as idle if its CPU time is below this share of the busiest thread's.
WORKING = 0.05


class Worker:
    """A worker that answers requests with one backend; each method named in ACTIONS is one request."""

    def __init__(self, backend: str) -> None:
        self.name = backend
        self.backend: Backend | None = None
        self.last_token = 0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run one request and return its answer, which may be an error."""
        arguments = dict(request)
        action = arguments.pop("do", "")
        if action not in ACTIONS:
            return {"ok": False, "error": f"unknown request {action!r}"}
        try:
            return {"ok": True, **getattr(self, action)(**arguments)}
        except Exception as error:  # the parent decides what follows; this process must go on answering
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}

    @property
    def loaded(self) -> Backend:
        if self.backend is None:
            raise RuntimeError("asked to work before `start`")
        return self.backend

    def start(self) -> dict[str, Any]:
        """Import the backend's modules and return the time that this takes."""
        begin = perf_counter_ns()
        from llmlite.bench.backends import make

        self.backend = make(self.name)
        self.backend.start()
        return {"ns": perf_counter_ns() - begin}

    def convert(self, model: str, n_ctx: int) -> dict[str, Any]:
        """Convert a file to the backend's own format, once; `converted` is False if nothing was done."""
        begin = perf_counter_ns()
        converted = hasattr(self.loaded, "convert") and self.loaded.convert(model, n_ctx)
        return {"ns": perf_counter_ns() - begin, "converted": converted}

    def load(self, model: str, n_ctx: int, n_threads: int) -> dict[str, Any]:
        """Load a GGUF file, which replaces the previous one."""
        begin = perf_counter_ns()
        self.loaded.load(model, n_ctx, n_threads)
        return {"ns": perf_counter_ns() - begin, "about": self.loaded.about()}

    def compile(self, lengths: list[int]) -> dict[str, Any]:
        """Compile ahead of time if the backend can; `compiled` is False for most backends."""
        begin = perf_counter_ns()
        compiled = hasattr(self.loaded, "compile") and self.loaded.compile(lengths)
        anew = bool(getattr(self.loaded, "compiled_anew", False))
        return {
            "ns": perf_counter_ns() - begin,
            "compiled": compiled,
            "anew": anew,
            "about": self.loaded.about(),
        }

    def greedy(self, ids: list[int], n_gen: int) -> dict[str, Any]:
        """Return the first `n_gen` tokens written after `ids`, without timing."""
        backend = self.loaded
        if hasattr(backend, "greedy"):
            return {"ids": backend.greedy(ids, n_gen)}
        tokens = [backend.prefill(ids)]
        while len(tokens) < n_gen:
            tokens.append(backend.step(tokens[-1]))
        return {"ids": tokens}

    def first_token(self, ids: list[int]) -> dict[str, Any]:
        """Time one prefill and the choice of the next token, with any compilation and page faults."""
        begin = perf_counter_ns()
        token = self.loaded.prefill(ids)
        ns = perf_counter_ns() - begin
        return {"ns": ns, "token": token, "compiled": "numba" in sys.modules}  # warm starts don't need numba

    def logits(self, ids: list[int], out: str) -> dict[str, Any]:
        """Write the logits of every position, float32 (T, V), to the .npy file `out`."""
        import numpy as np

        values = np.asarray(self.loaded.logits(ids), np.float32)  # (T, V)
        np.save(out, values)
        return {"shape": list(values.shape)}

    def prefill(self, ids: list[int], repetitions: int = 1) -> dict[str, Any]:
        """Time the prefill of `ids`, with only the last position's logits; `cpu_ns` counts all threads."""
        samples, cpu, before = [], [], _thread_times()
        for _ in range(repetitions):
            begin, cpu_begin = perf_counter_ns(), process_time_ns()
            self.loaded.prefill(ids)
            samples.append(perf_counter_ns() - begin)
            cpu.append(process_time_ns() - cpu_begin)
        return {"samples_ns": samples, "cpu_ns": cpu, "n_threads": self._threads_that_ran(before)}

    def decode(self, ids: list[int], n_gen: int, repetitions: int = 1) -> dict[str, Any]:
        """Time `n_gen` greedy steps after the prompt `ids`, without its prefill; end tokens are ignored.

        If `ids` is empty, the steps continue after the last one. For a library with its own decoding loop,
        the answer's `ids` is empty, and so is `steps_ns` if the library reports only the sum.
        """
        if hasattr(self.loaded, "write"):
            return self._write(ids, n_gen, repetitions)
        samples: list[int] = []
        cpu: list[int] = []
        steps: list[int] = []
        tokens: list[int] = []
        before: dict[str, int] = {}
        for _ in range(repetitions):
            token = self.loaded.prefill(ids) if ids else self.last_token
            tokens, steps = [token], []
            before, cpu_begin = _thread_times(), process_time_ns()
            for _ in range(n_gen):
                begin = perf_counter_ns()
                token = self.loaded.step(token)
                steps.append(perf_counter_ns() - begin)
                tokens.append(token)
            self.last_token = token
            samples.append(sum(steps))
            cpu.append(process_time_ns() - cpu_begin)
        return {
            "samples_ns": samples,
            "cpu_ns": cpu,
            "steps_ns": steps,
            "ids": tokens[:-1],
            "n_threads": self._threads_that_ran(before),
        }

    def _write(self, ids: list[int], n_gen: int, repetitions: int) -> dict[str, Any]:
        if not ids:
            raise ValueError(f"{self.name} has its own decoding loop and can't continue after the last step")
        samples, cpu, steps = [], [], []
        before = _thread_times()
        for _ in range(repetitions):
            cpu_begin = process_time_ns()
            steps = self.backend.write(ids, n_gen)  # type: ignore[union-attr]
            cpu.append(process_time_ns() - cpu_begin)
            samples.append(sum(steps))
        return {
            "samples_ns": samples,
            "cpu_ns": cpu,
            "steps_ns": steps if len(steps) == n_gen else [],
            "ids": [],
            "n_threads": self._threads_that_ran(before),
        }

    def memory(self) -> dict[str, Any]:
        """Measure this process's memory."""
        from llmlite.bench import memory

        return memory.now().as_record()

    def reset_peak(self) -> dict[str, Any]:
        """Start to measure a new peak of memory; `reset` is False if that isn't possible."""
        from llmlite.bench import memory

        return {"reset": memory.reset_peak()}

    def _threads_that_ran(self, before: dict[str, int]) -> int:
        worked = [ns - before.get(tid, 0) for tid, ns in _thread_times().items()]
        if not worked or max(worked) <= 0:
            return int(self.loaded.about().get("n_threads", 0))  # not reported: the number that was set
        return sum(1 for ns in worked if ns >= WORKING * max(worked))


ACTIONS = frozenset(
    "start convert load compile first_token greedy logits prefill decode memory reset_peak".split()
)


def _thread_times() -> dict[str, int]:
    """Return the CPU time of each thread in ns (/proc/self/task/*/schedstat); empty if that isn't there."""
    times = {}
    try:
        for tid in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{tid}/schedstat") as file:
                times[tid] = int(file.read().split()[0])
    except (OSError, IndexError, ValueError):
        return {}
    return times


def _take_stdout() -> TextIO:
    """Reserve stdout for answers, by sending the output of libraries to stderr; return the stream."""
    channel = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return channel


def main() -> int:
    """Answer requests until the parent closes stdin."""
    channel = _take_stdout()
    if os.environ.get(offline.VARIABLE) == "1":
        offline.block_sockets()
    worker = Worker(sys.argv[1])
    channel.write(json.dumps({"ok": True, "ready": worker.name, "pid": os.getpid()}) + "\n")
    for line in sys.stdin:
        channel.write(json.dumps(worker.answer(json.loads(line))) + "\n")
    return 0
