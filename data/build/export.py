"""Write a checkpoint as data/tales-f16.gguf: matrices F16, norms F32, tokenizer and chat template inside."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizer as vocabulary
import torch
from corpus import BOS, END
from model import Config

HERE = Path(__file__).parent
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NORMAL, CONTROL = 1, 3  # token types of the file format
MOSTLY_F16 = 1


def vocabulary_metadata() -> dict[str, Any]:
    """Return the tokenizer.* keys from tokenizer.json."""
    model = json.loads(vocabulary.PATH.read_text())["model"]
    ids: dict[str, int] = model["vocab"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": sorted(ids, key=ids.__getitem__),
        "tokenizer.ggml.token_type": np.array(
            [CONTROL if i < len(vocabulary.SPECIAL) else NORMAL for i in range(len(ids))], np.int32
        ),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": ids[BOS],
        "tokenizer.ggml.eos_token_id": ids[END],
        "tokenizer.ggml.eot_token_id": ids[END],
        "tokenizer.ggml.padding_token_id": ids[BOS],
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def metadata(config: Config) -> dict[str, Any]:
    """Return every key of the file, in its order."""
    return {
        "general.architecture": "llama",
        "general.name": "tales",
        "general.description": "A very small model of invented tales, trained with data/build for lessons.",
        "general.license": "MIT",
        "general.file_type": MOSTLY_F16,
        "general.quantization_version": 2,
        "llama.context_length": config.n_ctx,
        "llama.embedding_length": config.n_embd,
        "llama.block_count": config.n_layer,
        "llama.feed_forward_length": config.n_ff,
        "llama.attention.head_count": config.n_head,
        "llama.attention.head_count_kv": config.n_head_kv,
        "llama.attention.layer_norm_rms_epsilon": config.rms_eps,
        "llama.rope.freq_base": config.rope_base,
        "llama.rope.dimension_count": config.head_size,
        "llama.vocab_size": config.n_vocab,
        **vocabulary_metadata(),
    }


def tensors(weights: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return the arrays by GGUF name: matrices float16, norms float32."""
    arrays = {name: weight.detach().float().numpy() for name, weight in weights.items()}
    return {name: a.astype(np.float16) if a.ndim == 2 else a for name, a in arrays.items()}


def export(checkpoint: Path, target: Path) -> None:
    """Write the checkpoint's model to `target` with llmlite's own writer."""
    from llmlite import gguf

    state = torch.load(checkpoint, weights_only=False)
    gguf.write(target, metadata(Config(**state["config"])), tensors(state["model"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=HERE / "checkpoint.pt")
    parser.add_argument("--target", type=Path, default=HERE.parent / "tales-f16.gguf")
    options = parser.parse_args()
    export(options.checkpoint, options.target)
    print(f"wrote {options.target.name}, {options.target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
