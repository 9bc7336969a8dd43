"""Make models with real widths, names and numbers of layers, but only two rows per matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llmlite import gguf


def skeleton(
    folder: Path,
    *,
    n_embd: int = 256,
    n_layer: int = 4,
    n_head: int = 4,
    n_head_kv: int = 2,
    tied: bool = True,
) -> Path:
    """Write a llama whose matrices have their true width but two rows, which is enough to choose types."""
    random = np.random.default_rng(0)
    n_ff = 3 * n_embd

    def matrix(n_columns: int) -> np.ndarray:
        return random.standard_normal((2, n_columns)).astype(np.float16)

    tensors: dict[str, np.ndarray] = {"token_embd.weight": matrix(n_embd)}
    for layer in range(n_layer):
        block = f"blk.{layer}"
        tensors[f"{block}.attn_norm.weight"] = np.ones(n_embd, np.float32)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"):
            tensors[f"{block}.{name}.weight"] = matrix(n_embd)
        tensors[f"{block}.ffn_down.weight"] = matrix(n_ff)
        tensors[f"{block}.ffn_norm.weight"] = np.ones(n_embd, np.float32)
    tensors["output_norm.weight"] = np.ones(n_embd, np.float32)
    if not tied:
        tensors["output.weight"] = matrix(n_embd)
    metadata = {
        "general.architecture": "llama",
        "general.file_type": np.uint32(1),
        "llama.context_length": np.uint32(128),
        "llama.embedding_length": np.uint32(n_embd),
        "llama.block_count": np.uint32(n_layer),
        "llama.feed_forward_length": np.uint32(n_ff),
        "llama.attention.head_count": np.uint32(n_head),
        "llama.attention.head_count_kv": np.uint32(n_head_kv),
        "llama.attention.layer_norm_rms_epsilon": np.float32(1e-5),
        "llama.rope.dimension_count": np.uint32(n_embd // n_head),
        "tokenizer.ggml.model": "none",
        "a.note": "kept as it is",
    }
    path = folder / f"skeleton-{n_embd}-{n_layer}.gguf"
    gguf.write(path, metadata, tensors)
    return path
