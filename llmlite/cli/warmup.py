"""Compile the kernels that models need now, so that the first prompt doesn't wait for them."""

from __future__ import annotations

import argparse
import time

from llmlite.terminal import say

HELP = "compile a model's kernels ahead of time"
EXAMPLES = """\
examples:
  llmlite warmup                       for the bundled model
  llmlite warmup model.gguf            for this model
  llmlite warmup --lessons             for the models that the lessons run
  llmlite warmup --all                 for every type that has kernels (a minute or two)

Compiled kernels stay in the cache folder; LLMLITE_CACHE chooses another one. If
the installed package has kernels for this CPU, there is nothing to compile.
LLMLITE_KERNELS=compile compiles them anyway, for exactly this CPU.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="*", metavar="MODEL", help='a GGUF file, or "tales" (the default)')
    parser.add_argument("--lessons", action="store_true", help="the models that the lessons run")
    parser.add_argument("--all", action="store_true", help="the kernels of all types")


def run(options: argparse.Namespace) -> int:
    from llmlite.bench import checks
    from llmlite.engine.cpu import shipped_level, target

    started = time.perf_counter()
    if options.all:
        from llmlite.engine.families import every_kernel
        from llmlite.engine.jit import prepare

        prepare(every_kernel())
    models = [*(checks.LESSON_MODELS if options.lessons else ()), *options.models]
    checks.warm_up(models or ([] if options.all else ["tales"]))
    level = shipped_level()
    origin = f", shipped for {level.name}" if level else ""
    say(f"kernels are ready for {target()}{origin} ({time.perf_counter() - started:.1f} s)")
    return 0
