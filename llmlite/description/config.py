"""A model's hyper-parameters: its layers, described one by one, and what surrounds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llmlite.description.architectures import Architecture, by_name
from llmlite.description.hyperparameters import Keys
from llmlite.description.layers import (
    Attention,
    DeltaNet,
    Experts,
    FeedForward,
    LatentAttention,
    Layer,
    Mamba,
    Mamba2,
    Rope,
    ShortConvolution,
    Yarn,
)
from llmlite.errors import ModelError, UnsupportedError

if TYPE_CHECKING:
    from llmlite.quants.tensor import QuantTensor

MAX_LAYERS = 512  # llama.cpp's LLAMA_MAX_LAYERS
MAX_EXPERTS = 512  # llama.cpp's LLAMA_MAX_EXPERTS
MAX_GROUPS = 32  # of experts; DeepSeek-V3 has 8
MAX_STATE = 4096  # rows of a head's state; models have up to 256
MAX_TAPS = 64  # of a convolution over the latest tokens; models have 3 or 4
NO_ATTENTION = Attention(n_head=0, n_head_kv=0, key_size=0, value_size=0, scale=1.0)
GATING = {1: "softmax", 2: "sigmoid", 3: "softmax_chosen"}  # llama.cpp's llama_expert_gating_func_type
POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}  # llama.cpp's llama_pooling_type
NORM_EPS = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The hyper-parameters of a model, under llama.cpp's names.

    Attributes:
        layers: one record for each layer (llmlite.description.layers).
        n_embd, n_vocab: widths. n_ctx: the context length the model was trained for.
        rms_eps: added to the mean of squares in RMSNorm, to the variance in LayerNorm.
        embedding_scale: embeddings are multiplied by it. logit_scale: logits are multiplied by it.
        final_softcap: logits become final_softcap · tanh(logit / final_softcap); 0: they stay.
        n_ctx_original: the context before it was extended (longrope), else n_ctx.
        pooling: how a text's states become its embedding: "none", "mean", "cls", "last" or "rank"; None if
            the file doesn't say. n_token_types: kinds of tokens that have a vector of their own; 0: none.
        dense: (rows, columns) of the matrices that pooled states go through, by name.
        n_embd_per_layer: numbers that each layer gets of its own for a token; 0: none.
        n_class: numbers that a head for pairs of texts gives; 0 without one. head_pooling: the states that
            it reads, "cls" or "mean"; None if the file doesn't say.

    `n_head`, `n_head_kv`, `head_size` and the like are those of the first layer with attention, `n_ff` of the
    first layer: of all layers in most models; `layers` has each one's own.
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
        """How many layers there are."""
        return len(self.layers)

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The mixers of the layers that have attention."""
        return tuple(layer.mixer for layer in self.layers if isinstance(layer.mixer, Attention))

    @property
    def attention(self) -> Attention:
        """The attention of the first layer that has it; one without heads if none has."""
        return self.attentions[0] if self.attentions else NO_ATTENTION

    @property
    def n_head(self) -> int:
        """Query heads."""
        return self.attention.n_head

    @property
    def n_head_kv(self) -> int:
        """Key/value heads, which groups of query heads share."""
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
        """What scores are multiplied by before the softmax."""
        return self.attention.scale

    @property
    def rope_dim(self) -> int:
        """How many elements of each head RoPE turns; 0 without RoPE."""
        return self.attention.rope.dim if self.attention.rope else 0

    @property
    def rope_base(self) -> float:
        """The base of RoPE's lowest frequency."""
        return self.attention.rope.base if self.attention.rope else 10000.0

    @property
    def rope_scale(self) -> float:
        """What every position is multiplied by (linear scaling of the context)."""
        return self.attention.rope.scale if self.attention.rope else 1.0

    @property
    def n_ff(self) -> int:
        """The inner width of the feed-forward network, or of one expert."""
        return self.layers[0].feed_forward.n_ff if self.layers[0].feed_forward else 0

    @property
    def n_expert(self) -> int:
        """Feed-forward networks of a layer that a token may go through; 0 in a model without a mixture."""
        return max((mixture.n_expert for mixture in self.mixtures), default=0)

    @property
    def n_expert_used(self) -> int:
        """How many of them each token goes through."""
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
        """Whether a token sees only those before it: the model can write text."""
        return self.architecture.causal

    def for_context(self, n_ctx: int) -> ModelConfig:
        """Return the configuration for a context of `n_ctx` tokens: longrope has factors for long ones."""
        if not self.n_ctx_original or n_ctx <= self.n_ctx_original:
            return self
        return replace(self, layers=tuple(_with_long_factors(layer) for layer in self.layers))

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], tensors: Mapping[str, QuantTensor]) -> ModelConfig:
        """Read the hyper-parameters and check them against each other.

        Args:
            metadata: a GGUF file's; keys as in the GGUF specification, read as llama.cpp's
                llama-model.cpp reads them, with the same defaults.
            tensors: the file's; the token embeddings' shape gives n_vocab.

        Raises:
            ModelError: a key is missing or its value impossible; names key, expected and got.
            UnsupportedError: an architecture, a variant or a key that llmlite doesn't know.
        """
        if "general.architecture" not in metadata:
            raise ModelError.missing("general.architecture", "without it this is not a model")
        if metadata.get("general.type") == "adapter":
            raise UnsupportedError("general.type: an adapter isn't a model; load its base with lora=FILE")
        architecture = by_name(metadata["general.architecture"])
        keys = Keys(metadata, architecture.name, architecture.features)
        n_layer = keys.integer("block_count", at_most=MAX_LAYERS)
        n_embd = keys.integer("embedding_length")
        n_ctx = keys.integer("context_length")
        eps = keys.positive(NORM_EPS[architecture.norm])
        build = _Layers(keys, architecture, tensors, n_layer, n_embd, n_ctx, eps)
        n_ahead = int(keys.feature("nextn_predict_layers"))  # they guess further tokens; a text needs none
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
    """How many kinds of tokens there are: a key of the tokenizer's, as the format has it."""
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
    """The matrices after pooling: each takes what the one before gives, and the first takes n_embd."""
    found: dict[str, tuple[int, int]] = {}
    width = n_embd
    for name in architecture.dense:
        rows, columns = (keys.integer(f"{name}_feat_{end}", 0, at_least=0) for end in ("out", "in"))
        if not rows and f"{name}.weight" not in tensors:
            continue
        if columns != width:
            keys.fail(f"{name}_feat_in", f"{width}, the width of what comes in", columns)
        found[name] = rows, columns
        width = rows
    return found


def _n_class(architecture: Architecture, tensors: Mapping[str, QuantTensor]) -> int:
    """How many numbers the head for pairs of texts gives; 0 without one."""
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


class _Layers:
    """Builds the layers' records from keys that may have one value for all or one for each."""

    def __init__(
        self,
        keys: Keys,
        architecture: Architecture,
        tensors: Mapping[str, QuantTensor],
        n_layer: int,
        n_embd: int,
        n_ctx: int,
        eps: float,
    ) -> None:
        self.keys, self.architecture, self.tensors = keys, architecture, tensors
        self.n_layer, self.n_embd, self.n_ctx, self.eps = n_layer, n_embd, n_ctx, eps
        self.n_ctx_original = 0
        least = 0 if architecture.recurrent else 1
        self.n_head = keys.per_layer("attention.head_count", n_layer, at_least=least)
        self.n_head_kv = keys.per_layer("attention.head_count_kv", n_layer, self.n_head, at_least=least)
        for n_head, n_head_kv in zip(self.n_head, self.n_head_kv):
            if n_head_kv and n_head % n_head_kv:
                keys.fail("attention.head_count_kv", f"a divisor of head_count, {n_head}", n_head_kv)
            if not keys.has("attention.key_length") and n_head and n_embd % n_head:
                keys.fail("embedding_length", f"a multiple of head_count, {n_head}", n_embd)
        head_size = n_embd // (max(self.n_head) or 1)
        self.key_size = keys.integer("attention.key_length", head_size)
        self.value_size = keys.integer("attention.value_length", head_size)
        self.is_split = architecture.latent and keys.has("attention.key_length_mla")
        if self.is_split:  # those lengths are of the rows that llama.cpp keeps; these are of the heads
            self.key_size = keys.integer("attention.key_length_mla")
            self.value_size = keys.integer("attention.value_length_mla")
        self.is_recurrent = self._recurrent()
        self.windows = self._windows()
        self.sizes = self._sizes()
        self.shared = self._shared()
        self.is_mixture = self._mixtures()
        self.n_ff = self._n_ff()
        self.softcap = keys.feature("attn_logit_softcapping")
        self.scale = keys.feature("attention.scale") or architecture.attention_scale(
            self.key_size, n_embd, self.n_head[0], n_layer
        )
        self.residual_scale = keys.feature("residual_scale") or 1.0
        self.alibi = keys.feature("attention.max_alibi_bias") or architecture.alibi
        self.parallel = self._parallel()
        self.temperature_scale = keys.feature("attention.temperature_scale")
        self.temperature_length = self._temperature_length()
        self.ropes = {windowed: self._rope(windowed) for windowed in (False, True)}

    def layer(self, i: int) -> Layer:
        """Return the record of layer `i`."""
        feed_forward: FeedForward | Experts | None = None
        if self.is_mixture[i]:
            feed_forward = self._experts(i)
        elif self.n_ff[i]:
            feed_forward = self._dense(self.n_ff[i])
        return Layer(
            mixer=RECURRENT[self.architecture.recurrent](self)
            if self.is_recurrent[i]
            else self._latent(i)
            if self.architecture.latent
            else self._attention(i),
            feed_forward=feed_forward,
            norm=self.architecture.norm,
            eps=self.eps,
            parallel=self.parallel,
            residual_scale=self.residual_scale,
        )

    def _attention(self, i: int) -> Attention:
        entry, prefix = self.architecture, f"blk.{i}"
        windowed = self.windows[i] > 0
        key_size, value_size = self.sizes[windowed]
        has_keys, has_values = (f"{prefix}.attn_{part}.weight" in self.tensors for part in "kv")
        return Attention(
            n_head=self.n_head[i],
            n_head_kv=self.n_head_kv[i],
            key_size=key_size,
            value_size=value_size,
            scale=self.scale,
            rope=self.ropes[windowed] if entry.rope_at(i, windowed, any(self.windows)) else None,
            window=self.windows[i],
            causal=entry.causal,
            softcap=self.softcap,
            alibi=self.alibi,
            sinks=entry.sinks,
            temperature_scale=self.temperature_scale,
            temperature_length=self.temperature_length,
            output_gate=entry.output_gate,
            norm_values=entry.norm_values,
            keys_as_values=entry.keys_as_values and has_keys and not has_values,
            shared=self.shared[i],
        )

    def _sizes(self) -> dict[bool, tuple[int, int]]:
        """The sizes of keys and values in windowed layers (True) and in the others."""
        keys, usual = self.keys, (self.key_size, self.value_size)
        if not self.architecture.window_sizes:
            return {False: usual, True: usual}
        windowed = (
            keys.integer("attention.key_length_swa", usual[0]),
            keys.integer("attention.value_length_swa", usual[1]),
        )
        return {False: usual, True: windowed}

    def _shared(self) -> list[int | None]:
        """For each layer the one whose keys and values it reads instead of its own, or None.

        The last layers read those of the last layer before them that has a window too, or has none either.
        """
        n_layer, n_shared = self.n_layer, int(self.keys.feature("attention.shared_kv_layers"))
        if not n_shared:
            return [None] * n_layer
        n_own, kinds = max(n_layer - n_shared, 0), [window > 0 for window in self.windows]
        last = {kinds[i]: i for i in range(n_own)}
        found: list[int | None] = [None] * n_own
        for i in range(n_own, n_layer):
            if kinds[i] not in last:
                self.keys.fail(
                    "attention.shared_kv_layers",
                    "so few that layers with and without a window keep keys of their own",
                    n_shared,
                )
            source = last[kinds[i]]
            if self.n_head_kv[i] != self.n_head_kv[source]:
                self.keys.fail(
                    "attention.head_count_kv",
                    f"{self.n_head_kv[source]} in layer {i}, which reads the keys of layer {source}",
                    self.n_head_kv[i],
                )
            found.append(source)
        return found

    def _latent(self, i: int) -> LatentAttention:
        """Attention whose keys and values are made of one short row for each token."""
        keys, rope, n_head = self.keys, self.ropes[False], self.n_head[i]
        if rope is None or rope.dim >= self.key_size:
            keys.fail("rope.dimension_count", f"less than a key's length, {self.key_size}", self.key_size)
        expected = 1 if self.is_split else n_head
        if self.n_head_kv[i] != expected:
            keys.fail("attention.head_count_kv", str(expected), self.n_head_kv[i])
        rank = keys.integer("attention.kv_lora_rank")
        return LatentAttention(
            n_head=n_head,
            n_head_kv=1,
            key_size=rank + rope.dim,
            value_size=rank,
            head_key_size=self.key_size,
            head_value_size=self.value_size,
            scale=self.scale * self._latent_magnitude(rope) ** 2,
            rope=rope,
            q_rank=keys.integer("attention.q_lora_rank", 0, at_least=0),
            split=self.is_split,
        )

    def _latent_magnitude(self, rope: Rope) -> float:
        """By how much yarn enlarges queries and keys, the parts that are not turned included.

        Source: llama.cpp's deepseek2.cpp, whose key holds a tenth of the multiplier.
        """
        keys, factor = self.keys, 1 / rope.scale
        if factor != 1 and (rope.yarn is None or not rope.yarn.mix):
            keys.refuse("rope.scaling.factor", factor, "without yarn only 1 is")
        return rope.magnitude * (1 + self._latent_multiplier() * math.log(max(factor, 1.0)))

    def _latent_multiplier(self) -> float:
        return self.keys.number("rope.scaling.yarn_log_multiplier", 0.0)

    def _recurrent(self) -> list[bool]:
        """Whether each layer is recurrent: it has no key/value heads, or the file says so."""
        keys, n_layer = self.keys, self.n_layer
        if self.architecture.recurrent != "delta_net":
            return [n_head_kv == 0 for n_head_kv in self.n_head_kv]
        period = keys.integer("full_attention_interval", 4)
        listed = keys.get("attention.recurrent_layers")
        if listed is None:
            return [(i + 1) % period != 0 for i in range(n_layer)]
        if isinstance(listed, str) or not hasattr(listed, "__len__") or len(listed) != n_layer:
            keys.fail("attention.recurrent_layers", f"{n_layer} values, one for each layer", listed)
        return [bool(recurrent) for recurrent in listed]

    def delta_net(self) -> DeltaNet:
        """Return the record of a layer of Qwen 3.5 or Qwen3-Next that has no attention."""
        keys, entry = self.keys, self.architecture
        inner, n_head_k = keys.integer("ssm.inner_size"), keys.integer("ssm.group_count")
        n_head = keys.integer("ssm.time_step_rank", at_most=inner)
        head_size = keys.integer("ssm.state_size", at_most=MAX_STATE)
        if n_head % n_head_k:
            keys.fail("ssm.time_step_rank", f"a multiple of group_count, {n_head_k}", n_head)
        if inner != n_head * head_size:
            keys.fail("ssm.inner_size", f"time_step_rank times state_size, {n_head * head_size}", inner)
        return DeltaNet(
            n_head_k=n_head_k,
            n_head=n_head,
            head_size=head_size,
            n_taps=keys.integer("ssm.conv_kernel", at_least=2, at_most=MAX_TAPS),
            tiled=entry.tiled_heads,
            fused_rates=not entry.tiled_heads,
        )

    def short_convolution(self) -> ShortConvolution:
        """Return the record of a layer of LFM2 that has no attention."""
        n_taps = self.keys.integer("shortconv.l_cache", at_least=2, at_most=MAX_TAPS)
        return ShortConvolution(width=self.n_embd, n_taps=n_taps)

    def mamba(self) -> Mamba:
        """Return the record of a layer of Mamba."""
        keys = self.keys
        if keys.flag("ssm.dt_b_c_rms", False):
            keys.refuse("ssm.dt_b_c_rms", True, "only false is")
        return Mamba(
            width=keys.integer("ssm.inner_size"),
            rank=keys.integer("ssm.time_step_rank"),
            state_size=keys.integer("ssm.state_size", at_most=MAX_STATE),
            n_taps=keys.integer("ssm.conv_kernel", at_least=2, at_most=MAX_TAPS),
        )

    def mamba2(self) -> Mamba2:
        """Return the record of a layer of Mamba-2."""
        keys = self.keys
        inner = keys.integer("ssm.inner_size")
        n_head = keys.integer("ssm.time_step_rank", at_most=inner)
        n_group = keys.integer("ssm.group_count", 1, at_most=n_head)
        if inner % n_head or n_head % n_group:
            keys.fail(
                "ssm.time_step_rank",
                f"a divisor of inner_size, {inner}, and a multiple of group_count",
                n_head,
            )
        return Mamba2(
            n_head=n_head,
            head_size=inner // n_head,
            n_group=n_group,
            state_size=keys.integer("ssm.state_size", at_most=MAX_STATE),
            n_taps=keys.integer("ssm.conv_kernel", at_least=2, at_most=MAX_TAPS),
        )

    def _dense(self, n_ff: int) -> FeedForward:
        return FeedForward(n_ff=n_ff, activation=self.architecture.activation, gated=self.architecture.gated)

    def _n_ff(self) -> tuple[int, ...]:
        if all(self.is_mixture) and not self.keys.has("feed_forward_length"):
            return (0,) * self.n_layer
        least = 0 if self.architecture.recurrent else 1
        return self.keys.per_layer("feed_forward_length", self.n_layer, at_least=least)

    def _parallel(self) -> bool:
        """Whether attention and feed-forward network read the same input."""
        entry, keys = self.architecture, self.keys
        if "use_parallel_residual" not in entry.features:
            keys.feature("use_parallel_residual")
            return entry.parallel
        if keys.has("use_parallel_residual"):
            return keys.flag("use_parallel_residual", True)
        if "ffn_norm" in entry.optional:  # it has no norm of its own if it reads the attention's
            return "blk.0.ffn_norm.weight" not in self.tensors
        raise ModelError.missing(f"{keys.prefix}.use_parallel_residual", f"a {keys.prefix} model needs it")

    def _temperature_length(self) -> int:
        if not self.temperature_scale:
            return 0
        original = self.keys.integer("rope.scaling.original_context_length", self.n_ctx)
        return int(self.keys.feature("attention.temperature_length")) or original

    # ---- windows ---------------------------------------------------------------------------------------

    def _windows(self) -> tuple[int, ...]:
        """Each layer's window; 0 where it sees everything."""
        rule, keys, n_layer = self.architecture.windows, self.keys, self.n_layer
        if rule is None:
            if keys.has("attention.sliding_window"):
                size = keys.number("attention.sliding_window")
                if 0 < size < self.n_ctx:
                    keys.refuse("attention.sliding_window", size, "only windows as long as the context are")
            return (0,) * n_layer
        size = keys.integer("attention.sliding_window", rule.size, at_least=0)
        if size == 0:
            return (0,) * n_layer
        pattern = keys.get("attention.sliding_window_pattern", rule.pattern)
        if hasattr(pattern, "__len__") and not isinstance(pattern, str):
            if len(pattern) != n_layer:
                keys.fail("attention.sliding_window_pattern", f"{n_layer} values", f"{len(pattern)} values")
            return tuple(size if windowed else 0 for windowed in pattern)
        period = keys.integer("attention.sliding_window_pattern", rule.pattern, at_least=0)
        return tuple(size if windowed else 0 for windowed in rule.layers(n_layer, period))

    # ---- experts ---------------------------------------------------------------------------------------

    def _mixtures(self) -> tuple[bool, ...]:
        """Whether each layer is a mixture of experts."""
        keys, entry = self.keys, self.architecture
        if entry.experts is None:
            keys.feature("expert_count")
            return (False,) * self.n_layer
        if not entry.expert_count_required and keys.number("expert_count", 0) == 0:
            return (False,) * self.n_layer
        self.n_expert = keys.integer("expert_count", at_most=MAX_EXPERTS)
        self.n_used = keys.integer("expert_used_count", at_most=self.n_expert)
        keys.feature("expert_group_count")
        n_dense = int(keys.feature("leading_dense_block_count"))
        return tuple(i >= n_dense for i in range(self.n_layer))

    def _experts(self, i: int) -> Experts:
        keys, routing = self.keys, dict(self.architecture.experts or {})
        if routing.pop("beside", False):
            routing["beside"] = self._dense(self.n_ff[i])
            routing["fused"] = f"blk.{i}.ffn_gate_up_exps.weight" in self.tensors
        n_ff = keys.integer("expert_feed_forward_length", self.n_ff[0] or None)
        number = int(keys.number("expert_gating_func", 0))
        if number not in (0, *GATING):
            keys.fail("expert_gating_func", f"one of {', '.join(map(str, GATING))}", number)
        usual = routing.get("gating", "softmax")
        gating = GATING[number] if number else usual
        if gating != usual and not routing.pop("any_gating", False):
            keys.refuse("expert_gating_func", gating, f"only {usual} is")
        routing.pop("any_gating", None)
        shared = routing.pop("shared", False)
        n_ff_shared = self._shared_width(n_ff) if shared else 0
        if not shared:
            keys.feature("expert_shared_count")
            keys.feature("expert_shared_feed_forward_length")
        routing |= self._groups(gating)
        normalized = keys.flag("expert_weights_norm", routing.pop("normalized", True))
        weight_scale = self._weight_scale(routing.pop("any_scale", False))
        return Experts(
            **{"n_expert": self.n_expert, "n_used": self.n_used, "n_ff": n_ff} | routing
            | {"gating": gating, "normalized": normalized, "weight_scale": weight_scale,
               "n_ff_shared": n_ff_shared}
        )  # fmt: skip

    def _groups(self, gating: str) -> dict[str, int]:
        """The groups that experts are chosen in; without groups, nothing."""
        keys, n_expert = self.keys, self.n_expert
        n_group = keys.integer("expert_group_count", 1, at_least=0, at_most=MAX_GROUPS)
        if "expert_group_count" not in keys.features or n_group <= 1:
            return {}
        if n_expert % n_group or n_expert == n_group:
            keys.fail("expert_group_count", f"a divisor of expert_count, {n_expert}, below it", n_group)
        n_used = keys.integer("expert_group_used_count", at_most=n_group)
        if n_used * (n_expert // n_group) < self.n_used:
            keys.fail("expert_group_used_count", f"groups with at least {self.n_used} experts", n_used)
        if gating == "softmax_chosen":
            keys.refuse("expert_gating_func", gating, "with groups only softmax and sigmoid are")
        return {} if n_used == n_group else {"n_group": n_group, "n_group_used": n_used}

    def _weight_scale(self, obeyed: bool) -> float:
        scale = self.keys.number("expert_weights_scale", 1.0) or 1.0
        if scale != 1 and not obeyed:
            self.keys.refuse("expert_weights_scale", scale, "only 1 is")
        return scale

    def _shared_width(self, n_ff: int) -> int:
        count = self.keys.integer("expert_shared_count", 0, at_least=0)
        return self.keys.integer("expert_shared_feed_forward_length", count * n_ff, at_least=0)

    # ---- positions -------------------------------------------------------------------------------------

    def _rope(self, windowed: bool) -> Rope | None:
        """How queries and keys are turned in windowed layers, or in the others."""
        entry, keys, rule = self.architecture, self.keys, self.architecture.windows
        if not entry.rope_pairs:
            return None
        if "rope.scaling.finetuned" in entry.features and not keys.flag("rope.scaling.finetuned", True):
            return None
        size, key = self.sizes[False][0], "rope.dimension_count"
        dim = keys.integer(key, size, at_most=size)
        if windowed and entry.window_sizes:
            size, key = self.sizes[True][0], "rope.dimension_count_swa"
            dim = keys.integer(key, min(dim, size), at_most=size)
        if dim % 2:
            keys.fail(key, "an even number", dim)
        rope = Rope(dim=dim, pairs=entry.rope_pairs, base=keys.positive("rope.freq_base", 10000.0))
        if windowed and rule is not None:
            base = keys.positive("rope.freq_base_swa", rule.rope_base or rope.base)
            rope = replace(rope, base=base)
            if not rule.scaled:
                return rope
        return self._scaled(rope)

    def _scaled(self, rope: Rope) -> Rope:
        """`rope` with the scaling that the file asks for."""
        keys = self.keys
        kind = keys.get("rope.scaling.type", "linear")
        if not isinstance(kind, str) or kind not in ("none", "linear", "yarn", "longrope"):
            keys.refuse("rope.scaling.type", kind, "supported are none, linear, yarn, longrope")
        magnitude = keys.number("rope.scaling.attn_factor", 1.0) or 1.0
        factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0))
        if kind == "none" or factor == 0:  # llama.cpp takes 0 for absent
            factor = 1.0
        rope = replace(rope, scale=1 / factor, magnitude=magnitude)
        if "rope_freqs.weight" in self.tensors:
            rope = replace(rope, factors="rope_freqs")
        if "rope_factors_short.weight" in self.tensors:
            self.n_ctx_original = keys.integer("rope.scaling.original_context_length", self.n_ctx)
            rope = replace(rope, factors="rope_factors_short", scale=1.0)
        if kind == "yarn":
            return self._yarn(rope, factor)
        return rope

    def _yarn(self, rope: Rope, factor: float) -> Rope:
        keys = self.keys
        mix = keys.number("rope.scaling.yarn_ext_factor", 1.0)
        yarn = Yarn(
            n_ctx=keys.integer("rope.scaling.original_context_length", self.n_ctx),
            beta_fast=keys.positive("rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=keys.positive("rope.scaling.yarn_beta_slow", 1.0),
            mix=mix,
            rounded=self.architecture.yarn_rounded,
        )
        magnitude = rope.magnitude * (keys.number("rope.scaling.yarn_attn_factor", 1.0) or 1.0)
        multiplier = keys.number("rope.scaling.yarn_log_multiplier", 0.0)
        if self.architecture.latent and multiplier:  # the scale of attention has it instead
            return replace(rope, yarn=yarn, magnitude=magnitude)
        if mix:
            magnitude *= (1 + 0.1 * math.log(factor)) if factor > 1 else 1.0
            if multiplier:
                magnitude /= (1 + 0.1 * multiplier * math.log(factor)) if factor > 1 else 1.0
        return replace(rope, yarn=yarn, magnitude=magnitude)


RECURRENT = {  # what an entry calls a mixer -> its record
    "short_convolution": _Layers.short_convolution,
    "mamba": _Layers.mamba,
    "mamba2": _Layers.mamba2,
    "delta_net": _Layers.delta_net,
}


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
