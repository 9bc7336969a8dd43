"""Measure the engine's speed and memory against llama.cpp and PyTorch in bfloat16, and print a table.

    python benchmarks/engine.py --folder FOLDER               makes missing models, then measures
    python benchmarks/engine.py --folder FOLDER --rows Q4_0 memory --minutes 4
    python benchmarks/engine.py --report FOLDER/engine-….jsonl    print the table again, from its samples
    python benchmarks/engine.py --report FILE --docs docs/engine.md   write it between the document's marks

Protocol: each backend runs in its own process, in blocks of random order. Both sides of a comparison get the
same file, token ids and threads, have a float32 cache, and compute the logits of the last position only.
Before, between and after the turns of a block, a fixed piece of work (the canary) is timed and the read
bandwidth is measured. Ratios are taken within a block, and the table shows their median. `engine_table.py`
has the rule for dropping disturbed blocks.

Rows run in the order of --rows, the most important first. Each has a share of the minutes; time that a row
leaves goes to the next one. Samples are written immediately, so an interrupted run can also be reported.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine_rows as rows
from engine_table import read, tables, write_into

from llmlite.bench.environment import record
from llmlite.engine.cpu import target, usable_threads
from llmlite.synth import SHAPES

# row -> (share of the time, the function that measures it), the most important row first
ROWS: dict[str, tuple[float, Callable[[rows.Bench, str], None]]] = {
    "Q4_0": (3, rows.against_llamacpp("Q4_0")),
    "Q4_K_M": (3, rows.against_llamacpp("Q4_K_M")),
    "Q8_0": (3, rows.against_llamacpp("Q8_0")),
    "memory": (0.5, rows.memory),
    "import": (0.3, rows.imports),
    "first token": (0.5, rows.first_token),
    "bundled": (1, rows.bundled),
    "experts": (2, rows.experts),
    "torch": (2.5, rows.against_torch),
    "depth": (2.5, rows.depth),
    "first use": (1, rows.first_use),
    "Q4_0, 1 thread": (1, rows.cpu_seconds("Q4_0")),
    "Q4_K_M, 1 thread": (1, rows.cpu_seconds("Q4_K_M")),
    "Q8_0, 1 thread": (1, rows.cpu_seconds("Q8_0")),
}


def main(argv: list[str] | None = None) -> int:
    """Measure, or read an earlier run's samples; print the table."""
    options = parse(argv)
    samples = options.report or measure(options)
    try:
        text = tables(read(samples))
        if options.docs:
            write_into(options.docs, text)
    except ValueError as error:  # the file that the user named may be of another kind
        print(f"engine.py: {error}", file=sys.stderr)
        return 2
    print(text)
    if not options.report:
        print(f"raw samples: {samples}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--folder", type=Path, help="for the models and the samples; 5 GB")
    parser.add_argument("--report", type=Path, help="measure nothing; make the table of these samples")
    parser.add_argument("--docs", type=Path, help="also write the table into this document")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW",
                        help=f"rows to measure, of: {'; '.join(ROWS)}")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=20, help="time for all rows together (default 20)")
    parser.add_argument(
        "--blocks", type=int, default=5, help="clean blocks for each row; up to twice as many are taken"
    )
    parser.add_argument("--shape", default="llama-3.2-1b")
    parser.add_argument("--threads", type=int, default=usable_threads())
    options = parser.parse_args(argv)
    if not options.report and not options.folder:
        parser.error("--folder is needed: the place of the models and the samples")
    if not 0 < options.minutes < 1e6 or options.blocks < 1 or options.threads < 1:  # also refuses nan
        parser.error("--minutes must be above 0, --blocks and --threads at least 1")
    if not options.report and options.shape not in SHAPES:
        parser.error(f"--shape: no {options.shape!r}; there are: {', '.join(SHAPES)}")
    for path in (options.report, options.docs):
        if path and not path.is_file():
            parser.error(f"{path}: no such file")
    if options.folder and options.folder.exists() and not options.folder.is_dir():
        parser.error(f"{options.folder}: expected a folder, found a file")
    return options


def measure(options: argparse.Namespace) -> Path:
    """Run the rows and return the file of samples; an interrupt ends the run but keeps its samples."""
    options.folder.mkdir(parents=True, exist_ok=True)
    out = options.folder / f"engine-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    with out.open("w", encoding="utf-8") as file:

        def write(sample: dict[str, Any]) -> None:
            file.write(json.dumps(sample) + "\n")
            file.flush()

        end = time.monotonic() + 60 * options.minutes
        facts = {"environment": record(), "cpu": str(target()), "threads": options.threads}
        write({"kind": "environment", **facts, "minutes": options.minutes, "blocks": options.blocks})
        bench = rows.Bench(options.folder, options.shape, options.threads, options.blocks, write)
        try:
            run(bench, options.rows, end)
        except KeyboardInterrupt:
            print("interrupted: the table shows the results so far", file=sys.stderr)
    return out


def run(bench: rows.Bench, names: list[str], end: float) -> None:
    """Measure each row within its share of the remaining time; record a row that fails as failed."""
    for i, name in enumerate(names):
        left = end - time.monotonic()
        shares = [ROWS[other][0] for other in names[i:]]
        if left < 5:
            bench.write({"row": name, "kind": "failed", "reason": "not measured: no time was left"})
            continue
        bench.deadline = time.monotonic() + left * shares[0] / sum(shares)
        print(f"{name}: up to {bench.deadline - time.monotonic():.0f} s", file=sys.stderr, flush=True)
        try:
            ROWS[name][1](bench, name)
        except Exception as error:  # the table names the row as failed
            traceback.print_exc()
            bench.write({"row": name, "kind": "failed", "reason": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    sys.exit(main())
