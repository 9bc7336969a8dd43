"""What the fuzzers share: a refusal is one sentence of ours; anything else is a failure."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

SECONDS = 5.0  # of processor time for one input; more is a hang


class FuzzFailureError(Exception):
    """Something happened that isn't a refusal."""


def outcome(act: Callable[[], str | None]) -> str:
    """Do something to an input; return "refused", or what it returns ("read").

    Raises FuzzFailureError for any exception but ours, for an error that is no sentence, and for a hang.
    """
    from llmlite.errors import LlmliteError

    started = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = act() or "read"
    except LlmliteError as error:
        if len(str(error)) > 2000 or "\n" in str(error) or not str(error):
            raise FuzzFailureError(f"unreadable error: {str(error)[:200]!r}") from error
        result = "refused"
    except FuzzFailureError:
        raise
    except Exception as error:
        raise FuzzFailureError(f"{type(error).__name__}: {error}") from error
    if time.process_time() - started > SECONDS:
        raise FuzzFailureError(f"took {time.process_time() - started:.1f} s")
    return result


def run(
    inputs: Iterator[bytes], check: Callable[[bytes, Path], str], seed: int, folder: Path
) -> Counter[str]:
    """Check all inputs and count what happened. A failure's input is kept in the folder.

    If standard error is a terminal, it shows the counts every ten seconds.
    """
    counts: Counter[str] = Counter()
    shown = time.monotonic()
    for i, data in enumerate(inputs):
        try:
            counts[check(data, folder)] += 1
        except FuzzFailureError as failure:
            path = folder / f"failure-{seed}-{i}"
            path.write_bytes(data)
            failure.add_note(f"input {i} of seed {seed}, kept as {path}")
            raise
        if time.monotonic() - shown > 10 and sys.stderr.isatty():
            shown = time.monotonic()
            print(f"\r{i + 1} inputs: {dict(counts)}", end="", file=sys.stderr)
    return counts


def main(
    doc: str | None, inputs: Callable[[int, int], Iterator[bytes]], check: Callable[[bytes, Path], str]
) -> None:
    """Parse --inputs and --seed, run, print the counts."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    started = time.monotonic()
    counts = run(inputs(options.inputs, options.seed), check, options.seed, folder)
    print(f"{counts.total()} inputs in {time.monotonic() - started:.0f} s: {dict(counts)}; no failure")
