"""Check this machine for llmlite, and say what to do if something is wrong.

The checks cover the processor, the threads this process may use, memory, packages, the cache folder, the
bundled data, and whether kernels compile. Exit code 0: all is well; 1: something is wrong (its line begins
with "wrong").

--code prints the findings as one short code, for the organiser of a workshop. It holds no name, no path, and
no address. --decode turns such codes into a table. Exit code 2: a code was refused.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from llmlite.errors import LlmliteError
from llmlite.terminal import complain, json_text, say

HELP = "check this machine, and say what to do if something is wrong"
EXAMPLES = """\
examples:
  llmlite doctor
  llmlite doctor --json            for a bug report or a script
  llmlite doctor --code            a short code to send to the organiser of a workshop
  llmlite doctor --decode FILE     a table of many codes, one on each line; a name may come before a code
"""
LARGEST = 1 << 20  # bytes of a file of codes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print the findings as JSON")
    how.add_argument("--code", action="store_true", help="print the findings as one short code")
    how.add_argument(
        "--decode", nargs="+", metavar="CODE", help='codes, files of codes, or "-" for standard input'
    )


def run(options: argparse.Namespace) -> int:
    if options.decode:
        return decode(options.decode)
    from llmlite.bench import checks

    findings = checks.examine()
    wrong = [finding for finding in findings if not finding.ok]
    if options.json:
        say(json_text([asdict(finding) for finding in findings], indent=1))
        return 1 if wrong else 0
    if options.code:
        from llmlite.workshop import codes, laptops

        say(codes.encode(laptops.summary(findings)))
        return 1 if wrong else 0
    for finding in findings:
        say(f"{'' if finding.ok else 'wrong':<6} {finding.topic:<18} {finding.found}")
        if finding.remedy:
            say(f"{'':<6} {'':<18} -> {finding.remedy}")
    say(f"{len(wrong)} of {len(findings)} wrong" if wrong else "all is well")
    return 1 if wrong else 0


def decode(arguments: list[str]) -> int:
    """Print the table of the codes in the arguments and in the files they name."""
    from llmlite.cli.files import table
    from llmlite.workshop import laptops

    found, refused = [], []
    for argument in arguments:
        is_file = argument == "-" or Path(argument).is_file()
        some, bad = laptops.read(
            lines_of(argument) if is_file else [argument], Path(argument).name if is_file else ""
        )
        found += some
        refused += bad
    for sentence in refused:
        complain(sentence)
    if found:
        for line in table(laptops.rows(found)):
            say(line)
        say()
    say(laptops.conclusion(found, len(refused)))
    return 2 if refused else 0


def lines_of(name: str) -> list[str]:
    """Return the lines of a file, or of standard input for "-".

    Raises:
        LlmliteError: If it has more than a megabyte.
    """
    if name == "-":
        data = sys.stdin.buffer.read(LARGEST + 1)
    else:
        with open(name, "rb") as file:
            data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise LlmliteError(f"{name}: more than a megabyte; expected a file of codes, one a line")
    return data.decode("utf-8", "replace").splitlines()
