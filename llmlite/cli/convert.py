"""Make a GGUF file of a LLaMA model in one of the formats before GGUF: GGML, GGMF, GGJT (".bin", 2023)."""

from __future__ import annotations

import argparse
import os

from llmlite.cli.quantize import check_target
from llmlite.cli.show import size
from llmlite.errors import LlmliteError

HELP = "make a GGUF file of an older one"
EXAMPLES = """\
examples:
  llmlite convert ggml-model-q5_0.bin model.gguf
  llmlite convert llama-2.ggmlv3.q8_0.bin model.gguf --context 4096 --eps 1e-5     LLaMA 2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help="a GGML, GGMF or GGJT file of a LLaMA model")
    parser.add_argument("target", metavar="OUT", help="the GGUF file to write")
    parser.add_argument(
        "--context", type=int, default=2048, metavar="N", help="context the model was trained for (2048)"
    )
    parser.add_argument("--eps", type=float, default=5e-6, metavar="X", help="epsilon of its RMSNorm (5e-6)")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def run(options: argparse.Namespace) -> int:
    from llmlite import gguf
    from llmlite.cli.split import bar

    if os.path.isdir(options.source):
        raise LlmliteError(
            f"{options.source}: is a folder; llmlite converts GGML, GGMF and GGJT files "
            "(for a folder from Hugging Face, llama.cpp has convert_hf_to_gguf.py)"
        )
    if options.context < 1 or not options.eps > 0:
        raise LlmliteError("--context and --eps: must be above 0")
    if os.path.exists(options.source):
        check_target(options.source, options.target, force=options.force)
    with bar("convert") as progress:
        gguf.convert_legacy(
            options.source, options.target, n_ctx=options.context, rms_eps=options.eps, progress=progress
        )
    print(f"{options.target}: {size(os.path.getsize(options.target))}")
    return 0
