"""The first part of a comparison: check that all entries compute the same; those that don't aren't timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from llmlite.bench.agreement import REFERENCES, judge, judge_steps, judge_tokens
from llmlite.bench.backends import BACKENDS
from llmlite.bench.entries import Entry
from llmlite.bench.process import BackendError, BackendTimeoutError
from llmlite.bench.running import WARM_UP, Running, logits

AGREEMENT_TOKENS = 128  # checked for agreement; their logits take 80 MB with a large vocabulary
CHECKED = 0.5  # share of the budget after which checks end; 1.5 times as much for the usual backends


class Checking(Running):
    """The part that compares the logits of every entry with float32 arithmetic."""

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
        """Return the seconds that checking an entry may take, never more than the timeout."""
        budget, timeout = self.options.budget_seconds, self.options.timeout
        agreed = [record for record in self.result.agreement if record["agrees"]]
        if budget is None or self._is_essential(entry, agreed):
            return timeout
        usual = entry.info.default or self._is_named(entry)
        end = budget * CHECKED * (1.5 if usual else 1.0)
        return min(timeout, self.begin + end - time.monotonic())

    def _leave_unchecked(self, entry: Entry) -> None:
        reason = f"its check would not finish within the budget of {self.options.budget_seconds:g} s"
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
        """Return the agreement record of an entry from its logits, or from its tokens if it has no logits."""
        ids = ids[: entry.info.agreement_tokens]
        record: dict[str, Any] = {"n_tokens": len(ids)}
        reference, best = (None if found is None else found[: len(ids)] for found in (reference, best))
        if not entry.info.gives_logits:
            tokens = [entry.ask("greedy", ids=ids[: i + 1], n_gen=1)["ids"][0] for i in range(len(ids))]
            record |= judge_tokens(tokens, reference, best)
            return record | (self._exact_answers(entry) if record["agrees"] else {})
        found = logits(entry.ask, folder / "logits.npy", ids)
        record |= judge(found, reference, best, entry.info, own=entry.own_quantization, ids=ids)
        if record["agrees"]:
            record |= self._steps_agree(entry, folder, record["max_abs_diff"])
        if record["agrees"]:
            record |= self._exact_answers(entry)
        return record

    def _exact_answers(self, entry: Entry) -> dict[str, Any]:
        """Ask the bundled questions, but only about the bundled model and if no prompt must be compiled."""
        if self.exam is None or any(
            m.phase == "compile" and m.backend == entry.info.name for m in self.result.measurements
        ):
            return {}
        right, asked = self.exam.marks(entry.ask)
        return {"n_exact": right, "n_asked": asked}

    def _steps_agree(self, entry: Entry, folder: Path, max_abs_diff: float) -> dict[str, Any]:
        """Check that decode chooses the tokens that a prefill of the same text ranks first."""
        n_prompt, n_gen = WARM_UP
        prompt = self.ids[:n_prompt]
        written = entry.ask("greedy", ids=prompt, n_gen=n_gen)["ids"]
        found = logits(entry.ask, folder / "logits.npy", [*prompt, *written])[n_prompt - 1 : -1]
        return judge_steps(found, written, max_abs_diff)

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
                    stack.callback(self.launcher.load, worker, own.file)  # its own file again, to be timed
                else:
                    worker = stack.enter_context(self.launcher.process(BACKENDS[name]))
                    worker.ask("start")
                for file in self.files:
                    self.launcher.load(worker, file)
                    out[file.model_type] = logits(worker.ask, folder / "reference.npy", ids)
        except BackendError as error:
            self._note(f"the reference failed: {error}")
        return out
