"""The tensors that a file must or may have: their names and shapes, from a model's configuration.

Shapes: D n_embd, H heads, K key/value heads, Dh head size, F n_ff, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llmlite.description.architectures import FUSED, HEAD_NORMS, Architecture
from llmlite.description.config import ModelConfig
from llmlite.description.layers import (
    Attention,
    DeltaNet,
    Experts,
    LatentAttention,
    Mamba,
    Mamba2,
    ShortConvolution,
)

Shape = tuple[int, ...]


def tensor_shapes(config: ModelConfig, fused: frozenset[str] | None = None) -> dict[str, Shape]:
    """Return the shape, (rows, columns), of every tensor that a file of this configuration may have, by name.

    Args:
        config: the configuration.
        fused: the tensors of FUSED that replace their parts. None: all that the architecture may fuse.
    """
    fused = frozenset(config.architecture.fused) if fused is None else fused
    shapes = {in_file(name, config): shape for name, shape in _outer_shapes(config).items()}
    for i in range(config.n_layer):
        for name, shape in layer_shapes(config, i, fused).items():
            shapes[f"blk.{i}.{in_file(name, config)}"] = shape
    return shapes


def in_file(name: str, config: ModelConfig) -> str:
    """Return a tensor's name in the file, from its name by purpose."""
    renamed = {new: old for old, new in config.architecture.renamed.items()}
    stem, dot, kind = name.rpartition(".")
    return f"{renamed.get(stem, stem)}{dot}{kind}"


def inside(name: str, config: ModelConfig) -> str:
    """Return a tensor's name by purpose, from its name in the file."""
    stem, dot, kind = name.rpartition(".")
    return f"{config.architecture.renamed.get(stem, stem)}{dot}{kind}"


def required_tensors(config: ModelConfig, fused: frozenset[str] | None = None) -> set[str]:
    """Return the names of the tensors that such a file must have. `output` isn't required.

    Args:
        config, fused: as for `tensor_shapes`.
    """
    entry = config.architecture
    fused = frozenset(entry.fused) if fused is None else fused
    biases = {f"{name}.bias" for name in entry.biases}
    biases |= {f"{whole}.bias" for whole in fused if set(FUSED[whole]) <= set(entry.biases)}
    if entry.norm_bias:
        biases |= {f"{name}.bias" for name in (*entry.norms, *entry.outer)}
    optional = {f"{name}.weight" for name in (*entry.optional, *entry.from_second)} | OPTIONAL
    if entry.head_norms == "each":  # only the largest models of such an architecture have them
        optional |= {f"{name}.weight" for name in HEAD_NORMS}
    found = {
        in_file(name, config)
        for name in _outer_shapes(config)
        if (name.endswith(".weight") or name in biases) and name not in OPTIONAL
    }
    for i in range(config.n_layer):
        for name in layer_shapes(config, i, fused):
            stem, _, kind = name.rpartition(".")
            is_required = kind != "bias" and name not in optional
            is_required |= i > 0 and stem in entry.from_second and kind == "weight"
            if is_required or name in biases:
                found.add(f"blk.{i}.{in_file(name, config)}")
    return found


GAINS = ("ssm_norm.weight", "attn_q_norm.weight", "attn_k_norm.weight")
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


def layer_shapes(config: ModelConfig, i: int, fused: frozenset[str]) -> dict[str, Shape]:
    """Return the shapes of layer `i`'s tensors, under their names by purpose."""
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
        size = mixer.key_size
        shapes: tuple[Shape, Shape] = (size,), (size,)
        if entry.head_norms == "full":
            shapes = (mixer.q_width,), (mixer.k_width,)
        elif entry.head_norms == "each":
            shapes = (mixer.n_head, size), (mixer.n_head_kv, size)
        names = HEAD_NORMS if mixer.shared is None else HEAD_NORMS[:1]
        yield from ((f"{name}.weight", shape) for name, shape in zip(names, shapes))
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
    """Yield gains, and each head's matrices: keys (rank, plain_size) and values (head_value_size, rank)."""
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


# A mixer's record -> its matrices, which may have a bias and be fused, and its other tensors
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
# Small tensors of these mixers, which are F32 in a file of any type
ALWAYS_F32 = ("shortconv.conv.weight", "ssm_conv1d.weight", "ssm_a", "ssm_d", *GAINS)
BY_HEAD = ("attn_k_b.weight", "attn_v_b.weight")  # a matrix for each head
# Tensors that are read with the mixer's width, or the number of heads, last: taps become (taps, columns)
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
    """Return the tensors of FUSED that a file has in place of their parts."""
    entry = config.architecture
    found = set()
    for whole in entry.fused:
        others = [part for part in FUSED[whole] if part != whole]
        if not any(f"blk.{i}.{part}.weight" in tensors for part in others for i in range(config.n_layer)):
            found.add(whole)
    return frozenset(found)
