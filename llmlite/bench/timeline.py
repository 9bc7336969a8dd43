"""The memory of a backend's process over time: at the start, while loading, in prefill and in decode."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from llmlite.bench import environment, memory
from llmlite.bench.process import WorkerProcess
from llmlite.engine.cpu import usable_threads
from llmlite.errors import LlmliteError
from llmlite.system import files

SCHEMA = 1
INTERVAL = 0.02  # seconds between two samples
REST = 0.15  # seconds of rest before and after the work, so that a flat line shows the memory that is kept
STAGES = ("start", "import", "load", "read", "write", "done")


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The memory of a process at a series of times.

    Attributes:
        backend, model: names of the backend and the model.
        machine: description of the machine.
        seconds: time of each sample since the process started.
        private, file_backed: bytes in each sample.
        stages: pairs of a name from STAGES and the time in seconds at which that stage began.
        note: description of figures that this system doesn't report; "" if it reports all.
    """

    backend: str
    model: str
    machine: str
    seconds: list[float]
    private: list[int]
    file_backed: list[int]
    stages: list[tuple[str, float]]
    note: str = ""

    def stage_at(self, second: float) -> str:
        """Return the name of the stage at a time in seconds."""
        return [name for name, begin in self.stages if begin <= second][-1]

    def at_end_of(self, stage: str) -> tuple[int, int]:
        """Return the private and the file-backed bytes of the last sample in a stage.

        Raises:
            KeyError: the stage is unknown or has no sample.
        """
        looks = [i for i, second in enumerate(self.seconds) if self.stage_at(second) == stage]
        if not looks:
            raise KeyError(stage)
        return self.private[looks[-1]], self.file_backed[looks[-1]]


def record(
    backend: str,
    model: str | os.PathLike[str],
    ids: Sequence[int],
    *,
    n_gen: int = 64,
    n_ctx: int = 512,
    n_threads: int | None = None,
) -> Timeline:
    """Run a backend in its own process through all stages and record its memory.

    Args:
        backend: a key of bench.backends.BACKENDS.
        model: a GGUF file.
        ids: token ids of the prompt.
        n_gen: number of tokens to write.
        n_ctx: positions in the cache.
        n_threads: number of threads; None for as many as can run at once.

    Raises:
        BackendError: the backend failed.
        LlmliteError: this system doesn't report another process's memory.
    """
    threads = n_threads or usable_threads()
    begin = perf_counter()
    with WorkerProcess(backend, threads) as worker:
        watch = _Watch(worker.pid, begin)
        stages = [("start", 0.0)]
        requests: list[tuple[str, dict[str, Any]]] = [
            ("import", {"action": "start"}),
            ("load", {"action": "load", "model": os.fspath(model), "n_ctx": n_ctx, "n_threads": threads}),
            ("read", {"action": "prefill", "ids": list(ids)}),
            ("write", {"action": "decode", "ids": list(ids), "n_gen": n_gen}),
        ]
        with watch:
            for stage, arguments in requests:
                watch.stop.wait(REST)
                stages.append((stage, perf_counter() - begin))
                worker.ask(arguments.pop("action"), **arguments)
            stages.append(("done", perf_counter() - begin))
            watch.stop.wait(2 * REST)
    if not watch.looks:
        raise LlmliteError("this system doesn't report the memory of another process; Linux does")
    seconds, private, file_backed = (list(column) for column in zip(*watch.looks))
    return Timeline(
        backend=backend,
        model=Path(model).stem,
        machine=f"{environment.cpu_name()}, {threads} threads",
        seconds=[round(s, 3) for s in seconds],
        private=private,
        file_backed=file_backed,
        stages=[(name, round(second, 3)) for name, second in stages],
    )


class _Watch:
    """A thread that samples the memory of a process at short intervals while the block runs."""

    def __init__(self, pid: int, begin: float) -> None:
        self.pid, self.begin = pid, begin
        self.looks: list[tuple[float, int, int]] = []
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self.stop.is_set():
            found = memory.of(self.pid)
            if found is None:
                return
            second = perf_counter() - self.begin
            self.looks.append((second, found.private or 0, found.file_backed or 0))
            self.stop.wait(INTERVAL)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join()


def save(timelines: Iterable[Timeline], path: str | os.PathLike[str]) -> None:
    """Write timelines as JSON lines, one line each."""
    lines = [json.dumps({"schema": SCHEMA, **asdict(timeline)}) for timeline in timelines]
    files.write_text(path, "\n".join(lines) + "\n")


def load(path: str | os.PathLike[str]) -> list[Timeline]:
    """Read a file that `save` wrote.

    Raises:
        OSError: the file can't be read.
        ValueError: the file has other contents; the message names the line.
    """
    found = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            fields = json.loads(line)
            if fields.pop("schema") != SCHEMA:
                raise ValueError(f"schema {SCHEMA} is expected")
            timeline = Timeline(**{**fields, "stages": [(str(n), float(s)) for n, s in fields["stages"]]})
            if not len(timeline.seconds) == len(timeline.private) == len(timeline.file_backed) > 0:
                raise ValueError("seconds, private and file_backed differ in length, or are empty")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{os.fspath(path)}, line {number}: not a memory timeline: {error}") from None
        found.append(timeline)
    return found
