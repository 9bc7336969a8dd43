"""Turn the raw samples of `engine.py` into its table, in Markdown.

A block is flagged if any of its canaries (before, between, after) is more than 5 % slower than the median
canary of the whole run: another program was using the machine. Flagged blocks are left out. If all blocks of
a row are flagged, the row shows their figures with a mark.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

DRIFT = 0.05
MARK = "†"
BEGIN, END = "<!-- figures: python benchmarks/engine.py --docs FILE -->", "<!-- end of figures -->"
TYPES = ("Q4_0", "Q4_K_M", "Q8_0")

Sample = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Describe one line of the table.

    Attributes:
        title: the name of the figure.
        row: the row whose samples are used.
        phase: the kind of blocks, "prefill" or "decode"; None for all.
        value: a function from a sample to the figure.
        must: the bound that the figure must reach.
        aim: the bound that it should reach; None for none.
        at_least: whether the bounds are lower ones; False if small figures are good.
        unit: the text after the number.
        digits: number of digits after the decimal point.
    """

    title: str
    row: str
    value: Callable[[Sample], float]
    must: float
    aim: float | None = None
    phase: str | None = None
    at_least: bool = True
    unit: str = ""
    digits: int = 2


def rate(sample: Sample, name: str, clock: str = "samples_ns") -> float:
    """Return one backend's tokens per second in a block, the median of its turns."""
    count = sample[{"prefill": "n_prompt", "decode": "n_gen"}[sample["phase"]]]
    return count * 1e9 / median(sample[name][clock])


def ratio(sample: Sample) -> float:
    """Return llmlite's rate divided by its peer's, within a block."""
    return rate(sample, "llmlite") / rate(sample, sample["peer"])


def bandwidth_share(sample: Sample) -> float:
    """Return the share of the read bandwidth that decode used.

    This is the bytes of weights read per second, divided by the mean of the bandwidths measured right before
    and after the turn. Each of these is the best of five readings, because bandwidth moves between levels on
    shared hosts. The result is the mean over a block's turns.
    """
    ours = [i for i, name in enumerate(sample["order"]) if name == "llmlite"]
    moved = sample["bytes"] * sample["n_gen"] * 1e9
    return fmean(
        moved / spent / fmean(sample["bandwidth"][i : i + 2])
        for i, spent in zip(ours, sample["llmlite"]["samples_ns"], strict=True)
    )


def depth_share(sample: Sample) -> float:
    """Return the speed of decode at depth, as a share of the speed that its extra bytes would allow.

    The extra bytes are those of keys and values.
    """
    shallow, deep = (median(sample[name]["samples_ns"]) for name in ("shallow", "deep"))
    return shallow / deep * (sample["bytes"] + sample["kv_bytes"]) / sample["bytes"]


def over(title: str, row: str, phase: str, must: float, aim: float) -> Figure:
    """Return a figure: llmlite's rate divided by its peer's in the blocks of a row."""
    return Figure(title=title, row=row, phase=phase, value=ratio, must=must, aim=aim)


def seconds(title: str, row: str, must: float, aim: float, digits: int) -> Figure:
    """Return a figure in seconds, of which small values are good."""
    return Figure(
        title=title,
        row=row,
        value=lambda s: s["seconds"],
        must=must,
        aim=aim,
        at_least=False,
        unit=" s",
        digits=digits,
    )


FIGURES = (
    *(over(f"decode, {t}, over llama.cpp", t, "decode", 1.0, 1.4) for t in TYPES),
    *(
        Figure(
            title=f"share of read bandwidth in decode, {t}",
            row=t,
            phase="decode",
            value=bandwidth_share,
            must=0.65,
            aim=0.85,
        )
        for t in ("Q8_0", "Q4_0")
    ),
    *(over(f"prefill 512, {t}, over llama.cpp", t, "prefill", 1.2, 2.0) for t in TYPES),
    over("mixture of 128 experts, Q4_0, decode over llama.cpp", "experts", "decode", 1.0, 1.4),
    over("mixture of 128 experts, Q4_0, prefill 512 over llama.cpp", "experts", "prefill", 1.2, 2.0),
    over("prefill 512, Q4_0, over PyTorch bfloat16", "torch", "prefill", 1.0, 1.4),
    over("bundled model, Q8_0, decode over llama.cpp", "bundled", "decode", 0.8, 1.2),
    Figure(
        title="decode at depth 2048 over depth 0, as a share of what the bytes allow, Q4_0",
        row="depth",
        value=depth_share,
        must=0.8,
        aim=0.95,
    ),
    Figure(
        title="private memory after position 2047, n_ctx 2048, Q4_0",
        row="memory",
        value=lambda s: s["private_bytes"] / 1e6,
        must=200,
        aim=120,
        at_least=False,
        unit=" MB",
        digits=0,
    ),
    Figure(
        title="`import llmlite` over a bare interpreter",
        row="import",
        value=lambda s: s["import"] - s["bare"],
        must=0.05,
        at_least=False,
        unit=" s",
        digits=3,
    ),
    seconds("process start to first token, Q4_0", "first token", 1.2, 0.5, digits=2),
    seconds("first use ever (no kernels yet), Q4_K_M", "first use", 40, 15, digits=1),
)


def read(path: Path) -> list[Sample]:
    """Read samples; skip a last line that was cut short when the program was killed.

    Raises:
        ValueError: a line other than the last isn't JSON, or a line isn't a sample of this benchmark.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    samples = []
    for number, line in enumerate(lines, 1):
        try:
            samples.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not JSON ({error.msg})") from None
    if not samples or not all(isinstance(sample, dict) and "kind" in sample for sample in samples):
        raise ValueError(f'{path}: not the samples of a benchmark: JSON objects with a "kind"')
    return samples


def flag(samples: list[Sample]) -> list[Sample]:
    """Set "flagged" in every block, by the rule at the top of this file."""
    blocks = [s for s in samples if s.get("kind") == "block"]
    if blocks:
        usual = median(song for s in blocks for song in s["canary_ns"])
        for s in blocks:
            s["flagged"] = max(s["canary_ns"]) > (1 + DRIFT) * usual
    return samples


def kept(blocks: list[Sample]) -> tuple[list[Sample], bool]:
    """Return the clean blocks and False; if there are none, return the flagged blocks and True."""
    clean = [s for s in blocks if not s.get("flagged")]
    return (clean, False) if clean else (blocks, bool(blocks))


def tables(samples: list[Sample]) -> str:
    """Return the whole report in Markdown: the machine, goals, rates, and failures."""
    flag(samples)
    return (
        "\n\n".join(filter(None, (machine(samples), goals(samples), rates(samples), failures(samples))))
        + "\n"
    )


def machine(samples: list[Sample]) -> str:
    """Return sentences about the machine, the versions and the flagged blocks."""
    found = next((s for s in samples if s.get("kind") == "environment"), None)
    if found is None:
        return ""
    e, blocks = found["environment"], [s for s in samples if s.get("kind") == "block"]
    versions = ", ".join(
        f"{k} {e['packages'][k]}" for k in ("llama-cpp-python", "torch") if k in e["packages"]
    )
    text = (
        f"{found['threads']} threads of {e['cpu_info']} ({found['cpu']}); Python {e['python'].split()[-1]}, "
    )
    text += f"{versions}; {e['test_time'][:10]}."
    if blocks:
        width = max(w for s in blocks for w in s.get("bandwidth", [0]))
        dropped = sum(s["flagged"] for s in blocks)
        text += (
            f" Read bandwidth up to {width / 1e9:.1f} GB/s. {dropped} of {len(blocks)} blocks were flagged:"
        )
        text += " a canary in them was more than 5 % slower than the median one."
    return text


def goals(samples: list[Sample]) -> str:
    """Return the table of figures with their bounds."""
    lines = [
        "| figure | measured | lowest to highest | must | aim | | samples |",
        "|---|---|---|---|---|---|---|",
    ]
    by_row = rows_of(samples)
    marked = False
    for figure in FIGURES:
        taken = [s for s in by_row.get(figure.row, []) if figure.phase in (None, s.get("phase"))]
        if not taken:
            lines.append(f"| {figure.title} | not measured | | {bound(figure, figure.must)} | "
                         f"{bound(figure, figure.aim)} | | 0 |")  # fmt: skip
            continue
        counted, is_marked = kept(taken)
        marked |= is_marked
        values = sorted(figure.value(s) for s in counted)
        middle = median(values)
        shown, low, high = (f"{v:.{figure.digits}f}" for v in (middle, values[0], values[-1]))
        lines.append(
            f"| {figure.title} | {shown}{figure.unit}{MARK if is_marked else ''} | {low} to {high} | "
            f"{bound(figure, figure.must)} | {bound(figure, figure.aim)} | {verdict(figure, middle)} | "
            f"{len(counted)} of {len(taken)} |"
        )
    if marked:
        lines.append(
            f"\n{MARK} every block of this row was flagged, so the figure comes from flagged blocks."
        )
    return "\n".join([*lines, *remarks(by_row)])


def remarks(by_row: dict[str, list[Sample]]) -> list[str]:
    """Return the findings of two rows that aren't numbers."""
    found = []
    if by_row.get("import"):
        modules = by_row["import"][0]["third_party"]
        found.append(f"`import llmlite` imports {', '.join(modules) or 'no third-party module'}.")
    if by_row.get("first use"):
        told = by_row["first use"][0]["progress"]
        found.append(f"The first use {'reports' if told else 'does not report'} that it compiles.")
    return ["", " ".join(found)] if found else []


def bound(figure: Figure, limit: float | None) -> str:
    return "–" if limit is None else f"{'≥' if figure.at_least else '≤'} {limit:g}{figure.unit}"


def verdict(figure: Figure, value: float) -> str:
    """Return "aim" or "must", the higher bound that is reached; "**missed**" if neither is."""

    def reached(limit: float) -> bool:
        return value >= limit if figure.at_least else value <= limit

    if figure.aim is not None and reached(figure.aim):
        return "aim"
    return "must" if reached(figure.must) else "**missed**"


def rates(samples: list[Sample]) -> str:
    """Return the table of each backend's tokens per second of wall time and of CPU time."""
    lines = [
        "| tokens per second | prefill | decode | prefill by CPU time | decode by CPU time | samples |",
        "|---|---|---|---|---|---|",
    ]
    for row, taken in rows_of(samples).items():
        phases = {phase: [s for s in taken if s.get("phase") == phase] for phase in ("prefill", "decode")}
        counted = {phase: kept(of_phase) for phase, of_phase in phases.items()}
        for name in names_of(taken[0]):
            cells = [
                f"{median(rate(s, name, clock) for s in counted[phase][0]):.4g}" if phases[phase] else "–"
                for clock in ("samples_ns", "cpu_ns")
                for phase in phases
            ]
            title = f"{row}, {name}{MARK if any(is_marked for _, is_marked in counted.values()) else ''}"
            number = ", ".join(f"{len(counted[phase][0])} of {len(phases[phase])}" for phase in phases)
            lines.append(f"| {title} | {' | '.join(cells)} | {number} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def names_of(sample: Sample) -> Iterable[str]:
    """Return the backends in a block, llmlite first."""
    if "phase" not in sample:
        return []
    names = [key for key, value in sample.items() if isinstance(value, dict) and "samples_ns" in value]
    return sorted(names, key=lambda name: (name != "llmlite", name))


def failures(samples: list[Sample]) -> str:
    """Return a list of the rows that failed or had no time left, with the reasons."""
    bad = [s for s in samples if s.get("kind") == "failed"]
    return "\n".join(f"- {s['row']}: {s['reason']}" for s in bad)


def rows_of(samples: list[Sample]) -> dict[str, list[Sample]]:
    """Return the measured samples by row, in the order in which they were taken."""
    found: dict[str, list[Sample]] = {}
    for s in samples:
        if s.get("kind") in ("block", "memory", "import", "seconds"):
            found.setdefault(s["row"], []).append(s)
    return found


def write_into(document: Path, text: str) -> None:
    """Replace the text between the two marks of `document`.

    Raises:
        ValueError: a mark is missing.
    """
    before, found, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not found or not found_end:
        raise ValueError(f"{document}: no {BEGIN} … {END}")
    document.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")
