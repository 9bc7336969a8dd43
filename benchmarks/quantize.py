"""Compare quantizing with llama.cpp: the same F16 file and the same number of threads, in turns.

    python benchmarks/quantize.py --folder FOLDER                      llama-3.2-1b to Q4_K_M
    python benchmarks/quantize.py --folder FOLDER --shape smollm2-135m --types Q4_0 Q8_0 Q6_K --rounds 5
    python benchmarks/quantize.py --report FOLDER/quantize-….jsonl     print the table again

A missing F16 file is made first. Each run is a new process: `llmlite quantize`, or a Python process that
calls libllama's llama_model_quantize, the function that llama-quantize calls. Each run records wall seconds,
CPU seconds of all threads and the largest private memory. Ratios are medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llmlite.bench import environment, memory
from llmlite.engine.cpu import usable_threads
from llmlite.errors import LlmliteError
from llmlite.quantize.mixes import FILE_TYPES
from llmlite.synth import synthesize

ROOT = Path(__file__).resolve().parent.parent
LLAMA_CPP = """
import sys
import llama_cpp
source, target, file_type, n_threads = sys.argv[1:]
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = int(file_type), int(n_threads)
llama_cpp.llama_backend_init()
sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), params))
"""


def commands(source: Path, target: Path, type_name: str, n_threads: int) -> dict[str, list[str]]:
    """Return program -> its command line."""
    number = str(FILE_TYPES[type_name][0])
    return {
        "llmlite": [
            *(sys.executable, "-m", "llmlite", "quantize", str(source), str(target), type_name),
            *("--threads", str(n_threads), "--force"),
        ],
        "llama.cpp": [sys.executable, "-c", LLAMA_CPP, str(source), str(target), number, str(n_threads)],
    }


def timed(command: list[str], target: Path) -> dict[str, Any]:
    """Run one program; return wall and CPU seconds, its peak private memory, and the size of the file."""
    target.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:  # a full pipe that nobody reads would block the program
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
        private = 0
        while process.poll() is None:
            found = memory.of(process.pid)
            private = max(private, (found.private if found else 0) or 0)
            time.sleep(0.05)
        seconds = time.perf_counter() - begin
        if process.returncode:
            said.seek(0)
            last = said.read()[-500:]
            raise RuntimeError(f"{command[:4]} ended with {process.returncode}: {last}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu": cpu, "private": private, "n_bytes": target.stat().st_size}


def measure(options: argparse.Namespace) -> Path:
    """Run all rounds and write a line per run; return the file of samples."""
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"{options.shape}-F16.gguf"
    if not source.exists():
        print(f"making {source.name}", file=sys.stderr)
        synthesize(source, options.shape, "F16")
    samples = folder / f"quantize-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    head = {"shape": options.shape, "n_threads": options.threads, "machine": environment.cpu_name()}
    samples.write_text(json.dumps(head) + "\n")
    target = folder / "quantized.gguf"
    for type_name in options.types:
        for number in range(-1, options.rounds):  # round -1 fills caches, compiles kernels, and doesn't count
            order = list(commands(source, target, type_name, options.threads).items())
            random.Random(f"{type_name} {number}").shuffle(order)
            for program, command in order:
                sample = {"type": type_name, "round": number, "program": program, **timed(command, target)}
                with samples.open("a") as file:
                    file.write(json.dumps(sample) + "\n")
                print(f"{type_name:8} {number:2} {program:10} {sample['seconds']:7.2f} s", file=sys.stderr)
    target.unlink(missing_ok=True)
    return samples


def report(samples: Path) -> str:
    """Return the table of the samples in Markdown."""
    head, *rows = [json.loads(line) for line in samples.read_text().splitlines()]
    text = [
        f"{head['shape']}, F16 to each type, {head['n_threads']} threads, {head['machine']}.",
        "",
        "| type | rounds | llmlite, s | llama.cpp, s | llama.cpp / llmlite | of CPU seconds | private MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for type_name in dict.fromkeys(row["type"] for row in rows):
        mine = [row for row in rows if row["type"] == type_name and row["round"] >= 0]
        by = {name: [r for r in mine if r["program"] == name] for name in ("llmlite", "llama.cpp")}
        pairs = list(zip(*by.values()))
        wall = [theirs["seconds"] / ours["seconds"] for ours, theirs in pairs]
        cpu = [theirs["cpu"] / ours["cpu"] for ours, theirs in pairs]
        seconds = {name: statistics.median(r["seconds"] for r in found) for name, found in by.items()}
        private = "/".join(f"{max(r['private'] for r in found) / 1e6:.0f}" for found in by.values())
        text.append(
            f"| {type_name} | {len(pairs)} | {seconds['llmlite']:.1f} | {seconds['llama.cpp']:.1f} | "
            f"{statistics.median(wall):.2f} ({min(wall):.2f} to {max(wall):.2f}) | "
            f"{statistics.median(cpu):.2f} | {private} |"
        )
    return "\n".join(text)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", default="results/quantize", help="for the models and the samples")
    parser.add_argument("--shape", default="llama-3.2-1b")
    parser.add_argument("--types", nargs="+", default=["Q4_K_M"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_threads())
    parser.add_argument("--report", type=Path, metavar="FILE", help="only print the table of these samples")
    options = parser.parse_args()
    if options.threads < 1 or options.rounds < 1:
        parser.error("--threads and --rounds must be at least 1")
    unknown = [name for name in options.types if name not in FILE_TYPES]
    if unknown:
        parser.error(f"--types: no {', '.join(unknown)}; there are: {', '.join(FILE_TYPES)}")
    try:
        samples = options.report or measure(options)
    except (OSError, LlmliteError) as error:
        parser.exit(2, f"quantize: {error}\n")
    try:
        print(report(samples))
    except OSError as error:
        parser.exit(2, f"quantize: {error}\n")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        parser.exit(2, f"quantize: {samples}: expected samples of this program, got {error!r}\n")
    if not options.report:
        print(f"\nraw samples: {samples}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
