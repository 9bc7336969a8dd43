"""The time of a step by kind of operation, and the time in which threads wait for each other.

for step in profile("smollm2:Q8_0", prompts=(256,), gens=(128,)):
    print(step.headline(), *step.table(), sep="\n")
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmlite.engine.planned import PREFILL_TOKENS, PlannedExecutor
from llmlite.errors import LlmliteError

HEADINGS = ("operation", "type", "times", "ms", "share", "waiting", "GB/s", "GOP/s")


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """The measured operations of one step.

    Attributes:
        model: name of the model.
        executor: repr of the executor.
        n_threads: threads that ran the step.
        n_tokens: tokens of the step.
        depth: tokens in the cache before it.
        rows: the rows of `PlannedExecutor.profile`, in order.
    """

    model: str
    executor: str
    n_threads: int
    n_tokens: int
    depth: int
    rows: list[dict[str, Any]]

    @property
    def nanoseconds(self) -> float:
        """Nanoseconds of the whole step: the sum of its operations, each timed with a barrier after it."""
        return sum(row["nanoseconds"] for row in self.rows)

    @property
    def waiting(self) -> float:
        """Average nanoseconds that a thread was idle: at barriers, after uneven pieces or while waking up."""
        return sum(row["waiting"] for row in self.rows)

    @property
    def waking(self) -> float:
        """Nanoseconds of `waiting` in the first operation, before which threads sleep or look for a job."""
        return self.rows[0]["waiting"] if self.rows else 0.0

    def kinds(self) -> list[dict[str, Any]]:
        """Return one row for each pair of a kernel and a weight type, the longest time first."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for row in self.rows:
            same = {"operation": row["operation"], "type": row["type"], "times": 0}
            total = found.setdefault((row["operation"], row["type"]), same)
            total["times"] += 1
            for name in ("nanoseconds", "waiting", "bytes", "operations"):
                total[name] = total.get(name, 0) + row[name]
        return sorted(found.values(), key=lambda row: -row["nanoseconds"])

    def as_record(self) -> dict[str, Any]:
        """Return the fields, the sums, and the rows of `kinds`, as JSON values."""
        return {
            "kind": "profile",
            **{name: getattr(self, name) for name in ("model", "executor", "n_threads", "n_tokens", "depth")},
            "nanoseconds": self.nanoseconds,
            "waiting": self.waiting,
            "waking": self.waking,
            "kinds": self.kinds(),
            "rows": self.rows,
        }

    def table(self) -> list[tuple[str, ...]]:
        """Return the headings and a row of texts for each kind: times in milliseconds, and rates."""
        rows: list[tuple[str, ...]] = [HEADINGS]
        for kind in self.kinds():
            ns = max(kind["nanoseconds"], 1.0)
            rows.append(
                (
                    kind["operation"],
                    kind["type"] or "-",
                    str(kind["times"]),
                    f"{ns / 1e6:.3f}",
                    f"{ns / max(self.nanoseconds, 1.0):.1%}",
                    f"{kind['waiting'] / ns:.1%}" if self.n_threads > 1 else "-",
                    f"{kind['bytes'] / ns:.1f}" if kind["bytes"] else "-",
                    f"{kind['operations'] / ns:.0f}" if kind["operations"] else "-",
                )
            )
        return rows

    def headline(self) -> str:
        """Describe the step and its time in one line."""
        what = "1 token" if self.n_tokens == 1 else f"{self.n_tokens} tokens"
        text = f"{what} after {self.depth}: {self.nanoseconds / 1e6:.3f} ms on {self.n_threads} "
        text += "thread" if self.n_threads == 1 else "threads"
        if self.n_threads > 1:
            share = self.waiting / max(self.nanoseconds, 1.0)
            text += f"; threads wait for {share:.1%} of this time ({self.waiting / 1e6:.3f} ms), "
            text += f"{self.waking / 1e6:.3f} ms of it in the first operation, until all are awake"
        return text


def profile(
    model: str,
    *,
    prompts: Sequence[int] = (PREFILL_TOKENS,),
    gens: Sequence[int] = (1,),
    depths: Sequence[int] = (0,),
    n_threads: int | None = None,
    repeat: int = 5,
) -> Iterator[StepProfile]:
    """Load a model and time every operation of its steps.

    Args:
        model: a GGUF file, "tales" or "tales:Q4_0".
        prompts: lengths of prompts. For one longer than PREFILL_TOKENS, a step of that many tokens is timed.
        gens: numbers of tokens to write. If one of them is above 0, the step of a single token is timed.
        depths: tokens in the cache before the step.
        n_threads: number of threads; None for as many as the model uses by default.
        repeat: number of runs; their median counts.

    Raises:
        LlmliteError: there is nothing to time, or an executor without operations to time runs the model.
    """
    from llmlite import load

    lengths = dict.fromkeys(min(n, PREFILL_TOKENS) for n in prompts if n)
    if any(gens):
        lengths[1] = None
    if not lengths:
        raise LlmliteError("nothing to profile: give -p or -n a number above 0")
    loaded = load(model, n_threads=n_threads)
    executor = loaded.executor
    if not isinstance(executor, PlannedExecutor):
        raise LlmliteError(f"{model}: {executor!r} has no operations to time; it needs compiled kernels")
    for depth in depths or (0,):
        for n_tokens in lengths:
            yield StepProfile(
                model=model,
                executor=repr(executor),
                n_threads=executor.step_threads(n_tokens),
                n_tokens=n_tokens,
                depth=depth,
                rows=executor.profile(n_tokens=n_tokens, depth=depth, repeat=repeat),
            )
