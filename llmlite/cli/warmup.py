"""Compile, now, the kernels that models need, so that the first prompt does not wait for it."""

from __future__ import annotations

import argparse
import time

from llmlite.errors import LlmliteError

HELP = "compile a model's kernels ahead of time"
EXAMPLES = """\
examples:
  llmlite warmup                       for the bundled model
  llmlite warmup model.gguf            for this one
  llmlite warmup --all                 for every type that has kernels (a minute or two)

Compiled kernels stay in the cache folder; LLMLITE_CACHE chooses another one.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="*", metavar="MODEL", help='a GGUF file, or "tales" (the default)')
    parser.add_argument("--all", action="store_true", help="the kernels of all types")


def run(options: argparse.Namespace) -> int:
    from llmlite.engine.cpu import target

    started = time.perf_counter()
    if options.all:
        from llmlite.engine.families import every_kernel
        from llmlite.engine.jit import prepare

        prepare(every_kernel())
    for name in options.models or ([] if options.all else ["tales"]):
        _warm(name)
    print(f"kernels are ready for {target()} ({time.perf_counter() - started:.1f} s)")
    return 0


def _warm(name: str) -> None:
    from llmlite import load

    model = load(name, n_ctx=8)
    if model.executor.name != "planned":
        raise LlmliteError(f"{name}: {model.executor!r}")
    model.logits([0, 1, 2])
    model.logits([0])
