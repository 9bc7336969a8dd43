"""Run all measurements for a server with many cores within nine minutes, set-up included.

    python benchmarks/servers.py FOLDER > servers.txt        # 1, 2, 4, … threads, up to all cores, at most 16
    python benchmarks/servers.py FOLDER --threads 1,16,64 --minutes 20
    python benchmarks/servers.py FOLDER --tables 3,4         # only these of the tables below
    python benchmarks/servers.py FOLDER --shape smollm2-135m -p 64 -n 8 --minutes 3      # a quick trial

It needs a checkout and `pip install 'llmlite-kit[torch,llamacpp]'`. A backend that isn't installed is named
and left out. Models have the shape of Llama-3.2-1B and random weights. A missing one is written to FOLDER
first (0.8 and 1.3 GB). These tables are printed, in this order:

1. the machine; whether llmlite, llama.cpp's build and PyTorch may use AMX; with AMX, whether it computes the
   same bits as the other kernels, for each type;
2. for Q8_0, then Q4_0, and each number of threads: read bandwidth; decode and prefill in tokens per second,
   and their ratio to llama.cpp's; the share of the same turn's bandwidth that decode uses; the share of
   ideal scaling from the fewest threads; how long threads wait for each other (`profile`: "waiting");
3. prefill with AMX against the other kernels, PyTorch in bfloat16 and llama.cpp, on the most and the fewest
   threads (`benchmarks/amx.py` measures only that, for more types);
4. decode in Q8_0 with other prefetches: nearer, and into the second-level cache.

Measurements for which no time is left are named and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import amx

ROOT = Path(__file__).resolve().parent.parent
THREADS = (1, 2, 4, 8, 16)
TYPES = ("Q8_0", "Q4_0")
SHARES = (0.4, 0.62, 0.83, 1.0)  # share of the time after which Q8_0, Q4_0, AMX and prefetches must end

OURS = """
import json, sys
import numpy as np
import llmlite as ll
from llmlite.engine.bandwidth import ReadBandwidth
n, n_prompt = int(sys.argv[2]), int(sys.argv[3])
bandwidth = ReadBandwidth(n).measure(3)
executor = ll.load(sys.argv[1], n_threads=n, executor="planned").executor
shares = {}
for name, tokens in (("decode", 1), ("prefill", min(n_prompt, 128))):
    rows = executor.profile(n_tokens=tokens, repeat=3)
    shares[name] = sum(r["waiting"] for r in rows) / sum(r["nanoseconds"] for r in rows)
print(json.dumps({"bandwidth": bandwidth, "waiting": shares}))
"""
# name -> [(file of llmlite/engine, text, its replacement)]; the first entry is the code as it is
PREFETCHES: dict[str, list[tuple[str, str, str]]] = {
    "as it is (4 KB ahead, prefetcht0)": [],
    "1 KB ahead": [("kernels/quantized.py", "AHEAD = 4096", "AHEAD = 1024")],
    "prefetcht1": [("emit.py", "I32(0), I32(3), I32(1))", "I32(0), I32(2), I32(1))")],
    "1 KB ahead, prefetcht1": [
        ("kernels/quantized.py", "AHEAD = 4096", "AHEAD = 1024"),
        ("emit.py", "I32(0), I32(3), I32(1))", "I32(0), I32(2), I32(1))"),
    ],
}


@dataclass
class Clock:
    """Keep track of the time that is left.

    Attributes:
        end: the time.monotonic() at which everything ends.
        seconds: the seconds from the start to the end.
    """

    end: float
    seconds: float

    def left(self, share: float = 1.0) -> float:
        """Return the seconds until this share of the time has passed."""
        return self.end - self.seconds * (1 - share) - time.monotonic()


def output(command: list[str], seconds: float, **more: Any) -> str:
    """Run a command for at most `seconds`; return its output. If it fails, say so and return ""."""
    if seconds < 2:
        print(f"  not reached in time: {' '.join(command[2:6])} …", flush=True)
        return ""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
            **more,
        )
    except (subprocess.SubprocessError, OSError) as error:
        print(f"  left out: {' '.join(command[2:6])} …: {str(error)[-120:]}", flush=True)
        return ""
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no error"])[-1]
        print(f"  left out: {' '.join(command[2:6])} …: {last[:150]}", flush=True)
        return ""
    return done.stdout


def bench(
    path: Path, backend: str, n_threads: int, options: argparse.Namespace, seconds: float
) -> dict[str, float]:
    """Take one turn; return the best decode and prefill speeds in tokens per second, or {} if it fails."""
    command = [sys.executable, "-m", "llmlite", "bench", str(path), "-b", backend, "-o", "json", "-d", "0"]
    command += ["-p", str(options.p), "-n", str(options.n), "-r", "2", "-t", str(n_threads)]
    text = output(command, seconds)
    records: list[dict[str, Any]] = json.loads(text) if text else []
    return {"prefill" if r["n_prompt"] else "decode": max(r["samples_ts"]) for r in records}


def ratio(a: float | None, b: float | None) -> str:
    """Return a / b as text, or "–" if one is missing."""
    return f"{a / b:.2f}" if a and b else "–"


def scaling(path: Path, counts: list[int], options: argparse.Namespace, left: Callable[[], float]) -> None:
    """Print a row for each number of threads until time runs out."""
    size, first = path.stat().st_size, dict[str, float]()
    print(
        f"\n{path.name}\n{'threads':>7} {'GB/s':>6} {'decode':>8} {'/peer':>6} {'of GB/s':>8} {'ideal':>6}"
        f" {'waits':>6} {'prefill':>8} {'/peer':>6} {'ideal':>6} {'waits':>6}"
    )
    for n in counts:
        if left() < 5:
            print(f"  not reached in time: {n} threads", flush=True)
            continue
        ours = bench(path, "llmlite", n, options, left())
        peer = bench(path, "llamacpp", n, options, left())
        text = output([sys.executable, "-c", OURS, str(path), str(n), str(options.p)], left())
        facts: dict[str, Any] = {"bandwidth": 0.0, "waiting": {}} | json.loads(text or "{}")
        first = first or {name: speed / n for name, speed in ours.items()}
        row = f"{n:7} {facts['bandwidth'] / 1e9:6.1f}"
        for name in ("decode", "prefill"):
            speed = ours.get(name)
            row += f" {speed or 0:8.1f} {ratio(speed, peer.get(name)):>6}"
            if name == "decode":
                row += f" {ratio((speed or 0) * size, facts['bandwidth']):>8}"
            row += f" {ratio(speed, n * first.get(name, 0.0)):>6} {facts['waiting'].get(name, 0):6.2f}"
        print(row, flush=True)


def prompts(path: Path, counts: list[int], n_prompt: int, has_amx: bool, left: Callable[[], float]) -> None:
    """Print the prefill speed of tiles and of the others, the most threads first."""
    names = [name for name in amx.CONTESTANTS if has_amx or name != amx.TILES]
    for n in sorted({counts[0], counts[-1]}, reverse=True):
        if left() < 20:
            print(f"  not reached in time: prompts on {n} threads", flush=True)
        else:
            amx.measure(path, n_prompt, n, 1, names, left)


def prefetches(path: Path, counts: list[int], n_tokens: int, left: Callable[[], float]) -> None:
    """Print decode with other prefetches; each is a copy of the package that compiles its kernels first."""
    print(f"\n{path.stem}, decode, tokens/s with other prefetches", flush=True)
    folders = [path.parent / "prefetches" / str(i) for i in range(len(PREFETCHES))]
    for folder, changes in zip(folders, PREFETCHES.values()):
        copy_changed(folder, changes)
    with ThreadPoolExecutor(len(folders)) as pool:  # because each process compiles on one core
        speeds = list(pool.map(lambda folder: decode(path, folder, counts[-1], 2, left()), folders))
    ready = [(name, folder) for name, folder, speed in zip(PREFETCHES, folders, speeds) if speed]
    for n in counts[1:] or counts:
        for name, folder in ready:
            if left() < 5:
                print(f"  not reached in time: {n} threads, {name}", flush=True)
            elif speed := decode(path, folder, n, n_tokens, left()):
                print(f"  {n:3} threads  {name:<36} {speed:8.2f}", flush=True)


def copy_changed(folder: Path, changes: list[tuple[str, str, str]]) -> None:
    """Copy the package into a folder and change files of the engine in the copy."""
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "_kernels")
    shutil.copytree(ROOT / "llmlite", folder / "llmlite", ignore=ignored)
    for file, text, other in changes:
        place = folder / "llmlite" / "engine" / file
        before = place.read_text(encoding="utf-8")
        if before.count(text) != 1:
            raise SystemExit(f"{file}: expected {text!r} once; update PREFETCHES")
        place.write_text(before.replace(text, other), encoding="utf-8")


def decode(path: Path, folder: Path, n_threads: int, n_tokens: int, seconds: float) -> float:
    """Decode with the package in a folder; return the best speed of three runs, or 0 if they fail."""
    command = [sys.executable, "-m", "llmlite", "bench", str(path.resolve()), "-b", "llmlite", "-o", "json"]
    command += ["-d", "0", "-p", "0", "-n", str(n_tokens), "-r", "3", "-t", str(n_threads)]
    # use another cache, or these kernels would push the real ones out of the user's
    environment = {**os.environ, "PYTHONPATH": str(folder.resolve()), "LLMLITE_KERNELS": "compile"}
    environment["LLMLITE_CACHE"] = f"{folder.resolve()}-cache"
    text = output(command, seconds, cwd=folder, env=environment)
    return max((max(record["samples_ts"]) for record in json.loads(text or "[]")), default=0.0)


def main() -> None:
    """Describe the machine, then measure table by table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", default=amx.SHAPE)
    parser.add_argument(
        "--threads", default="", help="such as 1,2,8 (default: powers of two up to the cores)"
    )
    parser.add_argument("-p", type=int, default=512, help="tokens of a prompt (default: 512)")
    parser.add_argument("-n", type=int, default=24, help="tokens that are generated (default: 24)")
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--tables", default="2,3,4", help="which of the tables above (default: 2,3,4)")
    options = parser.parse_args()
    tables = options.tables.split(",")
    if not set(tables) <= set("234"):
        parser.error(f"--tables: expected some of 2,3,4, got {options.tables!r}")
    clock = Clock(time.monotonic() + options.minutes * 60, options.minutes * 60)
    from llmlite.engine import amx as permission
    from llmlite.engine.cpu import choose_threads

    chosen, reason = choose_threads(), permission.refusal()
    counts = [int(n) for n in options.threads.split(",") if n] or [n for n in THREADS if n <= chosen.n_cores]
    amx.describe()
    if not reason:
        print(
            f"AMX's results are {'the bits of the other kernels' if amx.compare_bits() else 'DIFFERENT'}",
            flush=True,
        )
    options.folder.mkdir(parents=True, exist_ok=True)
    paths = {name: amx.model(options.folder, options.shape, name) for name in TYPES}
    print(f"set up in {clock.seconds - clock.left():.0f} s", flush=True)
    for name, share in zip(TYPES, SHARES):
        if "2" in tables:
            scaling(paths[name], counts, options, partial(clock.left, share))
    if "3" in tables:
        prompts(paths["Q4_0"], counts, options.p, not reason, lambda: clock.left(SHARES[2]))
    if "4" in tables:
        prefetches(paths["Q8_0"], counts, options.n, clock.left)
    print(f"\ntotal: {clock.seconds - clock.left():.0f} s", flush=True)


if __name__ == "__main__":
    main()
