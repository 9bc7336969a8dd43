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
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmlite import resources
from llmlite.bench import environment, planning, questions
from llmlite.bench.agreement import REFERENCES, judge, judge_steps, judge_tokens
from llmlite.bench.backends import BACKENDS, by_name
from llmlite.bench.canary import Canary
from llmlite.bench.entries import Entry, Launcher
from llmlite.bench.inputs import ModelFile, agreement_ids, open_models
from llmlite.bench.options import Options
from llmlite.bench.process import BackendError, BackendTimeoutError, WorkerProcess
from llmlite.bench.samples import Comparison, Measurement
from llmlite.bench.summary import MIN_BLOCKS, drifted
from llmlite.engine import cpu

AGREEMENT_TOKENS = 128  # checked for agreement; a large vocabulary makes 80 MB of logits of them
WARM_UP = (8, 8)  # tokens read and written
LONG_START = 5.0  # seconds
LATE = 0.3  # share of the time after which no further backend is started; twice that for the usual ones
CHECKED = (
    0.5  # share of the time after which no further backend is checked; 1.5 times that for the usual ones
)
PROBED = 0.6  # share after which no further backend is probed, the usual ones excepted: blocks need the rest
SETTLE = 0.05  # seconds for the last backend's threads to stop spinning before the next one's turn

Ask = Callable[..., dict[str, Any]]


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
    exam: questions.Exam | None = None

    def __post_init__(self) -> None:
        self.begin = time.monotonic()
        self.threads = self.options.threads or cpu.usable_threads()
        env = environment.record(uuid.uuid4().hex[:12])
        env |= {"n_threads": self.threads, "quick": self.options.quick, "seed": self.options.seed}
        env["model"] = Path(self.options.model).name  # without its folder, so that results can be shared
        self.result = Comparison(environment=env)

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
        self.n_blocks = options.blocks
        self.launcher = Launcher(
            n_threads=self.threads,
            n_ctx=self.n_ctx,
            timeout=options.timeout,
            prompt=self.ids[: self.prompts[0]],
            lengths=sorted({WARM_UP[0], *self.prompts, *self.depths}),
        )
        self.result.models = [file.as_record() for file in files]
        bundled = options.model in resources.BUNDLED_MODELS and not options.quick
        self.exam = questions.exam(files[0], self.n_ctx) if bundled else None
        if self.exam and not self.exam.questions:
            self.exam = None
        for note in (file.note for file in files if file.note):
            self._note(note)
        names = options.backends or tuple(name for name, info in BACKENDS.items() if info.default)
        for info in map(by_name, dict.fromkeys(names)):
            reason = info.unavailable()
            if reason:
                self.result.skipped.append({"backend": info.name, "reason": reason})
                continue
            all_files = info.keeps_quantized or options.every_pair
            self.entries += [Entry(info, file) for file in (files if all_files else files[:1])]

    def _bar(self) -> _Progress:
        return _Progress((4 + self.options.blocks) * len(self.entries), self.progress)

    # --- start and agreement -----------------------------------------------------------------

    def _start(self, advance: Callable[[str], None]) -> None:
        # In the order named; else the usual backends first, each on the first file before any on the second.
        order = {id(file): number for number, file in enumerate(self.files)}

        def place(entry: Entry) -> tuple[bool, bool, int]:
            if self._is_named(entry):
                return False, False, 0
            return not entry.info.default, entry.info.minor, order[id(entry.file)]

        for entry in sorted(self.entries, key=place):
            if self._too_late_to_start(entry):
                reason = f"not started: more than {LATE:.0%} of {self.options.budget_seconds:g} s were gone"
                self.result.skipped.append({**entry.key, "reason": reason})
                self._drop(entry)
                continue
            advance(f"start {entry.label}")
            self._or_drop(entry, self._become_alive)

    def _is_named(self, entry: Entry) -> bool:
        """Whether a choice of backends was named, this one in it; naming all of them is no choice."""
        named = self.options.backends
        return entry.info.name in named and len(set(named)) < len(BACKENDS)

    def _too_late_to_start(self, entry: Entry) -> bool:
        """Whether starting and checking have eaten so much time that only what is essential may follow."""
        budget = self.options.budget_seconds
        if budget is None or not self.result.backends:  # the first one always starts
            return False
        spent = (time.monotonic() - self.begin) / budget
        return spent > (2 * LATE if entry.info.default or self._is_named(entry) else LATE)

    def _become_alive(self, entry: Entry) -> None:
        self._keep_start(entry, self.launcher.start(entry, self.stack))
        about = {key: value for key, value in entry.about.items() if value not in ("", None)}
        self.result.backends.append({**entry.key, **about})

    def _keep_start(self, entry: Entry, times: dict[str, int]) -> None:
        """Keep the nanoseconds of each phase of a start; say so when llmlite compiled its kernels in it."""
        for phase, ns in times.items():
            first = phase.startswith("first_token")
            self._keep(entry, phase, [ns], n_prompt=len(self.launcher.prompt) if first else 0)
        if "load_cold" in times:
            seconds = (times["load_cold"] + times["first_token_cold"]) / 1e9
            self._note(
                f"{entry.info.title} {entry.file.model_type} compiled its kernels in this run, which is done "
                f"once: {seconds:.0f} s, not counted in the tables"
            )
        if entry.about.get("note"):
            self._note(f"{entry.info.title}: {entry.about['note']}")

    def _agree(self, advance: Callable[[str], None]) -> None:
        """Compare logits with float32 arithmetic on the same file; drop the entries that differ."""
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        ids = self.ids[: min(max(self.prompts), AGREEMENT_TOKENS)]
        references = self._references(folder, ids)
        best = references.get(self.files[0].model_type)
        for entry in list(self.entries):
            advance(f"check {entry.info.name} {entry.file.model_type}")
            record: dict[str, Any] = {**entry.key, "own_quantization": entry.own_quantization}
            left = self._left_to_check(entry)
            if left <= 0:
                self._leave_unchecked(entry)
                continue
            try:
                with entry.answering_within(left):
                    record |= self._judged(entry, folder, ids, references.get(entry.file.model_type), best)
            except BackendTimeoutError as error:
                if left < self.options.timeout:
                    self._leave_unchecked(entry)
                    continue
                record |= {"agrees": False, "reason": str(error)}
            except BackendError as error:
                record |= {"agrees": False, "reason": str(error)}
            self.result.agreement.append(record)
            if not record["agrees"]:
                self._drop(entry)

    def _left_to_check(self, entry: Entry) -> float:
        """Return the seconds that checking an entry may take, never more than the timeout.

        The first one is always checked: a comparison of nothing would be worth nothing.
        """
        budget, timeout = self.options.budget_seconds, self.options.timeout
        if budget is None or not any(record["agrees"] for record in self.result.agreement):
            return timeout
        usual = entry.info.default or self._is_named(entry)
        end = budget * CHECKED * (1.5 if usual else 1.0)
        return min(timeout, self.begin + end - time.monotonic())

    def _leave_unchecked(self, entry: Entry) -> None:
        reason = f"its check would not end in time: budget {self.options.budget_seconds:g} s"
        self.result.skipped.append({**entry.key, "reason": reason})
        self._drop(entry)

    def _judged(
        self,
        entry: Entry,
        folder: Path,
        ids: list[int],
        reference: np.ndarray | None,
        best: np.ndarray | None,
    ) -> dict[str, Any]:
        """Return what the entry's logits, or where it has none its tokens, say about it."""
        ids = ids[: entry.info.agreement_tokens]
        record: dict[str, Any] = {"n_tokens": len(ids)}
        reference, best = (None if found is None else found[: len(ids)] for found in (reference, best))
        if not entry.info.gives_logits:
            tokens = [entry.ask("greedy", ids=ids[: i + 1], n_gen=1)["ids"][0] for i in range(len(ids))]
            record |= judge_tokens(tokens, reference, best)
            return record | (self._exact_answers(entry) if record["agrees"] else {})
        logits = _logits(entry.ask, folder / "logits.npy", ids)
        record |= judge(logits, reference, best, entry.info, own=entry.own_quantization, ids=ids)
        if record["agrees"]:
            record |= self._steps_agree(entry, folder, record["max_abs_diff"])
        if record["agrees"]:
            record |= self._exact_answers(entry)
        return record

    def _exact_answers(self, entry: Entry) -> dict[str, Any]:
        """Ask the bundled questions, if the model is the bundled one and no length has to be compiled."""
        if self.exam is None or any(
            m.phase == "compile" and m.backend == entry.info.name for m in self.result.measurements
        ):
            return {}
        right, asked = self.exam.marks(entry.ask)
        return {"n_exact": right, "n_asked": asked}

    def _steps_agree(self, entry: Entry, folder: Path, max_abs_diff: float) -> dict[str, Any]:
        """Check that writing token by token chooses what reading the same tokens at once would choose."""
        n_prompt, n_gen = WARM_UP
        prompt = self.ids[:n_prompt]
        written = entry.ask("greedy", ids=prompt, n_gen=n_gen)["ids"]
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
                if own and own.worker:
                    worker = own.worker
                    stack.callback(self.launcher.load, worker, own.file)  # back to what it will be timed on
                else:
                    worker = stack.enter_context(self.launcher.process(BACKENDS[name]))
                    worker.ask("start")
                for file in self.files:
                    self.launcher.load(worker, file)
                    out[file.model_type] = _logits(worker.ask, folder / "reference.npy", ids)
        except BackendError as error:
            self._note(f"the reference failed: {error}")
        return out

    # --- timing ------------------------------------------------------------------------------

    def _plan(self, advance: _Progress) -> None:
        """Warm everybody up, probe one turn each, and fit at least five blocks into the time there is."""
        turns: dict[int, planning.Turn] = {}
        for entry in list(self.entries):
            advance(f"probe {entry.label}")
            if self._too_late_to_probe(entry, len(turns)):
                reason = f"not probed: {PROBED:.0%} of {self.options.budget_seconds:g} s were gone"
                self.result.skipped.append({**entry.key, "reason": reason})
                self._drop(entry)
                continue
            self._or_drop(entry, self._warm_up)
            if entry in self.entries:
                self._or_drop(entry, lambda entry: turns.update({id(entry): self._probe(entry)}))
            if entry in self.entries:
                turns[id(entry)] = replace(turns[id(entry)], once=self._memory_seconds([entry]))
        budget = self.options.budget_seconds
        left = None if budget is None else budget - (time.monotonic() - self.begin)
        found = planning.plan(
            turns,
            [id(entry) for entry in self.entries if entry.info.default],
            seconds=left,
            n_blocks=self.options.blocks,
            n_gen=self.n_gen,
        )
        by_id = {id(entry): entry for entry in self.entries}
        for key in found.left_out:
            entry = by_id[key]  # type: ignore[index]
            reason = f"left out so that the others finish {found.n_blocks} blocks within {budget:g} s"
            self.result.skipped.append({**entry.key, "reason": reason})
            self._drop(entry)
        if found.n_gen < self.n_gen or found.n_blocks < self.options.blocks:
            self._note(
                f"planned for {budget:g} s: {found.n_blocks} of {self.options.blocks} blocks, "
                f"{found.n_gen} of {self.n_gen} tokens written in each turn"
            )
        self.n_blocks, self.n_gen = found.n_blocks, found.n_gen
        self.result.environment |= {"n_blocks_planned": found.n_blocks, "budget_seconds": budget}
        blocks = found.n_blocks * (found.seconds_per_block + SETTLE * len(self.entries))
        advance.expect(len(self.entries) * (found.n_blocks + 1), blocks + self._memory_seconds())

    def _too_late_to_probe(self, entry: Entry, n_probed: int) -> bool:
        budget = self.options.budget_seconds
        if budget is None or not n_probed or entry.info.default:
            return False
        return time.monotonic() - self.begin > PROBED * budget

    def _probe(self, entry: Entry) -> planning.Turn:
        """Time one short turn and reckon what a whole one takes."""
        begin = time.monotonic()
        for n_prompt in self.prompts:
            entry.ask("prefill", ids=self.ids[:n_prompt])
        prompts = time.monotonic() - begin
        step, filling = 0.0, 0.0
        for depth in self.depths:
            begin = time.monotonic()
            n_gen = min(4, self.n_gen)
            ns = entry.ask("decode", ids=self.ids[:depth], n_gen=n_gen)["samples_ns"][0]
            step += ns / n_gen / 1e9
            filling += max(time.monotonic() - begin - ns / 1e9, 0.0)
        return planning.Turn(prefill=prompts + filling, step=step)

    def _blocks(self, advance: Callable[[str], None]) -> None:
        """Give every entry one turn per block, in random order, a canary before and after each block."""
        order = random.Random(self.options.seed)
        canary = Canary()
        canaries: list[float] = []
        for block in range(self.n_blocks):
            begin = time.monotonic()
            before = canary.sing()
            for entry in order.sample(self.entries, len(self.entries)):  # a copy: a failing one leaves
                advance(f"block {block + 1} of {self.n_blocks}: {entry.label}")
                time.sleep(SETTLE)
                self._or_drop(entry, partial(self._turn, block=block))
            time.sleep(SETTLE)
            canaries.append((before + canary.sing()) / 2)
            if self._out_of_time(time.monotonic() - begin, block + 1) and block + 1 < self.n_blocks:
                self._note(
                    f"stopped after {block + 1} of {self.n_blocks} blocks: the time budget of "
                    f"{self.options.budget_seconds:g} s"
                )
                break
        self._flag(canaries)

    def _warm_up(self, entry: Entry) -> None:
        """Repeat short work until its spread over five is below 2 %, at most twenty times."""
        samples: list[int] = []
        budget = self.options.budget_seconds or float("inf")
        longest = min(3.0, 0.1 * budget / max(len(self.entries), 1))
        limit = time.monotonic() + (0.5 if self.options.quick else longest)
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

    def _out_of_time(self, last_block: float, done: int) -> bool:
        """Whether another block would overrun the budget. It may be overrun by a fifth to reach five."""
        if self.options.budget_seconds is None:
            return False
        limit = self.options.budget_seconds * (1.2 if done < min(MIN_BLOCKS, self.n_blocks) else 1.0)
        return time.monotonic() - self.begin + last_block + self._memory_seconds() > limit

    def _memory_seconds(self, entries: Sequence[Entry] | None = None) -> float:
        """Return what the memory runs of these entries, or of all, will take, judging by their starts."""
        chosen = self.entries if entries is None else entries
        return sum(self._start_runs(entry) * self._start_seconds(entry) for entry in chosen)

    def _start_seconds(self, entry: Entry) -> float:
        phases = ("start", "import", "load", "compile", "first_token")
        found = {
            m.phase: m.median_ns
            for m in self.result.measurements
            if m.phase in phases and {"backend": m.backend, "model_type": m.model_type} == entry.key
        }
        return sum(found.values()) / 1e9

    def _start_runs(self, entry: Entry) -> int:
        """Return how many fresh processes an entry gets: one if its start is long and time is limited."""
        is_long = self.options.budget_seconds is not None and self._start_seconds(entry) > LONG_START
        return min(self.options.start_runs, 1) if is_long else self.options.start_runs

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
            if self._over(self._start_seconds(entry)):
                self._note(f"memory of {entry.label} not measured: the time was over")
                continue
            for repetition in range(self._start_runs(entry)):
                try:
                    self._memory_run(entry, repetition)
                except BackendError as error:
                    self._note(f"memory not measured: {error}")

    def _over(self, seconds: float) -> bool:
        """Whether so many more seconds would overrun the budget by more than a tenth."""
        budget = self.options.budget_seconds
        return budget is not None and time.monotonic() - self.begin + seconds > 1.1 * budget

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
        entry.stop()
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


def _logits(ask: Ask, path: Path, ids: list[int]) -> np.ndarray:
    ask("logits", ids=ids, out=str(path))
    return np.load(path)


class _Progress:
    """A tqdm bar that says what is going on and how much time is left; calling it moves it on."""

    def __init__(self, total: int, shown: bool) -> None:
        from tqdm.auto import tqdm  # a widget in a notebook, text in a terminal

        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
        self._bar = tqdm(
            total=total, disable=not shown, desc="compare", leave=False, delay=1, bar_format=form
        )
        self._end = 0.0

    def expect(self, steps: int, seconds: float) -> None:
        """Say how many steps are still to come, and in what time."""
        self._end = time.monotonic() + seconds
        self._bar.total = self._bar.n + steps

    def __enter__(self) -> _Progress:
        return self

    def __call__(self, text: str) -> None:
        self._bar.set_description(text, refresh=False)
        if self._end:
            left = max(self._end - time.monotonic(), 0)
            self._bar.set_postfix_str(f"about {left:.0f} s left", refresh=False)
        self._bar.update()

    def __exit__(self, *_: object) -> None:
        self._bar.total = self._bar.n  # an entry may have left early
        # a saved notebook keeps the bar; a terminal doesn't
        self._bar.leave = hasattr(self._bar, "container")
        self._bar.refresh()
        self._bar.close()
