"""Tiny random models by transformers' own classes, one line for each form an architecture comes in.

A line is added here with an architecture's entry; `test_architectures.py` holds all executors to it, and
`tools/architectures_table.py` writes docs/architectures.md of it.
"""

from __future__ import annotations

from tests.support.transformers_models import (
    WINDOW,
    TinyModel,
    V,
    choose_unevenly,
    make_ternary,
    scale_layers,
    scatter_gains,
)

LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32,
    "beta_fast": 32.0, "beta_slow": 1.0,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
    "short_factor": [1.0 + i / 10 for i in range(6)], "long_factor": [2.0 + i for i in range(6)],
    "original_max_position_embeddings": 64,
}  # fmt: skip
GRANITE = {
    "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0,
    "attention_multiplier": 0.2,
}  # fmt: skip


MAMBA2 = {"expand": 2, "num_heads": 8, "head_dim": 16, "state_size": 32, "conv_kernel": 4, "chunk_size": 32}
NO_ATTENTION = (
    "intermediate_size", "num_attention_heads", "num_key_value_heads", "max_position_embeddings",
)  # fmt: skip
GELU_TABLE = "llama.cpp looks GELU up by its argument in F16"
GELU_TWICE = GELU_TABLE + ", twice in a layer: with that table in NumPy the rest is 7e-4"
DELTA = {
    "num_hidden_layers": 4,
    "head_dim": 32,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
MIXTURE = {
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 64,
}
GRANITE_HYBRID = GRANITE | {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"],
    "shared_intermediate_size": 64,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 32,
}
LATENT = {
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "n_routed_experts": 6,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
    "n_group": 1,
    "topk_group": 1,
}
GROUPS = {"n_routed_experts": 8, "n_group": 4, "topk_group": 2}
GEMMA4 = {
    "head_dim": 32,
    "global_head_dim": 64,
    "sliding_window": WINDOW,
    "num_hidden_layers": 7,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    + ["full_attention", "sliding_attention", "full_attention"],
    "final_logit_softcapping": 30.0,
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": V,
}
LATENT_YARN = YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}
MODELS = (
    TinyModel(name="llama", model_class="LlamaForCausalLM"),
    TinyModel(
        name="llama, RoPE factors", model_class="LlamaForCausalLM", options={"rope_parameters": LLAMA3_ROPE}
    ),
    TinyModel(
        name="llama, linear RoPE",
        model_class="LlamaForCausalLM",
        options={"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4}},
    ),
    TinyModel(name="mistral", model_class="MistralForCausalLM", options={"sliding_window": None}),
    TinyModel(
        name="mixtral",
        model_class="MixtralForCausalLM",
        options={"num_local_experts": 6, "num_experts_per_tok": 3, "sliding_window": None},
    ),
    TinyModel(name="qwen2", model_class="Qwen2ForCausalLM"),
    TinyModel(name="qwen3", model_class="Qwen3ForCausalLM", options={"head_dim": 32}),
    TinyModel(
        name="qwen3moe",
        model_class="Qwen3MoeForCausalLM",
        options={
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            "head_dim": 16,
        },
    ),
    TinyModel(
        name="gpt2",
        model_class="GPT2LMHeadModel",
        options={"n_positions": 128, "n_embd": 64, "n_layer": 2, "n_head": 4},
        without=(
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
        ),
        llama_cpp=GELU_TABLE,
    ),
    TinyModel(
        name="gemma2",
        model_class="Gemma2ForCausalLM",
        options={
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": WINDOW,
            "num_hidden_layers": 4,
        },
        llama_cpp=GELU_TABLE,
    ),
    TinyModel(
        name="gemma3",
        model_class="Gemma3ForCausalLM",
        options={
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": WINDOW,
            "num_hidden_layers": 7,
        },
        llama_cpp=GELU_TABLE,
    ),
    TinyModel(name="olmo2", model_class="Olmo2ForCausalLM"),
    TinyModel(
        name="olmo3",
        model_class="Olmo3ForCausalLM",
        options={"sliding_window": WINDOW, "num_hidden_layers": 5},
    ),
    TinyModel(name="gemma", model_class="GemmaForCausalLM", options={"head_dim": 32}, llama_cpp=GELU_TABLE),
    TinyModel(
        name="phi2",
        model_class="PhiForCausalLM",
        options={"partial_rotary_factor": 0.5, "num_key_value_heads": 4},
        llama_cpp=GELU_TABLE,
    ),
    TinyModel(
        name="phi3, windows",
        model_class="Phi3ForCausalLM",
        options={"sliding_window": WINDOW},
        llama_cpp="llama.cpp leaves the windows out",
    ),
    TinyModel(
        name="phi3, longrope",
        model_class="Phi3ForCausalLM",
        options={
            "sliding_window": None,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 64,
            "rope_parameters": LONGROPE,
        },
    ),
    TinyModel(name="smollm3", model_class="SmolLM3ForCausalLM", options={"num_hidden_layers": 5}),
    TinyModel(name="granite", model_class="GraniteForCausalLM", options=GRANITE),
    TinyModel(
        name="granitemoe",
        model_class="GraniteMoeForCausalLM",
        options=GRANITE | {"num_local_experts": 6, "num_experts_per_tok": 3},
    ),
    TinyModel(
        name="granitemoe, shared expert",
        model_class="GraniteMoeSharedForCausalLM",
        options=GRANITE | {"num_local_experts": 6, "num_experts_per_tok": 3, "shared_intermediate_size": 64},
    ),
    TinyModel(
        name="ministral3",
        model_class="Ministral3ForCausalLM",
        options={
            "head_dim": 16,
            "sliding_window": None,
            "rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
        },
    ),
    TinyModel(
        name="llama, yarn",
        model_class="LlamaForCausalLM",
        options={"rope_parameters": YARN},
    ),
    TinyModel(
        name="qwen2moe",
        model_class="Qwen2MoeForCausalLM",
        options={
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 64,
            "norm_topk_prob": False,
        },
    ),
    TinyModel(
        name="olmoe",
        model_class="OlmoeForCausalLM",
        options={
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "norm_topk_prob": False,
            "num_key_value_heads": 4,
        },
    ),
    TinyModel(
        name="cohere2",
        model_class="Cohere2ForCausalLM",
        options={"sliding_window": WINDOW, "num_hidden_layers": 5, "logit_scale": 0.25},
    ),
    TinyModel(name="command-r", model_class="CohereForCausalLM", options={"logit_scale": 0.25}),
    TinyModel(  # llama.cpp reads the norms of models of 64 layers or more
        name="command-r, normed heads",
        model_class="CohereForCausalLM",
        options={"logit_scale": 0.25, "use_qk_norm": True, "num_hidden_layers": 64},
        prepare=scatter_gains,
    ),
    TinyModel(
        name="starcoder2",
        model_class="Starcoder2ForCausalLM",
        options={"sliding_window": None},
        llama_cpp=GELU_TABLE,
    ),
    TinyModel(
        name="starcoder2, windows",
        model_class="Starcoder2ForCausalLM",
        options={"sliding_window": WINDOW},
        llama_cpp="llama.cpp leaves the windows out; " + GELU_TABLE,
    ),
    TinyModel(name="stablelm", model_class="StableLmForCausalLM", options={"partial_rotary_factor": 0.5}),
    TinyModel(
        name="stablelm, parallel",
        model_class="StableLmForCausalLM",
        options={"use_parallel_residual": True, "use_qkv_bias": True},
    ),
    TinyModel(
        name="stablelm, normed heads",
        model_class="StableLmForCausalLM",
        options={"use_parallel_residual": True, "qk_layernorm": True},
        prepare=scatter_gains,
    ),
    TinyModel(
        name="falcon",
        model_class="FalconForCausalLM",
        options={"new_decoder_architecture": False, "multi_query": True, "bias": False, "alibi": False},
        without=("num_key_value_heads", "intermediate_size"),
        llama_cpp="llama.cpp takes the tanh form of GELU for the erf form",
    ),
    TinyModel(
        name="falcon, two norms",
        model_class="FalconForCausalLM",
        options={"new_decoder_architecture": True, "num_kv_heads": 2, "bias": False, "alibi": False},
        without=("num_key_value_heads", "intermediate_size"),
        llama_cpp="llama.cpp takes the tanh form of GELU for the erf form",
    ),
    TinyModel(
        name="gptneox",
        model_class="GPTNeoXForCausalLM",
        options={"rotary_pct": 0.5},
        without=("num_key_value_heads",),
        llama_cpp="llama.cpp takes the tanh form of GELU for the erf form",
    ),
    TinyModel(
        name="gptneox, sequential",
        model_class="GPTNeoXForCausalLM",
        options={"use_parallel_residual": False},
        without=("num_key_value_heads",),
        llama_cpp="llama.cpp takes the tanh form of GELU for the erf form",
    ),
    TinyModel(
        name="gpt-oss",
        model_class="GptOssForCausalLM",
        options={
            "head_dim": 32,
            "num_local_experts": 6,
            "num_experts_per_tok": 3,
            "sliding_window": WINDOW,
            "num_hidden_layers": 4,
            "rope_parameters": YARN | {"truncate": False},
        },
        llama_cpp="llama.cpp rounds where yarn's ramp begins and ends",
    ),
    TinyModel(
        name="bitnet",
        model_class="BitNetForCausalLM",
        options={"tie_word_embeddings": True},
        prepare=make_ternary,
        llama_cpp="llama.cpp takes SiLU for the squared ReLU",
    ),
    TinyModel(name="glm4", model_class="Glm4ForCausalLM", options={"head_dim": 32}),
    TinyModel(
        name="exaone4",
        model_class="Exaone4ForCausalLM",
        options={"sliding_window": None, "layer_types": ["full_attention"] * 2},
    ),
    TinyModel(
        name="exaone4, windows",
        model_class="Exaone4ForCausalLM",
        options={"sliding_window": WINDOW, "num_hidden_layers": 5},
        llama_cpp="llama.cpp knows windows only in models of 64 layers",
    ),
    TinyModel(
        name="lfm2",
        model_class="Lfm2ForCausalLM",
        options={
            "num_hidden_layers": 4,
            "layer_types": ["conv", "conv", "full_attention", "conv"],
            "block_multiple_of": 32,
        },
    ),
    TinyModel(
        name="lfm2moe",
        model_class="Lfm2MoeForCausalLM",
        options={
            "num_hidden_layers": 4,
            "layer_types": ["conv", "conv", "full_attention", "conv"],
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "num_dense_layers": 2,
        },
        prepare=choose_unevenly,
    ),
    TinyModel(
        name="mamba2",
        model_class="Mamba2ForCausalLM",
        options=MAMBA2 | {"n_groups": 1},
        without=NO_ATTENTION,
    ),
    TinyModel(
        name="mamba2, groups",
        model_class="Mamba2ForCausalLM",
        options=MAMBA2 | {"n_groups": 2},
        without=NO_ATTENTION,
    ),
    TinyModel(
        name="mamba",
        model_class="MambaForCausalLM",
        options={"state_size": 16, "conv_kernel": 4},
        without=NO_ATTENTION,
    ),
    TinyModel(
        name="granitehybrid",
        model_class="GraniteMoeHybridForCausalLM",
        options=GRANITE_HYBRID | {"num_local_experts": 0, "mamba_n_groups": 2},
    ),
    TinyModel(
        name="granitehybrid, experts and RoPE",
        model_class="GraniteMoeHybridForCausalLM",
        options=GRANITE_HYBRID
        | {"num_local_experts": 6, "num_experts_per_tok": 3, "position_embedding_type": "rope"},
    ),
    TinyModel(
        name="deepseek2, V2",
        model_class="DeepseekV2ForCausalLM",
        options=LATENT | {"q_lora_rank": None},
    ),
    TinyModel(
        name="deepseek2, V2 with yarn",
        model_class="DeepseekV2ForCausalLM",
        options=LATENT | {"q_lora_rank": 32, "rope_parameters": LATENT_YARN},
    ),
    TinyModel(
        name="deepseek2, V3",
        model_class="DeepseekV3ForCausalLM",
        options=LATENT | {"q_lora_rank": 32, "qk_nope_head_dim": 64, "v_head_dim": 48},
        prepare=choose_unevenly,
    ),
    TinyModel(
        name="deepseek2, V2 in groups",
        model_class="DeepseekV2ForCausalLM",
        options=LATENT | GROUPS | {"q_lora_rank": None, "topk_method": "group_limited_greedy"},
        llama_cpp="llama.cpp takes a group for its two best experts together, V2 for its best",
    ),
    TinyModel(
        name="deepseek2, V3 in groups",
        model_class="DeepseekV3ForCausalLM",
        options=LATENT | GROUPS | {"q_lora_rank": 32},
        prepare=choose_unevenly,
    ),
    TinyModel(
        name="gemma4",
        model_class="Gemma4ForCausalLM",
        options=GEMMA4,
        prepare=scale_layers,
        llama_cpp=GELU_TWICE,
    ),
    TinyModel(
        name="gemma4, shared keys",
        model_class="Gemma4ForCausalLM",
        options=GEMMA4 | {"num_kv_shared_layers": 2, "use_double_wide_mlp": True},
        prepare=scale_layers,
        llama_cpp=GELU_TWICE,
    ),
    TinyModel(
        name="gemma4, experts and keys as values",
        model_class="Gemma4ForCausalLM",
        options=GEMMA4
        | {
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "num_experts": 6,
            "top_k_experts": 3,
            "moe_intermediate_size": 32,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
        },
        prepare=scale_layers,
        llama_cpp=GELU_TWICE + "; without it a close choice of experts falls the other way",
    ),
    TinyModel(name="qwen35", model_class="Qwen3_5ForCausalLM", options=DELTA),
    TinyModel(name="qwen35moe", model_class="Qwen3_5MoeForCausalLM", options=DELTA | MIXTURE),
    TinyModel(name="qwen3next", model_class="Qwen3NextForCausalLM", options=DELTA | MIXTURE),
)
