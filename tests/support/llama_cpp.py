"""Run llama.cpp in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmlite import gguf

WORKER = Path(__file__).resolve().parents[1] / "conformance" / "llama_cpp_worker.py"


def run_llama_cpp(
    path: Path,
    ids: list[int] | np.ndarray,
    folder: Path,
    what: str = "logits",
    adapters: tuple[tuple[Path, float], ...] = (),
) -> dict[str, np.ndarray]:
    """Run llama_cpp_worker.py; return its results.

    Args:
        path: the model.
        ids: token ids, (T,) or (N, T).
        folder: a folder for files.
        what: "logits", or "states" for the last states (T, D) of an encoder.
        adapters: LoRA files and their scales.

    Returns:
        "logits" (T, V), or (N, T, V) for ids (N, T), and intermediate results.
    """
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    np.save(folder / "ids.npy", np.array(ids, np.int32))
    command = [sys.executable, str(WORKER), str(path), str(folder / "ids.npy"), str(folder / "out.npz"), what]
    command += [str(word) for adapter in adapters for word in adapter]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, env=os.environ.copy())
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "out.npz") as arrays:
        return dict(arrays)


def as_f32(source: Path, target: Path) -> Path:
    """Copy a model with every tensor in F32: the same values, but no differences in rounding."""
    file = gguf.read(source)
    metadata = dict(file.metadata) | {"general.file_type": 0}
    gguf.write(target, metadata, {name: tensor.dequantize() for name, tensor in file.tensors.items()})
    return target


def random_ids(n: int, n_vocab: int = 256) -> list[int]:
    return np.random.default_rng(1).integers(0, n_vocab, n).tolist()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))
