"""Convert the layouts of tensors in folders to GGUF's: stacked experts, interleaved rows, norms of 1 + gain.

Each function has the form of `Architecture.sources` or `Architecture.tensors`: (tensors by name, config.json)
-> tensors by name. A tensor's data is copied only when its blocks are requested.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from llmlite.errors import ModelError
from llmlite.quants.tensor import PendingTensor, QuantTensor

Tensors = dict[str, QuantTensor]


def gains_plus_one(tensors: Tensors, config: Any) -> Tensors:
    """Add 1 to gains: Gemma's norms multiply by 1 + gain, and a GGUF file stores the sum."""
    return {
        name: QuantTensor.quantize(tensor.dequantize() + 1, "F32", name) if "norm" in name else tensor
        for name, tensor in tensors.items()
    }


def rows_taken(source: QuantTensor, name: str, rows: np.ndarray) -> QuantTensor:
    """Return the rows of a matrix, or the numbers of a vector, in the order `rows`."""
    if len(source.shape) == 1:
        return QuantTensor.quantize(source.dequantize()[rows], "F32", name)

    def make() -> np.ndarray:
        by_row = source.blocks.reshape(source.shape[0], -1)
        return np.ascontiguousarray(by_row[rows]).reshape(-1, source.type.type_size)

    return PendingTensor(name, source.type, (len(rows), *source.shape[1:]), make)


def part_of(source: QuantTensor, name: str, take: Callable[[np.ndarray], np.ndarray]) -> QuantTensor:
    """Return a tensor of plain numbers, made from another by `take` (array -> array), in the same type."""

    def numbers() -> np.ndarray:
        return source.blocks.reshape(*source.shape, source.type.type_size)

    shape = take(np.broadcast_to(np.zeros(1, np.uint8), source.shape)).shape

    def make() -> np.ndarray:
        return np.ascontiguousarray(take(numbers())).reshape(-1, source.type.type_size)

    return PendingTensor(name, source.type, shape, make)


def split_qkv(n_head: int, n_head_kv: int, head_size: int) -> np.ndarray:
    """Return the order of rows that turns queries, key and value of each key/value head into q | k | v."""
    group = n_head // n_head_kv
    rows = np.arange((n_head + 2 * n_head_kv) * head_size).reshape(n_head_kv, group + 2, head_size)
    return np.concatenate([rows[:, :group].ravel(), rows[:, group].ravel(), rows[:, group + 1].ravel()])


def qkv_by_group(n_head_kv: Callable[[Any], int]) -> Callable[[Tensors, Any], Tensors]:
    """Return the function for folders whose fused rows are ordered by key/value head (Falcon, GPT-NeoX)."""

    def reorder(tensors: Tensors, config: Any) -> Tensors:
        rows = split_qkv(config.integer("num_attention_heads"), n_head_kv(config), config.head_size())
        return {
            name: rows_taken(tensor, name, rows) if "attn_qkv" in name else tensor
            for name, tensor in tensors.items()
        }

    return reorder


def shared_gate_as_vector(tensors: Tensors, config: Any) -> Tensors:
    """Turn the gate of shared experts, a matrix of one row, into a vector."""
    return {
        name: part_of(tensor, name, lambda w: w.reshape(w.shape[1], *w.shape[2:]))
        if name.endswith("ffn_gate_inp_shexp.weight")
        else tensor
        for name, tensor in tensors.items()
    }


def half_of(axis: int, i: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that takes the first (0) or second (1) half of an array along `axis`."""
    return lambda w: np.split(w, 2, axis)[i]


def stacked_head_norms(sources: Tensors, config: Any) -> Tensors:
    """Stack each head's gains, which StableLM stores separately: `q_layernorm.norms.3.weight` -> a row."""
    found: Tensors = {}
    heads: dict[str, dict[int, QuantTensor]] = {}
    for name, tensor in sources.items():
        match = re.fullmatch(r"(.+\.self_attn\.)([qk])_layernorm\.norms\.(\d{1,4})\.weight", name)
        if match:
            heads.setdefault(f"{match[1]}{match[2]}_norm.weight", {})[int(match[3])] = tensor
        else:
            found[name] = tensor
    for name, rows in heads.items():
        if sorted(rows) != list(range(len(rows))):
            raise ModelError.at(name, "the gains of every head, numbered from 0", sorted(rows))
        gains = [rows[i].dequantize() for i in range(len(rows))]
        if len({each.shape for each in gains}) > 1:
            raise ModelError.at(name, "one shape for all heads", sorted({each.shape for each in gains}))
        found[name] = QuantTensor.quantize(np.stack(gains), "F32", name)
    return found


def granite_experts(sources: Tensors, config: Any) -> Tensors:
    """Split Granite's stacked experts, in which the gate is above up: (n_expert, 2 F, D)."""
    found: Tensors = {}
    for name, tensor in sources.items():
        match = re.fullmatch(r"(model\.layers\.\d+\.)(block_sparse_moe|shared_mlp)\.(\w+)\.weight", name)
        if match is None or match[3] == "router":
            found[name] = tensor
            continue
        prefix, where, part = match.groups()
        kind = "experts" if where == "block_sparse_moe" else "shared"
        if part == "output_linear":
            found[f"{prefix}{kind}.down.weight"] = tensor
            continue
        for i, half in enumerate(("gate", "up")):
            found[f"{prefix}{kind}.{half}.weight"] = part_of(tensor, name, half_of(len(tensor.shape) - 2, i))
    return found


def gpt_oss_experts(sources: Tensors, config: Any) -> Tensors:
    """Split gpt-oss' experts, (n_expert, D, 2 F) with gate and up interleaved, and complete names."""
    found: Tensors = {}
    for name, tensor in sources.items():
        stem = name.rpartition(".")[2]
        prefix = name[: -len(stem)]
        if stem == "sinks":
            found[f"{name}.weight"] = tensor
        elif stem == "gate_up_proj":
            found[f"{prefix}gate.weight"] = part_of(tensor, name, lambda w: w[:, :, 0::2].swapaxes(1, 2))
            found[f"{prefix}up.weight"] = part_of(tensor, name, lambda w: w[:, :, 1::2].swapaxes(1, 2))
        elif stem == "gate_up_proj_bias":
            found[f"{prefix}gate.bias"] = part_of(tensor, name, lambda w: w[:, 0::2])
            found[f"{prefix}up.bias"] = part_of(tensor, name, lambda w: w[:, 1::2])
        elif stem == "down_proj":
            found[f"{prefix}down.weight"] = part_of(tensor, name, lambda w: w.swapaxes(1, 2))
        elif stem == "down_proj_bias":
            found[f"{prefix}down.bias"] = tensor
        else:
            found[name] = tensor
    return found
