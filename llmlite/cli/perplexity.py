"""Measure how well a model predicts a text: perplexity, by llama.cpp's method. Lower is better."""

from __future__ import annotations

import argparse

from llmlite.cli.texts import (
    add_executor,
    add_json_argument,
    add_text_arguments,
    as_json,
    bos_of,
    chunked_ids,
    counted,
    load_for_chunks,
)
from llmlite.terminal import say

HELP = "measure how well a model predicts a text"
EXAMPLES = """\
examples:
  llmlite perplexity tales                       the bundled model on the bundled text
  llmlite perplexity tales:Q4_0 --chunks 20 --json
  llmlite perplexity model.gguf wiki.test.raw -c 2048

The text is cut into chunks of --ctx-size tokens. The second half of each is scored, as in llama-perplexity.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help='a GGUF file, "tales", or "tales:Q4_0"')
    add_text_arguments(parser)
    add_executor(parser)
    add_json_argument(parser)


def run(options: argparse.Namespace) -> int:
    from llmlite.bench.quality import perplexity

    model = load_for_chunks(options.model, options, options.executor)
    ids, n_chunks = chunked_ids(model, options)
    logits_of = counted(model.logits, n_chunks, "perplexity")
    found = perplexity(logits_of, ids, n_ctx=options.ctx_size, bos_id=bos_of(model))
    if options.json:
        say(as_json(found, options))
        return 0
    say(f"perplexity {found.value:.4f} ± {found.standard_error:.4f} ({found.n_tokens} tokens scored)")
    return 0
