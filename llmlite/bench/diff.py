"""Compare two files of measurements: first the results, then the speeds, as ratios that a CI job can trust.

In each run, the speed of an entry is divided by that of a base entry, which ran beside it block by block. The
ratios of the two runs are compared. A slower or busier machine slows entry and base alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from xml.etree import ElementTree

import numpy as np

from llmlite.bench.samples import Comparison
from llmlite.bench.summary import METRICS, MIN_BLOCKS, N_RESAMPLES, entry_label, selected, verdict
from llmlite.errors import LlmliteError

SPEEDS = ("prefill", "decode")
OK, SLOWER, WRONG, UNUSABLE = 0, 3, 4, 2
EXIT_CODES = {
    OK: "nothing is certainly slower, and everything computes the same",
    UNUSABLE: "a file can't be read, or the two have nothing in common",
    SLOWER: "something is certainly slower",
    WRONG: "something that agreed with float32 arithmetic no longer does, or is missing",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison of an entry with its earlier result.

    Attributes:
        entry: label of backend and type.
        kind: "agreement" or a key of SPEEDS.
        verdict: "agrees", "DISAGREES", "missing", "faster", "slower", "about equal" or "can't tell".
        text: the reason for the verdict; "" if it needs none.
        ratio, low, high: the new speed over the old one, with its 95 % interval; None for agreement.
    """

    entry: str
    kind: str
    verdict: str
    text: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def failed(self) -> bool:
        return self.verdict in ("DISAGREES", "missing", "slower")

    def __str__(self) -> str:
        figures = "" if self.ratio is None else f" {self.ratio:.3f}x ({self.low:.3f} to {self.high:.3f})"
        return f"{self.entry}, {self.kind}:{figures} {self.verdict}" + (f"; {self.text}" if self.text else "")


@dataclass(frozen=True, kw_only=True)
class Diff:
    """All rows, and the label of the base entry that speeds are relative to."""

    rows: tuple[Row, ...]
    base: str

    @property
    def exit_code(self) -> int:
        if any(row.verdict in ("DISAGREES", "missing") for row in self.rows):
            return WRONG
        return SLOWER if any(row.failed for row in self.rows) else OK

    def text(self) -> str:
        return "\n".join([f"speeds relative to {self.base} in the same run", *map(str, self.rows)])

    def markdown(self) -> str:
        """Return the rows as a Markdown table, for a pull request."""
        lines = [
            f"Speeds are ratios to {self.base} in the same run, with 95 % intervals from blocks.",
            "",
            "| entry | what | now / before | interval | verdict |",
            "| :-- | :-- | --: | :-- | :-- |",
        ]
        for row in self.rows:
            ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
            interval = "" if row.low is None else f"{row.low:.3f} to {row.high:.3f}"
            said = f"{row.verdict}: {row.text}" if row.text and row.failed else row.verdict
            cells = (row.entry, row.kind, ratio, interval, f"**{said}**" if row.failed else said)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return "\n".join(lines)

    def junit(self) -> str:
        """Return the rows as JUnit XML, one case each; a row without a certain verdict counts as skipped."""
        failures = sum(row.failed for row in self.rows)
        skipped = sum(row.verdict == "can't tell" for row in self.rows)
        suite = ElementTree.Element(
            "testsuite",
            name="llmlite bench diff",
            tests=str(len(self.rows)),
            failures=str(failures),
            skipped=str(skipped),
        )
        for row in self.rows:
            case = ElementTree.SubElement(suite, "testcase", classname=row.kind, name=row.entry)
            if row.failed:
                ElementTree.SubElement(case, "failure", message=str(row)).text = str(row)
            elif row.verdict == "can't tell":
                ElementTree.SubElement(case, "skipped", message=str(row))
        ElementTree.indent(suite)
        return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def compare(before: Comparison, after: Comparison, base: str | None = None) -> Diff:
    """Compare two runs.

    Args:
        before: the earlier run.
        after: the later run.
        base: the backend that speeds are relative to, which must not be the one that changed. None chooses
            the first of torch-f32, llamacpp, xllamacpp and llmlite-eager that both runs have timed.

    Raises:
        LlmliteError: the runs have no entry, or no base, in common.
    """
    ours = [entry for entry in before.entries() if entry in after.entries()]
    if not ours:
        raise LlmliteError("the two runs have no backend and quantization in common")
    rows = [_agreement(before, after, entry) for entry in before.entries()]
    chosen = _base(before, after, ours, base)
    for entry in ours:
        if entry != chosen:
            rows += [_speed(before, after, entry, chosen, metric) for metric in SPEEDS]
    return Diff(rows=tuple(rows), base=entry_label(*chosen))


def _base(
    before: Comparison, after: Comparison, ours: Sequence[tuple[str, str]], base: str | None
) -> tuple[str, str]:
    def timed(comparison: Comparison) -> set[tuple[str, str]]:
        return {(m.backend, m.model_type) for m in comparison.measurements if m.block >= 0}

    both = timed(before) & timed(after)
    for name in [base] if base else ["torch-f32", "llamacpp", "xllamacpp", "llmlite-eager"]:
        for entry in ours:
            if entry[0] == name and entry in both:
                return entry
    wanted = base or "torch-f32, llamacpp, xllamacpp or llmlite-eager"
    raise LlmliteError(f"speeds are relative to {wanted}, which both runs must have timed")


def _agreement(before: Comparison, after: Comparison, entry: tuple[str, str]) -> Row:
    def found(comparison: Comparison) -> dict[str, object] | None:
        rows = [r for r in comparison.agreement if (r["backend"], r["model_type"]) == entry]
        return rows[0] if rows else None

    then, now = found(before), found(after)
    label = entry_label(*entry)
    if now is None:
        reasons = [str(r["reason"]) for r in after.skipped if r["backend"] == entry[0]]
        return Row(entry=label, kind="agreement", verdict="missing", text=reasons[0] if reasons else "")
    if now["agrees"]:
        return Row(entry=label, kind="agreement", verdict="agrees")
    if then and not then["agrees"]:
        return Row(entry=label, kind="agreement", verdict="can't tell", text=f"as before: {now['reason']}")
    return Row(entry=label, kind="agreement", verdict="DISAGREES", text=str(now["reason"]))


def _speed(
    before: Comparison, after: Comparison, entry: tuple[str, str], base: tuple[str, str], metric: str
) -> Row:
    label = entry_label(*entry)
    then, now = _ratios(before, entry, base, metric), _ratios(after, entry, base, metric)
    least = min(len(then), len(now))
    if then and not now:  # its process failed, or it was left out, after its results had been checked
        reasons = [str(r["reason"]) for r in after.skipped if (r["backend"], r.get("model_type")) == entry]
        return Row(entry=label, kind=metric, verdict="missing", text=reasons[0] if reasons else "not timed")
    if not least:
        return Row(entry=label, kind=metric, verdict="can't tell", text="not timed in both runs")
    low, high = _interval(then, now)
    return Row(
        entry=label,
        kind=metric,
        verdict=verdict(low, high, least),
        text="" if least >= MIN_BLOCKS else f"{least} blocks, but at least {MIN_BLOCKS} are needed",
        ratio=median(now) / median(then),
        low=low,
        high=high,
    )


def _ratios(
    comparison: Comparison, entry: tuple[str, str], base: tuple[str, str], metric: str
) -> list[float]:
    """Return the speed of an entry over that of the base, for each block that has both."""
    found = METRICS[metric]
    ours, theirs = (
        {m.block: m.median_ns / m.n_tokens for m in selected(comparison, found, *which) if m.block >= 0}
        for which in (entry, base)
    )
    return [theirs[block] / ours[block] for block in sorted(ours.keys() & theirs.keys())]


def _interval(then: Sequence[float], now: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of median(now) / median(then), each resampled independently."""
    random = np.random.default_rng(seed)
    medians = [
        np.median(random.choice(np.asarray(each), (N_RESAMPLES, len(each))), axis=1) for each in (now, then)
    ]
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    return float(low), float(high)
