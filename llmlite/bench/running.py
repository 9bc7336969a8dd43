"""The state that all parts of a comparison share: options, entries, results so far, and the time left."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmlite.bench import energy, environment, questions
from llmlite.bench.backends import BACKENDS
from llmlite.bench.entries import Entry, Launcher
from llmlite.bench.inputs import ModelFile
from llmlite.bench.measurements import STARTING, Measurement
from llmlite.bench.options import Options
from llmlite.bench.process import BackendError
from llmlite.bench.samples import Comparison
from llmlite.engine import cpu

WARM_UP = (8, 8)  # tokens of prefill and of decode
LONG_START = 5.0  # seconds above which a start counts as long
LEAST = 2  # backends that are kept with any budget: one alone would be no comparison
FIRST_EVER = 0.1  # share of the budget for starts with empty caches

Ask = Callable[..., dict[str, Any]]


@dataclass
class Running:
    """A comparison under way.

    Attributes:
        options: the options asked for.
        stack: closes every process.
        progress: whether a bar is shown.
        files: the files to compare.
        entries: the entries that are still in the comparison.
        ids: token ids of the text that all entries read.
        exam: the bundled questions; None if they aren't asked.
        prompts, depths, n_gen, n_blocks: as in Options, but reduced to the context and the time.
        n_ctx: positions in the cache of every entry.
        launcher: starts the processes.
        pairs: backends with their files, if they are chosen one by one.
        meter: measures energy if a counter can be read.
    """

    options: Options
    stack: ExitStack
    progress: bool
    files: list[ModelFile] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    exam: questions.Exam | None = None
    prompts: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    n_gen: int = 0
    n_ctx: int = 0
    n_blocks: int = 0
    launcher: Launcher = field(init=False)
    pairs: Sequence[tuple[str, ModelFile]] = ()
    meter: energy.Meter = field(default_factory=energy.Meter)

    def __post_init__(self) -> None:
        self.begin = time.monotonic()
        self.threads = self.options.threads or cpu.usable_threads()
        env = environment.record(uuid.uuid4().hex[:12])
        env |= {"n_threads": self.threads, "quick": self.options.quick, "seed": self.options.seed}
        env["model"] = Path(self.options.model).name  # without its folder, so that results can be shared
        self.result = Comparison(environment=env)

    def _is_named(self, entry: Entry) -> bool:
        """Return whether the user chose this entry's backend; naming all backends isn't a choice."""
        if self.pairs:
            return True
        named = self.options.backends
        return entry.info.name in named and len(set(named)) < len(BACKENDS)

    def _is_essential(self, entry: Entry, there: Sequence[dict[str, Any]]) -> bool:
        """Return whether fewer than LEAST backends are in the records `there` and this entry adds one."""
        names = {record["backend"] for record in there}
        return len(names) < LEAST and entry.info.name not in names

    def _keep_start(self, entry: Entry, times: dict[str, int]) -> None:
        """Keep the nanoseconds of each phase of a start; add a note if it compiled code that is then kept."""
        for phase, ns in times.items():
            first = phase.startswith("first_token")
            self._keep(entry, phase, [ns], n_prompt=len(self.launcher.prompt) if first else 0)
        if "load_cold" in times:
            parts = ("load_cold", "compile_cold", "first_token_cold")
            seconds = sum(times.get(part, 0) for part in parts) / 1e9
            self._note(
                f"{entry.info.title} {entry.file.model_type} compiled its kernels in this run: "
                f"{seconds:.0f} s, not counted in the tables, because it is done only once"
            )
        if entry.about.get("note"):
            self._note(f"{entry.info.title}: {entry.about['note']}")

    def _or_drop(self, entry: Entry, work: Callable[[Entry], None]) -> None:
        """Do the work; if the entry's process fails, drop the entry and keep the reason for the tables."""
        try:
            work(entry)
        except BackendError as error:
            self.result.skipped.append({**entry.key, "reason": str(error)})
            self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        entry.stop()
        self.entries.remove(entry)
        self.result.measurements = [
            m
            for m in self.result.measurements
            if {"backend": m.backend, "model_type": m.model_type} != entry.key
        ]

    def _keep(self, entry: Entry, phase: str, samples_ns: list[int], **fields: Any) -> None:
        env = self.result.environment
        fields.setdefault("n_threads", self.threads)
        self.result.measurements.append(
            Measurement(
                run_id=env["run_id"],
                env_hash=env["env_hash"],
                phase=phase,
                type_k=entry.type_k,
                samples_ns=tuple(samples_ns),
                **entry.key,
                **fields,
            )
        )

    def _note(self, text: str) -> None:
        if text not in self.result.notes:
            self.result.notes.append(text)

    def _start_seconds(self, entry: Entry) -> float:
        found = {
            m.phase: m.median_ns
            for m in self.result.measurements
            if m.phase in STARTING and {"backend": m.backend, "model_type": m.model_type} == entry.key
        }
        return sum(found.values()) / 1e9

    def _start_runs(self, entry: Entry) -> int:
        """Return the number of fresh processes for an entry.

        There is at most one if the entry's start is long and time is limited.
        """
        is_long = self.options.budget_seconds is not None and self._start_seconds(entry) > LONG_START
        return min(self.options.start_runs, 1) if is_long else self.options.start_runs

    def _memory_seconds(self, entries: Sequence[Entry] | None = None) -> float:
        """Return the seconds that the memory runs of these entries, or of all, will take by their starts."""
        chosen = self.entries if entries is None else entries
        return sum(self._start_runs(entry) * self._start_seconds(entry) for entry in chosen)

    def _keeping_work(self) -> list[Entry]:
        """Return the entries to start with empty caches: one of each backend that keeps work in caches."""
        chosen = {entry.info.name: entry for entry in reversed(self.entries) if entry.info.keeps_work}
        return list(reversed(chosen.values())) if self.options.first_ever else []

    def _reserve(self) -> float:
        """Return the seconds reserved for starts with empty caches, whose real duration isn't known."""
        budget = self.options.budget_seconds
        return FIRST_EVER * budget if budget and self._keeping_work() else 0.0

    def _over(self, seconds: float) -> bool:
        """Return whether `seconds` more would exceed the budget by over a tenth."""
        budget = self.options.budget_seconds
        return budget is not None and time.monotonic() - self.begin + seconds > 1.1 * budget


def logits(ask: Ask, path: Path, ids: list[int]) -> np.ndarray:
    """Return the logits that a worker computes for `ids`, float32 (T, V).

    Args:
        ask: function that sends a request to the worker.
        path: .npy file for the logits, which the worker writes.
        ids: T token ids.
    """
    ask("logits", ids=ids, out=str(path))
    return np.load(path)
