"""Quantize a model file: write its weights again in fewer bits.

The source should be F32, F16 or BF16, because quantizing twice adds both errors.
"""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter
from typing import TYPE_CHECKING

from llmlite.cli.files import bar, size
from llmlite.errors import LlmliteError
from llmlite.system.limits import MAX_THREADS
from llmlite.terminal import complain, say

if TYPE_CHECKING:
    from llmlite.quantize import PlanRow

HELP = "write a model in fewer bits"
EXAMPLES = """\
examples:
  llmlite quantize model-f16.gguf model-q4.gguf Q4_K_M
  llmlite quantize tales tales-q8.gguf Q8_0                               the bundled model
  llmlite quantize tales small.gguf Q4_0 --dry-run                        show each tensor's type and size
  llmlite quantize tales mixed.gguf Q4_0 --tensor-type 'ffn_down=Q6_K'    some tensors in another type
  llmlite quantize model-f16.gguf small.gguf IQ2_XS --imatrix im.gguf     weigh errors by importance

A type such as Q4_K_M is a mix: the tensors that would lose most keep more bits. --pure gives all of them the
main type.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help='a GGUF file in F32, F16 or BF16, or "tales"')
    parser.add_argument("target", metavar="OUT", help="the file to write")
    parser.add_argument("type", metavar="TYPE", help="Q8_0, Q4_K_M, Q4_0, ...")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    parser.add_argument(
        "--tensor-type",
        action="append",
        default=[],
        type=override,
        metavar="REGEX=TYPE",
        help="another type for tensors whose name matches (repeatable; the first match decides)",
    )
    parser.add_argument(
        "--pure", action="store_true", help="one type for all weights, including output and embedding"
    )
    parser.add_argument(
        "--requantize", action="store_true", help="accept a quantized source, although errors add up"
    )
    parser.add_argument("--imatrix", metavar="FILE", help="importance matrix, in llama.cpp's GGUF form")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads (default: all that this process may use)"
    )
    parser.add_argument(
        "--allow-nan", action="store_true", help="accept weights that are NaN, infinite or too large"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def override(text: str) -> tuple[str, str]:
    """Split REGEX=TYPE at the last "="."""
    pattern, equals, type_name = text.rpartition("=")
    try:
        re.compile(pattern)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{pattern!r} is not a regular expression: {error}") from None
    if not (equals and pattern and type_name):
        raise argparse.ArgumentTypeError(f"{text!r}: expected REGEX=TYPE, such as ffn_down=Q6_K")
    return pattern, type_name


def run(options: argparse.Namespace) -> int:
    from llmlite import resources
    from llmlite.quantize import plan, quantize_file, read_imatrix

    if options.threads is not None and not 1 <= options.threads <= MAX_THREADS:
        raise LlmliteError(f"--threads: must be 1 to {MAX_THREADS}, got {options.threads}")
    source = resources.model_path(options.source)
    imatrix = read_imatrix(options.imatrix) if options.imatrix else None
    choices = {
        "pure": options.pure,
        "overrides": options.tensor_type,
        "imatrix": imatrix,
        "requantize": options.requantize,
    }
    if options.dry_run:
        rows = plan(source, options.type, **choices)
        describe(rows)
        warn_of_unused(options.tensor_type, rows)
        return 0
    check_target(source, options.target, force=options.force)
    with bar("quantize") as progress:
        rows = quantize_file(
            source,
            options.target,
            options.type,
            n_threads=options.threads,
            progress=progress,
            allow_nan=options.allow_nan,
            **choices,
        )
    again = Counter(row.source.name for row in rows if row.source.block_size > 1 and row.source != row.target)
    if again:
        names = ", ".join(f"{count} tensors from {name}" for name, count in again.most_common())
        complain(f"warning: quantized twice: {names}; the new rounding comes on top of the old")
    warn_of_unused(options.tensor_type, rows)
    types = Counter(row.target.name for row in rows)
    say(
        f"{options.target}: {size(os.path.getsize(options.target))} (from {size(source.stat().st_size)}), "
        + ", ".join(f"{count} {name}" for name, count in types.most_common())
    )
    return 0


def check_target(source: str | os.PathLike[str], target: str, *, force: bool) -> None:
    if not os.path.exists(target):
        return
    from llmlite.gguf.reading import NAME

    if os.path.samefile(source, target):
        raise LlmliteError(f"{target}: is the source itself; name another file to write")
    parts = [NAME.fullmatch(os.path.realpath(path)) for path in (source, target)]
    if all(parts) and len({(part["prefix"], part["count"]) for part in parts if part}) == 1:
        raise LlmliteError(f"{target}: is a part of the source; name another file to write")
    if not force:
        raise LlmliteError(f"{target}: exists already; --force replaces it")


def warn_of_unused(overrides: list[tuple[str, str]], rows: list[PlanRow]) -> None:
    """Warn about each --tensor-type that matches no tensor: a misspelt name would silently change nothing."""
    for pattern, type_name in overrides:
        if not any(re.search(pattern, row.name) for row in rows):
            complain(f"warning: --tensor-type {pattern}={type_name}: no tensor's name matches")


def describe(rows: list[PlanRow]) -> None:
    """Print the plan: each tensor's type before and after, its new size, and the total."""
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        say(f"  {row.name:<{width}}  {row.source.name:>7} -> {row.target.name:<7}  {size(row.n_bytes):>9}")
    say(f"{len(rows)} tensors, {size(sum(row.n_bytes for row in rows))}; nothing written (dry run)")
