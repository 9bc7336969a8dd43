"""Split a model file into several, named PREFIX-00001-of-00003.gguf and so on. Readers open the first."""

from __future__ import annotations

import argparse
import os
import re

from llmlite.cli.files import bar, size
from llmlite.errors import LlmliteError
from llmlite.terminal import say

HELP = "split a model into several files"
EXAMPLES = """\
examples:
  llmlite split model.gguf part --max-size 2G        part-00001-of-0000N.gguf, ...
  llmlite split model.gguf part --max-tensors 128
"""
UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help='a GGUF file, or "tales"')
    parser.add_argument("prefix", metavar="PREFIX", help="the beginning of the new files' names")
    parser.add_argument(
        "--max-size", type=read_size, metavar="SIZE", help="most bytes of weights in a file: 500M, 2G"
    )
    parser.add_argument("--max-tensors", type=int, metavar="N", help="most tensors in a file")


def read_size(text: str) -> int:
    """Read a size such as 500M (powers of ten)."""
    match = re.fullmatch(r"(\d+)([KMG]?)B?", text.upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a valid size; write 500M or 2G")
    return int(match[1]) * UNITS[match[2]]


def run(options: argparse.Namespace) -> int:
    from llmlite import gguf, resources

    if options.max_size is None and options.max_tensors is None:
        raise LlmliteError("give --max-size or --max-tensors")
    source = resources.model_path(options.source)
    try:
        with bar("split") as progress:
            paths = gguf.split(
                source,
                options.prefix,
                max_tensors=options.max_tensors,
                max_bytes=options.max_size,
                progress=progress,
            )
    except ValueError as error:
        raise LlmliteError(str(error)) from None
    for path in paths:
        say(f"{path}: {size(os.path.getsize(path))}")
    return 0
