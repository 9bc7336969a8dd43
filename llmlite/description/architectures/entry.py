"""What an architecture's entry says: only what its files do not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# The matrices of a layer -> the row and column counts, as names of attributes (config.matrix_shapes).
ATTENTION_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output")
FEED_FORWARD_MATRICES = ("ffn_gate", "ffn_up", "ffn_down")
FUSED = {  # a tensor -> the matrices whose rows it holds, one after another
    "attn_qkv": ("attn_q", "attn_k", "attn_v"),
    "ffn_up": ("ffn_gate", "ffn_up"),
    "ssm_in": ("ssm_in_z", "ssm_in_xbc", "ssm_in_dt"),
    "shortconv.in_proj": ("shortconv.b", "shortconv.c", "shortconv.x"),
}
NORMS = (  # the norms a layer may have; where each is applied: transformer.block
    "attn_norm", "attn_norm_2", "ffn_norm", "post_attention_norm", "post_ffw_norm", "attn_output_norm",
    "layer_output_norm", "attn_sub_norm", "ffn_sub_norm",
)  # fmt: skip
EXPERTS = ("ffn_gate", "ffn_up", "ffn_down")  # in a mixture, one of each for every expert: "ffn_gate_exps"
HEAD_NORMS = ("attn_q_norm", "attn_k_norm")  # gains of a norm of queries and keys

OUTER_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
GEMMA_NORMS = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a class of transformers calls its tensors.

    Attributes:
        layers: what comes before a layer's number. optional: a beginning that some files leave out.
        outer, layer: their stem -> GGUF's, outside the layers and in them.
        experts: what comes before an expert's number; "" without a mixture.
        expert: the stem after that number -> the matrix of EXPERTS.
        transposed: GGUF's stems of the matrices kept as (columns, rows).
        ignored: a pattern of names that follow from config.json or that nothing reads; "" for none.
    """

    layers: str = "model.layers."
    optional: str = ""
    outer: Mapping[str, str] = field(default_factory=lambda: OUTER_NAMES)
    layer: Mapping[str, str] = field(default_factory=lambda: LAYER_NAMES)
    experts: str = ""
    expert: Mapping[str, str] = field(default_factory=dict)
    transposed: tuple[str, ...] = ()
    ignored: str = ""

    def new(self, name: str) -> tuple[str, int | None] | None:
        """GGUF's name, and the expert's number if it is the tensor of one; None if it is unknown."""
        pattern = rf"(?:{re.escape(self.layers)}(\d{{1,4}})\.)?(.+)\.(weight|bias)"
        if not name.startswith((self.optional, "lm_head.")):
            name = self.optional + name
        match = re.fullmatch(pattern, name)
        if match is None:
            return None
        number, stem, kind = match.groups()
        prefix = f"blk.{int(number)}." if number else ""
        one = re.fullmatch(rf"{re.escape(self.experts)}(\d{{1,4}})\.(\w+)", stem)
        if self.experts and number and one and one[2] in self.expert:
            return f"{prefix}{self.expert[one[2]]}_exps.{kind}", int(one[1])
        stems = self.layer if number else self.outer
        return (f"{prefix}{stems[stem]}.{kind}", None) if stem in stems else None

    def old(self, name: str) -> str:
        """The name that a tensor has in the folder: what its owner knows it by."""
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
        if match is None:
            return name
        number, stem, kind = match.groups()
        stems = {new: old for old, new in (self.layer if number else self.outer).items()}
        stems |= {f"{new}_exps": f"{self.experts}*.{old}" for old, new in self.expert.items()}
        if stem not in stems:
            return name
        return f"{self.layers}{number}.{stems[stem]}.{kind}" if number else f"{stems[stem]}.{kind}"


def llama_names(changes: Mapping[str, str | None], **options: Any) -> Names:
    """Return Llama's names with the layer's stems in `changes` added, replaced, or (None) left out."""
    layer = {old: new for old, new in LAYER_NAMES.items() if changes.get(old, new) is not None}
    return Names(layer=layer | {old: new for old, new in changes.items() if new}, **options)


def mixture_names(
    router: str, experts: str, stems: tuple[str, str, str], more: Mapping[str, str] | None = None
) -> Names:
    """Llama's names with experts in place of the one feed-forward network; stems in the order of EXPERTS.

    Args:
        more: further names in a layer.
    """
    layer = {old: new for old, new in LAYER_NAMES.items() if new not in EXPERTS}
    return Names(
        layer=layer | {router: "ffn_gate_inp"} | dict(more or {}),
        experts=experts,
        expert=dict(zip(stems, EXPERTS, strict=True)),
    )


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Which layers see only a window of positions, if the file has `attention.sliding_window`.

    Attributes:
        pattern: the default period n: all but the last of every n layers are windowed; 0: every layer.
        dense_first: the first of every n layers sees everything instead of the last.
        size: the default size of the window; 0: the file must give it, or has none.
        rope_base: RoPE's base in windowed layers if the file gives none; 0: that of the others.
        scaled: whether RoPE's scaling and factors count in windowed layers too.
    """

    pattern: int = 0
    dense_first: bool = False
    size: int = 0
    rope_base: float = 0.0
    scaled: bool = True

    def layers(self, n_layer: int, period: int | None = None) -> list[bool]:
        """Return whether each layer is windowed, with the default period or another."""
        period = self.pattern if period is None else period
        dense = 0 if self.dense_first else period - 1
        return [period == 0 or i % period != dense for i in range(n_layer)]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One value of `general.architecture`: how its layers are made.

    Attributes:
        name: the value, which is also the prefix of the hyper-parameters' keys.
        rope_pairs: which elements of a head RoPE turns together: "norm" (2i, 2i+1) or "neox"
            (i, i + rope_dim/2). `llama_model_rope_type` in llama.cpp's llama-model.cpp. "" for none.
        rope_at: (layer, whether it is windowed, whether any layer is) -> whether RoPE turns its queries
            and keys.
        learned_positions: whether positions are learned vectors, rows of `position_embd`.
        norm: "rms", or "layer", which takes the mean off. norms: those of NORMS that a layer must have.
        optional: those of NORMS that a layer may have.
        norm_bias: whether norms must have a bias; one that is there is used in any case.
        outer: norms outside the layers: "output_norm", "token_embd_norm".
        biases: the matrices whose bias must be present; any other's may be.
        activation: of the feed-forward network (layers.ACTIVATIONS). gated: whether it has a gate.
        head_norms: "head" if queries and keys are normalized head by head, "full" if over their whole
            width, "each" if a file may have norms with gains of its own for each head, "" if not.
        fused: the tensors of FUSED that replace their parts; a file may hold the parts instead.
        windows: its windows, or None to refuse a window in the file.
        parallel: whether attention and feed-forward network read the same input.
        experts: how a mixture of experts is routed: fields of layers.Experts; None if it has none.
        expert_count_required: whether it is always a mixture.
        features: the hyper-parameters beyond llama's that it obeys (hyperparameters.FEATURES); in any other
            architecture an unusual value of one of these is refused.
        embedding_scale: (n_embd) -> what embeddings are multiplied by.
        attention_scale: (key_size, n_embd, n_head, n_layer) -> what scores are multiplied by.
        logit_scale: (the key's value) -> what logits are multiplied by.
        alibi: the largest slope exponent of ALiBi, if the file gives none; 0: no ALiBi.
        sinks: whether each head has a logit that counts only in the softmax's denominator.
        yarn_rounded: whether the ends of yarn's ramp are rounded to whole pairs.
        renamed: a tensor's stem in the file, in a layer or outside -> the stem that says what it does here.
        recurrent: what mixes tokens in layers without key/value heads: a name of mixer_keys.RECURRENT; "" if
            there are no such layers.
        tiled_heads: of a delta net, whether its value heads take key heads in turn (layers.DeltaNet).
        output_gate: whether `attn_q` also holds a gate for each head's output.
        window_sizes: whether windowed layers have sizes of keys and values of their own.
        norm_values: whether values are divided by their root mean square. keys_as_values: whether a layer
            without `attn_v` takes for values what its keys are made of.
        output_scale: whether a layer may have a number that its output is multiplied by.
        latent: whether keys and values are made of one short row for each token (layers.LatentAttention).
        skipped: a pattern of further tensors that text doesn't need (layers that predict ahead); vision and
            audio towers (weights.TOWERS) are skipped in any case.
        causal: whether a token sees only those before it; an encoder's see all.
        token_types: whether a learned vector for the kind of each token is added, a row of `token_types`.
        from_second: those of NORMS that every layer but the first must have.
        head: what scores a pair of texts, if a file has it: "tanh" for output(tanh(dense)), "norm" for
            output(norm(gelu(dense))); "" if it has none. Its tensors are `cls`, `cls.norm`, `cls.output`.
        dense: matrices that pooled states go through, one after the other, if a file has them.
        classes: what config.json calls it, in `architectures`.
        names: the names of its tensors there; for single classes in `class_names`.
        hyperparameters: (config.json as huggingface.config.Config) -> more keys of the GGUF file, without
            the prefix unless they begin with "tokenizer."; a key with None is left out.
        tied: whether embeddings serve as the output matrix if config.json doesn't say.
        reordered: whether transformers keeps the rows of Q and K for pairs "neox" although `rope_pairs` is
            "norm": conversion reorders them.
        sources: (folder's tensors under their own names, config) -> the same, as `names` knows them, if the
            folder stacks or names them in a way of its own.
        tensors: (folder's tensors under GGUF's names, config) -> the tensors as GGUF lays them out, if
            renaming isn't enough.
    """

    name: str
    rope_pairs: str
    rope_at: Callable[[int, bool, bool], bool] = lambda layer, windowed, any_windowed: True
    learned_positions: bool = False
    norm: str = "rms"
    norms: tuple[str, ...] = ("attn_norm", "ffn_norm")
    optional: tuple[str, ...] = ()
    norm_bias: bool = False
    outer: tuple[str, ...] = ("output_norm",)
    biases: tuple[str, ...] = ()
    activation: str = "silu"
    gated: bool = True
    head_norms: str = ""
    fused: tuple[str, ...] = ()
    windows: Windows | None = None
    parallel: bool = False
    experts: Mapping[str, Any] | None = None
    expert_count_required: bool = False
    features: tuple[str, ...] = ()
    embedding_scale: Callable[[int], float] = lambda n_embd: 1.0
    attention_scale: Callable[[int, int, int, int], float] = lambda key_size, *_: key_size**-0.5
    logit_scale: Callable[[float], float] = lambda value: value
    sinks: bool = False
    yarn_rounded: bool = True
    renamed: Mapping[str, str] = field(default_factory=dict)
    recurrent: str = ""
    tiled_heads: bool = False
    output_gate: bool = False
    window_sizes: bool = False
    norm_values: bool = False
    keys_as_values: bool = False
    output_scale: bool = False
    latent: bool = False
    skipped: str = ""
    causal: bool = True
    token_types: bool = False
    from_second: tuple[str, ...] = ()
    head: str = ""
    dense: tuple[str, ...] = ()
    alibi: float = 0.0
    classes: tuple[str, ...] = ()
    names: Names = field(default_factory=Names)
    class_names: Mapping[str, Names] = field(default_factory=dict)
    tied: bool = False
    reordered: bool = True
    hyperparameters: Callable[[Any], dict[str, Any]] = lambda config: {}
    sources: Callable[[dict[str, Any], Any], dict[str, Any]] = lambda tensors, config: tensors
    tensors: Callable[[dict[str, Any], Any], dict[str, Any]] = lambda tensors, config: tensors
