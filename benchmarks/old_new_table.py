"""Turn the raw samples of `old_new.py` into its table, in Markdown.

Ratios are taken within a block. Intervals and verdicts follow the rules of `llmlite compare`. A block is
dropped if the canary before or after it was slow, as in `engine_table.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from engine_table import DRIFT, MARK, flag, kept

from llmlite.bench.summary import MARGIN, MIN_BLOCKS, Ratio, of_ratios

CLOCKS = {"wall": "samples_ns", "cpu": "cpu_ns"}
KEYS = ("model", "type", "cpu", "threads")  # the fields of a configuration, in the table's order
HEAD = "| model | type | CPU | threads | test | old | new | new / old | 95 % interval | verdict | blocks |"

Sample = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Hold one line of the table.

    Attributes:
        key: the values of KEYS.
        test: a name such as "prefill 512".
        old, new: tokens per second, medians over blocks.
        ratio: the ratio of new to old, above 1 if new is faster.
        marked: whether every block was disturbed, so that all of them count.
        n_blocks: number of blocks taken.
    """

    key: tuple[Any, ...]
    test: str
    old: float
    new: float
    ratio: Ratio
    marked: bool
    n_blocks: int

    def __str__(self) -> str:
        few = self.ratio.n_blocks < MIN_BLOCKS  # an interval from so few blocks would look too certain
        interval = "–" if few else f"{self.ratio.low:.2f} to {self.ratio.high:.2f}"
        cells = [*self.key, self.test, f"{self.old:.4g}", f"{self.new:.4g}", f"{self.ratio.value:.3f}"]
        cells[-1] += MARK if self.marked else ""
        return line([*cells, interval, self.ratio.verdict, f"{self.ratio.n_blocks} of {self.n_blocks}"])


def line(cells: Iterable[Any]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def rows(samples: list[Sample], clock: str) -> Iterator[Row]:
    """Yield the rows of all configurations, in the order in which they were measured.

    Args:
        clock: one of CLOCKS. "cpu" counts the time of all threads, including those that spin while they wait.
    """
    by_key: dict[tuple[Any, ...], list[Sample]] = {}
    for sample in flag(samples):
        if sample["kind"] == "block":
            by_key.setdefault(tuple(sample[key] for key in KEYS), []).append(sample)
    for key, blocks in by_key.items():
        counted, marked = kept(blocks)
        for test in blocks[0]["turns"]:
            speeds = {side: [speed(s, test, side, clock) for s in counted] for side in ("old", "new")}
            ratios = [new / old for old, new in zip(speeds["old"], speeds["new"], strict=True)]
            yield Row(
                key=key,
                test=test,
                old=median(speeds["old"]),
                new=median(speeds["new"]),
                ratio=of_ratios(ratios),
                marked=marked,
                n_blocks=len(blocks),
            )


def speed(sample: Sample, test: str, side: str, clock: str) -> float:
    """Return one side's tokens per second in a block, the median of its repetitions."""
    return sample["n_tokens"][test] * 1e9 / median(sample["turns"][test][side][CLOCKS[clock]])


def table(samples: list[Sample], clock: str) -> str:
    """Return the whole report in Markdown: machine, rows, a summary, and the rows that failed."""
    found = list(rows(samples, clock))
    parts = [machine(samples, clock), summary(found)]
    if found:
        parts.append("\n".join([HEAD, "|---" * HEAD.count(" | ") + "|---|", *map(str, found)]))
    if any(row.marked for row in found):
        parts.append(f"{MARK} every block of this row was disturbed, so the figure comes from all of them.")
    gone = {
        f"- {', '.join(map(str, s['key']))}: {s['reason']}": None for s in samples if s["kind"] == "failed"
    }
    if gone:
        parts.append("Not measured:\n\n" + "\n".join(gone))
    return "\n\n".join(filter(None, parts)) + "\n"


def machine(samples: list[Sample], clock: str) -> str:
    """Return sentences about both sides, the machine and the rules; "" if the samples lack this record."""
    found = next((s for s in samples if s["kind"] == "environment"), None)
    if found is None:
        return ""
    e, blocks = found["environment"], [s for s in samples if s["kind"] == "block"]
    clocks = {"wall": "of wall time", "cpu": "of CPU time"}[clock]
    return (
        f"Old is {found['old']}, new is {found['new']}. {e['cpu_info']}, Python {e['python'].split()[-1]}, "
        f"{e['test_time'][:10]}. Tokens per second {clocks}. "
        f"{sum(s['flagged'] for s in blocks)} of {len(blocks)} blocks were disturbed: their canary was more "
        f"than {DRIFT:.0%} slower than the median one. A verdict needs {MIN_BLOCKS} blocks, and an interval "
        f"that lies beyond {MARGIN:.0%} on one side, or within {MARGIN:.0%} on both."
    )


def summary(found: list[Row]) -> str:
    """Return the number of rows with each verdict, and the extremes."""
    if not found:
        return ""
    counts = [(v, sum(r.ratio.verdict == v for r in found)) for v in VERDICTS]
    told = ", ".join(f"{n} {v}" for v, n in counts if n)
    low, high = (choose(found, key=lambda r: r.ratio.value) for choose in (min, max))
    return (
        f"New against old, in {len(found)} rows: {told}. "
        f"Median ratio {median(r.ratio.value for r in found):.3f}; "
        f"lowest {named(low)}, highest {named(high)}."
    )


VERDICTS = ("faster", "about equal", "slower", "can't tell")


def named(row: Row) -> str:
    """Return a row's ratio and name in one phrase."""
    return f"{row.ratio.value:.3f} ({', '.join(map(str, (*row.key, row.test)))})"
