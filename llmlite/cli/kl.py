"""Measure how far a model's predictions are from a reference's: Kullback-Leibler divergence on a text."""

from __future__ import annotations

import argparse

from llmlite.cli.texts import add_text_arguments, bos_of, chunked_ids, counted
from llmlite.errors import LlmliteError

HELP = "measure how far a model is from its original"
EXAMPLES = """\
examples:
  llmlite kl tales:Q4_0                                the bundled model in Q4_0 against F16
  llmlite kl model-q4.gguf text.txt --reference model-f16.gguf

0 means equal predictions. The same positions are compared as `llmlite perplexity` scores.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help='a GGUF file, or "tales:Q4_0"')
    add_text_arguments(parser)
    parser.add_argument("--reference", default="tales", metavar="MODEL",
                        help="what to compare with, usually the F16 file (default: %(default)s)")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    from llmlite.bench.quality import text_divergence
    from llmlite.model import load

    model = load(options.model, executor=options.executor)
    reference = load(options.reference, executor=options.executor)
    if model.config.n_vocab != reference.config.n_vocab:
        raise LlmliteError(
            f"{options.model} has {model.config.n_vocab} tokens, {options.reference} has "
            f"{reference.config.n_vocab}: only models of one vocabulary can be compared"
        )
    ids, n_chunks = chunked_ids(reference, options)
    found = text_divergence(
        counted(model.logits, n_chunks, "divergence"),
        reference.logits,
        ids,
        n_ctx=options.ctx_size,
        bos_id=bos_of(reference),
    )
    print(
        f"KL divergence {found.kl:.6f} nats (99th percentile {found.kl_99:.6f}), "
        f"same best token {100 * found.top1:.2f} %, largest logit difference {found.max_abs_diff:.4f} "
        f"({found.n_tokens} tokens)"
    )
    return 0
