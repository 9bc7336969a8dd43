"""The records of an architecture: the facts that its files don't have."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# The matrices of a layer
ATTENTION_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output")
FEED_FORWARD_MATRICES = ("ffn_gate", "ffn_up", "ffn_down")
FUSED = {  # a tensor -> the matrices whose rows it holds, one after another
    "attn_qkv": ("attn_q", "attn_k", "attn_v"),
    "ffn_up": ("ffn_gate", "ffn_up"),
    "ssm_in": ("ssm_in_z", "ssm_in_xbc", "ssm_in_dt"),
    "shortconv.in_proj": ("shortconv.b", "shortconv.c", "shortconv.x"),
}
NORMS = (  # the norms that a layer may have; engine/transformer.py applies them
    "attn_norm", "attn_norm_2", "ffn_norm", "post_attention_norm", "post_ffw_norm", "attn_output_norm",
    "layer_output_norm", "attn_sub_norm", "ffn_sub_norm",
)  # fmt: skip
EXPERTS = ("ffn_gate", "ffn_up", "ffn_down")  # in a mixture, each expert has all three: "ffn_gate_exps"
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
    """The tensor names of a class of transformers.

    Attributes:
        layers: the part of a name before a layer's number.
        optional: a beginning of names that some files omit.
        outer, layer: stem of a name -> GGUF's stem, outside the layers and in them.
        experts: the part of a name before an expert's number; "" without a mixture.
        expert: the stem after that number -> the matrix of EXPERTS.
        transposed: GGUF's stems of the matrices that are stored as (columns, rows).
        ignored: a pattern of names of tensors that aren't needed; "" for none.
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
        """Return GGUF's name, and the expert's number or None; None for an unknown name."""
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
        """Return a tensor's name in the folder, from GGUF's name, for errors."""
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
    """Return Llama's names, with the layer's stems in `changes` added, replaced, or removed (None).

    Args:
        changes: stem of a name -> GGUF's stem, or None.
        options: other fields of Names.
    """
    layer = {old: new for old, new in LAYER_NAMES.items() if changes.get(old, new) is not None}
    return Names(layer=layer | {old: new for old, new in changes.items() if new}, **options)


def mixture_names(
    router: str, experts: str, stems: tuple[str, str, str], more: Mapping[str, str] | None = None
) -> Names:
    """Return Llama's names with experts in place of the one feed-forward network.

    Args:
        router: the stem of the matrix that chooses experts.
        experts: the part of a name before an expert's number.
        stems: the stems of an expert's matrices, in the order of EXPERTS.
        more: more names in a layer.
    """
    layer = {old: new for old, new in LAYER_NAMES.items() if new not in EXPERTS}
    return Names(
        layer=layer | {router: "ffn_gate_inp"} | dict(more or {}),
        experts=experts,
        expert=dict(zip(stems, EXPERTS, strict=True)),
    )


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The rule that gives layers a window of positions, if the file has `attention.sliding_window`.

    Attributes:
        pattern: the default period n: of every n layers, all except the last have a window. 0: every layer.
        dense_first: whether the first of every n layers has no window, instead of the last.
        size: the default size of the window in positions; 0 for none.
        rope_base: RoPE's base in windowed layers if the file has none; 0 for that of the other layers.
        scaled: whether RoPE's scaling and factors also apply in windowed layers.
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
    """One value of `general.architecture`, with the properties of its layers.

    Attributes:
        name: the value, which is also the prefix of the hyper-parameters' keys.
        rope_pairs: the pairs of a head's elements that RoPE rotates: "norm" (2i, 2i+1) or "neox"
            (i, i + rope_dim/2); "" for none. Source: `llama_model_rope_type` in llama.cpp's llama-model.cpp.
        rope_at: function of (layer, whether it has a window, whether any layer has one) that returns whether
            RoPE rotates the layer's queries and keys.
        learned_positions: whether positions are learned vectors, rows of `position_embd`.
        norm: "rms", or "layer", which subtracts the mean.
        norms: those of NORMS that a layer must have.
        optional: those of NORMS that a layer may have.
        norm_bias: whether norms must have a bias. One in the file is used in any case.
        outer: norms outside the layers: "output_norm", "token_embd_norm".
        biases: the matrices that must have a bias. Others may have one.
        activation: the activation of the feed-forward network (layers.ACTIVATIONS).
        gated: whether the feed-forward network has a gate.
        head_norms: "head" if queries and keys are normalized head by head, "full" if over their whole width,
            "each" if a file may have norms with separate gains for each head, "" if they aren't normalized.
        fused: the tensors of FUSED that replace their parts. A file may have the parts instead.
        windows: the rule for windows, or None to refuse a window in the file.
        parallel: whether attention and feed-forward network read the same input.
        experts: fields of layers.Experts that describe the routing of a mixture; None if it has none.
        expert_count_required: whether a model is always a mixture.
        features: the hyper-parameters in addition to llama's that it supports (hyperparameters.FEATURES). An
            architecture without one of them refuses an unusual value of it.
        embedding_scale: function of n_embd that returns the factor of the embeddings.
        attention_scale: function of (key_size, n_embd, n_head, n_layer) that returns the factor of scores.
        logit_scale: function of the key's value that returns the factor of the logits.
        alibi: the largest slope exponent of ALiBi, if the file has none; 0 for no ALiBi.
        sinks: whether each head has a logit that counts only in the softmax's denominator.
        yarn_rounded: whether the ends of yarn's ramp are rounded to whole pairs.
        renamed: a tensor's stem in the file, in a layer or outside -> its stem by purpose.
        recurrent: the mixer of layers without key/value heads, a name of mixer_keys.RECURRENT; "" if there
            are no such layers.
        tiled_heads: `layers.DeltaNet.tiled`, in a delta net.
        output_gate: whether `attn_q` also has a gate for each head's output.
        window_sizes: whether keys and values have other sizes in windowed layers.
        norm_values: whether values are divided by their root mean square.
        keys_as_values: whether the keys before their norm are also the values, in a layer without `attn_v`.
        output_scale: whether a layer may have a number that multiplies its output.
        latent: whether keys and values are computed from a short row for each token (LatentAttention).
        skipped: a pattern of tensors that text doesn't need, in addition to vision and audio towers
            (weights.TOWERS).
        causal: whether a token sees only those before it. In an encoder, it sees all.
        token_types: whether a learned vector for each token's type, a row of `token_types`, is added.
        from_second: those of NORMS that every layer except the first must have.
        head: the form of a head that scores a pair of texts, if a file has one: "tanh" for
            output(tanh(dense)), "norm" for output(norm(gelu(dense))); "" for none. Its tensors are `cls`,
            `cls.norm` and `cls.output`.
        dense: matrices that are applied to pooled states, one after the other, if a file has them.
        classes: its names in `architectures` of config.json.
        names: the names of its tensors in a folder.
        class_names: those of single classes that have other names.
        hyperparameters: function of config.json (huggingface.config.Config) that returns more keys of the
            GGUF file, without the prefix unless they begin with "tokenizer."; a key with None is omitted.
        tied: whether the embeddings are also the output matrix if config.json doesn't say.
        reordered: whether transformers stores the rows of Q and K for "neox" pairs although `rope_pairs` is
            "norm". Conversion then reorders them.
        sources: function of (tensors under the folder's names, config) that returns them under the names and
            shapes that `names` expects, if the folder's own differ.
        tensors: function of (tensors under GGUF's names, config) that returns them in GGUF's layout, if it
            differs from the folder's.
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
