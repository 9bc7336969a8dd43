"""Compare an older commit with this checkout in turns: a row per model, type, CPU, threads and test.

    python benchmarks/old_new.py --old da20b5f --folder FOLDER                   the bundled model, all types
    python benchmarks/old_new.py --old da20b5f --folder FOLDER --quick --models tales,smollm2.gguf
    python benchmarks/old_new.py --old da20b5f --folder FOLDER --models tales,llama-3.2-1b --cpus host,v3
    python benchmarks/old_new.py --report FOLDER/old-new-….jsonl -o table.md           the table again

A model is a name that `llmlite run` knows, a GGUF file, or a shape of `llmlite synth` (random weights).
FOLDER keeps the models made in each type, the kernels of both sides, and the samples. The old commit's files
are extracted from git into a temporary folder.

Protocol: each side runs in its own process. Both get the same file, token ids and threads, and a float16
cache. A block is one turn of each side at each test, in random order. Before and after it, a fixed piece of
work (the canary) is timed. Blocks are taken until --rounds of them are undisturbed, at most twice as many. A
turn repeats its test for --seconds. Samples are written immediately: an interrupted run can be reported, too.
A row that one side can't run is listed with the reason.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from engine_table import DRIFT, read
from in_turns import CPUS
from old_new_table import CLOCKS, KEYS, table

from llmlite import resources
from llmlite.bench.canary import Canary
from llmlite.bench.environment import record
from llmlite.bench.process import FIND_LLMLITE, PACKAGE, BackendError, WorkerProcess
from llmlite.engine.families import FAMILIES
from llmlite.errors import LlmliteError
from llmlite.quantize import plan, quantize_file
from llmlite.quantize.mixes import FILE_TYPES, canonical
from llmlite.quants import TYPES
from llmlite.synth import SHAPES, synthesize

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
WORKER = f"""{FIND_LLMLITE}
import runpy
runpy.run_path({str(BENCHMARKS / "old_new_worker.py")!r}, run_name="__main__")
"""
KERNEL_TYPES = tuple(TYPES[kind].name for kind in FAMILIES)
QUICK = ("Q4_0", "Q8_0", "Q4_K", "Q6_K", "F16")
SIDES = ("old", "new")
SETTLE = 0.1  # seconds: threads of the last side and of the canary's BLAS go on spinning for a while
START_SECONDS = 900.0  # longest wait for an answer: the first one includes compiling kernels
N_GEN, ROOM = 16, 1 << 5  # tokens of a decode turn; positions of a cache beyond the longest test

# test -> (n_prompt, n_gen, n_depth)
TESTS = {f"prefill {n}": (n, 0, 0) for n in (64, 512)} | {
    f"decode at depth {n}": (0, N_GEN, n) for n in (0, 512, 2048)
}

Write = Callable[[dict[str, Any]], None]


def main(argv: list[str] | None = None) -> int:
    """Measure, or read an earlier run's samples; print or write the table.

    Returns:
        0; 1 if no row could be measured; 2 if a request, a file or git failed.
    """
    options = parse(argv)
    try:
        path = options.report or measure(options)
        samples = read(path)
        text = table(samples, options.clock)
    except (ValueError, LlmliteError, OSError) as error:  # the named file may be of another kind
        print(f"old_new.py: {error}", file=sys.stderr)
        return 2
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        print(text)
    print(f"raw samples: {path}", file=sys.stderr)
    return 0 if any(sample["kind"] == "block" for sample in samples) else 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options, with lists as tuples."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--old", metavar="COMMIT", help="any name that git knows")
    parser.add_argument("--folder", type=Path, help="for models, kernels and samples")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="measure nothing; make the table of these samples"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write the table to it (default: print it)"
    )
    parser.add_argument("--models", default="tales", help="models, separated by commas (default: tales)")
    parser.add_argument("--types", help=f"a type for all matrices, or a mix such as Q4_K_M (default: "
                        f"{','.join(KERNEL_TYPES)})")  # fmt: skip
    parser.add_argument(
        "--cpus", default="host", help=f"compile kernels for: host, {', '.join(CPUS)} (default: host)"
    )
    parser.add_argument("--threads", default="1,2", help="default: 1,2")
    parser.add_argument("--tests", default=",".join(TESTS), help=f"default: {','.join(TESTS)}")
    parser.add_argument(
        "--rounds", type=int, default=7, help="undisturbed blocks of each configuration (default: 7)"
    )
    parser.add_argument("--seconds", type=float, default=0.05, help="the shortest turn (default: 0.05)")
    parser.add_argument("--minutes", type=float, default=float("inf"),
                        help="start no configuration after this time (default: no limit)")  # fmt: skip
    quick = f"types {', '.join(QUICK)} unless --types names others, 5 rounds at most"
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="clock of the table (default: wall)")
    options = parser.parse_args(argv)
    check_options(parser, options)
    if options.types is None:
        options.types = ",".join(QUICK if options.quick else KERNEL_TYPES)
    if options.quick:
        options.rounds = min(options.rounds, 5)
    for name, known in (("cpus", ("host", *CPUS)), ("tests", tuple(TESTS))):
        setattr(options, name, listed(parser, name, getattr(options, name), known))
    options.models, options.types = (listed(parser, n, getattr(options, n)) for n in ("models", "types"))
    threads = listed(parser, "threads", options.threads)
    if not all(n.isdecimal() and 0 < int(n) < 1000 for n in threads):
        parser.error(f"--threads: expected numbers separated by commas, got {options.threads!r}")
    options.threads = tuple(map(int, threads))
    return options


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program with a message if a needed option is missing, or a value can't be used."""
    if not options.report and not (options.old and options.folder):
        parser.error("--old and --folder are needed: the old commit, and the place of models and samples")
    if options.old and options.old.startswith("-"):
        parser.error(f"--old: {options.old!r} isn't the name of a commit")
    if options.report and not options.report.is_file():
        parser.error(f"{options.report}: no such file")
    if not options.minutes > 0 or not 0 < options.seconds < 1e4 or options.rounds < 1:  # also refuses nan
        parser.error("--minutes and --seconds must be above 0, --rounds at least 1")


def listed(
    parser: argparse.ArgumentParser, name: str, text: str, known: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """Return the items of a comma-separated list, each once; end with an error if one is unknown."""
    items = tuple(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))
    wrong = [item for item in items if known is not None and item not in known]
    if wrong or not items:
        parser.error(
            f"--{name}: expected {', '.join(known or ('names',))}; got {wrong[0] if wrong else text!r}"
        )
    return items


def measure(options: argparse.Namespace) -> Path:
    """Measure every configuration and return the file of samples; an interrupt ends it early.

    Raises:
        LlmliteError: git doesn't know the commit.
        OSError: the folder can't be written.
    """
    options.folder.mkdir(parents=True, exist_ok=True)
    out = options.folder / f"old-new-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    end = time.monotonic() + 60 * options.minutes
    with older(ROOT, options.old) as (old, name), out.open("w", encoding="utf-8") as file:

        def write(sample: dict[str, Any]) -> None:
            file.write(json.dumps(sample) + "\n")
            file.flush()

        write({"kind": "environment", "environment": record(), "old": name, "new": described(ROOT)})
        try:
            everything(options, {"old": old / "llmlite", "new": PACKAGE}, end, write)
        except KeyboardInterrupt:
            print("interrupted: the table shows the results so far", file=sys.stderr)
    return out


def everything(options: argparse.Namespace, packages: dict[str, Path], end: float, write: Write) -> None:
    """Run all configurations; record those that fail or have no time left, with the reason."""
    canary, order = Watch(), random.Random(0)
    wanted = list(itertools.product(options.models, options.types, options.cpus, options.threads))
    for done, key in enumerate(wanted):
        print(f"{done + 1} of {len(wanted)}: {', '.join(map(str, key))}", file=sys.stderr, flush=True)
        try:
            if time.monotonic() > end:
                raise BackendError(f"time ran out ({options.minutes:g} minutes)")
            path = model_file(options.folder, *key[:2])
            for sample in blocks(path, key, options, packages, canary, order):
                write({"kind": "block", **dict(zip(KEYS, key, strict=True)), **sample})
        except (LlmliteError, ValueError, OSError) as error:
            reason = " ".join(str(error).split())
            write({"kind": "failed", "key": key, "reason": reason})
            print(f"  not measured: {reason}", file=sys.stderr, flush=True)


def blocks(
    path: Path,
    key: tuple[Any, ...],
    options: argparse.Namespace,
    packages: dict[str, Path],
    canary: Watch,
    order: random.Random,
) -> Iterator[dict[str, Any]]:
    """Start both sides and yield their blocks.

    Yields:
        A block: the turns by test and side, the tokens of a turn, and the canary's times.

    Raises:
        BackendError: a side can't run this configuration; the error names the side and the reason.
    """
    tests = {name: TESTS[name] for name in options.tests}
    longest = max(map(sum, tests.values())) + ROOM
    with ExitStack() as stack:
        sides = {}
        for side in SIDES:
            sides[side] = stack.enter_context(start(side, packages[side], options.folder, *key[2:]))
            answer = sides[side].ask("load", path=str(path), n_threads=key[3], longest=longest)
            if answer["unsupported"]:
                raise BackendError(f"{side}: no kernels for {', '.join(answer['unsupported'])}")
        asked = {name: dict(zip(("n_prompt", "n_gen", "n_depth"), test)) for name, test in tests.items()}
        for name in tests:  # fill caches and load pages
            for side in SIDES:
                sides[side].ask("turn", **asked[name], nanoseconds=1)
        nanoseconds = round(1e9 * options.seconds)
        clean = 0
        for number in range(2 * options.rounds):
            songs = [canary.sing()]
            turns: dict[str, dict[str, Any]] = {name: {} for name in tests}
            for name in tests:
                for side in order.sample(SIDES, 2):
                    answer = sides[side].ask("turn", **asked[name], nanoseconds=nanoseconds)
                    turns[name][side] = {clock: answer[clock] for clock in CLOCKS.values()}
            songs.append(canary.sing())
            n_tokens = {name: n_prompt + n_gen for name, (n_prompt, n_gen, _) in tests.items()}
            yield {"block": number, "turns": turns, "n_tokens": n_tokens, "canary_ns": songs}
            clean += canary.is_usual(songs)
            if clean == options.rounds:
                break


class Watch:
    """Time a canary with a pause before and after it, and remember the times."""

    def __init__(self) -> None:
        self.canary, self.songs = Canary(), list[int]()

    def sing(self) -> int:
        """Run the canary and return its nanoseconds."""
        time.sleep(SETTLE)
        self.songs.append(self.canary.sing())
        time.sleep(SETTLE)
        return self.songs[-1]

    def is_usual(self, songs: list[int]) -> bool:
        """Return whether a block with these times will probably count, judged by all times so far."""
        return max(songs) <= (1 + DRIFT) * median(self.songs)


def start(side: str, package: Path, folder: Path, cpu: str, n_threads: int) -> WorkerProcess:
    """Start a side's process with its own cache of kernels."""
    variables = {"LLMLITE_CACHE": str((folder / f"cache-{side}").resolve()), "LLMLITE_KERNELS": "compile"}
    if cpu != "host":
        variables["NUMBA_CPU_NAME"], variables["NUMBA_CPU_FEATURES"] = CPUS[cpu]
    return WorkerProcess(
        side, n_threads, timeout=START_SECONDS, variables=variables, package=package, program=WORKER
    )


# ---- files -------------------------------------------------------------------------------------------------


def model_file(folder: Path, model: str, type_name: str) -> Path:
    """Return the path of the model in that type; the file is made in `folder` on first use.

    Args:
        folder: the folder for files that are made.
        model: a name that `llmlite run` knows, a GGUF file, or a shape of `llmlite synth`.
        type_name: a type for all matrices, or a mix such as "Q4_K_M".

    Raises:
        LlmliteError: the model or type is unknown, or most weights' rows aren't whole blocks of the type.
    """
    pure = type_name.upper() in KERNEL_TYPES
    name = (
        next((n for n, (_, main) in FILE_TYPES.items() if main == type_name.upper()), "")
        if pure
        else type_name
    )
    stem = model if model in SHAPES else resources.model_path(model).stem
    target = folder / f"{stem}-{type_name}.gguf"
    if target.exists():
        return target
    part = target.with_suffix(".part")
    if model in SHAPES:
        synthesize(part, model, name)
    else:
        source = resources.model_path(model)
        if pure:
            require_majority(source, name, type_name.upper())
        quantize_file(source, part, canonical(name), pure=pure, requantize=True)
    os.replace(part, target)
    return target


def require_majority(source: Path, name: str, type_name: str) -> None:
    """Refuse a type that most weights of a model can't have.

    Raises:
        LlmliteError: most weights would get another type, which the error names.
    """
    counts: dict[str, int] = {}
    for row in plan(source, name, pure=True, requantize=True):
        counts[row.target.name] = counts.get(row.target.name, 0) + row.n_bytes
    most = max(counts, key=counts.__getitem__)
    if most != type_name:
        raise LlmliteError(f"most rows aren't whole blocks of {type_name}, and would be {most}")


@contextmanager
def older(root: Path, commit: str) -> Iterator[tuple[Path, str]]:
    """Extract a commit's files from git into a folder that is removed afterwards.

    Yields:
        The folder, and the commit's description.

    Raises:
        LlmliteError: `root` isn't a git checkout, or doesn't have the commit.
    """
    name = described(root, commit)
    packed = git(root, "archive", "--format=tar", commit, "llmlite", "data")
    with tempfile.TemporaryDirectory(prefix="llmlite-old-") as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder), name


def described(root: Path, commit: str = "") -> str:
    """Return a commit's short hash and date; for "", describe the checkout and any changes in it."""
    text = git(root, "log", "-1", "--format=%h (%cs)", *([commit] if commit else [])).decode().strip()
    changed = not commit and git(root, "status", "--porcelain", "--untracked-files=no", "llmlite").strip()
    return f"{text}, with changes" if changed else text


def git(root: Path, *words: str) -> bytes:
    """Return the output of a git command.

    Raises:
        LlmliteError: git failed or is missing; the error has its first line.
    """
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=False)
    except OSError as error:
        raise LlmliteError(f"git: {error.strerror}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it failed"]
        raise LlmliteError(f"git {words[0]}: {said[0].removeprefix('fatal: ')}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
