"""Measure one backend on one file, with llama-bench's options and fields. Also manage the environments of
backends, and compare two files of measurements.

Each test runs -r times after one warm-up. Tokenizing and sampling aren't timed.

--profile times every operation of a step instead, and shows how long threads wait for each other.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from llmlite.bench.backends import BACKENDS
from llmlite.cli.run import number
from llmlite.errors import LlmliteError
from llmlite.system import files
from llmlite.terminal import json_text, progress, say

RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?:([+*])(\d{1,9}))?)?", re.ASCII)  # first[-last[(+|*)step]]
MOST = 1000  # values of one option

HELP = "measure one backend; manage environments; compare results"
EXAMPLES = """\
examples:
  llmlite bench                                    the bundled model: prefill of 512 tokens, decode of 128
  llmlite bench model.gguf -p 64,512 -n 128 -d 0,512,2048 -t 1,2 -o jsonl
  llmlite bench model.gguf -b llamacpp -p 0 -n 64
  llmlite bench model.gguf --profile -d 0,2048     the time of each operation of a step
  llmlite bench env list
  llmlite bench env create xllamacpp               llama.cpp without a compiler, in its own environment
  llmlite bench env remove xllamacpp
  llmlite bench diff before.jsonl after.jsonl --junit diff.xml --markdown diff.md

-p, -n, -d and -t take numbers with commas between them, ranges (1-4, 0-2048+512, 64-512*2), and may be given
several times; every combination is measured.

exit codes of diff: 0 nothing is certainly slower, 2 a file can't be used, 3 something is certainly
slower, 4 an entry's results changed or an entry is missing. docs/ci-performance.md explains them.
"""


def numbers_and_ranges(text: str) -> tuple[int, ...]:
    """Read numbers and ranges as llama-bench does: "64,512", "1-4", "0-2048+512", "64-512*2"."""
    found: list[int] = []
    for part in text.split(","):
        match = RANGE.fullmatch(part)
        if match is None:
            raise argparse.ArgumentTypeError(
                f"expected whole numbers or ranges with commas between them, got {text!r}"
            )
        first, last, sign, step = match.groups()
        value, end, by = int(first), int(last or first), int(step or 1)
        while value <= end:
            found.append(value)
            if len(found) > MOST:
                raise argparse.ArgumentTypeError(f"{text!r} has more than {MOST} values")
            following = value * by if sign == "*" else value + by
            if following <= value:
                raise argparse.ArgumentTypeError(f"the range {part!r} never ends")
            value = following
    if not found:
        raise argparse.ArgumentTypeError(f"the range {text!r} is empty")
    return tuple(found)


def _all(given: list[tuple[int, ...]] | None, default: tuple[int, ...]) -> tuple[int, ...]:
    """Return the values of an option that may be given several times, as llama-bench takes it."""
    return tuple(value for each in given for value in each) if given else default


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        metavar="MODEL | env ACTION [NAME] | diff A B",
        help='the model to measure (default: "tales"), or one of the other two jobs',
    )
    parser.add_argument("-b", "--backend", default="llmlite", metavar="NAME", help=", ".join(BACKENDS))
    listed: dict[str, Any] = {"type": numbers_and_ranges, "action": "append", "metavar": "N,.."}
    parser.add_argument("-p", "--n-prompt", **listed, help="prefill tokens (default: 512); 0 leaves it out")
    parser.add_argument("-n", "--n-gen", **listed, help="decode tokens (default: 128); 0 leaves it out")
    parser.add_argument(
        "-d",
        "--n-depth",
        **listed,
        help="tokens in the cache before the test (default: those of 0,512,2048 that fit the context)",
    )
    parser.add_argument("-t", "--threads", **listed, help="threads (default: as many as can run at once)")
    parser.add_argument(
        "-r", "--repetitions", type=number(int, 1), default=5, metavar="N", help="runs (default: 5)"
    )
    parser.add_argument(
        "-o", "--output", choices=("md", "csv", "json", "jsonl"), default="md", help="format (default: md)"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="time each operation of a decode step (-n) and of a prefill step (-p, at most 256 tokens), and "
        "how long threads wait; -o json lists every operation separately",
    )
    parser.add_argument("--base", metavar="BACKEND", help="diff: the backend that speeds are divided by")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="diff: write JUnit XML")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="diff: write a Markdown table")


def run(options: argparse.Namespace) -> int:
    words = options.words or ["tales"]
    of_diff = {"--base": options.base, "--junit": options.junit, "--markdown": options.markdown}
    lost = [name for name, value in of_diff.items() if value is not None]
    if lost and words[0] != "diff":
        raise LlmliteError(f"{', '.join(lost)}: only with diff BEFORE AFTER")
    if words[0] == "env":
        return environments(words[1:])
    if words[0] == "diff":
        return difference(words[1:], options)
    if len(words) > 1:
        raise LlmliteError(f"one model at a time, got {' '.join(words)}")
    return profile(words[0], options) if options.profile else measure(words[0], options)


def profile(model: str, options: argparse.Namespace) -> int:
    """Print where the time of a model's steps goes."""
    from llmlite.bench import profiling
    from llmlite.cli.files import table

    if options.backend != "llmlite":
        raise LlmliteError(f"--profile can only time llmlite's operations, not those of {options.backend}")
    if options.output == "csv":
        raise LlmliteError("--profile: the output can be md, json or jsonl, not csv")
    threads = _all(options.threads, ())
    if threads and min(threads) < 1:
        raise LlmliteError("threads must be at least 1")
    records: list[dict[str, object]] = []
    for n_threads in threads or (None,):
        for step in profiling.profile(
            model,
            prompts=_all(options.n_prompt, (512,)),
            gens=_all(options.n_gen, (128,)),
            depths=_all(options.n_depth, (0,)),
            n_threads=n_threads,
            repeat=options.repetitions,
        ):
            if options.output == "md":
                title = [] if records else [f"{step.model}: {step.executor}"]
                say("\n".join([*title, "", step.headline(), *table(step.table())]))
            elif options.output == "jsonl":
                say(json_text(step.as_record()))
            records.append(step.as_record())
    if options.output == "json":
        say(json_text(records, indent=1))
    return 0


def measure(model: str, options: argparse.Namespace) -> int:
    from llmlite.bench import single

    try:
        request = single.Request(
            model=model,
            backend=options.backend,
            prompts=_all(options.n_prompt, (512,)),
            gens=_all(options.n_gen, (128,)),
            depths=_all(options.n_depth, ()),
            threads=_all(options.threads, ()),
            repetitions=options.repetitions,
        )
    except ValueError as error:
        raise LlmliteError(str(error)) from error

    with progress() as shown:
        records = single.measure(request, shown.show)
    say(single.shown(records, options.output))
    return 0


def environments(words: list[str]) -> int:
    from llmlite.bench import envs

    action, *names = words or ["list"]
    if action == "list" and not names:
        for name in envs.ENVIRONMENTS:
            say(f"{name:<14} {_cost(envs.installed(name))}")
        return 0
    if action not in ("create", "remove") or len(names) != 1:
        raise LlmliteError("expected: env list, env create NAME or env remove NAME")
    if action == "remove":
        say(f"{names[0]}: {'removed' if envs.remove(names[0]) else 'was not there'}")
        return 0
    say(f"{names[0]}: {_cost(envs.create(names[0]))}")
    return 0


def _cost(found: object) -> str:
    from llmlite.bench.envs import Installation

    if not isinstance(found, Installation):
        return "not installed"
    return (
        f"{found.n_packages} packages, {found.n_bytes / 1e6:.0f} MB, installed in {found.seconds:.0f} s by "
        f"{found.installer}, {'compiled from source' if found.compiled else 'no compiler needed'}"
    )


def difference(words: list[str], options: argparse.Namespace) -> int:
    from llmlite.bench import diff
    from llmlite.bench.samples import Comparison

    if len(words) != 2:
        raise LlmliteError("expected: diff BEFORE.jsonl AFTER.jsonl")
    before, after = map(Comparison.load, words)
    found = diff.compare(before, after, options.base)
    say(found.text())
    for path, text in ((options.junit, found.junit()), (options.markdown, found.markdown())):
        if path:
            files.write_text(path, text + "\n")
    return found.exit_code
