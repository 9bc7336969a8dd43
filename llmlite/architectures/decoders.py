"""Entries of decoders: models that write text."""

from __future__ import annotations

from typing import Any

from llmlite.architectures.entry import (
    Architecture,
    Names,
    Windows,
    llama_names,
    mixture_names,
)
from llmlite.tensor import QuantTensor

QWEN_MIXTURE = mixture_names("mlp.gate", "mlp.experts.", ("gate_proj", "up_proj", "down_proj"))
GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
GEMMA_NORMS = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")


GPT2_REFUSED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}  # the only values that GPT-2's own weights have, and that a GGUF file can say


def _gpt2(config: Any) -> dict[str, Any]:
    for key, usual in GPT2_REFUSED.items():
        if config.flag(key, usual) != usual:
            config.refuse(f"{key}: only {str(usual).lower()} is supported")
    return {"attention.head_count_kv": None}


def _gemma2(config: Any) -> dict[str, Any]:
    return {
        f"{kind}_logit_softcapping": config.number(config.values, f"{kind}_logit_softcapping")
        for kind in ("attn", "final")
    }


def _gains_plus_one(tensors: dict[str, Any], config: Any) -> dict[str, Any]:
    """Gemma's norms multiply by 1 + gain; a GGUF file holds the sum."""
    return {
        name: QuantTensor.quantize(tensor.dequantize() + 1, "F32", name) if "norm" in name else tensor
        for name, tensor in tensors.items()
    }


def _gemma_scale(key_size: int, n_embd: int, n_head: int, n_layer: int) -> float:
    """1/sqrt(head size), but of n_embd/n_head in the 27B models (46 layers in Gemma 2, 62 in Gemma 3)."""
    return (n_embd / n_head if n_layer in (46, 62) else key_size) ** -0.5


DECODERS = (
    Architecture(
        name="llama",
        rope_pairs="norm",
        experts={"gating": "softmax"},
        classes=("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"),
        class_names={
            "MixtralForCausalLM": mixture_names(
                "block_sparse_moe.gate", "block_sparse_moe.experts.", ("w1", "w3", "w2")
            )
        },
    ),
    Architecture(
        name="qwen2",
        rope_pairs="neox",
        biases=("attn_q", "attn_k", "attn_v"),
        classes=("Qwen2ForCausalLM",),
    ),
    Architecture(name="qwen3", rope_pairs="neox", head_norms="head", classes=("Qwen3ForCausalLM",)),
    Architecture(
        name="qwen3moe",
        rope_pairs="neox",
        head_norms="head",
        experts={"gating": "softmax"},
        expert_count_required=True,
        classes=("Qwen3MoeForCausalLM",),
        names=QWEN_MIXTURE,
    ),
    Architecture(
        name="gpt2",
        rope_pairs="",
        learned_positions=True,
        biases=("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"),
        norm="layer",
        norm_bias=True,
        activation="gelu",
        gated=False,
        fused=("attn_qkv",),
        classes=("GPT2LMHeadModel",),
        hyperparameters=_gpt2,
        tied=True,
        names=Names(
            layers="transformer.h.",
            optional="transformer.",
            outer={
                "transformer.wte": "token_embd",
                "transformer.wpe": "position_embd",
                "transformer.ln_f": "output_norm",
                "lm_head": "output",
            },
            layer={
                "ln_1": "attn_norm",
                "attn.c_attn": "attn_qkv",
                "attn.c_proj": "attn_output",
                "ln_2": "ffn_norm",
                "mlp.c_fc": "ffn_up",
                "mlp.c_proj": "ffn_down",
            },
            transposed=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
        ),
    ),
    Architecture(
        name="gemma2",
        rope_pairs="neox",
        norms=GEMMA_NORMS,
        activation="gelu",
        windows=Windows(pattern=2, size=4096, scaled=True),
        features=("attn_logit_softcapping", "final_logit_softcapping"),
        embedding_scale=lambda n_embd: n_embd**0.5,
        attention_scale=_gemma_scale,
        classes=("Gemma2ForCausalLM",),
        names=llama_names(GEMMA_NAMES),
        hyperparameters=_gemma2,
        tensors=_gains_plus_one,
        tied=True,
    ),
    Architecture(
        name="gemma3",
        rope_pairs="neox",
        norms=GEMMA_NORMS,
        head_norms="head",
        activation="gelu",
        windows=Windows(pattern=6, rope_base=10000.0),
        embedding_scale=lambda n_embd: n_embd**0.5,
        attention_scale=_gemma_scale,
        classes=("Gemma3ForCausalLM",),
        names=llama_names(GEMMA_NAMES),
        tensors=_gains_plus_one,
        tied=True,
    ),
    Architecture(
        name="olmo2",
        rope_pairs="neox",
        norms=("post_attention_norm", "post_ffw_norm"),
        head_norms="full",
        windows=Windows(pattern=4),  # of OLMo 3
        classes=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
        names=llama_names(
            {
                "input_layernorm": None,
                "post_attention_layernorm": "post_attention_norm",
                "post_feedforward_layernorm": "post_ffw_norm",
            }
        ),
    ),
)
