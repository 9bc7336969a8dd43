"""Show how a text becomes tokens: each id, its bytes, and its name in the vocabulary."""

from __future__ import annotations

import argparse

from llmlite.cli.texts import standard_input
from llmlite.terminal import json_text, say

HELP = "show how a text becomes tokens"
EXAMPLES = """\
examples:
  llmlite tokenize "Once upon a time"
  llmlite tokenize --model model.gguf "Straße 🙂"
  llmlite tokenize --ids "Once upon a time"          ids only, one line
  llmlite tokenize - < story.txt | tail -1           the number of tokens in a file
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", help='the text, or "-" for standard input')
    parser.add_argument(
        "-m", "--model", default="tales", help="the model whose vocabulary is used (default: %(default)s)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--ids", action="store_true", help="print only the ids")
    form.add_argument("--json", action="store_true", help="print a JSON list of objects")
    parser.add_argument(
        "--no-special",
        action="store_true",
        help="don't add the begin and end tokens, and read markers such as <|im_start|> as plain text",
    )


def run(options: argparse.Namespace) -> int:
    from llmlite import gguf, resources, tokenizers

    text = standard_input() if options.text == "-" else options.text
    with gguf.read(resources.model_path(options.model)) as file:
        special = not options.no_special
        with file.located():
            tokenizer = tokenizers.from_metadata(file.metadata)
            ids = tokenizer.encode(text, add_special=special, parse_special=special)
        rows = [(id_, tokenizer.decode_bytes([id_]), tokenizer.token(id_)) for id_ in ids]
    if options.ids:
        say(" ".join(str(id_) for id_ in ids))
    elif options.json:
        say(json_text([{"id": i, "bytes": b.hex(), "token": t} for i, b, t in rows]))
    else:
        for id_, piece, token in rows:
            say(f"{id_:>7}  {piece.hex(' '):<24}  {token!r}")
        n_bytes = len(text.encode(errors="surrogateescape"))
        say(f"{len(ids)} token{'s' * (len(ids) != 1)}, {n_bytes} byte{'s' * (n_bytes != 1)}")
    return 0
