"""llama.cpp's names of intermediate results, for architectures whose graphs use other names than the rest.

Source: the names in its graphs (src/models). `tests/conformance/test_trace_llama_cpp.py` compares them with a
run of llama.cpp.
"""

from __future__ import annotations

_LFM2 = {
    "embd": "model.embed_tokens",
    "attn_norm": "model.layers.{}.operator_norm",
    "conv.in_proj": "model.layers.{}.conv.in_proj",
    "conv.conv": "model.layers.{}.conv.conv",
    "conv.out_proj": "model.layers.{}.conv.out_proj",
    "Qcur_raw": "Qcur",
    "Kcur_raw": "Kcur",
    "Qcur": "Qcur_pos",
    "Kcur": "Kcur_pos",
    "Qcur_normed": "model.layers.{}.self_attn.q_layernorm",
    "Kcur_normed": "model.layers.{}.self_attn.k_layernorm",
    "attn_out": "model.layers.{}.self_attn.out_proj",
    "ffn_norm": "model.layers.{}.ffn_out",  # its name for the input of the network
}
_QWEN = {
    "embd": "model.input_embed",
    "attn_out": "attn_output",
    "ffn_inp": "attn_residual",
    "ffn_norm": "attn_post_norm",
}
_SHARED = {
    "ffn_gate_shexp": "ffn_gate",
    "ffn_up_shexp": "ffn_up",
    "ffn_swiglu_shexp": "ffn_swiglu",
    "ffn_out_shexp": "ffn_shexp",
}
_GRANITE = {"embd": "embd_rows", "inp_scaled": "embd"}  # "embd" is its name after scaling
_GEMMA4 = {
    "Qcur_raw": "Qcur",
    "Kcur_raw": "Kcur",
    "Qcur": "Qcur_pos",
    "Kcur": "Kcur_pos",
    "attn_out": "attn_proj",
    "post_attention_norm": "attn_post_norm",
    "ffn_inp": "attn_out",
    "post_ffw_norm": "ffn_post_norm",
    "pre_ffw_norm_2": "ffn_norm_2",
}

# An architecture -> the usual name of an intermediate result -> its name in this architecture
TRACED: dict[str, dict[str, str]] = {
    "lfm2": _LFM2,
    "lfm2moe": _LFM2,
    "qwen35": _QWEN,
    "qwen35moe": _QWEN | _SHARED,
    "qwen3next": _QWEN | _SHARED | {"embd": "model.embed_tokens"},
    "deepseek2": _SHARED,
    "granitehybrid": _GRANITE,
    "gemma4": _GEMMA4,
}
