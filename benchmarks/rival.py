"""Measure checkouts of llmlite in turns, alone and beside a process that keeps one core busy.

    python benchmarks/rival.py model.gguf --checkouts .,../before             # a rival on core 1, 3 rounds
    python benchmarks/rival.py model.gguf --checkouts . --core 0 --threads 1,2
    python benchmarks/rival.py model.gguf --trace -p 128    # which operations wait, and for how long

Each turn is its own process. It processes a prompt and generates tokens, first alone, then with the rival: a
Python loop that may run on one core only. The best and the median tokens per second over all turns are
printed, and the median ratio of the first checkout to each one within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator


def turn(model: str, n_threads: int, n_prompt: int, n_decode: int, core: int) -> dict[str, float]:
    """Load the model and return its tokens per second in each test."""
    import numpy as np

    import llmlite as ll

    loaded = ll.load(model, n_threads=n_threads)

    def measure() -> tuple[float, float]:
        # find the class through an object: older checkouts have it in another module
        cache = type(loaded.cache)(loaded.config, n_prompt + n_decode, np.float16)
        begin = time.perf_counter()
        loaded.executor([5] * n_prompt, cache, n_outputs=1)
        middle = time.perf_counter()
        for i in range(n_decode):
            loaded.executor([7 + i % 50], cache, n_outputs=1)
        return n_prompt / (middle - begin), n_decode / (time.perf_counter() - middle)

    measure()
    found = dict(zip(("prefill", "decode"), measure()))
    with rival_on(core):
        found |= dict(zip(("prefill with a rival", "decode with a rival"), measure()))
    return found


@contextlib.contextmanager
def rival_on(core: int) -> Iterator[None]:
    """Keep a core busy during the block."""
    command = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"]
    with subprocess.Popen(command) as rival:
        try:
            time.sleep(0.3)
            yield
        finally:
            rival.kill()


def trace(model: str, n_threads: int, n_prompt: int, core: int, repeat: int = 20) -> None:
    """Print the times of a prompt's operations, and the number that have to wait for a thread."""
    import llmlite as ll

    executor = ll.load(model, n_threads=n_threads).executor
    executor.profile(n_tokens=n_prompt)

    def measure(title: str) -> None:
        rows = [row for _ in range(repeat) for row in executor.profile(n_tokens=n_prompt, repeat=1)]
        held = [row for row in rows if row["waiting"] > 500_000]  # average nanoseconds of a thread
        total, waited, long = (
            sum(row[what] for row in some) / repeat / 1e6
            for some, what in ((rows, "nanoseconds"), (rows, "waiting"), (held, "waiting"))
        )
        each = statistics.median(row["nanoseconds"] for row in held) / 1e6 if held else 0
        print(
            f"{title:8} {total:7.2f} ms per prompt; a thread waits {waited:6.2f} ms, {long:6.2f} ms of it in"
            f" {len(held) / repeat:5.2f} of {len(rows) // repeat} operations of {each:.2f} ms each (median)"
        )

    measure("alone")
    with rival_on(core):
        measure("rival")


def main() -> None:
    """Take the turns and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--checkouts", default=".")
    parser.add_argument("--threads", default="2", help="one number for each checkout, or one for all")
    parser.add_argument("--core", type=int, default=1, help="core of the rival (default: 1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-p", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("-n", type=int, default=100, help="tokens that are generated")
    parser.add_argument("--trace", action="store_true", help="list this checkout's operations that wait")
    parser.add_argument("--turn", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    threads = [int(n) for n in options.threads.split(",")]
    if options.trace:
        trace(options.model, threads[0], options.p, options.core)
        return
    if options.turn:
        print(json.dumps(turn(options.model, threads[0], options.p, options.n, options.core)))
        return
    folders = options.checkouts.split(",")
    threads = threads * len(folders) if len(threads) == 1 else threads

    def one(at: int) -> dict[str, float]:
        command = [sys.executable, __file__, options.model, "--turn", "--threads", str(threads[at])]
        command += [f"-p{options.p}", f"-n{options.n}", "--core", str(options.core)]
        environment = dict(os.environ, PYTHONPATH=os.path.abspath(folders[at]))
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        return dict(json.loads(done.stdout))

    from llmlite.bench import turns  # imported late: a turn may run on a checkout that lacks it

    found = turns.rounds(range(len(folders)), one, options.rounds)
    print(f"{'test':22} {'checkout, threads':28} {'best':>8} {'median':>8} {'ratio':>7}  range")
    for test in found[0][0]:
        for at, folder in enumerate(folders):
            place = turns.standing(found, test, 0, at)
            print(
                f"{test:22} {folder[-24:] + f', {threads[at]}':28} {max(place.values):8.1f}"
                f" {statistics.median(place.values):8.1f} {place}"
            )


if __name__ == "__main__":
    main()
