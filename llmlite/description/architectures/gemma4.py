"""The entry of Gemma 4: inputs for each layer, shared keys and values, two sizes of heads."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from llmlite.description.architectures.entry import (
    GEMMA_NAMES,
    GEMMA_NORMS,
    Architecture,
    Names,
    Windows,
    llama_names,
)

# Tensors whose names in transformers have no suffix ".weight"
BARE = re.compile(r"\.(layer_scalar|router\.scale|router\.per_expert_scale|experts\.(gate_up|down)_proj)$")
SCALES = {
    "ffn_gate_inp_scale.weight": "ffn_gate_inp.scale",
    "ffn_down_exps_scale.weight": "ffn_down_exps.scale",
}
NAMES = GEMMA_NAMES | {
    "layer_scalar": "layer_output_scale",
    "per_layer_input_gate": "inp_gate",
    "per_layer_projection": "proj",
    "post_per_layer_input_norm": "post_norm",
    "router.proj": "ffn_gate_inp",
    "router.scale": "ffn_gate_inp_scale",
    "router.per_expert_scale": "ffn_down_exps_scale",
    "experts.gate_up_proj": "ffn_gate_up_exps",
    "experts.down_proj": "ffn_down_exps",
    "pre_feedforward_layernorm_2": "pre_ffw_norm_2",
    "post_feedforward_layernorm_1": "post_ffw_norm_1",
    "post_feedforward_layernorm_2": "post_ffw_norm_2",
}
OUTER = {
    "model.embed_tokens_per_layer": "per_layer_token_embd",
    "model.per_layer_model_projection": "per_layer_model_proj",
    "model.per_layer_projection_norm": "per_layer_proj_norm",
}


def _kinds(config: Any) -> list[str]:
    """Return the kind of attention of each layer. Refuse settings that a GGUF file can't express."""
    kinds, n_layer = config.values.get("layer_types"), config.integer("num_hidden_layers")
    known = {"sliding_attention", "full_attention"}
    if not isinstance(kinds, list) or len(kinds) != n_layer or set(kinds) - known:
        config.fail("layer_types", f"{n_layer} times sliding_attention or full_attention", kinds)
    if config.values.get("use_bidirectional_attention") == "all":
        config.refuse("use_bidirectional_attention: 'all' is not supported")
    if config.flag("attention_bias"):
        config.refuse("attention_bias: only false is supported")
    local = config.rope("sliding_attention")
    if local.get("rope_type", "default") != "default" or config.rope().get("rope_type") != "proportional":
        config.refuse(
            "rope_parameters: only default in windowed layers and proportional in others is supported"
        )
    return kinds


def _gemma4(config: Any) -> dict[str, Any]:
    kinds, n_layer = _kinds(config), config.integer("num_hidden_layers")
    n_shared, n_pl = (
        config.integer(key) if config.values.get(key) else 0
        for key in ("num_kv_shared_layers", "hidden_size_per_layer_input")
    )
    windowed, n_ff = [kind == "sliding_attention" for kind in kinds], config.integer("intermediate_size")
    double = 2 if config.flag("use_double_wide_mlp") else 1
    found: dict[str, Any] = {
        "attention.sliding_window_pattern": np.array(windowed),
        "attention.shared_kv_layers": n_shared,
        "embedding_length_per_layer_input": n_pl,
        "feed_forward_length": [n_ff * (double if i >= n_layer - n_shared else 1) for i in range(n_layer)],
        "attention.key_length": config.global_head_size(),
        "attention.value_length": config.global_head_size(),
        "attention.key_length_swa": config.head_size(),
        "attention.value_length_swa": config.head_size(),
        "rope.dimension_count": config.global_head_size(),
        "rope.dimension_count_swa": config.head_size(),
        "rope.freq_base_swa": config.number(config.rope("sliding_attention"), "rope_theta", 10000.0),
    }
    n_head_kv = config.in_global_layers("num_key_value_heads", "num_global_key_value_heads")
    if n_head_kv and config.flag("attention_k_eq_v"):
        own = config.integer("num_key_value_heads")
        found["attention.head_count_kv"] = [own if is_windowed else n_head_kv for is_windowed in windowed]
    if config.values.get("final_logit_softcapping"):
        found["final_logit_softcapping"] = config.number(config.values, "final_logit_softcapping")
    if config.flag("enable_moe_block"):
        found |= {
            "expert_count": config.integer("num_experts"),
            "expert_used_count": config.integer("top_k_experts"),
            "expert_feed_forward_length": config.integer("moe_intermediate_size"),
        }
    return found


def gemma4_sources(sources: dict[str, Any], config: Any) -> dict[str, Any]:
    """Complete names that have no suffix, and remove keys and values that a layer doesn't read."""
    n_layer, n_shared = config.integer("num_hidden_layers"), config.values.get("num_kv_shared_layers") or 0
    found = {}
    for name, tensor in sources.items():
        match = re.match(r"model\.layers\.(\d{1,4})\.self_attn\.(k_proj|v_proj|k_norm|v_norm)\.", name)
        if match is None or int(match[1]) < n_layer - n_shared:
            found[f"{name}.weight" if BARE.search(name) else name] = tensor
    return found


def gemma4_tensors(tensors: dict[str, Any], config: Any) -> dict[str, Any]:
    """Rename scales: llama.cpp's names have the suffix ".scale"."""
    found = {}
    for name, tensor in tensors.items():
        prefix, stem = name.rsplit(".", 2)[:-2], ".".join(name.rsplit(".", 2)[-2:])
        found[".".join([*prefix, SCALES.get(stem, stem)])] = tensor
    return found


def _names() -> Names:
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    return llama_names(NAMES, outer=outer | OUTER)


GEMMA4_DECODERS = (
    Architecture(
        name="gemma4",
        rope_pairs="neox",
        norms=GEMMA_NORMS,
        head_norms="head",
        activation="gelu",
        windows=Windows(pattern=6, rope_base=10000.0, scaled=False),
        window_sizes=True,
        norm_values=True,
        keys_as_values=True,
        output_scale=True,
        experts={"gating": "softmax", "activation": "gelu", "beside": True},
        features=(
            "attention.shared_kv_layers",
            "embedding_length_per_layer_input",
            "final_logit_softcapping",
        ),
        embedding_scale=lambda n_embd: n_embd**0.5,
        attention_scale=lambda *_: 1.0,
        classes=("Gemma4ForCausalLM",),
        names=_names(),
        hyperparameters=_gemma4,
        sources=gemma4_sources,
        tensors=gemma4_tensors,
        tied=True,
    ),
)
