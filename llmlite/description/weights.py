"""A model's weights: its tensors, checked and arranged for the forward pass.

Shapes: D n_embd, H heads, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmlite.description.architectures import FUSED
from llmlite.description.config import ModelConfig
from llmlite.description.layers import Attention, LatentAttention, Rope
from llmlite.description.lora import LowRank
from llmlite.description.rope import RopeTable, rope_table
from llmlite.description.shapes import (
    GAINS,
    NOT_ADAPTED,
    TURNED,
    fused_in,
    inside,
    layer_shapes,
    required_tensors,
    tensor_shapes,
)
from llmlite.errors import ModelError, UnsupportedError
from llmlite.quants.tensor import QuantTensor

TOWERS = r"(v|a|mm)\."  # tensors of vision and audio towers and their projectors, which text doesn't use


@dataclass(frozen=True)
class Weights:
    """A model's weights for the forward pass.

    Matrices are QuantTensors over the mapped file; vectors (norm gains, biases) are float32 arrays.

    Attributes:
        token_embd: (V, D).
        output: (V, D), the same tensor as token_embd if the embeddings are tied; None in an encoder.
        outer: the other tensors outside the layers, by name.
        positions: float32 (n_ctx, D), a learned vector for each position, or None.
        token_types: float32 (n_token_types, D), a learned vector for each token type, or None.
        ropes: the angles of each kind of RoPE in the layers.
        layers: for each layer, its tensors by their names without "blk.N.".
    """

    token_embd: QuantTensor
    output: QuantTensor | None
    outer: Mapping[str, Any]
    positions: np.ndarray | None
    token_types: np.ndarray | None
    ropes: Mapping[Rope, RopeTable]
    layers: tuple[dict[str, Any], ...]

    @property
    def output_norm(self) -> np.ndarray:
        """The gains of the last norm, (D,)."""
        return self.outer["output_norm.weight"]

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, QuantTensor],
        config: ModelConfig,
        corrections: Mapping[str, Any] | None = None,
    ) -> Weights:
        """Check every tensor's name and shape against `config`, and sort the tensors by layer.

        Args:
            tensors: the file's tensors, by name.
            config: the configuration.
            corrections: the sums of adapters, under names like "blk.0.attn_q.lora" (`lora.read`).

        Raises:
            ModelError: a tensor is missing, its shape doesn't fit the hyper-parameters, or it doesn't belong
                to this architecture. Such a tensor isn't ignored, because this could give wrong answers.
            UnsupportedError: an adapter changes a tensor for which this isn't supported.
        """
        tensors = _without_skipped(tensors, config)
        fused = fused_in(tensors, config)
        _check(tensors, config, fused)
        usable: dict[str, Any] = {name: _usable(tensor) for name, tensor in tensors.items()}
        for name in corrections or {}:
            if name.removesuffix(".lora").endswith(NOT_ADAPTED):
                raise UnsupportedError(f"{name}: an adapter of this tensor is not supported")
        usable |= corrections or {}
        tables = [tensors.get(f"{name}.weight") for name in ("position_embd", "token_types")]
        positions, token_types = (
            None if table is None else np.ascontiguousarray(table.dequantize()) for table in tables
        )
        token_embd = usable["token_embd.weight"]
        specs = dict.fromkeys(mixer.rope for mixer in config.attentions if mixer.rope)
        return cls(
            token_embd=token_embd,
            output=usable.get("output.weight", token_embd) if config.causal else None,
            outer={
                inside(name, config): value for name, value in usable.items() if not name.startswith("blk.")
            },
            positions=positions,
            token_types=token_types,
            ropes={spec: rope_table(spec, _factors(spec, usable)) for spec in specs},
            layers=tuple(_layer(usable, i, config, fused) for i in range(config.n_layer)),
        )


def _factors(spec: Rope, usable: Mapping[str, Any]) -> np.ndarray | None:
    return usable.get(f"{spec.factors}.weight") if spec.factors else None


def _without_skipped(tensors: Mapping[str, QuantTensor], config: ModelConfig) -> Mapping[str, QuantTensor]:
    """Return the tensors of the text model, without towers, and without those that its architecture skips."""
    pattern = "|".join(filter(None, (TOWERS, config.architecture.skipped)))
    kept = {name: tensor for name, tensor in tensors.items() if not re.match(pattern, name)}
    for i, layer in enumerate(config.layers):  # a layer with another's keys may have unused tensors
        if isinstance(layer.mixer, Attention) and layer.mixer.shared is not None:
            for unused in ("attn_k", "attn_v", "attn_k_norm"):
                kept.pop(f"blk.{i}.{unused}.weight", None)
    if "nextn_predict_layers" not in config.architecture.features:
        return kept
    return {name: tensor for name, tensor in kept.items() if not _is_ahead(name, config.n_layer)}


def _is_ahead(name: str, n_layer: int) -> bool:
    """Return whether a tensor belongs to one of the last layers, which only predict more tokens."""
    match = re.match(r"blk\.(\d+)\.", name)
    return match is not None and int(match[1]) >= n_layer


def _check(tensors: Mapping[str, QuantTensor], config: ModelConfig, fused: frozenset[str]) -> None:
    shapes, required = tensor_shapes(config, fused), required_tensors(config, fused)
    for name in shapes:
        if name not in tensors and name in required:
            raise ModelError.absent(name)
    for name, tensor in tensors.items():
        if name not in shapes:
            raise ModelError.about(
                name,
                f"not a tensor of the {config.architecture.name} architecture",
                expected=f"only tensors of the {config.architecture.name} architecture",
                got=name,
            )
        if tuple(tensor.shape) != shapes[name]:
            raise ModelError.at(name, f"shape {shapes[name]}", str(tuple(tensor.shape)))


def _usable(tensor: QuantTensor) -> QuantTensor | np.ndarray:
    """Return a matrix unchanged. Return a vector, which is small and which every step reads, as float32."""
    if tensor.name.endswith("ffn_gate_inp_shexp.weight"):  # a matrix of one row, stored as a vector
        return QuantTensor(tensor.name, tensor.type, (1, tensor.n_elements), tensor.blocks)
    if tensor.name.endswith(GAINS):  # those of each group or head, one after another
        return np.ascontiguousarray(tensor.dequantize().reshape(-1))
    if tensor.name.endswith(TURNED):
        numbers = tensor.dequantize()
        is_column = len(numbers.shape) == 1 or numbers.shape[-1] == 1
        return np.ascontiguousarray(numbers.reshape(-1) if is_column else numbers.T)
    if len(tensor.shape) > 1 and not tensor.name.endswith(".bias"):
        return tensor
    return np.ascontiguousarray(tensor.dequantize())


def _by_head(both: QuantTensor, low_rank: LowRank | None, mixer: LatentAttention) -> dict[str, QuantTensor]:
    """Split an older file's matrix for all keys and values into the matrices of each head, as in newer files.

    In the older matrix, the keys' part is transposed. To transpose it back, its quantized numbers become F32,
    which is exact; they are a hundredth of a model. Then both kinds of files are computed in the same way,
    with the same short rows in the cache.
    """
    if low_rank is not None:  # an adapter has no matrix for each head, so it is added to the numbers here
        numbers = both.dequantize() + low_rank.b.dequantize() @ low_rank.a.dequantize()
        both = QuantTensor.quantize(numbers, "F32", both.name)
    H, plain, size, rank = mixer.n_head, mixer.plain_size, mixer.head_value_size, mixer.kv_rank
    names = [both.name.replace("attn_kv_b", f"attn_{part}_b") for part in "kv"]
    kind = both.type
    blocks = both.blocks.reshape(H, plain + size, -1, kind.type_size)
    values = np.ascontiguousarray(blocks[:, plain:]).reshape(-1, kind.type_size)
    found = {"attn_v_b.weight": QuantTensor(names[1], kind, (H, size, rank), values)}
    if kind.block_size == 1:
        keys = np.ascontiguousarray(blocks[:, :plain].swapaxes(1, 2)).reshape(-1, kind.type_size)
        return found | {"attn_k_b.weight": QuantTensor(names[0], kind, (H, rank, plain), keys)}
    numbers = both.dequantize().reshape(H, plain + size, rank)[:, :plain].swapaxes(1, 2)
    turned = QuantTensor.quantize(np.ascontiguousarray(numbers), "F32", names[0])
    return found | {"attn_k_b.weight": turned}


def _layer(usable: Mapping[str, Any], i: int, config: ModelConfig, fused: frozenset[str]) -> dict[str, Any]:
    prefix, found = f"blk.{i}.", {}
    for name, value in usable.items():
        if name.startswith(prefix):
            found[inside(name.removeprefix(prefix), config)] = value
    mixer = config.layers[i].mixer
    if isinstance(mixer, LatentAttention) and not mixer.split:
        found |= _by_head(found.pop("attn_kv_b.weight"), found.pop("attn_kv_b.lora", None), mixer)
    for whole in fused:
        for kind in ("weight", "bias", "lora"):
            if f"{whole}.{kind}" in found:
                found |= _split(whole, kind, found.pop(f"{whole}.{kind}"), config, i)
    return found


def _split(whole: str, kind: str, tensor: Any, config: ModelConfig, i: int) -> dict[str, Any]:
    """Return the parts of a fused tensor, or of its adapters' sum, as views of its rows."""
    parts = layer_shapes(config, i, frozenset())
    found, at = {}, 0
    for name in FUSED[whole]:
        end = at + parts[f"{name}.weight"][0]
        if kind == "bias":
            found[f"{name}.bias"] = np.ascontiguousarray(tensor[at:end])
        else:
            found[f"{name}.{kind}"] = tensor.slice_rows(at, end)
        at = end
    return found
