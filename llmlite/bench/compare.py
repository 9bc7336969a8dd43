"""Compare backends on the same weights, the same token ids and the same number of threads.

First they must agree: what computes something else isn't timed. Then every backend lives in its own process
and they take turns in random order, block by block, so that whatever disturbs the machine disturbs all of
them. Memory is measured last, in fresh processes, one at a time.
"""

from __future__ import annotations

import random
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmlite.bench import environment
from llmlite.bench.agreement import REFERENCES, judge, judge_steps
from llmlite.bench.backends import BACKENDS, BackendInfo, by_name
from llmlite.bench.canary import Canary
from llmlite.bench.inputs import ModelFile, agreement_ids, open_models
from llmlite.bench.options import Options
from llmlite.bench.process import BackendError, WorkerProcess
from llmlite.bench.samples import Comparison, Measurement
from llmlite.bench.summary import MIN_BLOCKS, drifted
from llmlite.engine import cpu

AGREEMENT_TOKENS = 128  # checked for agreement; a large vocabulary makes 80 MB of logits of them
WARM_UP = (8, 8)  # tokens read and written
SETTLE = 0.05  # seconds for the last backend's threads to stop spinning before the next one's turn

Ask = Callable[..., dict[str, Any]]


@dataclass
class Entry:
    """One backend on one file, and its living process while there is one."""

    info: BackendInfo
    file: ModelFile
    worker: WorkerProcess | None = None
    type_k: str = "f32"

    @property
    def key(self) -> dict[str, Any]:
        return {"backend": self.info.name, "model_type": self.file.model_type}

    def ask(self, action: str, **arguments: Any) -> dict[str, Any]:
        assert self.worker is not None
        return self.worker.ask(action, **arguments)


def run(options: Options | None = None, *, progress: bool = True) -> Comparison:
    """Run a comparison and return everything that was measured.

    Args:
        options: what to compare; None for the defaults.
        progress: show a bar, in a terminal or a notebook.

    Raises:
        LlmliteError: the model can't be read.
        ValueError: an option makes no sense.
    """
    options = options or Options()
    options = options.shortened() if options.quick else options
    with ExitStack() as stack:
        return _Run(options, stack, progress).everything()


@dataclass
class _Run:
    options: Options
    stack: ExitStack
    progress: bool
    files: list[ModelFile] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begin = time.monotonic()
        self.threads = self.options.threads or cpu.usable_threads()
        env = environment.record(uuid.uuid4().hex[:12])
        env |= {"n_threads": self.threads, "quick": self.options.quick, "seed": self.options.seed}
        self.result = Comparison(environment=env)

    def everything(self) -> Comparison:
        self._prepare()
        with self._bar() as advance:
            self._start(advance)
            self._agree(advance)
            self._blocks(advance)
            for entry in self.entries:
                self._stop(entry)
            self._memory(advance)
        return self.result

    # --- what will be compared ---------------------------------------------------------------

    def _prepare(self) -> None:
        options = self.options
        self.files = files = open_models(options.model, options.types)
        longest = min(file.n_ctx for file in files)
        self.prompts = tuple(n for n in options.prompts if n < longest) or (longest // 2,)
        self.depths = tuple(n for n in options.depths if n + options.n_gen < longest) or (1,)
        self.n_gen = min(options.n_gen, longest - max(self.depths) - 1)
        writing = (depth + self.n_gen for depth in self.depths)
        self.n_ctx = min(longest, max(sum(WARM_UP), *self.prompts, *writing) + 1)
        self.ids = agreement_ids(files[0], max(*self.prompts, *self.depths))
        self.result.models = [file.as_record() for file in files]
        names = options.backends or tuple(name for name, info in BACKENDS.items() if info.default)
        for info in map(by_name, names):
            reason = info.unavailable()
            if reason:
                self.result.skipped.append({"backend": info.name, "reason": reason})
                continue
            all_files = info.keeps_quantized or options.every_pair
            self.entries += [Entry(info, file) for file in (files if all_files else files[:1])]

    def _bar(self) -> Any:
        return _Progress(3 * len(self.entries) + len(self.entries) * self.options.blocks, self.progress)

    # --- start and agreement -----------------------------------------------------------------

    def _start(self, advance: Callable[[str], None]) -> None:
        for entry in list(self.entries):
            advance(f"start {entry.info.name} {entry.file.model_type}")
            self._or_drop(entry, self._become_alive)

    def _become_alive(self, entry: Entry) -> None:
        entry.worker = self._launch(entry)

    def _launch(
        self, entry: Entry, after_load: Callable[[WorkerProcess], None] | None = None
    ) -> WorkerProcess:
        """Start a process, load, make the first token; keep the times of each."""
        worker = WorkerProcess(entry.info.name, self.threads, timeout=self.options.timeout)
        self.stack.callback(worker.close)
        imported = worker.ask("start")
        loaded = self._load(worker.ask, entry.file)
        entry.type_k = loaded["about"]["type_k"]
        if after_load:
            after_load(worker)
        prompt = self.ids[: self.prompts[0]]
        first = worker.ask("first_token", ids=prompt)
        times = {
            "start": worker.start_ns,
            "import": imported["ns"],
            "load": loaded["ns"],
            "first_token": first["ns"],
        }
        cold = "_cold" if first["compiled"] else ""
        for phase, ns in times.items():
            n_prompt = len(prompt) if phase == "first_token" else 0
            self._keep(entry, phase + cold, [ns], n_prompt=n_prompt)
        if cold:
            self._note(
                f"{entry.info.title} {entry.file.model_type} compiled its kernels in this run, which is done "
                f"once: {(loaded['ns'] + first['ns']) / 1e9:.0f} s, not counted in the tables"
            )
        note = loaded["about"].get("note")
        if note:
            self._note(f"{entry.info.title}: {note}")
        return worker

    def _agree(self, advance: Callable[[str], None]) -> None:
        """Compare logits with float32 arithmetic on the same file; drop the entries that differ."""
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        ids = self.ids[: min(max(self.prompts), AGREEMENT_TOKENS)]
        references = self._references(folder, ids)
        best = references.get(self.files[0].model_type)
        for entry in list(self.entries):
            advance(f"check {entry.info.name} {entry.file.model_type}")
            record: dict[str, Any] = {**entry.key, "n_tokens": len(ids)}
            try:
                logits = _logits(entry.ask, folder / "logits.npy", ids)
                record |= judge(logits, references.get(entry.file.model_type), best, entry.info)
                if record["agrees"]:
                    record |= self._steps_agree(entry, folder, record["max_abs_diff"])
            except BackendError as error:
                record |= {"agrees": False, "reason": str(error)}
            self.result.agreement.append(record)
            if not record["agrees"]:
                self._drop(entry)

    def _steps_agree(self, entry: Entry, folder: Path, max_abs_diff: float) -> dict[str, Any]:
        """Check that writing token by token chooses what reading the same tokens at once would choose."""
        n_prompt, n_gen = WARM_UP
        prompt = self.ids[:n_prompt]
        written = entry.ask("decode", ids=prompt, n_gen=n_gen)["ids"]
        logits = _logits(entry.ask, folder / "logits.npy", [*prompt, *written])[n_prompt - 1 : -1]
        return judge_steps(logits, written, max_abs_diff)

    def _references(self, folder: Path, ids: list[int]) -> dict[str, np.ndarray]:
        """Return float32 logits (T, V) for each file, from the first reference that is installed."""
        name = next(name for name in REFERENCES if not BACKENDS[name].unavailable())
        self.result.environment["reference"] = name
        own = next((entry for entry in self.entries if entry.info.name == name), None)
        out: dict[str, np.ndarray] = {}
        try:
            with ExitStack() as stack:
                if own:
                    ask = own.ask
                    stack.callback(self._load, ask, own.file)  # back to what it will be timed on
                else:
                    ask = stack.enter_context(
                        WorkerProcess(name, self.threads, timeout=self.options.timeout)
                    ).ask
                    ask("start")
                for file in self.files:
                    self._load(ask, file)
                    out[file.model_type] = _logits(ask, folder / "reference.npy", ids)
        except BackendError as error:
            self._note(f"the reference failed: {error}")
        return out

    def _load(self, ask: Ask, file: ModelFile) -> dict[str, Any]:
        return ask("load", model=str(file.path), n_ctx=self.n_ctx, n_threads=self.threads)

    # --- timing ------------------------------------------------------------------------------

    def _blocks(self, advance: Callable[[str], None]) -> None:
        """Give every entry one turn per block, in random order, a canary before and after each block."""
        order = random.Random(self.options.seed)
        canary = Canary()
        for entry in list(self.entries):
            self._or_drop(entry, self._warm_up)
        canaries: list[float] = []
        for block in range(self.options.blocks):
            begin = time.monotonic()
            before = canary.sing()
            for entry in order.sample(self.entries, len(self.entries)):  # a copy: a failing one leaves
                advance(f"block {block + 1}: {entry.info.name} {entry.file.model_type}")
                time.sleep(SETTLE)
                self._or_drop(entry, partial(self._turn, block=block))
            time.sleep(SETTLE)
            canaries.append((before + canary.sing()) / 2)
            if self._out_of_time(time.monotonic() - begin) and block + 1 < self.options.blocks:
                self._note(
                    f"stopped after {block + 1} of {self.options.blocks} blocks: the time budget of "
                    f"{self.options.budget_seconds:g} s"
                )
                break
        self._flag(canaries)

    def _warm_up(self, entry: Entry) -> None:
        """Repeat short work until its spread over five is below 2 %, at most twenty times."""
        samples: list[int] = []
        limit = time.monotonic() + (0.5 if self.options.quick else 3.0)
        while len(samples) < 20 and time.monotonic() < limit:
            answer = entry.ask("decode", ids=self.ids[: WARM_UP[0]], n_gen=WARM_UP[1])
            samples += answer["samples_ns"]
            recent = samples[-5:]
            if len(recent) == 5 and np.std(recent) < 0.02 * np.mean(recent):
                break

    def _turn(self, entry: Entry, block: int) -> None:
        for n_prompt in self.prompts:
            answer = entry.ask("prefill", ids=self.ids[:n_prompt])
            self._keep(
                entry,
                "prefill",
                answer["samples_ns"],
                block=block,
                n_prompt=n_prompt,
                n_threads=answer["n_threads"],
            )
        for depth in self.depths:
            answer = entry.ask("decode", ids=self.ids[:depth], n_gen=self.n_gen)
            self._keep(
                entry,
                "decode",
                answer["samples_ns"],
                block=block,
                n_gen=self.n_gen,
                n_depth=depth,
                n_threads=answer["n_threads"],
                steps_ns=answer["steps_ns"],
            )

    def _out_of_time(self, last_block: float) -> bool:
        if self.options.budget_seconds is None:
            return False
        starts = [
            m for m in self.result.measurements if m.phase in ("start", "import", "load", "first_token")
        ]
        memory_runs = self.options.start_runs * sum(m.median_ns for m in starts) / 1e9
        return time.monotonic() - self.begin + last_block + memory_runs > self.options.budget_seconds

    def _flag(self, canaries: list[float]) -> None:
        """Drop the blocks whose canary drifted, unless fewer than five would remain."""
        flags = drifted(canaries)
        env = self.result.environment
        env |= {"canary_ns": canaries, "drifted_blocks": [i for i, flag in enumerate(flags) if flag]}
        n_drifted = sum(flags)
        if not n_drifted:
            return
        if len(flags) - n_drifted < MIN_BLOCKS:
            self._note(
                f"the machine was busy: the canary drifted by more than 5 % in {n_drifted} of {len(flags)} "
                "blocks; too few are left to drop them, so the spread shows it instead"
            )
            return
        self._note(f"{n_drifted} of {len(flags)} blocks dropped: their canary drifted by more than 5 %")
        self.result.measurements = [
            replace(m, flagged=m.block >= 0 and flags[m.block]) for m in self.result.measurements
        ]

    # --- memory ------------------------------------------------------------------------------

    def _memory(self, advance: Callable[[str], None]) -> None:
        """Measure each entry in fresh processes with nothing else of ours alive: shared pages count whole."""
        for entry in self.entries:
            advance(f"memory of {entry.info.name} {entry.file.model_type}")
            for repetition in range(self.options.start_runs):
                try:
                    self._memory_run(entry, repetition)
                except BackendError as error:
                    self._note(f"memory not measured: {error}")

    def _memory_run(self, entry: Entry, repetition: int) -> None:
        def keep(worker: WorkerProcess, stage: str) -> None:
            answer = worker.ask("memory")
            del answer["ok"]
            self.result.memory.append({**entry.key, "stage": stage, "repetition": repetition, **answer})

        worker = self._launch(entry, lambda worker: keep(worker, "load"))
        try:
            worker.ask("reset_peak")
            worker.ask("prefill", ids=self.ids[: max(self.prompts)])
            worker.ask("decode", ids=self.ids[: max(self.depths)], n_gen=min(self.n_gen, 32))
            keep(worker, "decode")
        finally:
            worker.close()

    # --- leaving ---

    def _or_drop(self, entry: Entry, work: Callable[[Entry], None]) -> None:
        """Do the work; an entry whose process fails leaves the comparison, with the reason in the tables."""
        try:
            work(entry)
        except BackendError as error:
            self.result.skipped.append({**entry.key, "reason": str(error)})
            self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        self._stop(entry)
        self.entries.remove(entry)
        self.result.measurements = [
            m
            for m in self.result.measurements
            if {"backend": m.backend, "model_type": m.model_type} != entry.key
        ]

    # --- keeping -----------------------------------------------------------------------------

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

    def _stop(self, entry: Entry) -> None:
        if entry.worker is not None:
            entry.worker.close()
            entry.worker = None


def _logits(ask: Ask, path: Path, ids: list[int]) -> np.ndarray:
    ask("logits", ids=ids, out=str(path))
    return np.load(path)


class _Progress:
    """A tqdm bar that says what is going on; entering gives the function that moves it on."""

    def __init__(self, total: int, shown: bool) -> None:
        from tqdm.auto import tqdm  # a widget in a notebook, text in a terminal

        self._bar = tqdm(total=total, disable=not shown, desc="compare", unit="step", leave=False, delay=1)

    def __enter__(self) -> Callable[[str], None]:
        return self._advance

    def _advance(self, text: str) -> None:
        self._bar.set_description(text)
        self._bar.update()

    def __exit__(self, *_: object) -> None:
        self._bar.total = self._bar.n  # a time budget may have ended it early
        self._bar.leave = hasattr(
            self._bar, "container"
        )  # a saved notebook keeps the bar; a terminal doesn't
        self._bar.refresh()
        self._bar.close()
