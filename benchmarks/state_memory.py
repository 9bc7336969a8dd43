"""Measure the memory that a growing text takes, and the time of one further token.

    python benchmarks/state_memory.py lfm2-350m-Q4_0.gguf mamba2-130m-Q4_0.gguf
    python benchmarks/state_memory.py model.gguf --depths 1024,4096,8192 -t 2

For each file, one process reads a text of random tokens, with keys and values in float16, and stops at each
depth. It prints three figures per depth. The first is private memory: RssAnon in /proc/self/status, which
excludes the mapped weights. It is read after some single tokens, so that a prompt's work memory has been
released. The second is the calculated size of the states, and of the keys and values. The third is the time
of one further token, the fastest of several. Linux only.

NumPy is told not to ask for huge pages. Writing one byte of such a page counts all its 2 MB, so keys and
values would seem to take memory long before the text reaches them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np

import llmlite as ll
from llmlite.engine.kv_cache import AttentionState, KVCache

REPEAT = 12  # further tokens at each depth


def private_mb() -> float:
    """Return the private memory of this process in MB."""
    with open("/proc/self/status", encoding="ascii") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["RssAnon"].split()[0]) * 1024 / 1e6


def kept_mb(cache: KVCache) -> tuple[float, float]:
    """Return the MB that recurrent layers hold, snapshots included, and the MB of keys and values so far."""
    states = {id(state): state for state in cache.states}.values()
    fixed = sum(state.n_bytes for state in states if not isinstance(state, AttentionState))
    grown = sum(
        state.n_bytes * min(1.0, cache.position / state.size)
        for state in states
        if isinstance(state, AttentionState)
    )
    return fixed / 1e6, grown / 1e6


def measure(path: str, depths: list[int], n_threads: int) -> list[dict[str, float]]:
    """Read a text up to each depth; return a record for each."""
    n_ctx = max(depths) + REPEAT * len(depths)
    model = ll.load(path, n_ctx=n_ctx, n_threads=n_threads)
    ids = np.random.default_rng(0).integers(0, model.config.n_vocab, n_ctx).tolist()
    cache, found = model.cache, []
    for depth in depths:
        while cache.position < depth:
            end = min(depth, cache.position + 256)
            model.executor(ids[cache.position : end], cache, n_outputs=1)
        times = []
        for _ in range(REPEAT):
            begin = time.perf_counter()
            model.executor(ids[cache.position : cache.position + 1], cache, n_outputs=1)
            times.append(time.perf_counter() - begin)
        fixed, grown = kept_mb(cache)
        found.append(
            {"depth": depth, "private": private_mb(), "states": fixed, "keys": grown, "ms": 1e3 * min(times)}
        )
    return found


def main() -> None:
    """Print a table; measure each file in its own process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--depths", default="1024,4096,8192", help="tokens read (default: 1024,4096,8192)")
    parser.add_argument("-t", type=int, default=2, help="threads (default: 2)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    depths = sorted(int(depth) for depth in options.depths.split(","))
    if options.one:
        print(json.dumps(measure(options.models[0], depths, options.t)))
        return
    print("| file | tokens | private memory, MB | states, MB | keys and values, MB | one further token, ms |")
    print("|---|---|---|---|---|---|")
    for path in options.models:
        command = [sys.executable, __file__, "--one", path, "--depths", options.depths, "-t", str(options.t)]
        env = os.environ | {"NUMPY_MADVISE_HUGEPAGE": "0"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        if done.returncode:
            raise SystemExit(f"{path}: {done.stderr.strip().splitlines()[-1]}")
        for row in json.loads(done.stdout.splitlines()[-1]):
            print(
                f"| {path.rpartition('/')[2]} | {row['depth']} | {row['private']:.1f} | "
                f"{row['states']:.1f} | {row['keys']:.1f} | {row['ms']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
