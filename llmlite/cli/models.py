"""List the models on this machine: bundled, pulled, cached in other types, and
those of Hugging Face, llama.cpp, LM Studio and ollama. The other commands take
each of these names."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmlite.catalog import PACKAGED
from llmlite.cli.files import size
from llmlite.terminal import json_text, say

if TYPE_CHECKING:
    from llmlite.inventory import ModelFile

HELP = "list the models on this machine"
EXAMPLES = """\
examples:
  llmlite models
  llmlite models --json | jq -r '.models[].name'
  llmlite show NAME                        the contents of one of them

memory is the size of the weights, which are mapped from the file, and of the
keys and values of a full context (the model's own, at most 4096 tokens;
`run --ctx` sets another).
"""
LONGEST = 44  # characters of a name in the first column
LICENCE = 18  # characters of a licence shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> int:
    from llmlite.inventory import models

    entries = models()
    missing = [model for name, model in PACKAGED.items() if name not in {entry.name for entry in entries}]
    if options.json:
        to_pull = [
            {"name": model.name, "n_bytes": model.n_bytes_to_fetch, "licence": model.licence,
             "purpose": model.purpose}
            for model in missing
        ]  # fmt: skip
        say(json_text({"models": [record(entry) for entry in entries], "to_pull": to_pull}))
        return 0
    print_table(entries)
    if missing:
        say("\nnot here yet:")
    for model in missing:
        say(f"  llmlite pull {model.name:<12} {size(model.n_bytes_to_fetch)}, {model.licence}")
        say(f"      {model.purpose}")
    return 0


def record(entry: ModelFile) -> dict[str, Any]:
    """Return an entry as JSON values."""
    return asdict(entry) | {"path": str(entry.path), "memory": entry.memory}


def print_table(entries: list[ModelFile]) -> None:
    """Print one line for each model. If llmlite can't run it, a second line has the reason."""
    from llmlite.gguf.parse import shown  # one line, not too long

    width = min(max(len(entry.name) for entry in entries), LONGEST)
    owners = max(len(entry.owner) for entry in entries)
    say(f"{'name':<{width}}  {'kept by':<{owners}}  {'type':<7} {'size':>8} {'memory':>8}  licence")
    for entry in entries:
        name = shown(entry.name)
        if len(name) > width:  # the name must stay whole, to be copied
            say(name)
            name = ""
        licence = shown(entry.licence)
        licence = licence if len(licence) <= LICENCE else licence[: LICENCE - 1] + "…"
        memory = "-" if entry.problem else size(entry.memory)
        say(
            f"{name:<{width}}  {entry.owner:<{owners}}  {shown(entry.type):<7} {size(entry.n_bytes):>8} "
            f"{memory:>8}  {licence}".rstrip()
        )
        if entry.problem:
            say(f"{'':<{width}}    can't run here: {shown(entry.problem)}")
