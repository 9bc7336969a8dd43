"""Merge a model that was split over several files into one."""

from __future__ import annotations

import argparse
import os

from llmlite.cli.files import bar, size
from llmlite.cli.quantize import check_target
from llmlite.terminal import say

HELP = "merge the files of a split model"
EXAMPLES = """\
examples:
  llmlite merge part-00001-of-00003.gguf model.gguf
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FIRST", help="the first file; its name leads to the others")
    parser.add_argument("target", metavar="OUT", help="the file to write")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def run(options: argparse.Namespace) -> int:
    from llmlite import gguf

    if os.path.exists(options.source):
        check_target(options.source, options.target, force=options.force)
    with bar("merge") as progress:
        gguf.merge(options.source, options.target, progress=progress)
    say(f"{options.target}: {size(os.path.getsize(options.target))}")
    return 0
