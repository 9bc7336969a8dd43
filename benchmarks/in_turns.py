"""Measure two or more backends on one file in turns, and print their ratios to the first one.

    python benchmarks/in_turns.py smollm2.gguf                        # llmlite, llamacpp; 2 threads, 3 rounds
    python benchmarks/in_turns.py model.gguf --backends llmlite,xllamacpp -p 512 -n 64 --rounds 5
    python benchmarks/in_turns.py model.gguf --backends llmlite,xllamacpp --cpu v3      # both for AVX2 alone

Each turn is one `llmlite bench` in its own process. Each round gives a ratio of the backends' best
repetitions, because a machine's memory speed changes from minute to minute. The median and the range over the
rounds are printed. This also measures architectures for which `llmlite compare` has no PyTorch reference.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from typing import Any

from llmlite.bench import turns

V3 = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+sahf,+movbe,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+xsave"
# The CPUs that llmlite's kernels can be compiled for: LLVM's name and features
CPUS = {"v3": ("x86-64-v3", V3), "v3+vnni": ("x86-64-v3", f"{V3},+avxvnni")}


def turn(options: argparse.Namespace, backend: str) -> dict[str, float]:
    """Run one backend once; return the best tokens per second of each test.

    Args:
        options: the options of `main`.
        backend: a name that `llmlite bench` knows.

    Raises:
        SystemExit: the backend failed.
    """
    command = [sys.executable, "-m", "llmlite", "bench", options.model, "-b", backend, "-o", "json"]
    for name in ("p", "n", "d", "t", "r"):
        command += [f"-{name}", str(getattr(options, name))]
    environment = dict(os.environ)
    if options.cpu:
        name, features = CPUS[options.cpu]
        environment |= {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{backend}: {done.stderr.strip().splitlines()[-1]}")
    records: list[dict[str, Any]] = json.loads(done.stdout)
    found = {}
    for record in records:
        n_prompt, depth = record["n_prompt"], record["n_depth"]
        test = f"prefill {n_prompt}" if n_prompt else f"decode at depth {depth}"
        found[test] = max(record["samples_ts"])
    return found


def main() -> None:
    """Take the turns and print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--backends", default="llmlite,llamacpp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu", choices=CPUS, help="compile llmlite's kernels for it (default: this CPU)")
    for name, default, about in (
        ("p", "512", "tokens of a prompt"),
        ("n", "32", "tokens that are generated"),
        ("d", "0", "tokens in the cache before"),
        ("t", "2", "threads"),
        ("r", "3", "repetitions in a turn"),
    ):
        parser.add_argument(f"-{name}", default=default, help=f"{about} (default: {default})")
    options = parser.parse_args()
    names = options.backends.split(",")
    if options.cpu:  # compile first, so that the first turn doesn't
        turn(argparse.Namespace(**vars(options) | {"p": "16", "n": "2", "r": "1"}), names[0])
    found = turns.rounds(names, partial(turn, options), options.rounds)
    print(f"{'test':20} {'backend':12} {'best tokens/s':>14} {'ratio':>7}  range of rounds")
    for test in found[0][names[0]]:
        for name in names:
            one = turns.standing(found, test, names[0], name)
            print(f"{test:20} {name:12} {max(one.values):14.1f} {one}")


if __name__ == "__main__":
    main()
