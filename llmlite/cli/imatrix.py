"""Measure an importance matrix: how strongly a text uses each column of each weight matrix."""

from __future__ import annotations

import argparse
import os

from llmlite.cli.quantize import check_target
from llmlite.cli.texts import add_text_arguments, chunked_ids, load_for_chunks
from llmlite.terminal import say

HELP = "measure which weights matter on a text"
EXAMPLES = """\
examples:
  llmlite imatrix model-f16.gguf text.txt -o imatrix.gguf
  llmlite imatrix tales --chunks 20                              the bundled model and text
  llmlite quantize model-f16.gguf small.gguf IQ2_XS --imatrix imatrix.gguf

The file is in llama.cpp's GGUF form; llama-quantize reads it too.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help='a GGUF file, best in F32, F16 or BF16, or "tales"')
    add_text_arguments(parser)
    parser.add_argument("-o", "--output", default="imatrix.gguf", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from llmlite import resources

    check_target(resources.model_path(options.model), options.output, force=options.force)
    if options.text not in (None, "-") and os.path.exists(options.text):
        check_target(options.text, options.output, force=options.force)
    from llmlite.bench.imatrix import collect

    model = load_for_chunks(options.model, options, "eager")
    ids, n_chunks = chunked_ids(model, options)
    with tqdm(total=n_chunks, desc="imatrix", unit="chunk", leave=False, delay=1) as bar:

        def advance(done: int, _: int) -> None:
            bar.update(done - bar.n)

        imatrix = collect(model, ids, n_ctx=options.ctx_size, progress=advance)
    imatrix.write(options.output, dataset=os.path.basename(options.text or "tales-eval.txt"))
    say(f"{options.output}: {len(imatrix.squares)} tensors, {n_chunks} chunks of {options.ctx_size} tokens")
    return 0
