"""Test an article's claims about engines and frameworks on this machine.

Each claim gets a verdict (holds, holds partly, doesn't hold here, not measured), the measured figure, and
the command that measures this claim alone. If a package is missing, the claim is reported as not measured.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from llmlite.cli.compare import names
from llmlite.terminal import progress, say

HELP = "test an article's claims on this machine"
EXAMPLES = """\
examples:
  llmlite claims                              all of them; some minutes
  llmlite claims --only privacy,training
  llmlite claims --only formats --json
  llmlite claims -o results                   claims.json and a picture of the table

Peers are found here or in their environments: llmlite bench env create NAME.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", type=names, default=(), metavar="A,B", help="measure only these")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="also write claims.json and a figure"
    )


def run(options: argparse.Namespace) -> int:
    from llmlite.bench import article

    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)  # fail now, not after the measurement

    with progress() as shown:
        found = article.claims(options.only, lambda text: shown.show(f"measuring: {text}"))
    say(article.as_json(found) if options.json else found)
    if options.output:
        found.save(options.output / "claims.json")
        if importlib.util.find_spec("matplotlib") is not None:
            from llmlite import plots

            for theme in ("light", "dark"):
                plots.save(plots.claims.table(found, theme=theme), options.output / f"claims-{theme}.png")
    return 0
