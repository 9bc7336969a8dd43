"""The second part of a comparison: turns in random order, planned to finish in time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from llmlite.bench import energy, planning
from llmlite.bench.canary import Canary
from llmlite.bench.entries import Entry
from llmlite.bench.progress import ProgressBar
from llmlite.bench.running import LEAST, WARM_UP, Running
from llmlite.bench.summary import MIN_BLOCKS, drifted

PROBED = 0.6  # share of the budget after which only the usual backends are probed: blocks need the rest
SETTLE = 0.05  # seconds for the last backend's threads to stop spinning before the next one's turn


class Timing(Running):
    """The part that probes every entry, plans the blocks, and gives every entry one turn in each block."""

    def _plan(self, advance: ProgressBar) -> None:
        """Warm up and probe every entry, and fit at least five blocks into the remaining time."""
        turns = self._probe_all(advance)
        budget = self.options.budget_seconds
        left = None if budget is None else budget - (time.monotonic() - self.begin) - self._reserve()
        found = planning.plan(
            turns,
            [id(entry) for entry in self.entries if entry.info.default],
            seconds=left,
            n_blocks=self.options.blocks,
            n_gen=self.n_gen,
            backends={id(entry): entry.info.name for entry in self.entries},
            least_backends=LEAST,
        )
        by_id = {id(entry): entry for entry in self.entries}
        for key in found.left_out:
            entry = by_id[key]  # type: ignore[index]
            reason = f"left out, so that the others can finish {found.n_blocks} blocks within {budget:g} s"
            self.result.skipped.append({**entry.key, "reason": reason})
            self._drop(entry)
        if found.n_gen < self.n_gen or found.n_blocks < self.options.blocks:
            self._note(
                f"planned for {budget:g} s: {found.n_blocks} of {self.options.blocks} blocks, "
                f"{found.n_gen} of {self.n_gen} tokens generated in each turn"
            )
        self.n_blocks, self.n_gen = found.n_blocks, found.n_gen
        self.result.environment |= {"n_blocks_planned": found.n_blocks, "budget_seconds": budget}
        blocks = found.n_blocks * (found.seconds_per_block + SETTLE * len(self.entries))
        steps = len(self.entries) * (found.n_blocks + 1) + len(self._keeping_work())
        advance.expect(steps, blocks + self._memory_seconds() + self._reserve())

    def _probe_all(self, advance: ProgressBar) -> dict[int, planning.Turn]:
        """Warm up and probe every entry; drop those that fail. Return the turn of each other one, by id()."""
        turns: dict[int, planning.Turn] = {}
        probed: list[dict[str, Any]] = []
        for entry in list(self.entries):
            advance(f"probe {entry.label}")
            if self._too_late_to_probe(entry, probed):
                reason = f"not probed: {PROBED:.0%} of the {self.options.budget_seconds:g} s had passed"
                self.result.skipped.append({**entry.key, "reason": reason})
                self._drop(entry)
                continue
            self._or_drop(entry, self._warm_up)
            if entry in self.entries:
                self._or_drop(entry, lambda entry: turns.update({id(entry): self._probe(entry)}))
            if entry in self.entries:
                turns[id(entry)] = replace(turns[id(entry)], once=self._memory_seconds([entry]))
                probed.append(entry.key)
        return turns

    def _too_late_to_probe(self, entry: Entry, probed: Sequence[dict[str, Any]]) -> bool:
        budget = self.options.budget_seconds
        if budget is None or entry.info.default or self._is_essential(entry, probed):
            return False
        return time.monotonic() - self.begin > PROBED * budget

    def _probe(self, entry: Entry) -> planning.Turn:
        """Time one short turn and estimate the time of a full one."""
        begin = time.monotonic()
        for n_prompt in self.prompts:
            entry.ask("prefill", ids=self.ids[:n_prompt])
        prompts = time.monotonic() - begin
        step, filling = 0.0, 0.0
        for depth in self.depths:
            begin = time.monotonic()
            n_gen = min(4, self.n_gen)
            ns = entry.ask("decode", ids=self.ids[: max(depth, 1)], n_gen=n_gen)["samples_ns"][0]
            step += ns / n_gen / 1e9
            filling += max(time.monotonic() - begin - ns / 1e9, 0.0)
        return planning.Turn(prefill=prompts + filling, step=step)

    def _blocks(self, advance: Callable[[str], None]) -> None:
        """Give every entry one turn per block, in random order, with a canary before and after each block."""
        order = random.Random(self.options.seed)
        canary = Canary()
        if not self.meter.zones:
            self._note(f"energy: {energy.NOT_READABLE}")
        canaries: list[float] = []
        for block in range(self.n_blocks):
            begin = time.monotonic()
            before = canary.sing()
            for entry in order.sample(self.entries, len(self.entries)):  # a copy: failed ones are removed
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
        """Repeat a short decode until the spread of the last five is below 2 %, at most twenty times."""
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
            self.meter.start()
            answer = entry.ask("decode", ids=self.ids[: max(depth, 1)], n_gen=self.n_gen)
            used = self.meter.stop()
            self._keep(
                entry,
                "decode",
                answer["samples_ns"],
                block=block,
                n_gen=self.n_gen,
                n_depth=depth,
                n_threads=answer["n_threads"],
                steps_ns=answer["steps_ns"],
                joules=used if depth <= 1 else None,  # otherwise it would include the energy of prefill
            )

    def _out_of_time(self, last_block: float, done: int) -> bool:
        """Return whether another block would exceed the budget; the first five may exceed it by a fifth."""
        if self.options.budget_seconds is None:
            return False
        enough = done >= min(MIN_BLOCKS, self.n_blocks)
        limit = self.options.budget_seconds * (1.0 if enough else 1.2)
        kept = self._memory_seconds() + (self._reserve() if enough else 0.0)
        return time.monotonic() - self.begin + last_block + kept > limit

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
                "blocks; without them too few would be left, so they are kept and widen the spread"
            )
            return
        self._note(f"{n_drifted} of {len(flags)} blocks were dropped: their canary drifted by more than 5 %")
        self.result.measurements = [
            replace(m, flagged=m.block >= 0 and flags[m.block]) for m in self.result.measurements
        ]
