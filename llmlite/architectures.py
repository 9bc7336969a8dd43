"""What differs from one architecture to the next: one entry each.

Most of what a model is follows from its hyper-parameters and from which tensors its file holds (biases,
tied embeddings, RoPE factors). An entry says only what a file does not.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmlite.errors import ModelError, UnsupportedError

# In blk.N.*: the row and column counts of each matrix, as names of ModelConfig's fields.
MATRICES = {
    "attn_q": ("n_embd_q", "n_embd"),
    "attn_k": ("n_embd_kv", "n_embd"),
    "attn_v": ("n_embd_kv", "n_embd"),
    "attn_output": ("n_embd", "n_embd_q"),
    "ffn_gate": ("n_ff", "n_embd"),
    "ffn_up": ("n_ff", "n_embd"),
    "ffn_down": ("n_embd", "n_ff"),
}
NORMS = ("attn_norm", "ffn_norm")
FUSED = {"attn_qkv": ("attn_q", "attn_k", "attn_v")}  # matrices whose rows stand behind each other in one
EXPERTS = ("ffn_gate", "ffn_up", "ffn_down")  # in a mixture, one of each for every expert: "ffn_gate_exps"
HEAD_NORMS = ("attn_q_norm", "attn_k_norm")  # gains of a norm of every head by itself


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One value of `general.architecture`.

    Attributes:
        name: the value, which is also the prefix of the hyper-parameters' keys.
        rope_pairs: which elements of a head RoPE turns together: "norm" (2i, 2i+1) or "neox"
            (i, i + rope_dim/2). `llama_model_rope_type` in llama.cpp's llama-model.cpp. "" for none:
            positions are learned, rows of `position_embd`.
        biases: the matrices of MATRICES whose bias must be present; any other's may be.
        norm: "rms", or "layer", which takes the mean off and has biases.
        activation: of a feed-forward network without ffn_gate: "gelu". With one it is always "silu".
        absent: the matrices of MATRICES that a file of this architecture does not have.
        fused: the tensors of FUSED that stand for their parts.
        head_norms: whether queries and keys are normalized head by head before RoPE.
        expert_count_required: whether the feed-forward network is always a mixture of experts; it is one
            in any architecture whose file gives `expert_count`.
        classes: what config.json calls it, in `architectures`; its tensors' names there stand in
            huggingface/names.py. Llama's Q and K rows are stored there for
            pairs "neox"; conversion reorders them where `rope_pairs` is "norm".
    """

    name: str
    rope_pairs: str
    biases: tuple[str, ...] = ()
    norm: str = "rms"
    activation: str = "silu"
    absent: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()
    head_norms: bool = False
    expert_count_required: bool = False
    classes: tuple[str, ...] = ()


ARCHITECTURES = {
    entry.name: entry
    for entry in (
        Architecture(
            name="llama",
            rope_pairs="norm",
            classes=("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"),
        ),
        Architecture(
            name="qwen2",
            rope_pairs="neox",
            biases=("attn_q", "attn_k", "attn_v"),
            classes=("Qwen2ForCausalLM",),
        ),
        Architecture(name="qwen3", rope_pairs="neox", head_norms=True, classes=("Qwen3ForCausalLM",)),
        Architecture(
            name="qwen3moe",
            rope_pairs="neox",
            head_norms=True,
            expert_count_required=True,
            classes=("Qwen3MoeForCausalLM",),
        ),
        Architecture(
            name="gpt2",
            rope_pairs="",
            biases=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
            norm="layer",
            activation="gelu",
            absent=("ffn_gate",),
            fused=("attn_qkv",),
            classes=("GPT2LMHeadModel",),
        ),
    )
}


def by_name(name: object) -> Architecture:
    """Return the entry for a value of `general.architecture`.

    Raises:
        ModelError: if it is not a string.
        UnsupportedError: if no entry has that name; the message lists those there are.
    """
    if not isinstance(name, str):
        raise ModelError.at("general.architecture", "a string", repr(name))
    if name not in ARCHITECTURES:
        raise UnsupportedError.about(
            "general.architecture",
            f"{name!r} is not supported; supported are {', '.join(ARCHITECTURES)}",
            expected=f"one of {', '.join(ARCHITECTURES)}",
            got=name,
        )
    return ARCHITECTURES[name]


def by_class(name: object) -> Architecture:
    """Return the entry for a class of transformers, as config.json names it.

    Raises:
        UnsupportedError: if no entry has it; the message lists those there are.
    """
    for entry in ARCHITECTURES.values():
        if name in entry.classes:
            return entry
    known = ", ".join(known for entry in ARCHITECTURES.values() for known in entry.classes)
    raise UnsupportedError.about("architectures", f"{name!r:.80} is not supported; supported are {known}")
