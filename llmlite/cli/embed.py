"""Turn texts into vectors. The more similar two texts are, the larger the dot product of their vectors.

Each argument is a text, or without arguments each line of standard input. Without --json or --npy, it prints
how similar the texts are (cosines).
"""

from __future__ import annotations

import argparse
from typing import Any

from llmlite.cli.texts import add_executor, standard_input
from llmlite.errors import LlmliteError
from llmlite.terminal import json_text, say

HELP = "turn texts into vectors (embeddings)"
EXAMPLES = """\
examples:
  llmlite pull minilm                                    a model for English sentences (84 MB)
  llmlite embed minilm "A fox ran." "A dog slept."       how similar the texts are
  llmlite embed --json minilm < sentences.txt            one JSON line for each line of the file
  llmlite embed --npy out.npy minilm < sentences.txt     a NumPy array (n, n_embd), float32
  llmlite embed --pooling last tales "A fox ran."        a model whose file names no pooling
options come before MODEL.
"""
SHOWN = 20  # texts: a table of more pairs is too large to read
SHOWN_WIDTH = 40  # characters of a text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help='a GGUF file, or a name such as "minilm"')
    parser.add_argument(
        "text", nargs="*", metavar="TEXT", help="texts; without any, each line of standard input is one"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--json", action="store_true", help='print {"text": …, "embedding": […]}, one line for each text'
    )
    output.add_argument("--npy", metavar="FILE", help="write a NumPy array (n, n_embd), float32")
    parser.add_argument(
        "--pooling",
        choices=("mean", "cls", "last"),
        help="how the states of a text become one vector (default: as the file says)",
    )
    parser.add_argument("--no-normalize", action="store_true", help="don't scale vectors to length 1")
    parser.add_argument("--truncate", action="store_true", help="cut texts that are too long for the model")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="threads (default: all cores)")
    add_executor(parser)


def run(options: argparse.Namespace) -> int:
    import llmlite as ll

    texts = options.text or _lines(standard_input())
    if not texts:
        raise LlmliteError("no texts: give them as arguments or as lines of standard input")
    try:
        model = ll.load(options.model, executor=options.executor, n_threads=options.threads)
        found = model.embed(
            texts,
            normalize=not options.no_normalize,
            pooling=options.pooling,
            truncate=options.truncate,
        )
    except ValueError as error:
        raise LlmliteError(str(error)) from None
    if options.npy:
        _save(options.npy, found)
    elif options.json:
        for text, row in zip(texts, found):
            say(json_text({"text": text, "embedding": [float(x) for x in row]}))
    else:
        _show(texts, found)
    return 0


def _lines(text: str) -> list[str]:
    """Return the lines of a text. Empty lines count, so result i belongs to line i."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def _save(path: str, found: Any) -> None:
    import io

    import numpy as np

    from llmlite.system.files import write_bytes

    buffer = io.BytesIO()
    np.save(buffer, found)
    write_bytes(path, buffer.getvalue())


def _show(texts: list[str], found: object) -> None:
    """Print the cosine of each pair of texts, or the numbers of a single text."""
    import numpy as np

    rows = np.asarray(found)
    if len(texts) == 1:
        with np.printoptions(precision=4, suppress=True, threshold=8, edgeitems=4):
            say(f"{rows.shape[1]} numbers: {rows[0]}")
        return
    if len(texts) > SHOWN:
        raise LlmliteError(f"{len(texts)} texts: more than {SHOWN} need --json or --npy FILE")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (rows / lengths) @ (rows / lengths).T
    for i, text in enumerate(texts):
        say("  ".join(f"{c:6.3f}" for c in cosines[i]) + f"   {i + 1}  {text[:SHOWN_WIDTH]}")
