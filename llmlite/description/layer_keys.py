"""A model's layers, built from a file's keys: one record for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llmlite.description import mixer_keys, rope_keys
from llmlite.description.architectures import Architecture
from llmlite.description.hyperparameters import Keys
from llmlite.description.layers import Attention, Experts, FeedForward, Layer
from llmlite.errors import ModelError

if TYPE_CHECKING:
    from llmlite.quants.tensor import QuantTensor

MAX_EXPERTS = 512  # llama.cpp's LLAMA_MAX_EXPERTS
MAX_GROUPS = 32  # of experts; DeepSeek-V3 has 8
GATING = {1: "softmax", 2: "sigmoid", 3: "softmax_chosen"}  # llama.cpp's llama_expert_gating_func_type


class Layers:
    """Build the layers' records from keys that have one value for all layers, or one value for each."""

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
        if self.is_split:  # the lengths above are of rows in llama.cpp's cache; these are of the heads
            self.key_size = keys.integer("attention.key_length_mla")
            self.value_size = keys.integer("attention.value_length_mla")
        self.is_recurrent = mixer_keys.recurrent_layers(self)
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
        self.ropes = {windowed: rope_keys.rope(self, windowed) for windowed in (False, True)}

    def layer(self, i: int) -> Layer:
        """Return the record of layer `i`."""
        feed_forward: FeedForward | Experts | None = None
        if self.is_mixture[i]:
            feed_forward = self._experts(i)
        elif self.n_ff[i]:
            feed_forward = self._dense(self.n_ff[i])
        return Layer(
            mixer=mixer_keys.RECURRENT[self.architecture.recurrent](self)
            if self.is_recurrent[i]
            else mixer_keys.latent(self, i)
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
        """Return the sizes of keys and values in windowed layers (True) and in other layers (False)."""
        keys, usual = self.keys, (self.key_size, self.value_size)
        if not self.architecture.window_sizes:
            return {False: usual, True: usual}
        windowed = (
            keys.integer("attention.key_length_swa", usual[0]),
            keys.integer("attention.value_length_swa", usual[1]),
        )
        return {False: usual, True: windowed}

    def _shared(self) -> list[int | None]:
        """Return, for each layer, the layer whose keys and values it reads instead of its own, or None.

        The last layers share those of the nearest earlier layer of the same kind, with or without a window.
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
                    "a number that leaves layers with and without a window their own keys",
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

    def _dense(self, n_ff: int) -> FeedForward:
        return FeedForward(n_ff=n_ff, activation=self.architecture.activation, gated=self.architecture.gated)

    def _n_ff(self) -> tuple[int, ...]:
        if all(self.is_mixture) and not self.keys.has("feed_forward_length"):
            return (0,) * self.n_layer
        least = 0 if self.architecture.recurrent else 1
        return self.keys.per_layer("feed_forward_length", self.n_layer, at_least=least)

    def _parallel(self) -> bool:
        """Return whether attention and feed-forward network read the same input."""
        entry, keys = self.architecture, self.keys
        if "use_parallel_residual" not in entry.features:
            keys.feature("use_parallel_residual")
            return entry.parallel
        if keys.has("use_parallel_residual"):
            return keys.flag("use_parallel_residual", True)
        if "ffn_norm" in entry.optional:  # it has no norm if it reads the attention's input
            return "blk.0.ffn_norm.weight" not in self.tensors
        raise ModelError.missing(f"{keys.prefix}.use_parallel_residual", f"a {keys.prefix} model needs it")

    def _temperature_length(self) -> int:
        if not self.temperature_scale:
            return 0
        original = self.keys.integer("rope.scaling.original_context_length", self.n_ctx)
        return int(self.keys.feature("attention.temperature_length")) or original

    # ---- windows ---------------------------------------------------------------------------------------

    def _windows(self) -> tuple[int, ...]:
        """Return each layer's window; 0 for a layer that sees all positions."""
        rule, keys, n_layer = self.architecture.windows, self.keys, self.n_layer
        if rule is None:
            if keys.has("attention.sliding_window"):
                size = keys.number("attention.sliding_window")
                if 0 < size < self.n_ctx:
                    keys.refuse("attention.sliding_window", size, "only a window as long as the context is")
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
        """Return whether each layer is a mixture of experts."""
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
        """Return the number of groups of experts, and of groups in use; empty without groups."""
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
