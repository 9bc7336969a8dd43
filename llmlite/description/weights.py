"""A model's weights: which tensors a file must and may hold, and how the forward pass finds them.

Shapes: D n_embd, H heads, K key/value heads, Dh head size, F n_ff, V vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmlite import deterministic
from llmlite.description.architectures import FUSED, HEAD_NORMS, Architecture
from llmlite.description.config import ModelConfig
from llmlite.description.layers import (
    Attention,
    DeltaNet,
    Experts,
    LatentAttention,
    Mamba,
    Mamba2,
    Rope,
    ShortConvolution,
)
from llmlite.description.lora import LowRank
from llmlite.errors import ModelError, UnsupportedError
from llmlite.quants.tensor import QuantTensor

Shape = tuple[int, ...]
TOWERS = r"(v|a|mm)\."  # tensors of vision and audio towers and their projectors; text never passes them


# ---- names and shapes --------------------------------------------------------------------------------------


def tensor_shapes(config: ModelConfig, fused: frozenset[str] | None = None) -> dict[str, Shape]:
    """Return every tensor that a file of this configuration may have -> its shape, (rows, columns).

    Args:
        fused: which tensors of FUSED replace their parts; by default all that the architecture may fuse.
    """
    fused = frozenset(config.architecture.fused) if fused is None else fused
    shapes = {_in_file(name, config): shape for name, shape in _outer_shapes(config).items()}
    for i in range(config.n_layer):
        for name, shape in _layer_shapes(config, i, fused).items():
            shapes[f"blk.{i}.{_in_file(name, config)}"] = shape
    return shapes


def _in_file(name: str, config: ModelConfig) -> str:
    """A tensor's name in the file, from the one that says what it does."""
    renamed = {new: old for old, new in config.architecture.renamed.items()}
    stem, dot, kind = name.rpartition(".")
    return f"{renamed.get(stem, stem)}{dot}{kind}"


def _inside(name: str, config: ModelConfig) -> str:
    """The name that says what a tensor does, from the one in the file."""
    stem, dot, kind = name.rpartition(".")
    return f"{config.architecture.renamed.get(stem, stem)}{dot}{kind}"


def required_tensors(config: ModelConfig, fused: frozenset[str] | None = None) -> set[str]:
    """Return the names of the tensors that such a file must have; embeddings may stand in for `output`."""
    entry = config.architecture
    fused = frozenset(entry.fused) if fused is None else fused
    biases = {f"{name}.bias" for name in entry.biases}
    biases |= {f"{whole}.bias" for whole in fused if set(FUSED[whole]) <= set(entry.biases)}
    if entry.norm_bias:
        biases |= {f"{name}.bias" for name in (*entry.norms, *entry.outer)}
    optional = {f"{name}.weight" for name in (*entry.optional, *entry.from_second)} | OPTIONAL
    found = {
        _in_file(name, config)
        for name in _outer_shapes(config)
        if (name.endswith(".weight") or name in biases) and name not in OPTIONAL
    }
    for i in range(config.n_layer):
        for name in _layer_shapes(config, i, fused):
            stem, _, kind = name.rpartition(".")
            is_required = kind != "bias" and name not in optional
            is_required |= i > 0 and stem in entry.from_second and kind == "weight"
            if is_required or name in biases:
                found.add(f"blk.{i}.{_in_file(name, config)}")
    return found


OPTIONAL = {
    "output.weight", "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight",
    "ffn_gate_inp_shexp.weight", "layer_output_scale.weight", "ffn_down_exps.scale",
}  # fmt: skip


def _outer_shapes(config: ModelConfig) -> dict[str, Shape]:
    entry, D = config.architecture, config.n_embd
    shapes: dict[str, Shape] = {"token_embd.weight": (config.n_vocab, D)}
    if entry.causal:
        shapes |= {"output.weight": (config.n_vocab, D), "output.bias": (config.n_vocab,)}
    for name in entry.outer:
        shapes[f"{name}.weight"] = (D,)
        if entry.norm == "layer":
            shapes[f"{name}.bias"] = (D,)
    if entry.learned_positions:
        shapes["position_embd.weight"] = (config.n_ctx, D)
    if P := config.n_embd_per_layer:
        shapes["per_layer_token_embd.weight"] = (config.n_vocab, config.n_layer * P)
        shapes["per_layer_model_proj.weight"] = (config.n_layer * P, D)
        shapes["per_layer_proj_norm.weight"] = (P,)
    if config.n_token_types:
        shapes["token_types.weight"] = (config.n_token_types, D)
    shapes |= {f"{name}.weight": shape for name, shape in config.dense.items()}
    if config.n_class:
        shapes |= {"cls.weight": (D, D), "cls.bias": (D,)}
        shapes |= {"cls.output.weight": (config.n_class, D), "cls.output.bias": (config.n_class,)}
        shapes |= {"cls.norm.weight": (D,), "cls.norm.bias": (D,)} if entry.head == "norm" else {}
    ropes = {mixer.rope for mixer in config.attentions if mixer.rope}
    divided = {rope for rope in ropes if rope.factors} or ropes
    for name in ("rope_freqs", "rope_factors_long", "rope_factors_short") if ropes else ():
        shapes[f"{name}.weight"] = (max(rope.dim for rope in divided) // 2,)
    return shapes


def _layer_shapes(config: ModelConfig, i: int, fused: frozenset[str]) -> dict[str, Shape]:
    """The tensors of layer `i`, by the names that say what they do."""
    entry, layer, D = config.architecture, config.layers[i], config.n_embd
    mixer, after = layer.mixer, layer.feed_forward
    shapes: dict[str, Shape] = {}
    widths = {"ffn_sub_norm": after.n_ff if after else 0}
    if isinstance(mixer, Attention):
        widths["attn_sub_norm"] = mixer.out_width
    for name in (*entry.norms, *entry.optional, *entry.from_second):
        shapes[f"{name}.weight"] = (widths.get(name, D),)
        if entry.norm == "layer":
            shapes[f"{name}.bias"] = (widths.get(name, D),)
    matrices = dict(MATRICES[type(mixer)](mixer, D))
    if isinstance(after, Experts):
        shapes |= dict(_expert_shapes(after, D))
    network = after.beside if isinstance(after, Experts) else after
    if network is not None:
        matrices |= {"ffn_gate": (network.n_ff, D)} if network.gated else {}
        matrices |= {"ffn_up": (network.n_ff, D), "ffn_down": (D, network.n_ff)}
    if P := config.n_embd_per_layer:
        matrices |= {"inp_gate": (P, D), "proj": (D, P)}
        shapes["post_norm.weight"] = (D,)
    if entry.output_scale:
        shapes["layer_output_scale.weight"] = (1,)
    for whole in fused & set(entry.fused):
        if set(FUSED[whole]) <= matrices.keys():
            parts = [matrices.pop(part) for part in FUSED[whole]]
            matrices[whole] = sum(rows for rows, _ in parts), parts[0][1]
    for name, (rows, columns) in matrices.items():
        shapes[f"{name}.weight"] = (rows, columns)
        shapes[f"{name}.bias"] = (rows,)
    return shapes | dict(VECTORS[type(mixer)](mixer, entry))


def _attention_vectors(mixer: Attention, entry: Architecture) -> Iterator[tuple[str, Shape]]:
    if entry.head_norms:
        full = entry.head_norms == "full"
        sizes = (mixer.q_width, mixer.k_width) if full else (mixer.key_size, mixer.key_size)
        names = HEAD_NORMS if mixer.shared is None else HEAD_NORMS[:1]
        yield from ((f"{name}.weight", (size,)) for name, size in zip(names, sizes))
    if mixer.sinks:
        yield "attn_sinks.weight", (mixer.n_head,)


def _attention_matrices(mixer: Attention, D: int) -> Iterator[tuple[str, tuple[int, int]]]:
    yield "attn_q", (mixer.q_width * (2 if mixer.output_gate else 1), D)
    if mixer.shared is None:
        yield "attn_k", (mixer.k_width, D)
        if not mixer.keys_as_values:
            yield "attn_v", (mixer.v_width, D)
    yield "attn_output", (D, mixer.out_width)


def _latent_matrices(mixer: LatentAttention, D: int) -> Iterator[tuple[str, tuple[int, int]]]:
    if mixer.q_rank:
        yield "attn_q_a", (mixer.q_rank, D)
    q_width = mixer.n_head * mixer.head_key_size
    yield ("attn_q_b" if mixer.q_rank else "attn_q"), (q_width, mixer.q_rank or D)
    yield "attn_kv_a_mqa", (mixer.key_size, D)
    yield "attn_output", (D, mixer.n_head * mixer.head_value_size)


def _latent_vectors(mixer: LatentAttention, entry: Architecture) -> Iterator[tuple[str, Shape]]:
    """Gains, and the matrices of each head: keys' (rank, plain_size), values' (head_value_size, rank)."""
    H, plain, size, rank = mixer.n_head, mixer.plain_size, mixer.head_value_size, mixer.kv_rank
    if mixer.q_rank:
        yield "attn_q_a_norm.weight", (mixer.q_rank,)
    yield "attn_kv_a_norm.weight", (rank,)
    if mixer.split:
        yield "attn_k_b.weight", (H, rank, plain)
        yield "attn_v_b.weight", (H, size, rank)
    else:
        yield "attn_kv_b.weight", (H * (plain + size), rank)


def _short_convolution_matrices(mixer: ShortConvolution, D: int) -> Iterator[tuple[str, tuple[int, int]]]:
    for part in ("b", "c", "x"):
        yield f"shortconv.{part}", (mixer.width, D)
    yield "shortconv.out_proj", (D, mixer.width)


def _short_convolution_vectors(mixer: ShortConvolution, entry: Architecture) -> Iterator[tuple[str, Shape]]:
    yield "shortconv.conv.weight", (mixer.width, mixer.n_taps)


# A mixer's record -> its matrices, which may have a bias and be fused, and its other tensors
def _mamba2_matrices(mixer: Mamba2, D: int) -> Iterator[tuple[str, tuple[int, int]]]:
    yield "ssm_in_z", (mixer.inner_width, D)
    yield "ssm_in_xbc", (mixer.conv_width, D)
    yield "ssm_in_dt", (mixer.n_head, D)
    yield "ssm_out", (D, mixer.inner_width)


def _mamba2_vectors(mixer: Mamba2, entry: Architecture) -> Iterator[tuple[str, Shape]]:
    yield "ssm_conv1d.weight", (mixer.conv_width, mixer.n_taps)
    yield "ssm_conv1d.bias", (mixer.conv_width,)
    yield "ssm_dt.bias", (mixer.n_head,)
    yield "ssm_a", (mixer.n_head, 1)
    yield "ssm_d", (mixer.n_head, 1)
    yield "ssm_norm.weight", (mixer.n_group, mixer.inner_width // mixer.n_group)


def _mamba_matrices(mixer: Mamba, D: int) -> Iterator[tuple[str, tuple[int, int]]]:
    yield "ssm_in", (2 * mixer.width, D)
    yield "ssm_x", (mixer.rank + 2 * mixer.state_size, mixer.width)
    yield "ssm_dt", (mixer.width, mixer.rank)
    yield "ssm_out", (D, mixer.width)


def _mamba_vectors(mixer: Mamba, entry: Architecture) -> Iterator[tuple[str, Shape]]:
    yield "ssm_conv1d.weight", (mixer.width, mixer.n_taps)
    yield "ssm_conv1d.bias", (mixer.width,)
    yield "ssm_a", (mixer.width, mixer.state_size)
    yield "ssm_d", (mixer.width,)


def _delta_net_matrices(mixer: DeltaNet, D: int) -> Iterator[tuple[str, tuple[int, int]]]:
    yield "attn_qkv", (mixer.conv_width, D)
    yield "attn_gate", (mixer.value_width, D)
    if mixer.fused_rates:
        yield "ssm_ba", (2 * mixer.n_head, D)
    else:
        yield "ssm_beta", (mixer.n_head, D)
        yield "ssm_alpha", (mixer.n_head, D)
    yield "ssm_out", (D, mixer.value_width)


def _delta_net_vectors(mixer: DeltaNet, entry: Architecture) -> Iterator[tuple[str, Shape]]:
    yield "ssm_conv1d.weight", (mixer.conv_width, mixer.n_taps)
    yield "ssm_dt.bias", (mixer.n_head,)
    yield "ssm_a", (mixer.n_head,)
    yield "ssm_norm.weight", (mixer.head_size,)


MATRICES: dict[type, Callable[..., Iterator]] = {
    Attention: _attention_matrices,
    LatentAttention: _latent_matrices,
    ShortConvolution: _short_convolution_matrices,
    Mamba: _mamba_matrices,
    Mamba2: _mamba2_matrices,
    DeltaNet: _delta_net_matrices,
}
VECTORS: dict[type, Callable[..., Iterator]] = {
    Attention: _attention_vectors,
    LatentAttention: _latent_vectors,
    ShortConvolution: _short_convolution_vectors,
    Mamba: _mamba_vectors,
    Mamba2: _mamba2_vectors,
    DeltaNet: _delta_net_vectors,
}
# Small tensors of these mixers: always F32 in a file, whatever the type of its matrices
ALWAYS_F32 = ("shortconv.conv.weight", "ssm_conv1d.weight", "ssm_a", "ssm_d", "ssm_norm.weight")
# … and those that are read with the mixer's width, or the number of heads, last: taps become (taps, columns)
BY_HEAD = ("attn_k_b.weight", "attn_v_b.weight")  # a matrix for each head
TURNED = ("shortconv.conv.weight", "ssm_conv1d.weight", "ssm_a", "ssm_d", "ssm_dt.weight")
NOT_ADAPTED = tuple(name.removesuffix(".weight") for name in (*TURNED, *BY_HEAD))


def _expert_shapes(experts: Experts, D: int) -> Iterator[tuple[str, Shape]]:
    E, F = experts.n_expert, experts.n_ff
    yield "ffn_gate_inp.weight", (E, D)
    yield "ffn_gate_inp.bias", (E,)
    if experts.gating == "sigmoid":
        yield "exp_probs_b.bias", (E,)
    read = (("ffn_gate_up", 2 * F, D),) if experts.fused else (("ffn_gate", F, D), ("ffn_up", F, D))
    for name, rows, columns in (*read, ("ffn_down", D, F)):
        yield f"{name}_exps.weight", (E, rows, columns)
        yield f"{name}_exps.bias", (E, rows)
    if experts.beside is not None:
        yield "ffn_gate_inp.scale", (D,)
        yield "ffn_down_exps.scale", (E,)
        yield from (
            (f"{name}.weight", (D,)) for name in ("pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2")
        )
    F = experts.n_ff_shared
    if F:
        for name, rows, columns in (("ffn_gate", F, D), ("ffn_up", F, D), ("ffn_down", D, F)):
            yield f"{name}_shexp.weight", (rows, columns)
        if experts.shared_gate:
            yield "ffn_gate_inp_shexp.weight", (D,)


def fused_in(tensors: Mapping[str, Any], config: ModelConfig) -> frozenset[str]:
    """Return which tensors of FUSED a file really holds in place of their parts."""
    entry = config.architecture
    found = set()
    for whole in entry.fused:
        others = [part for part in FUSED[whole] if part != whole]
        if not any(f"blk.{i}.{part}.weight" in tensors for part in others for i in range(config.n_layer)):
            found.add(whole)
    return frozenset(found)


# ---- positions ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RopeTable:
    """The angles of one kind of RoPE.

    Attributes:
        spec: how they were made.
        frequencies: float32 (dim/2,): the angle, in radians, by which one position turns each pair.
    """

    spec: Rope
    frequencies: np.ndarray

    def angles(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines and sines for `positions` (T,), float32 (T, dim/2) each, times the magnitude."""
        turns = positions[:, None] * self.frequencies.astype(np.float64)
        magnitude = self.spec.magnitude
        cos, sin = deterministic.cos(turns), deterministic.sin(turns)  # NumPy's bits depend on the CPU
        return (cos * magnitude).astype(np.float32), (sin * magnitude).astype(np.float32)


def rope_table(spec: Rope, factors: np.ndarray | None = None) -> RopeTable:
    """Return the angle by which RoPE turns each pair of elements from one position to the next.

        frequency[i] = scale · base ** (-2i / dim) / factors[i]

    With yarn, high frequencies leave `scale` out, low ones have it, and a ramp blends those between.

    Args:
        factors: the tensor that the file divides them by, (dim/2,) float32, or None.

    Raises:
        ModelError: a factor that isn't a positive number, or too few of them.
    """
    n = spec.dim // 2
    if factors is not None and (len(factors) < n or not (np.isfinite(factors) & (factors > 0)).all()):
        raise ModelError.about(f"{spec.factors}.weight", f"expected {n} positive numbers")
    exponents = np.arange(0, spec.dim, 2) / spec.dim
    frequencies = spec.base**-exponents
    if factors is not None:
        frequencies = frequencies / factors[:n]
    scaled = spec.scale * frequencies
    if spec.yarn is not None:
        kept = _yarn_kept(spec) * spec.yarn.mix
        scaled = scaled * (1 - kept) + frequencies * kept
    return RopeTable(spec, scaled.astype(np.float32))


def _yarn_kept(spec: Rope) -> np.ndarray:
    """How much of each frequency stays as it is: 1 for the high ones, 0 for the low ones."""
    yarn = spec.yarn
    assert yarn is not None

    def pair(turns: float) -> float:  # the pair that makes so many turns within the original context
        return spec.dim * math.log(yarn.n_ctx / (turns * 2 * math.pi)) / (2 * math.log(spec.base))

    low, high = pair(yarn.beta_fast), pair(yarn.beta_slow)
    if yarn.rounded:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(0, low), min(spec.dim - 1, high)
    ramp = (np.arange(spec.dim // 2) - low) / max(0.001, high - low)
    return 1 - np.clip(ramp, 0, 1)


# ---- weights -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """A model's weights as the forward pass reads them.

    Matrices are QuantTensors over the mapped file; vectors (norm gains, biases) float32 arrays.

    Attributes:
        token_embd: (V, D). output: (V, D), the same tensor when the embeddings are tied; None in an encoder.
        outer: the other tensors outside the layers by name.
        positions: float32 (n_ctx, D), a learned vector for each position, or None.
        token_types: float32 (n_token_types, D), a learned vector for each kind of token, or None.
        ropes: the angles of each kind of RoPE that a layer has.
        layers: for each layer its tensors by their names without "blk.N.".
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
        """Check every tensor's name and shape against `config`, and sort them by layer.

        Args:
            corrections: what adapters add to matrices, as "blk.0.attn_q.lora" (`lora.read`).

        Raises:
            ModelError: a tensor is missing, has another shape than the hyper-parameters give it, or
                isn't one of this architecture: leaving it out would give wrong answers.
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
                _inside(name, config): value for name, value in usable.items() if not name.startswith("blk.")
            },
            positions=positions,
            token_types=token_types,
            ropes={spec: rope_table(spec, _factors(spec, usable)) for spec in specs},
            layers=tuple(_layer(usable, i, config, fused) for i in range(config.n_layer)),
        )


def _factors(spec: Rope, usable: Mapping[str, Any]) -> np.ndarray | None:
    return usable.get(f"{spec.factors}.weight") if spec.factors else None


def _without_skipped(tensors: Mapping[str, QuantTensor], config: ModelConfig) -> Mapping[str, QuantTensor]:
    """What the text model consists of: without towers, and without what its architecture skips."""
    pattern = "|".join(filter(None, (TOWERS, config.architecture.skipped)))
    kept = {name: tensor for name, tensor in tensors.items() if not re.match(pattern, name)}
    for i, layer in enumerate(config.layers):  # files may hold what a layer with another's keys doesn't read
        if isinstance(layer.mixer, Attention) and layer.mixer.shared is not None:
            for unused in ("attn_k", "attn_v", "attn_k_norm"):
                kept.pop(f"blk.{i}.{unused}.weight", None)
    if "nextn_predict_layers" not in config.architecture.features:
        return kept
    return {name: tensor for name, tensor in kept.items() if not _is_ahead(name, config.n_layer)}


def _is_ahead(name: str, n_layer: int) -> bool:
    """Whether a tensor belongs to a layer that only guesses further tokens: they follow the others."""
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
    """A matrix as it is; a vector, which is read whole at every step and small, as float32."""
    if tensor.name.endswith("ffn_gate_inp_shexp.weight"):  # a matrix of one row, stored as a vector
        return QuantTensor(tensor.name, tensor.type, (1, tensor.n_elements), tensor.blocks)
    if tensor.name.endswith("ssm_norm.weight"):  # the gains of each group, behind each other
        return np.ascontiguousarray(tensor.dequantize().reshape(-1))
    if tensor.name.endswith(TURNED):
        numbers = tensor.dequantize()
        is_column = len(numbers.shape) == 1 or numbers.shape[-1] == 1
        return np.ascontiguousarray(numbers.reshape(-1) if is_column else numbers.T)
    if len(tensor.shape) > 1 and not tensor.name.endswith(".bias"):
        return tensor
    return np.ascontiguousarray(tensor.dequantize())


def _by_head(both: QuantTensor, low_rank: LowRank | None, mixer: LatentAttention) -> dict[str, QuantTensor]:
    """An older file's one matrix for all keys and values as those of each head, which newer files hold.

    The keys' are stored the other way round in it. Turned, quantized ones become F32, which is exact: they
    are a hundredth of a model. So there is one way of computing, and the short rows of one kind of cache.
    """
    if low_rank is not None:  # what adapters add is no matrix by head: it goes into the numbers
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
            found[_inside(name.removeprefix(prefix), config)] = value
    mixer = config.layers[i].mixer
    if isinstance(mixer, LatentAttention) and not mixer.split:
        found |= _by_head(found.pop("attn_kv_b.weight"), found.pop("attn_kv_b.lora", None), mixer)
    for whole in fused:
        for kind in ("weight", "bias", "lora"):
            if f"{whole}.{kind}" in found:
                found |= _split(whole, kind, found.pop(f"{whole}.{kind}"), config, i)
    return found


def _split(whole: str, kind: str, tensor: Any, config: ModelConfig, i: int) -> dict[str, Any]:
    """The rows of a fused tensor, or of what adapters add to it, as its parts: views, no copies."""
    parts = _layer_shapes(config, i, frozenset())
    found, at = {}, 0
    for name in FUSED[whole]:
        end = at + parts[f"{name}.weight"][0]
        if kind == "bias":
            found[f"{name}.bias"] = np.ascontiguousarray(tensor[at:end])
        else:
            found[f"{name}.{kind}"] = tensor.slice_rows(at, end)
        at = end
    return found
