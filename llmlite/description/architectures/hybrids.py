"""Entries of decoders whose layers are partly attention and partly a delta net or a state-space model."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmlite.description.architectures.decoders import GRANITE
from llmlite.description.architectures.entry import Architecture, Names, llama_names, mixture_names
from llmlite.description.architectures.layouts import (
    granite_experts,
    part_of,
    rows_taken,
    shared_gate_as_vector,
)
from llmlite.description.architectures.recurrent import (
    MAMBA2_NAMES,
    NO_LIMIT,
    mamba2_names,
    mamba2_tensors,
    mamba_tensors,
)
from llmlite.quants.tensor import QuantTensor

DELTA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_ba": "ssm_ba",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
}
SHARED_EXPERT = {f"mlp.shared_expert.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")} | {
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp"
}
AHEAD = r"^(model\.)?mtp\."  # layers that only predict further tokens


def _delta_heads(config: Any) -> tuple[int, int, int]:
    """Return the number of key heads, the number of value heads, and their size."""
    n_k, n_v = config.integer("linear_num_key_heads"), config.integer("linear_num_value_heads")
    size = config.integer("linear_key_head_dim")
    if config.integer("linear_value_head_dim") != size:
        config.refuse("linear_value_head_dim: only linear_key_head_dim is supported")
    if n_v % n_k:
        config.fail("linear_num_value_heads", f"a multiple of linear_num_key_heads, {n_k}", n_v)
    return n_k, n_v, size


def _delta_net(config: Any) -> dict[str, Any]:
    """Return the keys that Qwen 3.5 and Qwen3-Next share."""
    n_layer = config.integer("num_hidden_layers")
    n_k, n_v, size = _delta_heads(config)
    period = config.integer("full_attention_interval", 4)
    kinds = config.values.get("layer_types")
    if kinds is None:
        kinds = ["linear_attention" if (i + 1) % period else "full_attention" for i in range(n_layer)]
    known = {"linear_attention", "full_attention"}
    if not isinstance(kinds, list) or len(kinds) != n_layer or set(kinds) - known:
        config.fail("layer_types", f"{n_layer} times linear_attention or full_attention", kinds)
    share = config.number(config.rope() | config.values, "partial_rotary_factor", 0.25)
    return {
        "attention.key_length": config.head_size(),
        "attention.value_length": config.head_size(),
        "rope.dimension_count": int(config.head_size() * share),
        "ssm.conv_kernel": config.integer("linear_conv_kernel_dim", 4),
        "ssm.state_size": size,
        "ssm.group_count": n_k,
        "ssm.time_step_rank": n_v,
        "ssm.inner_size": n_v * size,
        "full_attention_interval": period,
        "attention.recurrent_layers": np.array([kind == "linear_attention" for kind in kinds]),
    }


def _qwen35(config: Any) -> dict[str, Any]:
    sections = config.rope().get("mrope_section", [11, 11, 10])
    if not isinstance(sections, list) or not all(type(n) is int for n in sections) or len(sections) > 4:
        config.fail("mrope_section", "up to four whole numbers", sections)
    return _delta_net(config) | {
        "rope.dimension_sections": np.array([*sections, 0, 0, 0, 0][:4], np.int32),
    }


def _delta_experts(config: Any) -> dict[str, Any]:
    if not config.flag("norm_topk_prob", True):
        config.refuse("norm_topk_prob: only true is supported in this architecture")
    return {
        "expert_feed_forward_length": config.integer("moe_intermediate_size"),
        "expert_shared_feed_forward_length": config.integer("shared_expert_intermediate_size"),
    }


def delta_tensors(tensors: dict[str, Any], config: Any) -> dict[str, Any]:
    """Convert taps, rates and gains to llama.cpp's form: 1 + gain, except in `ssm_norm`."""
    found = shared_gate_as_vector(mamba_tensors(tensors, config), config)
    for name, tensor in found.items():
        if name.endswith("norm.weight") and "ssm_norm" not in name:
            found[name] = QuantTensor.quantize(tensor.dequantize() + 1, "F32", name)
    return found


def tiled_delta_tensors(tensors: dict[str, Any], config: Any) -> dict[str, Any]:
    """Do the same as `delta_tensors`, and reorder value heads: a folder groups them by key head."""
    n_k, n_v, size = _delta_heads(config)
    heads = np.arange(n_v).reshape(n_k, -1).T.ravel()
    numbers = (heads[:, None] * size + np.arange(size)).ravel()
    after_keys = np.concatenate([np.arange(2 * n_k * size), 2 * n_k * size + numbers])
    rows = {
        "attn_qkv.weight": after_keys,
        "ssm_conv1d.weight": after_keys,
        "attn_gate.weight": numbers,
        "ssm_beta.weight": heads,
        "ssm_alpha.weight": heads,
        "ssm_a": heads,
        "ssm_dt.bias": heads,
    }
    found = delta_tensors(tensors, config)
    for name, tensor in found.items():
        stem = name.split(".", 2)[-1]
        if stem in rows:
            if tensor.shape[0] != len(rows[stem]):
                config.fail("linear_num_value_heads", f"{len(rows[stem])} rows of {name}", tensor.shape[0])
            found[name] = rows_taken(tensor, name, rows[stem])
        elif stem == "ssm_out.weight":
            if tensor.shape[1] != len(numbers):
                config.fail("linear_num_value_heads", f"{len(numbers)} columns of {name}", tensor.shape[1])
            found[name] = part_of(tensor, name, lambda w: w[:, numbers])
    return found


def split_qkvz(sources: dict[str, Any], config: Any) -> dict[str, Any]:
    """Split Qwen3-Next's projection, whose rows are by key head, into queries | keys | values and gates."""
    n_k, n_v, size = _delta_heads(config)
    width = n_v // n_k * size
    rows = np.arange(n_k * 2 * (size + width)).reshape(n_k, -1)
    q, k, v, z = (part.ravel() for part in np.split(rows, (size, 2 * size, 2 * size + width), axis=1))
    found: dict[str, Any] = {}
    for name, tensor in mamba2_names(sources, config).items():
        if not name.endswith("in_proj_qkvz.weight"):
            found[name] = tensor
            continue
        if tensor.shape[0] != rows.size:
            config.fail("linear_num_value_heads", f"{rows.size} rows of {name}", tensor.shape[0])
        for new, taken in (("in_proj_qkv", np.concatenate([q, k, v])), ("in_proj_z", z)):
            renamed = name.replace("in_proj_qkvz", new)
            found[renamed] = rows_taken(tensor, renamed, taken)
    return found


def _mixture() -> Names:
    names = mixture_names(
        "mlp.gate", "mlp.experts.", ("gate_proj", "up_proj", "down_proj"), SHARED_EXPERT | DELTA_NAMES
    )
    return Names(layer=names.layer, experts=names.experts, expert=names.expert, ignored=AHEAD)


def _granite_hybrid(config: Any) -> dict[str, Any]:
    n_layer, n_head_kv = config.integer("num_hidden_layers"), config.integer("num_key_value_heads")
    if config.flag("mamba_proj_bias") or not config.flag("mamba_conv_bias", True):
        config.refuse("mamba_proj_bias, mamba_conv_bias: only a bias of the convolution is supported")
    if str(config.values.get("time_step_limit") or NO_LIMIT[0]) not in NO_LIMIT:
        config.refuse("time_step_limit: only [0, Infinity] is supported")
    kinds = config.values.get("layer_types", config.values.get("layers_block_type"))
    known = {"mamba": 0, "linear_attention": 0, "attention": n_head_kv, "full_attention": n_head_kv}
    if not isinstance(kinds, list) or len(kinds) != n_layer or set(kinds) - known.keys():
        config.fail("layer_types", f"{n_layer} times mamba or attention", kinds)
    turned = config.values.get("position_embedding_type")
    if turned not in (None, "nope", "rope"):
        config.refuse(f"position_embedding_type: {turned!r:.40} is not supported, only 'rope' and none are")
    n_head, inner = config.integer("mamba_n_heads"), config.integer("mamba_expand", 2)
    found = {
        "attention.head_count_kv": [known[kind] for kind in kinds],
        "rope.scaling.finetuned": turned == "rope",
        "embedding_scale": config.number(config.values, "embedding_multiplier", 1.0),
        "residual_scale": config.number(config.values, "residual_multiplier", 1.0),
        "logit_scale": config.number(config.values, "logits_scaling", 1.0),
        "attention.scale": config.number(config.values, "attention_multiplier", 1.0),
        "ssm.conv_kernel": config.integer("mamba_d_conv", 4),
        "ssm.state_size": config.integer("mamba_d_state"),
        "ssm.group_count": config.integer("mamba_n_groups", 1),
        "ssm.time_step_rank": n_head,
        "ssm.inner_size": inner * config.integer("hidden_size"),
    }
    shared = config.integer("shared_intermediate_size")
    if not config.values.get("num_local_experts"):
        return found | {"feed_forward_length": shared}
    return found | {
        "expert_count": config.integer("num_local_experts"),
        "expert_used_count": config.integer("num_experts_per_tok"),
        "expert_feed_forward_length": config.integer("intermediate_size"),
        "expert_shared_feed_forward_length": shared,
    }


def granite_hybrid_sources(sources: dict[str, Any], config: Any) -> dict[str, Any]:
    """Split Granite's experts, and complete Mamba-2's names. Without experts, rename the shared network."""
    found = granite_experts(mamba2_names(sources, config), config)
    if config.values.get("num_local_experts"):
        return found
    return {name.replace(".shared.", ".only."): tensor for name, tensor in found.items()}


DELTA: dict[str, Any] = {  # the properties of all models with a delta net
    "rope_pairs": "neox",
    "head_norms": "head",
    "output_gate": True,
    "recurrent": "delta_net",
    "biases": ("ssm_dt",),
    "renamed": {"post_attention_norm": "ffn_norm"},
}
DELTA_EXPERTS: dict[str, Any] = {
    "experts": {"gating": "softmax", "shared": True, "shared_gate": True},
    "expert_count_required": True,
    "features": ("nextn_predict_layers",),
}

HYBRID_DECODERS = (
    Architecture(
        name="qwen35",
        **DELTA,
        features=("nextn_predict_layers",),
        tiled_heads=True,
        classes=("Qwen3_5ForCausalLM",),
        names=llama_names(DELTA_NAMES, ignored=AHEAD),
        hyperparameters=_qwen35,
        sources=mamba2_names,
        tensors=tiled_delta_tensors,
    ),
    Architecture(
        name="qwen35moe",
        **DELTA,
        **DELTA_EXPERTS,
        tiled_heads=True,
        classes=("Qwen3_5MoeForCausalLM",),
        names=_mixture(),
        hyperparameters=lambda config: _qwen35(config) | _delta_experts(config),
        sources=mamba2_names,
        tensors=tiled_delta_tensors,
    ),
    Architecture(
        name="qwen3next",
        **DELTA,
        **DELTA_EXPERTS,
        classes=("Qwen3NextForCausalLM",),
        names=_mixture(),
        hyperparameters=lambda config: _delta_net(config) | _delta_experts(config),
        sources=split_qkvz,
        tensors=delta_tensors,
    ),
    Architecture(
        name="granitehybrid",
        recurrent="mamba2",
        fused=("ssm_in",),
        biases=("ssm_conv1d", "ssm_dt"),
        experts={"gating": "softmax", "shared": True},
        **GRANITE,
        classes=("GraniteMoeHybridForCausalLM",),
        names=llama_names(
            {old.replace("mixer.", "mamba."): new for old, new in MAMBA2_NAMES.items() if old != "norm"}
            | {"block_sparse_moe.router.layer": "ffn_gate_inp"}
            | {f"experts.{part}": f"ffn_{part}_exps" for part in ("gate", "up", "down")}
            | {f"shared.{part}": f"ffn_{part}_shexp" for part in ("gate", "up", "down")}
            | {f"only.{part}": f"ffn_{part}" for part in ("gate", "up", "down")}
        ),
        hyperparameters=_granite_hybrid,
        sources=granite_hybrid_sources,
        tensors=mamba2_tensors,
    ),
)
