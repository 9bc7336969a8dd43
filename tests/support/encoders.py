"""Make tiny random encoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llmlite import gguf
from llmlite.description.architectures import ARCHITECTURES
from llmlite.description.config import NORM_EPS, ModelConfig
from llmlite.description.shapes import required_tensors, tensor_shapes
from llmlite.quants import by_name
from llmlite.quants.tensor import PendingTensor

D, V, N_CTX = 64, 300, 700
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"▁w{i}" for i in range(V - 4))]
MORE: dict[str, dict[str, Any]] = {
    "bert": {},
    "nomic-bert": {"rope.freq_base": 1000.0},
    "modern-bert": {"attention.sliding_window": 16, "rope.freq_base_swa": 100.0, "block_count": 4},
    "gemma-embedding": {"attention.sliding_window": 16, "attention.head_count_kv": 2, "block_count": 7},
    "jina-bert-v2": {},
    "eurobert": {"attention.head_count_kv": 2},
}


def encoder(
    path: Path,
    architecture: str = "bert",
    *,
    n_class: int = 0,
    pooling: int | None = 1,
    change: Callable[[dict, dict], None] = lambda metadata, arrays: None,
    **more: Any,
) -> Path:
    """Write a tiny encoder with random weights; call `change(metadata, arrays)` before writing."""
    entry = ARCHITECTURES[architecture]
    hyper = {
        "block_count": 2,
        "context_length": N_CTX,
        "embedding_length": D,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.causal": False,
        NORM_EPS[entry.norm]: 1e-5,
        **MORE[architecture],
        **more,
    }
    if pooling is not None:
        hyper["pooling_type"] = pooling
    metadata = {"general.architecture": architecture} | {f"{architecture}.{k}": v for k, v in hyper.items()}
    metadata |= {
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": WORDS,
        "tokenizer.ggml.token_type": np.array([3, 2, 3, 3] + [1] * (V - 4), np.int32),
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
    }

    def blank(name: str, *shape: int) -> PendingTensor:
        return PendingTensor(name, by_name("F32"), shape, lambda: np.empty((0, 4), np.uint8))

    known = {"token_embd.weight": blank("token_embd.weight", V, D)}
    if n_class:
        known["cls.output.weight"] = blank("cls.output.weight", n_class, D)
    config = ModelConfig.from_metadata(metadata, known)
    random, shapes = np.random.default_rng(0), tensor_shapes(config)
    wanted = required_tensors(config) | {name for name in shapes if name.startswith("cls")}
    arrays = {}
    for name in sorted(wanted):
        if name.endswith("norm.weight"):
            arrays[name] = random.uniform(0.5, 1.5, shapes[name]).astype(np.float32)
        else:
            spread = 0.5 if name.endswith("bias") else 2 / np.sqrt(shapes[name][-1])
            arrays[name] = (random.standard_normal(shapes[name]) * spread).astype(np.float32)
    change(metadata, arrays)
    gguf.write(path, metadata, arrays)
    return path


def ids_of(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(4, V, n).tolist()
