"""Convert Hugging Face's names and layouts of tensors to GGUF's."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping

import numpy as np

from llmlite.description.architectures import Names
from llmlite.errors import ModelError
from llmlite.huggingface.safetensors import shown
from llmlite.quants.tensor import PendingTensor, QuantTensor

# Tensors of old files that follow from config.json; GPT-2's attn.bias is its causal mask.
DERIVED = re.compile(r"\.(rotary_emb\.inv_freq|masked_bias)$|(^|\.)h\.\d+\.attn\.bias$")


def renamed(
    folder: str, sources: Mapping[str, QuantTensor], names: Names, *, tied: bool, has_output: bool = True
) -> dict[str, QuantTensor]:
    """Return the tensors under GGUF's names, with experts stacked and (columns, rows) transposed.

    Nothing is copied now: new blocks are made when they are requested.

    Args:
        folder: the folder's path, for errors.
        sources: the folder's tensors, under their own names.
        names: the names of the architecture.
        tied: whether config.json says that output and embedding are the same. An output that differs is kept.
        has_output: False for an encoder, whose file has no output. A head in the folder is omitted.

    Raises:
        ModelError: a tensor isn't one of this architecture, is stored twice, or is missing.

    Warns:
        UserWarning: the output differs from the embedding, although `tied` is True.
    """
    found: dict[str, QuantTensor] = {}
    stacks: dict[str, dict[int, QuantTensor]] = {}
    for name, tensor in sources.items():
        ignored = names.ignored and re.search(names.ignored, name)
        if ignored or DERIVED.search(name) or (name == "lm_head.weight" and not has_output):
            continue
        known = names.new(name)
        if known is None:
            raise ModelError(f"{folder}: {shown(name)}: not a tensor of this architecture")
        new, expert = known
        among = found if expert is None else stacks.setdefault(new, {})
        key = new if expert is None else expert
        if key in among:
            raise ModelError(f"{folder}: {shown(name)}: this tensor is stored twice, under two names")
        among[key] = tensor  # type: ignore[index]  # a name among tensors, a number among experts
    if tied and "output.weight" in found:
        if _same(found["output.weight"], found.get("token_embd.weight")):
            del found["output.weight"]
        else:
            warnings.warn(
                f"{folder}: lm_head.weight differs from the embedding, though tie_word_embeddings is true: "
                "it is kept, as in transformers",
                stacklevel=3,
            )
    if has_output and not tied and "output.weight" not in found:
        raise ModelError(f"{folder}: lm_head.weight: this tensor is missing; tie_word_embeddings isn't true")
    for new, tensor in found.items():
        if new.split(".")[-2] in names.transposed and len(tensor.shape) == 2:
            found[new] = _turned(tensor)
    return found | {new: _stacked(folder, new, stack, names) for new, stack in stacks.items()}


def _same(one: QuantTensor, other: QuantTensor | None) -> bool:
    """Return whether two matrices have the same numbers, whatever their types."""
    if other is None or one.shape != other.shape:
        return False
    step = max(1, (1 << 20) // max(1, one.n_columns))
    slabs = (slice(at, at + step) for at in range(0, one.n_rows, step))
    return all(np.array_equal(one.dequantize(s), other.dequantize(s), equal_nan=True) for s in slabs)


def _turned(source: QuantTensor) -> QuantTensor:
    """Return a matrix (columns, rows) transposed, as (rows, columns)."""
    rows, columns = source.shape[::-1]

    def make() -> np.ndarray:
        numbers = source.blocks.reshape(columns, rows, -1).swapaxes(0, 1)  # a number's bytes stay together
        return np.ascontiguousarray(numbers).reshape(-1, source.type.type_size)

    return PendingTensor(source.name, source.type, (rows, columns), make)


def _stacked(folder: str, name: str, stack: Mapping[int, QuantTensor], names: Names) -> QuantTensor:
    """Return the matrices of all experts as one tensor (n_expert, rows, columns)."""
    old, first = names.old(name), next(iter(stack.values()))
    missing = sorted(set(range(len(stack))) - stack.keys())
    if missing:
        raise ModelError(f"{folder}: {old.replace('*', str(missing[0]))}: this tensor is missing")
    experts = [stack[i] for i in range(len(stack))]
    for expert in experts:
        if (expert.shape, expert.type) != (first.shape, first.type):
            raise ModelError(
                f"{folder}: {expert.name}: expected {first.type.name} {first.shape} like {first.name}, "
                f"got {expert.type.name} {expert.shape}"
            )

    def make() -> np.ndarray:
        return np.concatenate([expert.blocks for expert in experts])

    return PendingTensor(name, first.type, (len(experts), *first.shape), make)
