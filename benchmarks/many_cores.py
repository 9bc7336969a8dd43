"""Measure how speed grows with threads on a machine with many cores, within eight minutes.

    python benchmarks/many_cores.py FOLDER                   # 1, 2, 4, … threads, up to all cores
    python benchmarks/many_cores.py FOLDER --minutes 4 --types Q8_0 > many-cores.txt

It needs a checkout and its environment. Models have the shape of Llama-3.2-1B and random weights; a missing
one is written to FOLDER first. For each number of threads, fewest first, it takes turns: read bandwidth,
llmlite, and llama.cpp if llama-cpp-python is installed. Printed for each type and number of threads:

- decode and prefill in tokens per second, their ratio to llama.cpp's,
- the share of the bandwidth of the same turn that decode reads ("bound" above 0.9),
- the share of ideal scaling from one thread,
- how much of a step threads wait for each other (`profile`: "waiting").

What is not reached in time is left out and named. Whether AMX is used is said first; `benchmarks/amx.py`
measures it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHAPE = "llama-3.2-1b"
THREADS = (1, 2, 4, 8, 16, 32, 64)

OURS = """
import json, sys
import numpy as np
import llmlite as ll
from llmlite.engine.bandwidth import ReadBandwidth
n = int(sys.argv[2])
bandwidth = ReadBandwidth(n).measure(3)
executor = ll.load(sys.argv[1], n_threads=n, executor="planned").executor
shares = {}
for name, tokens in (("decode", 1), ("prefill", 256)):
    rows = executor.profile(n_tokens=tokens, repeat=3)
    shares[name] = sum(r["waiting"] for r in rows) / sum(r["nanoseconds"] for r in rows)
print(json.dumps({"bandwidth": bandwidth, "waiting": shares}))
"""


def output(command: list[str], timeout: float) -> str:
    """Run a command; return what it printed, or "" if it failed or took too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, timeout), check=True)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"  left out: {' '.join(command[:4])} …: {str(error)[:120]}", flush=True)
        return ""
    return done.stdout


def bench(path: Path, backend: str, n_threads: int, timeout: float) -> dict[str, float]:
    """One turn: the best decode and prefill speed, in tokens per second; empty if there was none."""
    command = [sys.executable, "-m", "llmlite", "bench", str(path), "-b", backend, "-o", "json"]
    text = output([*command, "-p", "512", "-n", "24", "-r", "2", "-t", str(n_threads)], timeout)
    records: list[dict[str, Any]] = json.loads(text) if text else []
    return {"prefill" if r["n_prompt"] else "decode": max(r["samples_ts"]) for r in records}


def ratio(a: float | None, b: float | None) -> str:
    """a / b, or "–" if one is missing."""
    return f"{a / b:.2f}" if a and b else "–"


def measure(path: Path, counts: list[int], end: float) -> None:
    """Print a table row for each number of threads until time is over."""
    size, first = path.stat().st_size, dict[str, float]()
    print(
        f"\n{path.name}\n{'threads':>7} {'GB/s':>6} {'decode':>8} {'/peer':>6} {'of GB/s':>8} {'ideal':>6}"
        f" {'waits':>6} {'prefill':>8} {'/peer':>6} {'ideal':>6} {'waits':>6}"
    )
    for n in counts:
        if time.monotonic() > end:
            print(f"  not reached in time: {n} threads", flush=True)
            continue
        text = output([sys.executable, "-c", OURS, str(path), str(n)], end + 60 - time.monotonic())
        facts: dict[str, Any] = {"bandwidth": 0.0, "waiting": {"decode": 0.0, "prefill": 0.0}}
        facts |= json.loads(text or "{}")
        ours = bench(path, "llmlite", n, end + 60 - time.monotonic())
        peer = bench(path, "llamacpp", n, end + 60 - time.monotonic())
        first = first or {name: speed / n for name, speed in ours.items()}
        row = f"{n:7} {facts['bandwidth'] / 1e9:6.1f}"
        for name in ("decode", "prefill"):
            speed = ours.get(name)
            row += f" {speed or 0:8.1f} {ratio(speed, peer.get(name)):>6}"
            if name == "decode":
                row += f" {ratio((speed or 0) * size, facts['bandwidth']):>8}"
            row += f" {ratio(speed, n * first.get(name, 0.0)):>6} {facts['waiting'][name]:6.2f}"
        print(row, flush=True)


def main() -> None:
    """Describe the machine, then measure type by type."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--types", default="Q8_0,Q4_0")
    parser.add_argument(
        "--threads", default="", help="such as 1,2,8 (default: powers of two up to the cores)"
    )
    parser.add_argument("--minutes", type=float, default=7.0)
    options = parser.parse_args()
    from llmlite.engine import amx_check
    from llmlite.engine.cpu import choose_threads, target

    chosen, begin = choose_threads(), time.monotonic()
    counts = [int(n) for n in options.threads.split(",") if n] or [n for n in THREADS if n <= chosen.n_cores]
    print(f"{target()}; {chosen}; load {os.getloadavg()[0]:.1f}\nAMX: {amx_check.report()[1]}", flush=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    names = options.types.split(",")
    for i, name in enumerate(names):
        path = options.folder / f"{SHAPE}-{name}.gguf"
        if not path.exists():
            command = [sys.executable, "-m", "llmlite", "synth", SHAPE, "--type", name, "-o", str(path)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        measure(path, counts, begin + options.minutes * 60 * (i + 1) / len(names))


if __name__ == "__main__":
    main()
