"""Say what this machine has for llmlite, and what to do where something is wrong.

Examines the processor, the threads this process may use, memory, packages, the cache folder, the bundled data
and whether kernels compile. Exit code 0: all is well; 1: something is wrong (its line begins with "wrong").
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from llmlite.terminal import json_text, say

HELP = "say what this machine has, and what is wrong"
EXAMPLES = """\
examples:
  llmlite doctor
  llmlite doctor --json            for a bug report or a script
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(options: argparse.Namespace) -> int:
    from llmlite.bench import checks

    findings = checks.examine()
    wrong = [finding for finding in findings if not finding.ok]
    if options.json:
        say(json_text([asdict(finding) for finding in findings], indent=1))
        return 1 if wrong else 0
    for finding in findings:
        say(f"{'' if finding.ok else 'wrong':<6} {finding.topic:<18} {finding.found}")
        if finding.remedy:
            say(f"{'':<6} {'':<18} -> {finding.remedy}")
    say(f"{len(wrong)} of {len(findings)} wrong" if wrong else "all is well")
    return 1 if wrong else 0
