"""Write a model of a known shape with random weights, to measure speed and memory without downloading it."""

from __future__ import annotations

import argparse
import os

from llmlite.cli.files import size
from llmlite.errors import LlmliteError
from llmlite.terminal import say

HELP = "write a model of a known shape with random weights"
EXAMPLES = """\
examples:
  llmlite synth llama-3.2-1b --type Q4_0              llama-3.2-1b-Q4_0.gguf, 0.8 GB of noise
  llmlite synth smollm2-135m --type Q8_0 -o s.gguf    under another name

shapes: llama-3.2-1b, tinyllama-1.1b, smollm2-135m, qwen2.5-0.5b, qwen3-0.6b, gpt2, gemma3-270m, gemma3-1b,
gemma2-2b, gemma4-e2b, phi-2, phi-4-mini, smollm3-3b, granite-3.3-2b, olmo2-1b, starcoder2-3b, stablelm-3b,
pythia-160m, exaone4-1.2b, command-r7b, bitnet-2b, glm4-9b, falcon-7b, ministral-3-3b, aya-23-8b, olmo3-7b;
recurrent layers: qwen3.5-0.8b, lfm2-350m, mamba2-130m, mamba-130m;
encoders: all-minilm-l6, nomic-embed-137m, modernbert-149m, jina-v2-33m, embeddinggemma-300m;
mixtures of experts: granite-3.1-1b-a400m; and only the first four layers of large ones: gpt-oss-20b-4-layers,
qwen1.5-moe-a2.7b-4-layers, olmoe-1b-7b-4-layers, qwen3-30b-a3b-4-layers, deepseek-v2-lite-4-layers.
llama.cpp reads these files too.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shape", metavar="SHAPE", help="llama-3.2-1b, tinyllama-1.1b, smollm2-135m, ...")
    parser.add_argument("--type", default="Q4_0", metavar="TYPE", help="Q8_0, Q4_K_M, ... (default: Q4_0)")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: SHAPE-TYPE.gguf here")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the weights (default: 0)")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def run(options: argparse.Namespace) -> int:
    from llmlite.synth import synthesize

    if options.seed < 0:
        raise LlmliteError(f"--seed: must be 0 or more, got {options.seed}")
    target = options.output or f"{options.shape}-{options.type}.gguf"
    if os.path.exists(target) and not options.force:
        raise LlmliteError(f"{target}: exists already; --force replaces it")
    synthesize(target, options.shape, options.type, seed=options.seed)
    say(f"{target}: {size(os.path.getsize(target))}")
    return 0
