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


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One value of `general.architecture`.

    Attributes:
        name: the value, which is also the prefix of the hyper-parameters' keys.
        rope_pairs: which elements of a head RoPE turns together: "norm" (2i, 2i+1) or "neox"
            (i, i + rope_dim/2). `llama_model_rope_type` in llama.cpp's llama-model.cpp.
        biases: the matrices of MATRICES whose bias must be present; any other's may be.
        classes: what config.json calls it, in `architectures`. Llama's Q and K rows are stored there for
            pairs "neox"; conversion reorders them where `rope_pairs` is "norm".
    """

    name: str
    rope_pairs: str
    biases: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


ARCHITECTURES = {
    entry.name: entry
    for entry in (
        Architecture(name="llama", rope_pairs="norm", classes=("LlamaForCausalLM", "MistralForCausalLM")),
        Architecture(
            name="qwen2",
            rope_pairs="neox",
            biases=("attn_q", "attn_k", "attn_v"),
            classes=("Qwen2ForCausalLM",),
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
        raise UnsupportedError(
            f"general.architecture: {name!r} is not supported; supported are {', '.join(ARCHITECTURES)}",
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
    raise UnsupportedError(f"architectures: {name!r:.80} is not supported; supported are {known}")
