"""What the parts of a comparison share: its options, its entries, what was kept, and the time left."""

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

WARM_UP = (8, 8)  # tokens read and written
LONG_START = 5.0  # seconds
LEAST = 2  # backends that no budget leaves out: one alone would be no comparison
FIRST_EVER = 0.1  # share of the budget for starts with empty caches

Ask = Callable[..., dict[str, Any]]


@dataclass
class Running:
    """A comparison under way.

    Args:
        options: what was asked for. stack: closes every process. progress: whether a bar is shown.
        files: to compare. entries: that are still in it. ids: the text that all of them read.
        exam: the bundled questions, for the bundled model. pairs: backends with their files, if they are
            chosen one by one. meter: counts energy, where that can be read.
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
        """Whether a choice of backends was named, this one in it; naming all of them is no choice."""
        if self.pairs:
            return True
        named = self.options.backends
        return entry.info.name in named and len(set(named)) < len(BACKENDS)

    def _is_essential(self, entry: Entry, there: Sequence[dict[str, Any]]) -> bool:
        """Return whether the records `there` are of fewer backends than LEAST, and this is another one."""
        names = {record["backend"] for record in there}
        return len(names) < LEAST and entry.info.name not in names

    def _keep_start(self, entry: Entry, times: dict[str, int]) -> None:
        """Keep the nanoseconds of each phase of a start; say so when code was compiled in it that is kept."""
        for phase, ns in times.items():
            first = phase.startswith("first_token")
            self._keep(entry, phase, [ns], n_prompt=len(self.launcher.prompt) if first else 0)
        if "load_cold" in times:
            parts = ("load_cold", "compile_cold", "first_token_cold")
            seconds = sum(times.get(part, 0) for part in parts) / 1e9
            self._note(
                f"{entry.info.title} {entry.file.model_type} compiled its kernels in this run, which is done "
                f"once: {seconds:.0f} s, not counted in the tables"
            )
        if entry.about.get("note"):
            self._note(f"{entry.info.title}: {entry.about['note']}")

    def _or_drop(self, entry: Entry, work: Callable[[Entry], None]) -> None:
        """Do the work; an entry whose process fails leaves the comparison, with the reason in the tables."""
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
        """Return how many fresh processes an entry gets: one if its start is long and time is limited."""
        is_long = self.options.budget_seconds is not None and self._start_seconds(entry) > LONG_START
        return min(self.options.start_runs, 1) if is_long else self.options.start_runs

    def _memory_seconds(self, entries: Sequence[Entry] | None = None) -> float:
        """Return what the memory runs of these entries, or of all, will take, judging by their starts."""
        chosen = self.entries if entries is None else entries
        return sum(self._start_runs(entry) * self._start_seconds(entry) for entry in chosen)

    def _keeping_work(self) -> list[Entry]:
        """Return the entries to start once with empty caches: one of each backend that keeps work in them."""
        chosen = {entry.info.name: entry for entry in reversed(self.entries) if entry.info.keeps_work}
        return list(reversed(chosen.values())) if self.options.first_ever else []

    def _reserve(self) -> float:
        """Return the seconds that are kept for starts with empty caches; what they will take isn't known."""
        budget = self.options.budget_seconds
        return FIRST_EVER * budget if budget and self._keeping_work() else 0.0

    def _over(self, seconds: float) -> bool:
        """Whether so many more seconds would overrun the budget by more than a tenth."""
        budget = self.options.budget_seconds
        return budget is not None and time.monotonic() - self.begin + seconds > 1.1 * budget


def logits(ask: Ask, path: Path, ids: list[int]) -> np.ndarray:
    """Return what a worker computes for `ids`: float32 (T, V)."""
    ask("logits", ids=ids, out=str(path))
    return np.load(path)
