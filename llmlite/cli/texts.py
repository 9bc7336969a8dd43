"""Helpers of the commands that read a text: options for the text and its length, and a progress bar."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llmlite.errors import LlmliteError
from llmlite.terminal import complain, json_text

if TYPE_CHECKING:
    from llmlite.model import Model


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """Add TEXT, --ctx-size, --chunks and --plain."""
    parser.add_argument("text", nargs="?", metavar="TEXT", help='a text file, "-" for standard input; '
                        "by default the bundled evaluation text")  # fmt: skip
    parser.add_argument("-c", "--ctx-size", type=int, default=512, metavar="N",
                        help="tokens in a chunk (default: %(default)s)")  # fmt: skip
    parser.add_argument("--chunks", type=int, metavar="N", help="read at most this many chunks")
    parser.add_argument("--plain", action="store_true", help="read <|im_start|> and the like as letters, not "
                        "as special tokens; llama-perplexity does this too")  # fmt: skip


def add_executor(parser: argparse._ActionsContainer) -> None:
    """Add --executor."""
    parser.add_argument(
        "--executor",
        choices=("auto", "eager", "planned"),
        default="auto",
        help="eager is NumPy, planned is compiled (default: %(default)s)",
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")


def as_json(found: object, options: argparse.Namespace, **more: str) -> str:
    """Return a measurement's figures as a line of JSON, with the names of the model and the text."""
    text = options.text or "tales-eval.txt"
    about = {"model": options.model, **more, "text": text, "n_ctx": options.ctx_size}
    figures = asdict(found)  # type: ignore[call-overload]  # one of quality's dataclasses
    known = {name: None if value != value else value for name, value in figures.items()}  # JSON has no NaN
    return json_text(about | known)


def read_text(name: str | None) -> str:
    """Return the text of a file, of standard input, or the bundled evaluation text."""
    if name == "-":
        return standard_input()
    if name is None:
        from llmlite import resources

        return resources.data_path("tales-eval.txt").read_text(encoding="utf-8")
    return _decoded(Path(name).read_bytes(), name)


def standard_input() -> str:
    """Return all of standard input as text."""
    return _decoded(sys.stdin.buffer.read(), "standard input")


def _decoded(data: bytes, name: str) -> str:
    """Return UTF-8 as text. Other bytes become U+FFFD, and a message says so."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        complain(
            f"{name}: byte {error.start} is not UTF-8; such bytes are read as U+FFFD "
            "(convert the text first: iconv -f ENCODING -t UTF-8)"
        )
        return data.decode("utf-8", "replace")


def load_for_chunks(name: str, options: argparse.Namespace, executor: str) -> Model:
    """Load a model with a context of at least one chunk, if it was trained for that many tokens."""
    from llmlite.model import load

    model = load(name, executor=executor)
    if model.n_ctx < options.ctx_size <= model.config.n_ctx:  # by default, a context has at most 4096 tokens
        model = load(name, executor=executor, n_ctx=options.ctx_size)
    return model


def chunked_ids(model: Model, options: argparse.Namespace) -> tuple[list[int], int]:
    """Return the text's token ids, cut to whole chunks, and the number of chunks.

    Raises:
        LlmliteError: If a size is out of range, or the text is shorter than one chunk.
    """
    n_ctx = options.ctx_size
    if not 4 <= n_ctx <= model.n_ctx:
        raise LlmliteError(f"--ctx-size: expected 4 to {model.config.n_ctx}, the model's own; got {n_ctx}")
    if options.chunks is not None and options.chunks < 1:
        raise LlmliteError(f"--chunks: must be at least 1, got {options.chunks}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about two BOS at the start, which llama.cpp's method has too
        ids = model.tokenizer.encode(read_text(options.text), parse_special=not options.plain)
    n_chunks = len(ids) // n_ctx
    if not n_chunks:
        raise LlmliteError(f"the text has {len(ids)} tokens, fewer than one chunk of {n_ctx}")
    n_chunks = min(n_chunks, options.chunks or n_chunks)
    return ids[: n_chunks * n_ctx], n_chunks


def bos_of(model: Model) -> int | None:
    """Return the token that begins every chunk, or None if the model uses none."""
    return model.tokenizer.bos_id if model.tokenizer.add_bos else None


def counted(logits_of: Callable, n_chunks: int, what: str) -> Callable:
    """Wrap `model.logits` so that each call moves a progress bar on standard error."""
    from tqdm import tqdm

    bar = tqdm(total=n_chunks, desc=what, unit="chunk", leave=False, delay=1)

    def call(ids: list[int]) -> object:
        logits = logits_of(ids)
        bar.update()
        if bar.n >= n_chunks:
            bar.close()
        return logits

    return call
