"""Entries of decoders in which some layers keep a state of a fixed size instead of all keys and values."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from llmlite.description.architectures.entry import Architecture, Names
from llmlite.description.architectures.layouts import part_of
from llmlite.quants.tensor import QuantTensor

LFM2_NAMES = {
    "operator_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "conv.in_proj": "shortconv.in_proj",
    "conv.conv": "shortconv.conv",
    "conv.out_proj": "shortconv.out_proj",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w3": "ffn_up",
    "feed_forward.w2": "ffn_down",
}
LFM2_OUTER = {
    "model.embed_tokens": "token_embd",
    "model.embedding_norm": "token_embd_norm",
    "lm_head": "output",
}


def taps_as_matrix(tensors: dict[str, Any], config: Any) -> dict[str, Any]:
    """Turn a convolution's taps, stored as (columns, 1, taps), into (columns, taps)."""
    return {
        name: part_of(tensor, name, lambda w: w.reshape(w.shape[0], *w.shape[2:]))
        if re.search(r"(shortconv\.conv|ssm_conv1d)\.weight$", name)
        else tensor
        for name, tensor in tensors.items()
    }


def _convolutions(config: Any) -> list[bool]:
    """Return whether each layer is a convolution."""
    n_layer = config.integer("num_hidden_layers")
    kinds = config.values.get("layer_types")
    if kinds is None:
        attention = config.values.get("full_attn_idxs") or range(n_layer)
        kinds = ["full_attention" if i in attention else "conv" for i in range(n_layer)]
    if not isinstance(kinds, list) or len(kinds) != n_layer or set(kinds) - {"conv", "full_attention"}:
        config.fail("layer_types", f"{n_layer} times conv or full_attention", kinds)
    return [kind == "conv" for kind in kinds]


def _lfm2_layers(config: Any) -> dict[str, Any]:
    """Return the keys that LFM2 and its mixtures share."""
    if config.flag("conv_bias"):
        config.refuse("conv_bias: only false is supported")
    n_head_kv = config.integer("num_key_value_heads")
    return {
        "attention.head_count_kv": [0 if is_conv else n_head_kv for is_conv in _convolutions(config)],
        "shortconv.l_cache": config.integer("conv_L_cache", 3),
    }


def _lfm2(config: Any) -> dict[str, Any]:
    n_ff = config.integer(("block_ff_dim", "intermediate_size"))
    if config.flag("block_auto_adjust_ff_dim", True):
        unit = config.integer("block_multiple_of", 256)
        n_ff = int(config.number(config.values, "block_ffn_dim_multiplier", 1.0) * int(2 * n_ff / 3))
        n_ff = -(-n_ff // unit) * unit
    return _lfm2_layers(config) | {"feed_forward_length": n_ff}


def _lfm2_experts(config: Any) -> dict[str, Any]:
    config.shares_add_up(True)
    if config.number(config.values, "routed_scaling_factor", 1.0) != 1:
        config.refuse("routed_scaling_factor: only 1 is supported")
    return _lfm2_layers(config) | {
        "expert_feed_forward_length": config.integer("moe_intermediate_size"),
        "leading_dense_block_count": config.integer("num_dense_layers", 2),
        "expert_gating_func": 2,
    }


def expert_bias_as_bias(sources: dict[str, Any], config: Any) -> dict[str, Any]:
    """Give the experts' bias the suffix ".bias", which its name doesn't have."""
    return {
        f"{name}.bias" if name.endswith(".expert_bias") else name: tensor for name, tensor in sources.items()
    }


MAMBA_OUTER = {
    "backbone.embeddings": "token_embd",
    "backbone.norm_f": "output_norm",
    "lm_head": "output",
}
MAMBA2_NAMES = {
    "norm": "attn_norm",
    "mixer.in_proj": "ssm_in",
    "mixer.conv1d": "ssm_conv1d",
    "mixer.A_log": "ssm_a",
    "mixer.D": "ssm_d",
    "mixer.dt_bias": "ssm_dt",
    "mixer.norm": "ssm_norm",
    "mixer.out_proj": "ssm_out",
}


def _mamba2(config: Any) -> dict[str, Any]:
    if config.flag("use_bias") or not config.flag("use_conv_bias", True):
        config.refuse("use_bias, use_conv_bias: only a bias of the convolution is supported")
    if str(config.values.get("time_step_limit", NO_LIMIT[0])) not in NO_LIMIT:
        config.refuse("time_step_limit: only [0, Infinity] is supported")
    n_head, head_size = config.integer("num_heads"), config.integer("head_dim")
    return {
        "ssm.conv_kernel": config.integer("conv_kernel", 4),
        "ssm.inner_size": n_head * head_size,
        "ssm.state_size": config.integer("state_size"),
        "ssm.time_step_rank": n_head,
        "ssm.group_count": config.integer("n_groups", 1),
    }


def _mamba(config: Any) -> dict[str, Any]:
    if config.flag("use_bias") or not config.flag("use_conv_bias", True):
        config.refuse("use_bias, use_conv_bias: only a bias of the convolution is supported")
    n_embd = config.integer("hidden_size")
    is_auto = config.values.get("time_step_rank", "auto") == "auto"
    return {
        "ssm.conv_kernel": config.integer("conv_kernel", 4),
        "ssm.inner_size": config.integer("intermediate_size", config.integer("expand", 2) * n_embd),
        "ssm.state_size": config.integer("state_size", 16),
        "ssm.time_step_rank": -(-n_embd // 16) if is_auto else config.integer("time_step_rank"),
    }


def mamba_tensors(tensors: dict[str, Any], config: Any) -> dict[str, Any]:
    """Replace A_log by the rates -e^A_log, whose names have no suffix, and convert taps."""
    found = {}
    for name, tensor in taps_as_matrix(tensors, config).items():
        stem = name.removesuffix(".weight")
        if stem.endswith(("ssm_a", "ssm_d")):
            numbers = tensor.dequantize()
            numbers = -np.exp(numbers) if stem.endswith("ssm_a") else numbers
            found[stem] = QuantTensor.quantize(numbers, "F32", stem)
        else:
            found[name] = tensor
    return found


NO_LIMIT = ("[0.0, inf]", "[0.0, {'__float__': 'Infinity'}]")  # the forms that JSON readers return


def mamba2_names(sources: dict[str, Any], config: Any) -> dict[str, Any]:
    """Give some vectors a suffix, which their names don't have."""
    kinds = {"A_log": ".weight", "D": ".weight", "dt_bias": ".bias"}
    return {name + kinds.get(name.rpartition(".")[2], ""): tensor for name, tensor in sources.items()}


def mamba2_tensors(tensors: dict[str, Any], config: Any) -> dict[str, Any]:
    """Do the same as `mamba_tensors`, and turn vectors of heads and groups into matrices, as in llama.cpp."""
    n_group, found = config.integer(("n_groups", "mamba_n_groups"), 1), mamba_tensors(tensors, config)
    for name, tensor in found.items():
        if name.endswith(("ssm_a", "ssm_d")):
            found[name] = QuantTensor.quantize(tensor.dequantize().reshape(-1, 1), "F32", name)
        elif name.endswith("ssm_norm.weight"):
            numbers = tensor.dequantize()
            if len(numbers) % n_group:
                config.fail("n_groups", f"a divisor of {len(numbers)}, the width of all heads", n_group)
            found[name] = QuantTensor.quantize(numbers.reshape(n_group, -1), "F32", name)
    return found


RECURRENT_DECODERS = (
    Architecture(
        name="lfm2",
        rope_pairs="neox",
        head_norms="head",
        recurrent="short_convolution",
        fused=("shortconv.in_proj",),
        renamed={"token_embd_norm": "output_norm"},
        tied=True,
        classes=("Lfm2ForCausalLM",),
        names=Names(outer=LFM2_OUTER, layer=LFM2_NAMES),
        hyperparameters=_lfm2,
        tensors=taps_as_matrix,
    ),
    Architecture(
        name="lfm2moe",
        rope_pairs="neox",
        head_norms="head",
        recurrent="short_convolution",
        fused=("shortconv.in_proj",),
        renamed={"token_embd_norm": "output_norm"},
        experts={"gating": "sigmoid"},
        expert_count_required=True,
        features=("leading_dense_block_count",),
        tied=True,
        classes=("Lfm2MoeForCausalLM",),
        names=Names(
            outer=LFM2_OUTER,
            layer=LFM2_NAMES
            | {"feed_forward.gate": "ffn_gate_inp", "feed_forward.expert_bias": "exp_probs_b"},
            experts="feed_forward.experts.",
            expert={"w1": "ffn_gate", "w3": "ffn_up", "w2": "ffn_down"},
        ),
        hyperparameters=_lfm2_experts,
        sources=expert_bias_as_bias,
        tensors=taps_as_matrix,
    ),
    Architecture(
        name="mamba2",
        rope_pairs="",
        norms=("attn_norm",),
        recurrent="mamba2",
        biases=("ssm_conv1d", "ssm_dt"),
        fused=("ssm_in",),
        classes=("Mamba2ForCausalLM",),
        names=Names(
            layers="backbone.layers.",
            outer=MAMBA_OUTER,
            layer=MAMBA2_NAMES,
        ),
        hyperparameters=_mamba2,
        sources=mamba2_names,
        tensors=mamba2_tensors,
    ),
    Architecture(
        name="mamba",
        rope_pairs="",
        norms=("attn_norm",),
        recurrent="mamba",
        biases=("ssm_conv1d", "ssm_dt"),
        tied=True,
        classes=("MambaForCausalLM",),
        names=Names(
            layers="backbone.layers.",
            outer=MAMBA_OUTER,
            layer={
                "norm": "attn_norm",
                "mixer.in_proj": "ssm_in",
                "mixer.conv1d": "ssm_conv1d",
                "mixer.x_proj": "ssm_x",
                "mixer.dt_proj": "ssm_dt",
                "mixer.A_log": "ssm_a",
                "mixer.D": "ssm_d",
                "mixer.out_proj": "ssm_out",
            },
        ),
        hyperparameters=_mamba,
        sources=mamba2_names,
        tensors=mamba_tensors,
    ),
)
