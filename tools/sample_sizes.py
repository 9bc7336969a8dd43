"""Take the figures that lesson 08 ships beside its own: data/samples/sizes.json, comparison-smollm2.jsonl.

    python tools/sample_sizes.py                  models of three sizes (minutes; needs torch, 8 GB)
    python tools/sample_sizes.py --comparison     the comparison on SmolLM2 from docs/measurements, without
                                                  the times of single steps (measures nothing)

Run it on a quiet machine, then tools/checksums.py. `--busy` marks a provisional take; the lesson says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from llmlite import resources
from llmlite.bench import Options, compare, roofline
from llmlite.bench.samples import Comparison
from llmlite.errors import LlmliteError
from llmlite.lessons import sizes
from llmlite.synth import synthesize

ROOT = Path(__file__).resolve().parent.parent
LARGE = "llama-3.2-1b"  # its shape, random weights
SMOLLM2 = ROOT / "docs/measurements/smollm2/comparison.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comparison", action="store_true", help="only trim the comparison on SmolLM2")
    parser.add_argument("--busy", action="store_true", help="mark the figures as provisional")
    parser.add_argument("--seconds", type=float, default=180, help="for each model (default: 180)")
    options = parser.parse_args()
    return trim() if options.comparison else take(quiet=not options.busy, seconds=options.seconds)


def trim() -> int:
    """Write the comparison that the lesson ships."""
    found = Comparison.load(SMOLLM2)
    found.measurements = [replace(m, steps_ns=()) for m in found.measurements]
    found.save(ROOT / "data/samples/comparison-smollm2.jsonl")
    return 0


def take(*, quiet: bool, seconds: float) -> int:
    """Measure the sweep and write it."""
    try:
        resources.model_path("smollm2")
    except LlmliteError as error:
        sys.exit(f"the sweep needs SmolLM2: {error}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / f"{LARGE}.gguf"
        synthesize(large, LARGE, "Q8_0")
        for name, model in {"tales": "tales", "SmolLM2 135M": "smollm2", "1B shape": str(large)}.items():
            found = compare.run(
                Options(
                    model=model, backends=sizes.BACKEND_NAMES, types=sizes.TYPE_NAMES, blocks=7,
                    prompts=(64,), depths=(1,), n_gen=24, start_runs=1, budget_seconds=seconds,
                )
            )  # fmt: skip
            rows += sizes.rows(found, name)
            print(*rows[-3:], sep="\n", flush=True)
        env = found.environment
    machine = f"{env['cpu_info']}, {env['n_cpu_allowed']} cores, {env['test_time'][:10]}"
    made = sizes.Sizes(
        machine=machine,
        quiet=quiet,
        bytes_per_second=roofline.measure_roof().bytes_per_second,
        rows=tuple(rows),
    )
    (ROOT / "data" / sizes.FILE).write_text(json.dumps(asdict(made), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
