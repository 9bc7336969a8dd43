"""Entries of decoders whose feed-forward networks are mixtures of experts."""

from __future__ import annotations

from typing import Any

from llmlite.description.architectures.decoders import GRANITE, granite
from llmlite.description.architectures.entry import (
    Architecture,
    Windows,
    llama_names,
    mixture_names,
)
from llmlite.description.architectures.layouts import gpt_oss_experts, granite_experts, shared_gate_as_vector

QWEN_MIXTURE = mixture_names("mlp.gate", "mlp.experts.", ("gate_proj", "up_proj", "down_proj"))
MLP = {"mlp.gate_proj": None, "mlp.up_proj": None, "mlp.down_proj": None}
SHARED = {f"mlp.shared_expert.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")} | {
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp"
}


def _experts_shared(config: Any) -> dict[str, Any]:
    config.shares_add_up(False)
    return {"expert_shared_feed_forward_length": config.integer("shared_expert_intermediate_size")}


def _shares(wanted: bool) -> Any:
    """Return a hook that calls `shares_add_up` (see huggingface.config.Config)."""

    def check(config: Any) -> dict[str, Any]:
        config.shares_add_up(wanted)
        return {}

    return check


def _granite_experts(config: Any) -> dict[str, Any]:
    shared = config.values.get("shared_intermediate_size")
    found = {"expert_feed_forward_length": config.integer("intermediate_size")}
    return granite(config) | found | ({"expert_shared_feed_forward_length": shared} if shared else {})


MIXTURE_DECODERS = (
    Architecture(
        name="qwen3moe",
        rope_pairs="neox",
        head_norms="head",
        experts={"gating": "softmax"},
        expert_count_required=True,
        classes=("Qwen3MoeForCausalLM",),
        names=QWEN_MIXTURE,
        hyperparameters=_shares(True),
    ),
    Architecture(
        name="granitemoe",
        experts={"gating": "softmax", "shared": True},
        expert_count_required=True,
        **GRANITE,
        classes=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
        names=llama_names(
            MLP
            | {"block_sparse_moe.router.layer": "ffn_gate_inp"}
            | {f"experts.{part}": f"ffn_{part}_exps" for part in ("gate", "up", "down")}
            | {f"shared.{part}": f"ffn_{part}_shexp" for part in ("gate", "up", "down")}
        ),
        hyperparameters=_granite_experts,
        sources=granite_experts,
    ),
    Architecture(
        name="qwen2moe",
        rope_pairs="neox",
        biases=("attn_q", "attn_k", "attn_v"),
        experts={"gating": "softmax", "normalized": False, "shared": True, "shared_gate": True},
        expert_count_required=True,
        classes=("Qwen2MoeForCausalLM",),
        names=mixture_names("mlp.gate", "mlp.experts.", ("gate_proj", "up_proj", "down_proj"), SHARED),
        hyperparameters=_experts_shared,
        tensors=shared_gate_as_vector,
    ),
    Architecture(
        name="olmoe",
        rope_pairs="neox",
        head_norms="full",
        experts={"gating": "softmax", "normalized": False},
        expert_count_required=True,
        classes=("OlmoeForCausalLM",),
        names=QWEN_MIXTURE,
        hyperparameters=_shares(False),
    ),
    Architecture(
        name="gpt-oss",
        rope_pairs="neox",
        biases=(
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_gate_inp",
            "ffn_gate_exps",
            "ffn_up_exps",
            "ffn_down_exps",
        ),
        activation="swiglu_oai",
        sinks=True,
        windows=Windows(pattern=2, size=128),
        experts={"gating": "softmax_chosen", "activation": "swiglu_oai"},
        expert_count_required=True,
        yarn_rounded=False,
        renamed={"post_attention_norm": "ffn_norm"},
        classes=("GptOssForCausalLM",),
        names=llama_names(
            MLP
            | {"self_attn.sinks": "attn_sinks", "mlp.router": "ffn_gate_inp"}
            | {f"mlp.experts.{part}": f"ffn_{part}_exps" for part in ("gate", "up", "down")}
            | {"post_attention_layernorm": "post_attention_norm"}
        ),
        hyperparameters=lambda config: {"expert_feed_forward_length": config.integer("intermediate_size")},
        sources=gpt_oss_experts,
    ),
)
