"""Compare backends on the same weights, the same token ids and the same number of threads.

Each backend runs in its own process. First, all backends must agree: one that computes something else isn't
timed (checking.py). Then they take turns in random order, block by block, so that any disturbance of the
machine affects all of them (timing.py). Memory is measured last, in fresh processes, one at a time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from llmlite import resources
from llmlite.bench import envs, questions
from llmlite.bench.backends import BACKENDS, by_name
from llmlite.bench.checking import Checking
from llmlite.bench.entries import Entry, Launcher
from llmlite.bench.inputs import ModelFile, agreement_ids, open_models
from llmlite.bench.options import Options
from llmlite.bench.process import BackendError, WorkerProcess
from llmlite.bench.progress import ProgressBar
from llmlite.bench.running import WARM_UP
from llmlite.bench.samples import Comparison
from llmlite.bench.timing import Timing

LATE = 0.3  # share of the budget after which no more backends are started; twice that for the usual ones


def run(
    options: Options | None = None,
    *,
    progress: bool = True,
    pairs: Sequence[tuple[str, ModelFile]] = (),
) -> Comparison:
    """Run a comparison and return all its measurements.

    Args:
        options: the models, backends and times; None for the defaults.
        progress: show a progress bar, in a terminal or a notebook.
        pairs: pairs (backend, file) to measure instead of those that `options` names. No two files may have
            the same type, and the file with the best type must come first.

    Raises:
        LlmliteError: the model can't be read.
        ValueError: an option is invalid.
    """
    options = options or Options()
    options = options.shortened() if options.quick else options
    with ExitStack() as stack:
        return _Run(options, stack, progress, pairs=pairs).everything()


def _default_backends() -> tuple[str, ...]:
    return tuple(name for name, info in BACKENDS.items() if info.default)


class _Run(Checking, Timing):
    def everything(self) -> Comparison:
        self._prepare()
        with self._bar() as advance:
            self._start(advance)
            self._agree(advance)
            self._plan(advance)
            self._blocks(advance)
            for entry in self.entries:
                entry.stop()
            self._memory(advance)
            self._first_ever(advance)
        return self.result

    def _prepare(self) -> None:
        options = self.options
        if self.pairs:
            self.files = list({file.path: file for _, file in self.pairs}.values())
        else:
            self.files = open_models(options.model, options.types)
        files = self.files
        longest = min(file.n_ctx for file in files)
        self.prompts = tuple(n for n in options.prompts if n < longest) or (longest // 2,)
        self.depths = tuple(n for n in options.depths if n + options.n_gen < longest) or (0,)
        self.n_gen = min(options.n_gen, longest - max(self.depths) - 1)
        writing = (depth + self.n_gen for depth in self.depths)
        self.n_ctx = min(longest, max(sum(WARM_UP), *self.prompts, *writing) + 1)
        self.ids = agreement_ids(files[0], max(*self.prompts, *self.depths))
        self.n_blocks = options.blocks
        self.launcher = Launcher(
            n_threads=self.threads,
            n_ctx=self.n_ctx,
            timeout=options.timeout,
            prompt=self.ids[: self.prompts[0]],
            lengths=sorted({WARM_UP[0], *self.prompts, *(max(n, 1) for n in self.depths)}),
        )
        self.result.models = [file.as_record() for file in files]
        bundled = options.model in resources.BUNDLED_MODELS and not options.quick and not self.pairs
        self.exam = questions.exam(files[0], self.n_ctx) if bundled else None
        if self.exam and not self.exam.questions:
            self.exam = None
        unread = sorted({*options.prompts} - {*self.prompts})
        if unread:
            prompts = ", ".join(map(str, unread))
            self._note(f"prefill of {prompts} tokens isn't measured: the context has {longest}")
        gone = sorted({*options.depths} - {*self.depths})
        if gone:
            depths = ", ".join(map(str, gone))
            self._note(f"decode after {depths} tokens isn't measured: the context has {longest}")
        if self.n_gen < options.n_gen:
            self._note(f"{self.n_gen} of {options.n_gen} tokens are generated: the context has {longest}")
        for note in (file.note for file in files if file.note):
            self._note(note)
        missing = []
        for name, file in self.pairs or self._usual_pairs():
            info = by_name(name)
            reason = info.unavailable()
            if not reason:
                self.entries.append(Entry(info, file))
            elif name not in missing:
                missing.append(name)
                self.result.skipped.append({"backend": name, "reason": reason})

    def _usual_pairs(self) -> list[tuple[str, ModelFile]]:
        """Return pairs of backends and files; a backend that unpacks all weights gets only the first file."""
        found = []
        for name in dict.fromkeys(self.options.backends or _default_backends()):
            all_files = by_name(name).keeps_quantized or self.options.every_pair
            found += [(name, file) for file in (self.files if all_files else self.files[:1])]
        return found

    def _bar(self) -> ProgressBar:
        return ProgressBar((4 + self.options.blocks) * len(self.entries), self.progress)

    def _start(self, advance: Callable[[str], None]) -> None:
        # Backends named by the user start in the order given. Otherwise the usual backends start first, and
        # all of them on the first file before any on the second.
        order = {id(file): number for number, file in enumerate(self.files)}

        def place(entry: Entry) -> tuple[bool, bool, int]:
            if self._is_named(entry):
                return False, False, 0
            return not entry.info.default, entry.info.minor, order[id(entry.file)]

        for entry in sorted(self.entries, key=place):
            if self._too_late_to_start(entry):
                share = self._latest_start(entry)
                reason = (
                    f"not started: more than {share:.0%} of the {self.options.budget_seconds:g} s had passed"
                )
                self.result.skipped.append({**entry.key, "reason": reason})
                self._drop(entry)
                continue
            advance(f"start {entry.label}")
            self._or_drop(entry, self._become_alive)

    def _too_late_to_start(self, entry: Entry) -> bool:
        """Return whether too much of the budget has passed to start this entry."""
        budget = self.options.budget_seconds
        if budget is None or self._is_essential(entry, self.result.backends):
            return False
        return (time.monotonic() - self.begin) / budget > self._latest_start(entry)

    def _latest_start(self, entry: Entry) -> float:
        """Return the share of the budget after which an entry is no longer started."""
        return 2 * LATE if entry.info.default or self._is_named(entry) else LATE

    def _become_alive(self, entry: Entry) -> None:
        self._keep_start(entry, self.launcher.start(entry, self.stack))
        about = {key: value for key, value in entry.about.items() if value not in ("", None)}
        cost = envs.cost(entry.info.extra, here=entry.info.python() == sys.executable)
        self.result.backends.append({**entry.key, **about, **cost})

    def _memory(self, advance: Callable[[str], None]) -> None:
        """Measure each entry in fresh processes with no other worker running: shared pages count in full."""
        for entry in self.entries:
            advance(f"memory of {entry.info.name} {entry.file.model_type}")
            if self._over(self._start_seconds(entry)):
                self._note(f"the memory of {entry.label} wasn't measured: time ran out")
                continue
            for repetition in range(self._start_runs(entry)):
                try:
                    self._memory_run(entry, repetition)
                except BackendError as error:
                    self._note(f"memory wasn't measured: {error}")

    def _first_ever(self, advance: Callable[[str], None]) -> None:
        """Start each backend that keeps work in a cache once more, with an empty cache."""
        for entry in self._keeping_work():
            advance(f"first start ever of {entry.info.name}")
            budget, timeout = self.options.budget_seconds, self.options.timeout
            left = timeout if budget is None else 1.1 * budget - (time.monotonic() - self.begin)
            reason = "time ran out"
            if left > self._start_seconds(entry):
                try:
                    times = self._with_empty_caches(entry, min(left, timeout))
                except (BackendError, OSError) as error:
                    reason = str(error)
                else:
                    for phase, ns in times.items():
                        self._keep(entry, f"{phase}_ever", [ns])
                    continue
            self._note(f"the first start ever of {entry.label} wasn't measured: {reason}")

    def _with_empty_caches(self, entry: Entry, seconds: float) -> dict[str, int]:
        launcher = replace(self.launcher, timeout=seconds)
        cache = resources.cache_dir()
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="first-ever-", dir=cache) as folder, ExitStack() as stack:
            return launcher.first_ever(entry, stack, folder)

    def _memory_run(self, entry: Entry, repetition: int) -> None:
        def keep(worker: WorkerProcess, stage: str) -> None:
            answer = worker.ask("memory")
            del answer["ok"]
            self.result.memory.append({**entry.key, "stage": stage, "repetition": repetition, **answer})

        worker, times = self.launcher.launch(
            entry, self.stack, after_load=lambda worker: keep(worker, "load")
        )
        self._keep_start(entry, times)
        try:
            if not worker.ask("reset_peak")["reset"]:
                self._note("the peak of memory includes loading: this system can't reset a process's peak")
            worker.ask("prefill", ids=self.ids[: max(self.prompts)])
            worker.ask("decode", ids=self.ids[: max(*self.depths, 1)], n_gen=min(self.n_gen, 32))
            keep(worker, "decode")
        finally:
            worker.close()
