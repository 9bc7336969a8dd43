"""Entries of decoders whose keys and values are computed from one short row for each token."""

from __future__ import annotations

import re
from typing import Any

from llmlite.description.architectures.entry import Architecture, Names, mixture_names
from llmlite.description.architectures.layouts import part_of

LATENT_NAMES = {
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate.e_score_correction": "exp_probs_b",
} | {f"mlp.shared_experts.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")}


def _multiplier(config: Any) -> float:
    """Return yarn's `mscale_all_dim`, 0 without yarn. Refuse values that llama.cpp's keys can't express."""
    rope = config.rope()
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return 0.0
    if kind != "yarn":
        config.refuse(f"rope_type: {kind!r:.40} is not supported in this architecture, only 'yarn' is")
    if rope.get("attention_factor") is not None:
        config.refuse("attention_factor: only a magnitude by mscale and mscale_all_dim is supported")
    multiplier = config.number(rope, "mscale_all_dim")
    if config.number(rope, "mscale") != multiplier:
        config.refuse(f"mscale: only mscale_all_dim, {multiplier:g}, is supported")
    return multiplier


def _routing(config: Any) -> dict[str, Any]:
    """Return the keys of a mixture. V3 chooses experts by a sigmoid and a bias, V2 by a softmax."""
    is_v3 = config.class_name == "DeepseekV3ForCausalLM"
    normalized = config.flag("norm_topk_prob", is_v3)
    if normalized and not is_v3:
        config.refuse("norm_topk_prob: only false is supported in DeepseekV2ForCausalLM")
    method = config.values.get("topk_method", "noaux_tc" if is_v3 else "greedy")
    if method not in (("noaux_tc",) if is_v3 else ("greedy", "group_limited_greedy")):
        config.refuse(f"topk_method: {method!r:.40} is not supported")
    n_group = config.integer("n_group", 1)
    n_group_used = config.integer("topk_group", 1) if n_group > 1 and method != "greedy" else n_group
    if n_group_used > n_group:
        config.fail("topk_group", f"1 to n_group, {n_group}", n_group_used)
    has_groups = n_group_used < n_group
    return {
        "expert_group_count": n_group if has_groups else None,
        "expert_group_used_count": n_group_used if has_groups else None,
        "expert_count": config.integer("n_routed_experts"),
        "expert_used_count": config.integer("num_experts_per_tok"),
        "expert_feed_forward_length": config.integer("moe_intermediate_size"),
        "expert_shared_count": config.integer("n_shared_experts"),
        "expert_gating_func": 2 if is_v3 else 1,
        "expert_weights_norm": normalized,
        "expert_weights_scale": config.number(config.values, "routed_scaling_factor", 1.0),
    }


def _deepseek(config: Any) -> dict[str, Any]:
    for key, usual in (("attention_bias", False), ("mlp_bias", False), ("rope_interleave", True)):
        if config.flag(key, usual) != usual:
            config.refuse(f"{key}: only {str(usual).lower()} is supported")
    if config.integer("moe_layer_freq", 1) != 1:
        config.refuse("moe_layer_freq: only 1 is supported")
    n_dense, n_layer = config.values.get("first_k_dense_replace") or 0, config.integer("num_hidden_layers")
    if type(n_dense) is not int or not 0 <= n_dense <= n_layer:
        config.fail("first_k_dense_replace", f"0 to {n_layer}", n_dense)
    rank, turned = config.integer("kv_lora_rank"), config.integer("qk_rope_head_dim")
    multiplier = _multiplier(config)
    return {
        "attention.head_count_kv": 1,  # llama.cpp stores the short rows, which are one head for all
        "attention.key_length": rank + turned,
        "attention.value_length": rank,
        "attention.key_length_mla": config.integer("qk_nope_head_dim") + turned,
        "attention.value_length_mla": config.integer("v_head_dim"),
        "attention.kv_lora_rank": rank,
        "attention.q_lora_rank": config.values.get("q_lora_rank") or 0,
        "rope.dimension_count": turned,
        "rope.scaling.attn_factor": None,  # cosines and sines aren't scaled: see _multiplier
        "rope.scaling.yarn_log_multiplier": 0.1 * multiplier if multiplier else None,
        "leading_dense_block_count": n_dense,
    } | _routing(config)


def deepseek_sources(sources: dict[str, Any], config: Any) -> dict[str, Any]:
    """Remove the layers that only predict further tokens, and give the experts' bias a suffix."""
    n_layer, found = config.integer("num_hidden_layers"), {}
    for name, tensor in sources.items():
        match = re.match(r"model\.layers\.(\d{1,4})\.", name)
        if match is None or int(match[1]) < n_layer:
            found[name.replace(".e_score_correction_bias", ".e_score_correction.bias")] = tensor
    return found


def split_by_head(tensors: dict[str, Any], config: Any) -> dict[str, Any]:
    """Split the matrix for keys and values into two for each head, the keys' transposed, as in llama.cpp."""
    n_head, plain = config.integer("num_attention_heads"), config.integer("qk_nope_head_dim")
    width, found = plain + config.integer("v_head_dim"), {}
    for name, tensor in tensors.items():
        if not name.endswith("attn_kv_b.weight"):
            found[name] = tensor
            continue
        if tensor.shape[0] != n_head * width:
            config.fail("v_head_dim", f"{n_head * width} rows of {tensor.name}", tensor.shape[0])

        def heads(w: Any) -> Any:
            return w.reshape(n_head, width, *w.shape[1:])

        for part, take in (
            ("k", lambda w: heads(w)[:, :plain].swapaxes(1, 2)),
            ("v", lambda w: heads(w)[:, plain:]),
        ):
            new = name.replace("attn_kv_b", f"attn_{part}_b")
            found[new] = part_of(tensor, new, take)
    return found


def _names() -> Names:
    return mixture_names("mlp.gate", "mlp.experts.", ("gate_proj", "up_proj", "down_proj"), LATENT_NAMES)


LATENT_DECODERS = (
    Architecture(
        name="deepseek2",
        rope_pairs="norm",
        latent=True,
        experts={
            "gating": "softmax",
            "any_gating": True,
            "any_scale": True,
            "normalized": False,
            "shared": True,
        },
        features=("leading_dense_block_count", "expert_group_count", "expert_group_used_count"),
        reordered=False,
        classes=("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"),
        names=_names(),
        hyperparameters=_deepseek,
        sources=deepseek_sources,
        tensors=split_by_head,
    ),
)
