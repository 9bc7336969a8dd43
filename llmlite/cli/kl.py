"""Measure how far a model's predictions are from a reference's, as Kullback-Leibler divergence on a text."""

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
from llmlite.errors import LlmliteError
from llmlite.terminal import say

HELP = "measure how far a model is from its original"
EXAMPLES = """\
examples:
  llmlite kl tales:Q4_0                                the bundled model in Q4_0 against F16
  llmlite kl model-q4.gguf text.txt --reference model-f16.gguf
  llmlite kl tales:Q4_0 --chunks 20 --json

0 means equal predictions. The positions compared are those that `llmlite perplexity` scores.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help='a GGUF file, or "tales:Q4_0"')
    add_text_arguments(parser)
    add_executor(parser)
    add_json_argument(parser)
    parser.add_argument("--reference", default="tales", metavar="MODEL",
                        help="model to compare with, usually in F16 (default: %(default)s)")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    from llmlite.bench.quality import text_divergence

    model = load_for_chunks(options.model, options, options.executor)
    reference = load_for_chunks(options.reference, options, options.executor)
    if model.config.n_vocab != reference.config.n_vocab:
        raise LlmliteError(
            f"{options.model} has {model.config.n_vocab} tokens, {options.reference} has "
            f"{reference.config.n_vocab}: only models with the same vocabulary can be compared"
        )
    ids, n_chunks = chunked_ids(reference, options)
    found = text_divergence(
        counted(model.logits, n_chunks, "divergence"),
        reference.logits,
        ids,
        n_ctx=options.ctx_size,
        bos_id=bos_of(reference),
    )
    if options.json:
        say(as_json(found, options, reference=options.reference))
        return 0
    say(f"KL divergence {found.kl:.6f} ± {found.kl_error:.6f} nats ({found.n_tokens} tokens compared)")
    say(
        f"  median {found.kl_50:.6f}, 90th percentile {found.kl_90:.6f}, 99th {found.kl_99:.6f}, "
        f"largest {found.kl_max:.6f}"
    )
    say(f"same best token {100 * found.top1:.2f} %")
    delta_p = 100 * (found.delta_p_rms or 0)
    say(f"probability of the text's own token off by {delta_p:.3f} % (root mean square)")
    say(f"largest difference of a logit {found.max_abs_diff:.4f}")
    return 0
