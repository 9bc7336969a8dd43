"""Make LoRA adapters of random matrices for tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llmlite import gguf
from tests.support.tiny_models import TinyModel

FACTS = {"general.type": "adapter", "adapter.type": "lora"}
BASES = {
    "llama": {},
    "gpt2": {"n_head_kv": 4},  # Q, K and V are one matrix in the file
    "qwen3": {"n_embd": 96, "n_ff": 160},
    "qwen3moe": {"n_expert": 6, "n_expert_used": 3},
}


def matrices(base: TinyModel) -> list[str]:
    """Return the names of the matrices for which an adapter may have a pair."""
    return [name for name, array in base.arrays.items() if array.ndim > 1 and "position_embd" not in name]


def random_pairs(base: TinyModel, rank: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return A and B for every matrix, under the adapter's names."""
    random, found = np.random.default_rng(seed), {}
    for name in matrices(base):
        *stacked, n_out, n_in = base.arrays[name].shape
        if name == "token_embd.weight":
            sizes = (n_out, rank), (n_in, rank)
        else:
            sizes = (*stacked, rank, n_in), (*stacked, n_out, rank)
        for part, size in zip("ab", sizes):
            numbers = random.standard_normal(size) * size[-1] ** -0.5
            found[f"{name}.lora_{part}"] = numbers.astype(np.float32)
    return found


def write_adapter(
    path: Path, base: TinyModel, pairs: dict[str, np.ndarray], alpha: float = 16.0, **changes: Any
) -> Path:
    """Write an adapter file; `changes` replace its metadata, and None removes a key."""
    metadata = FACTS | {"general.architecture": base.metadata["general.architecture"]}
    metadata |= {"adapter.lora.alpha": float(alpha)} | changes
    gguf.write(path, {key: value for key, value in metadata.items() if value is not None}, pairs)
    return path
