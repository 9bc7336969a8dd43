"""Make a GGUF file from a Hugging Face folder (config.json, safetensors, tokenizer.json), or from a LLaMA
file that is older than GGUF (GGML, GGMF, GGJT: ".bin", 2023)."""

from __future__ import annotations

import argparse
import os

from llmlite.cli.files import bar, size
from llmlite.cli.quantize import check_target
from llmlite.errors import LlmliteError
from llmlite.terminal import say

HELP = "make a GGUF file from a Hugging Face folder or an older file"
EXAMPLES = """\
examples:
  llmlite convert SmolLM2-135M-Instruct smollm2.gguf                keep the weights' types
  llmlite convert Qwen2.5-0.5B-Instruct qwen.gguf --type Q8_0      also quantize
  llmlite convert ggml-model-q5_0.bin model.gguf
  llmlite convert llama-2.ggmlv3.q8_0.bin model.gguf --context 4096 --eps 1e-5     LLaMA 2

docs/architectures.md lists the models whose folders can be converted. No code in a folder is run.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help="a folder, or a GGML, GGMF or GGJT file")
    parser.add_argument("target", metavar="OUT", help="the GGUF file to write")
    folders = parser.add_argument_group("for a folder")
    folders.add_argument(
        "--type", metavar="TYPE", help="F32, F16, BF16, Q8_0, Q4_K_M, ... (default: matrices keep their type)"
    )
    folders.add_argument("--pre", metavar="NAME", help="the rule that cuts text into words, if IN has none")
    folders.add_argument(
        "--allow-nan", action="store_true", help="accept weights that are NaN, infinite or too large"
    )
    files = parser.add_argument_group("for an older file, which doesn't store these")
    files.add_argument("--context", type=int, metavar="N", help="context the model was trained for (2048)")
    files.add_argument("--eps", type=float, metavar="X", help="epsilon of its RMSNorm (5e-6)")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def run(options: argparse.Namespace) -> int:
    is_folder = os.path.isdir(options.source)
    given = {"n_ctx": options.context, "rms_eps": options.eps}
    given = {name: value for name, value in given.items() if value is not None}
    if is_folder and given:
        raise LlmliteError("--context and --eps: only for older files; a folder's config.json has both")
    if not all(value > 0 for value in given.values()):
        raise LlmliteError("--context and --eps: must be above 0")
    if not is_folder and (options.type or options.pre or options.allow_nan):
        raise LlmliteError(
            "--type, --pre and --allow-nan: only for folders; a file's weights are copied as they are"
        )
    if os.path.exists(options.source):
        check_target(options.source, options.target, force=options.force)
    with bar("convert") as progress:
        if is_folder:
            from llmlite.huggingface import convert_folder

            convert_folder(
                options.source,
                options.target,
                file_type=options.type,
                pre=options.pre,
                progress=progress,
                allow_nan=options.allow_nan,
            )
        else:
            from llmlite import gguf

            gguf.convert_legacy(options.source, options.target, progress=progress, **given)
    say(f"{options.target}: {size(os.path.getsize(options.target))}")
    return 0
