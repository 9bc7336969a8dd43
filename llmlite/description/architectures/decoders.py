"""Entries of decoders: models that write text."""

from __future__ import annotations

from typing import Any

from llmlite.description.architectures.entry import (
    GEMMA_NAMES,
    GEMMA_NORMS,
    Architecture,
    Names,
    Windows,
    llama_names,
    mixture_names,
)
from llmlite.description.architectures.layouts import (
    gains_plus_one,
    qkv_by_group,
    stacked_head_norms,
)

GPT2_REFUSED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}  # the values of GPT-2's own weights; a GGUF file can't express others
GRANITE: dict[str, Any] = {  # the fields that all entries of Granite share
    "rope_pairs": "norm",
    "features": (
        "embedding_scale",
        "residual_scale",
        "logit_scale",
        "attention.scale",
        "rope.scaling.finetuned",
    ),
    "logit_scale": lambda value: 1 / value,
}


def _gpt2(config: Any) -> dict[str, Any]:
    for key, usual in GPT2_REFUSED.items():
        if config.flag(key, usual) != usual:
            config.refuse(f"{key}: only {str(usual).lower()} is supported")
    n_embd = config.integer("n_embd")
    return {"attention.head_count_kv": None, "feed_forward_length": config.integer("n_inner", 4 * n_embd)}


def _gemma2(config: Any) -> dict[str, Any]:
    return {
        f"{kind}_logit_softcapping": config.number(config.values, f"{kind}_logit_softcapping")
        for kind in ("attn", "final")
    }


def _gemma_scale(key_size: int, n_embd: int, n_head: int, n_layer: int) -> float:
    """Return 1/sqrt(head size). The 27B models (46 layers in Gemma 2, 62 in 3) use n_embd/n_head instead."""
    return (n_embd / n_head if n_layer in (46, 62) else key_size) ** -0.5


def granite(config: Any) -> dict[str, Any]:
    return {
        "embedding_scale": config.number(config.values, "embedding_multiplier", 1.0),
        "residual_scale": config.number(config.values, "residual_multiplier", 1.0),
        "logit_scale": config.number(config.values, "logits_scaling", 1.0),
        "attention.scale": config.number(config.values, "attention_multiplier"),
    }


def _cohere(config: Any) -> dict[str, Any]:
    return {"logit_scale": config.number(config.values, "logit_scale", 0.0625)}


def _mistral3(config: Any) -> dict[str, Any]:
    beta = config.rope().get("llama_4_scaling_beta")
    return {} if beta is None else {"attention.temperature_scale": beta}


def _stablelm(config: Any) -> dict[str, Any]:
    return {"use_parallel_residual": config.flag("use_parallel_residual")}


def _falcon_kv(config: Any) -> int:
    if config.flag("new_decoder_architecture"):
        return config.integer("num_kv_heads", config.integer("num_attention_heads"))
    return 1 if config.flag("multi_query", True) else config.integer("num_attention_heads")


def _falcon(config: Any) -> dict[str, Any]:
    for key, usual in (("alibi", False), ("bias", False), ("parallel_attn", True)):
        if config.flag(key, usual) != usual:
            config.refuse(f"{key}: only {str(usual).lower()} is supported")
    return {"attention.head_count_kv": _falcon_kv(config)}


def _gptneox(config: Any) -> dict[str, Any]:
    return {"use_parallel_residual": config.flag("use_parallel_residual", True)}


def _smollm3(config: Any) -> dict[str, Any]:
    used, n_layer = config.values.get("no_rope_layers"), config.integer("num_hidden_layers")
    if used is not None and used != [int((i + 1) % 4 != 0) for i in range(n_layer)]:
        config.refuse("no_rope_layers: only every fourth layer without RoPE is supported")
    return {}


FUSED_NAMES = {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}

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
        windows=Windows(pattern=2, size=4096),
        features=("attn_logit_softcapping", "final_logit_softcapping"),
        embedding_scale=lambda n_embd: n_embd**0.5,
        attention_scale=_gemma_scale,
        classes=("Gemma2ForCausalLM",),
        names=llama_names(GEMMA_NAMES),
        hyperparameters=_gemma2,
        tensors=gains_plus_one,
        tied=True,
    ),
    Architecture(
        name="gemma3",
        rope_pairs="neox",
        norms=GEMMA_NORMS,
        head_norms="head",
        activation="gelu",
        windows=Windows(pattern=6, rope_base=10000.0, scaled=False),
        embedding_scale=lambda n_embd: n_embd**0.5,
        attention_scale=_gemma_scale,
        classes=("Gemma3ForCausalLM",),
        names=llama_names(GEMMA_NAMES),
        tensors=gains_plus_one,
        tied=True,
    ),
    Architecture(
        name="olmo2",
        rope_pairs="neox",
        norms=("post_attention_norm", "post_ffw_norm"),
        head_norms="full",
        windows=Windows(pattern=4, scaled=False),  # for OLMo 3
        classes=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
        names=llama_names(
            {
                "input_layernorm": None,
                "post_attention_layernorm": "post_attention_norm",
                "post_feedforward_layernorm": "post_ffw_norm",
            }
        ),
    ),
    Architecture(
        name="gemma",
        rope_pairs="neox",
        activation="gelu",
        embedding_scale=lambda n_embd: n_embd**0.5,
        classes=("GemmaForCausalLM",),
        tensors=gains_plus_one,
        tied=True,
    ),
    Architecture(
        name="phi2",
        rope_pairs="neox",
        norm="layer",
        norms=("attn_norm",),
        norm_bias=True,
        biases=("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down", "output"),
        activation="gelu",
        gated=False,
        fused=("attn_qkv",),
        parallel=True,
        classes=("PhiForCausalLM",),
        names=llama_names(
            {"self_attn.dense": "attn_output", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down"},
            outer={
                "model.embed_tokens": "token_embd",
                "model.final_layernorm": "output_norm",
                "lm_head": "output",
            },
        ),
    ),
    Architecture(
        name="phi3",
        rope_pairs="neox",
        fused=("attn_qkv", "ffn_up"),
        windows=Windows(),
        classes=("Phi3ForCausalLM",),
        names=llama_names(FUSED_NAMES),
    ),
    Architecture(
        name="smollm3",
        rope_pairs="norm",
        rope_at=lambda layer, windowed, any_windowed: (layer + 1) % 4 != 0,
        classes=("SmolLM3ForCausalLM",),
        hyperparameters=_smollm3,
    ),
    Architecture(
        name="granite",
        **GRANITE,
        classes=("GraniteForCausalLM",),
        hyperparameters=granite,
    ),
    Architecture(
        name="mistral3",
        rope_pairs="norm",
        features=("attention.temperature_scale", "attention.temperature_length"),
        classes=("Ministral3ForCausalLM",),
        hyperparameters=_mistral3,
    ),
    Architecture(
        name="cohere2",
        rope_pairs="norm",
        rope_at=lambda layer, windowed, any_windowed: windowed,
        norm="layer",
        norms=("attn_norm",),
        windows=Windows(pattern=4, size=4096),
        parallel=True,
        features=("logit_scale",),
        reordered=False,
        tied=True,
        classes=("Cohere2ForCausalLM",),
        hyperparameters=_cohere,
    ),
    Architecture(
        name="command-r",
        rope_pairs="norm",
        norm="layer",
        norms=("attn_norm",),
        parallel=True,
        features=("logit_scale",),
        reordered=False,
        tied=True,
        head_norms="each",
        classes=("CohereForCausalLM",),
        hyperparameters=_cohere,
    ),
    Architecture(
        name="starcoder2",
        rope_pairs="neox",
        norm="layer",
        norm_bias=True,
        biases=("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"),
        activation="gelu",
        gated=False,
        windows=Windows(),
        classes=("Starcoder2ForCausalLM",),
        names=llama_names({"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}),
    ),
    Architecture(
        name="stablelm",
        rope_pairs="neox",
        norm="layer",
        norms=("attn_norm",),
        optional=("ffn_norm",),
        norm_bias=True,
        features=("use_parallel_residual",),
        head_norms="each",
        classes=("StableLmForCausalLM",),
        hyperparameters=_stablelm,
        sources=stacked_head_norms,
    ),
    Architecture(
        name="falcon",
        rope_pairs="neox",
        norm="layer",
        norms=("attn_norm",),
        optional=("attn_norm_2",),
        norm_bias=True,
        activation="gelu_erf",
        gated=False,
        fused=("attn_qkv",),
        parallel=True,
        classes=("FalconForCausalLM",),
        names=Names(
            layers="transformer.h.",
            optional="transformer.",
            outer={
                "transformer.word_embeddings": "token_embd",
                "transformer.ln_f": "output_norm",
                "lm_head": "output",
            },
            layer={
                "input_layernorm": "attn_norm",
                "ln_attn": "attn_norm_2",
                "ln_mlp": "attn_norm",
                "self_attention.query_key_value": "attn_qkv",
                "self_attention.dense": "attn_output",
                "mlp.dense_h_to_4h": "ffn_up",
                "mlp.dense_4h_to_h": "ffn_down",
            },
        ),
        hyperparameters=_falcon,
        tensors=qkv_by_group(_falcon_kv),
        tied=True,
    ),
    Architecture(
        name="gptneox",
        rope_pairs="neox",
        norm="layer",
        norm_bias=True,
        biases=("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"),
        activation="gelu_erf",
        gated=False,
        fused=("attn_qkv",),
        features=("use_parallel_residual",),
        classes=("GPTNeoXForCausalLM",),
        names=Names(
            layers="gpt_neox.layers.",
            outer={
                "gpt_neox.embed_in": "token_embd",
                "gpt_neox.final_layer_norm": "output_norm",
                "embed_out": "output",
                "lm_head": "output",
            },
            layer={
                "input_layernorm": "attn_norm",
                "post_attention_layernorm": "ffn_norm",
                "attention.query_key_value": "attn_qkv",
                "attention.dense": "attn_output",
                "mlp.dense_h_to_4h": "ffn_up",
                "mlp.dense_4h_to_h": "ffn_down",
            },
            ignored=r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$",
        ),
        hyperparameters=_gptneox,
        tensors=qkv_by_group(lambda config: config.integer("num_attention_heads")),
    ),
    Architecture(
        name="bitnet",
        rope_pairs="neox",
        norms=("attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm"),
        activation="relu2",
        tied=True,
        classes=("BitNetForCausalLM",),
        names=llama_names({"self_attn.attn_sub_norm": "attn_sub_norm", "mlp.ffn_sub_norm": "ffn_sub_norm"}),
    ),
    Architecture(
        name="glm4",
        rope_pairs="norm",
        norms=("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"),
        fused=("ffn_up",),
        reordered=False,
        classes=("Glm4ForCausalLM",),
        names=llama_names(
            {
                "mlp.gate_up_proj": "ffn_up",
                "post_self_attn_layernorm": "post_attention_norm",
                "post_mlp_layernorm": "post_ffw_norm",
            }
        ),
    ),
    Architecture(
        name="exaone4",
        rope_pairs="neox",
        rope_at=lambda layer, windowed, any_windowed: windowed or not any_windowed,
        norms=("post_attention_norm", "post_ffw_norm"),
        head_norms="head",
        windows=Windows(pattern=4),
        classes=("Exaone4ForCausalLM",),
        names=llama_names(
            {
                "input_layernorm": None,
                "post_attention_layernorm": "post_attention_norm",
                "post_feedforward_layernorm": "post_ffw_norm",
            }
        ),
    ),
)
