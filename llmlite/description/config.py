"""A model's hyper-parameters: the description of each layer, and of the parts around the layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlite.description.architectures import Architecture, by_name
from llmlite.description.hyperparameters import Keys
from llmlite.description.layer_keys import Layers
from llmlite.description.layers import Attention, Experts, Layer
from llmlite.errors import ModelError, UnsupportedError

if TYPE_CHECKING:
    from llmlite.quants.tensor import QuantTensor

MAX_LAYERS = 512  # llama.cpp's LLAMA_MAX_LAYERS
NO_ATTENTION = Attention(n_head=0, n_head_kv=0, key_size=0, value_size=0, scale=1.0)
POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}  # llama.cpp's llama_pooling_type
NORM_EPS = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The hyper-parameters of a model, under llama.cpp's names.

    Attributes:
        layers: one record for each layer (llmlite.description.layers).
        n_embd: width of an embedding.
        n_vocab: number of tokens in the vocabulary.
        n_ctx: the context length that the model was trained for.
        rms_eps: number added to the mean of squares in RMSNorm, or to the variance in LayerNorm.
        embedding_scale: factor of the embeddings.
        logit_scale: factor of the logits.
        final_softcap: logits become final_softcap · tanh(logit / final_softcap); 0 leaves them unchanged.
        n_ctx_original: the context length before it was extended (longrope); 0 if it wasn't.
        pooling: the rule that makes an embedding of a text's states: "none", "mean", "cls", "last" or "rank";
            None if the file doesn't say.
        n_token_types: number of token types, each with its own vector; 0 for none.
        dense: (rows, columns) of the matrices that are applied to pooled states, by name.
        n_embd_per_layer: size of the embedding that each layer has for a token; 0 for none.
        n_class: number of results of a head for pairs of texts; 0 without a head.
        head_pooling: the states that this head reads, "cls" or "mean"; None if the file doesn't say.

    `n_head`, `n_head_kv`, `head_size` and similar properties are those of the first layer with attention;
    `n_ff` is that of the first layer. In most models, all layers are equal; `layers` has the values of each.
    """

    architecture: Architecture
    layers: tuple[Layer, ...]
    n_embd: int
    n_ctx: int
    n_vocab: int
    rms_eps: float
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    final_softcap: float = 0.0
    n_ctx_original: int = 0
    pooling: str | None = None
    n_token_types: int = 0
    dense: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    n_embd_per_layer: int = 0
    n_class: int = 0
    head_pooling: str | None = None

    @property
    def n_layer(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The mixers of the layers with attention."""
        return tuple(layer.mixer for layer in self.layers if isinstance(layer.mixer, Attention))

    @property
    def attention(self) -> Attention:
        """The attention of the first layer that has one; if none has, an attention without heads."""
        return self.attentions[0] if self.attentions else NO_ATTENTION

    @property
    def n_head(self) -> int:
        """Number of query heads."""
        return self.attention.n_head

    @property
    def n_head_kv(self) -> int:
        """Number of key/value heads, which groups of query heads share."""
        return self.attention.n_head_kv

    @property
    def head_size(self) -> int:
        """Numbers in a key."""
        return self.attention.key_size

    @property
    def n_embd_q(self) -> int:
        """Width of all query heads together, H * Dh."""
        return self.attention.q_width

    @property
    def n_embd_kv(self) -> int:
        """Width of all key/value heads together, K * Dh."""
        return self.attention.k_width

    @property
    def attention_scale(self) -> float:
        """The factor of the scores before the softmax."""
        return self.attention.scale

    @property
    def rope_dim(self) -> int:
        """Number of elements of each head that RoPE rotates; 0 without RoPE."""
        return self.attention.rope.dim if self.attention.rope else 0

    @property
    def rope_base(self) -> float:
        """The base of RoPE's lowest frequency."""
        return self.attention.rope.base if self.attention.rope else 10000.0

    @property
    def rope_scale(self) -> float:
        """The factor of every position (linear scaling of the context)."""
        return self.attention.rope.scale if self.attention.rope else 1.0

    @property
    def n_ff(self) -> int:
        """The inner width of the feed-forward network, or of one expert."""
        return self.layers[0].feed_forward.n_ff if self.layers[0].feed_forward else 0

    @property
    def n_expert(self) -> int:
        """Number of experts in a layer; 0 in a model without a mixture."""
        return max((mixture.n_expert for mixture in self.mixtures), default=0)

    @property
    def n_expert_used(self) -> int:
        """Number of experts that each token goes through."""
        return max((mixture.n_used for mixture in self.mixtures), default=0)

    @property
    def mixtures(self) -> tuple[Experts, ...]:
        """The mixtures of experts among the layers' feed-forward networks."""
        return tuple(layer.feed_forward for layer in self.layers if isinstance(layer.feed_forward, Experts))

    @property
    def is_uniform(self) -> bool:
        """Whether all layers are alike."""
        return len(set(self.layers)) == 1

    @property
    def causal(self) -> bool:
        """Whether a token sees only those before it, as in a model that writes text."""
        return self.architecture.causal

    def for_context(self, n_ctx: int) -> ModelConfig:
        """Return the configuration for a context of `n_ctx` tokens; longrope has factors for long ones."""
        if not self.n_ctx_original or n_ctx <= self.n_ctx_original:
            return self
        return replace(self, layers=tuple(_with_long_factors(layer) for layer in self.layers))

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], tensors: Mapping[str, QuantTensor]) -> ModelConfig:
        """Read the hyper-parameters and check them against each other.

        Args:
            metadata: metadata of a GGUF file, with the keys of the GGUF specification. They are read as in
                llama.cpp's llama-model.cpp, with the same defaults.
            tensors: tensors of the file; the shape of the token embeddings gives n_vocab.

        Raises:
            ModelError: a key is missing or its value is impossible. The error names the key, the expected
                and the actual value.
            UnsupportedError: llmlite doesn't know the architecture, a variant of it, or a key.
        """
        if "general.architecture" not in metadata:
            raise ModelError.missing("general.architecture", "a model needs this key")
        if metadata.get("general.type") == "adapter":
            raise UnsupportedError("general.type: an adapter isn't a model; load its base with lora=FILE")
        architecture = by_name(metadata["general.architecture"])
        keys = Keys(metadata, architecture.name, architecture.features)
        n_layer = keys.integer("block_count", at_most=MAX_LAYERS)
        n_embd = keys.integer("embedding_length")
        n_ctx = keys.integer("context_length")
        eps = keys.positive(NORM_EPS[architecture.norm])
        build = Layers(keys, architecture, tensors, n_layer, n_embd, n_ctx, eps)
        n_ahead = int(keys.feature("nextn_predict_layers"))  # layers that only predict further tokens
        if n_ahead >= n_layer:
            keys.fail("nextn_predict_layers", f"less than block_count, {n_layer}", n_ahead)
        layers = tuple(build.layer(i) for i in range(n_layer - n_ahead))
        found = cls(
            architecture=architecture,
            layers=layers,
            n_embd=n_embd,
            n_ctx=n_ctx,
            n_vocab=_n_vocab(keys, tensors),
            rms_eps=eps,
            embedding_scale=_unless_zero(keys.feature("embedding_scale"), 1.0)
            * architecture.embedding_scale(n_embd),
            logit_scale=architecture.logit_scale(_unless_zero(keys.feature("logit_scale"), 1.0)),
            final_softcap=keys.feature("final_logit_softcapping"),
            n_ctx_original=build.n_ctx_original,
            pooling=_pooling(keys, "pooling_type"),
            head_pooling=_pooling(keys, "classifier.pooling_type"),
            n_token_types=_n_token_types(keys, architecture),
            dense=_dense(keys, architecture, tensors, n_embd),
            n_embd_per_layer=int(keys.feature("embedding_length_per_layer_input")),
            n_class=_n_class(architecture, tensors),
        )
        if keys.flag("attention.causal", architecture.causal) != architecture.causal:
            usual = str(architecture.causal).lower()
            supported = f"in a {keys.prefix} model only {usual} is"
            keys.refuse("attention.causal", not architecture.causal, supported)
        keys.refuse_unread()
        return found


def _unless_zero(value: float, default: float) -> float:
    return value or default


def _n_token_types(keys: Keys, architecture: Architecture) -> int:
    """Return the number of token types, which is one of the tokenizer's keys."""
    if not architecture.token_types:
        return 0
    key = "tokenizer.ggml.token_type_count"
    value = keys.metadata.get(key)
    if value is None:
        raise ModelError.missing(key, f"a {keys.prefix} model needs it")
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 < value < 2**16:
        raise ModelError.at(key, "a whole number above 0", repr(value))
    return int(value)


def _dense(
    keys: Keys, architecture: Architecture, tensors: Mapping[str, QuantTensor], n_embd: int
) -> dict[str, tuple[int, int]]:
    """Return the matrices after pooling: each takes the previous one's output, and the first takes n_embd."""
    found: dict[str, tuple[int, int]] = {}
    width = n_embd
    for name in architecture.dense:
        rows, columns = (keys.integer(f"{name}_feat_{end}", 0, at_least=0) for end in ("out", "in"))
        if not rows and f"{name}.weight" not in tensors:
            continue
        if columns != width:
            keys.fail(f"{name}_feat_in", f"{width}, the width of its input", columns)
        found[name] = rows, columns
        width = rows
    return found


def _n_class(architecture: Architecture, tensors: Mapping[str, QuantTensor]) -> int:
    """Return the number of results of the head for pairs of texts; 0 without a head."""
    head = tensors.get("cls.output.weight") if architecture.head else None
    return 0 if head is None else int(head.shape[0])


def _pooling(keys: Keys, name: str) -> str | None:
    if not keys.has(name):
        return None
    number = keys.integer(name, at_least=0)
    if number not in POOLING:
        keys.fail(name, f"one of {', '.join(map(str, POOLING))}", number)
    return POOLING[number]


def _with_long_factors(layer: Layer) -> Layer:
    rope = layer.mixer.rope if isinstance(layer.mixer, Attention) else None
    if rope is None or rope.factors != "rope_factors_short":
        return layer
    return replace(layer, mixer=replace(layer.mixer, rope=replace(rope, factors="rope_factors_long")))


def _n_vocab(keys: Keys, tensors: Mapping[str, QuantTensor]) -> int:
    if "token_embd.weight" not in tensors:
        raise ModelError.absent("token_embd.weight")
    n_vocab = tensors["token_embd.weight"].shape[0]
    tokens = keys.metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        return n_vocab
    if isinstance(tokens, str) or not hasattr(tokens, "__len__"):
        raise ModelError.at("tokenizer.ggml.tokens", "an array of strings", f"{tokens!r:.80}")
    if len(tokens) != n_vocab:
        raise ModelError.at(
            "token_embd.weight", f"{len(tokens)} rows, one for each of tokenizer.ggml.tokens", n_vocab
        )
    return n_vocab
