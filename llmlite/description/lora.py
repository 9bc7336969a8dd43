"""LoRA adapters: small matrices that change the results of a model's matrices, without a change to its file.

For some of its base model's matrices W (out, in), a GGUF adapter (general.type "adapter") has a pair A (r,
in) and B (out, r): y = W x + (alpha / r) · scale · B (A x). Source: Hu et al. 2021, "LoRA: Low-Rank
Adaptation of Large Language Models"; keys and names of llama.cpp's convert_lora_to_gguf.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmlite import gguf
from llmlite.errors import ModelError, UnsupportedError
from llmlite.quants.tensor import QuantTensor

Adapters = str | os.PathLike[str] | Sequence[str | os.PathLike[str] | tuple[str | os.PathLike[str], float]]
RANKS = 32  # the planned executor's kernels need ranks that are multiples of it
EMBEDDINGS = "token_embd.weight"
KNOWN_KEYS = {"adapter.type", "adapter.lora.alpha", "adapter.lora.task_name", "adapter.lora.prompt_prefix"}
Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class LowRank:
    """The sum of all adapters for one matrix: B (A x).

    Attributes:
        a: F32 (R, in); (E, R, in) for stacked experts; (V, R) for embeddings, whose rows replace A x.
        b: F32 (out, R) or (E, out, R), multiplied by the scales. R is the sum of the ranks, padded with zeros
            to a multiple of 32.
    """

    a: QuantTensor
    b: QuantTensor

    def slice_rows(self, start: int, stop: int) -> LowRank:
        """Return the part for the matrix's rows from start to stop - 1."""
        return LowRank(self.a, self.b.slice_rows(start, stop))


def listed(adapters: Adapters | None) -> list[tuple[str, float]]:
    """Return (path, scale) of each adapter.

    Raises:
        ValueError: a scale is not a finite number, or an entry is neither a path nor a pair.
    """
    if adapters is None:
        return []
    entries = (
        list(adapters) if isinstance(adapters, Sequence) and not isinstance(adapters, str) else [adapters]
    )
    found = []
    for entry in entries:
        path, scale = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, 1.0)
        number = isinstance(scale, (int, float, np.number)) and not isinstance(scale, bool)
        if not isinstance(path, (str, os.PathLike)) or not number or not math.isfinite(scale):
            raise ValueError(f"lora: expected a path, or a list of paths or (path, scale), got {entry!r:.80}")
        found.append((os.fspath(path), float(scale)))
    return found


def read(
    adapters: Sequence[tuple[str, float]], architecture: str, tensors: Mapping[str, QuantTensor]
) -> dict[str, LowRank]:
    """Read adapters and check that they fit the model.

    Args:
        adapters: (path, scale) of each adapter.
        architecture: architecture of the model.
        tensors: tensors of the model's file.

    Returns:
        The sum of the adapters for each matrix, under "blk.0.attn_q.lora" for "blk.0.attn_q.weight".

    Raises:
        ModelError: a tensor isn't part of a pair, has no matrix in the model, or doesn't fit it.
        UnsupportedError: the adapter is of another kind, or for another architecture.
        GGUFError: a file is not valid.
        OSError: a file can't be read.
    """
    pairs: dict[str, list[Pair]] = {}
    for path, scale in adapters:
        with gguf.read(path) as file, file.located():
            alpha = _alpha(file.metadata, architecture)
            for name, (a, b) in _pairs(file.tensors, tensors).items():
                factor = scale * (alpha / b.shape[-1] if alpha else 1.0)
                pairs.setdefault(name, []).append((a.dequantize(), b.dequantize() * np.float32(factor)))
    return {f"{name.removesuffix('.weight')}.lora": _joined(name, found) for name, found in pairs.items()}


def _alpha(metadata: Mapping[str, object], architecture: str) -> float:
    """Return alpha, which is divided by the adapter's rank; with 0, its matrices aren't scaled."""
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora")):
        if metadata.get(key) != wanted:
            raise UnsupportedError.at(key, f"{wanted!r}", metadata.get(key, "no such key"))
    if metadata.get("general.architecture") != architecture:
        got = metadata.get("general.architecture", "no such key")
        raise UnsupportedError.at("general.architecture", f"{architecture!r}, as in the base model", got)
    for key in metadata:
        if key.startswith("adapter.") and key not in KNOWN_KEYS:
            raise UnsupportedError(f"{key}: this key is unknown, and ignoring it could give wrong answers")
    alpha = metadata.get("adapter.lora.alpha", 0.0)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float, np.number)) or not math.isfinite(alpha):
        raise ModelError.at("adapter.lora.alpha", "a finite number", alpha)
    return float(alpha)


def _pairs(
    tensors: Mapping[str, QuantTensor], base: Mapping[str, QuantTensor]
) -> dict[str, tuple[QuantTensor, QuantTensor]]:
    """Return the adapter's checked pairs by the names of the base model's matrices."""
    found = {}
    for name in tensors:
        matrix, _, part = name.rpartition(".")
        if part not in ("lora_a", "lora_b"):
            raise ModelError(f"{name}: expected NAME.lora_a or NAME.lora_b; no other tensors are supported")
        other = f"{matrix}.{'lora_b' if part == 'lora_a' else 'lora_a'}"
        if other not in tensors:
            raise ModelError(f"{name}: its partner {other} is missing")
        if matrix not in base or len(base[matrix].shape) < 2:
            raise ModelError(f"{name}: the base model has no matrix {matrix}")
        if matrix == EMBEDDINGS and "output.weight" not in base:
            raise UnsupportedError(
                f"{name}: the model's embeddings are also its output matrix; an adapter for both is ambiguous"
            )
        if part == "lora_a":
            found[matrix] = tensors[name], tensors[other]
    for matrix, (a, b) in found.items():
        _check_shapes(matrix, base[matrix].shape, a, b)
    return found


def _check_shapes(matrix: str, shape: tuple[int, ...], a: QuantTensor, b: QuantTensor) -> None:
    *stacked, n_out, n_in = shape
    rank = a.shape[-1] if matrix == EMBEDDINGS else a.shape[-2] if len(a.shape) > 1 else 0
    wanted = ((*stacked, rank, n_in), (*stacked, n_out, rank))
    if matrix == EMBEDDINGS:  # (V, D): a row of A for each token
        wanted = ((n_out, rank), (n_in, rank))
    for tensor, expected in zip((a, b), wanted):
        if tensor.shape != expected or rank == 0:
            raise ModelError.at(tensor.name, f"shape {expected} for {matrix} {shape}", str(tensor.shape))


def _joined(name: str, pairs: Sequence[Pair]) -> LowRank:
    """Return one pair for all: the rows of A, and the columns of B, one after another."""
    rank_axis = -1 if name == EMBEDDINGS else -2
    a = np.concatenate([a for a, _ in pairs], axis=rank_axis)
    b = np.concatenate([b for _, b in pairs], axis=-1)
    missing = -b.shape[-1] % RANKS
    padding = [(0, 0)] * a.ndim
    padding[rank_axis] = (0, missing)
    a, b = np.pad(a, padding), np.pad(b, [*[(0, 0)] * (b.ndim - 1), (0, missing)])
    return LowRank(*(QuantTensor.quantize(x, "F32", f"{name}.lora_{part}") for part, x in zip("ab", (a, b))))
