"""A file's hyper-parameters. Each is checked when it is read, and an unread key is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from llmlite.errors import ModelError, UnsupportedError

# Keys that change no result, with the reason.
HARMLESS = {
    "vocab_size": "the number of rows of token_embd gives it",
    "tensor_data_layout": "the layout is that of the architecture",
    "classifier.output_labels": "they are names",
    "rope.scaling.finetuned": "it says how the model was trained; architectures that obey it read it",
    "rope.scaling.original_context_length": "only yarn and longrope use it, and read it",
    "rope.scaling.factor": "only a scaling type other than none uses it",
    "rope.scale_linear": "an older name of rope.scaling.factor",
    "rope.scaling.yarn_log_multiplier": "only yarn uses it",
    "rope.scaling.yarn_ext_factor": "only yarn uses it",
    "rope.scaling.yarn_attn_factor": "only yarn uses it",
    "rope.scaling.yarn_beta_fast": "only yarn uses it",
    "rope.scaling.yarn_beta_slow": "only yarn uses it",
    "attention.layer_norm_epsilon": "models with RMSNorm read attention.layer_norm_rms_epsilon",
    "attention.layer_norm_rms_epsilon": "models with LayerNorm read attention.layer_norm_epsilon",
    "attention.sliding_window_pattern": "it has no meaning without a window",
    "rope.freq_base_swa": "it has no meaning without a window",
    "rope.dimension_sections": "for text, all sections rotate by the same position",
    "rope.freq_base": "a model without RoPE has no use for it",
    "rope.dimension_count": "a model without RoPE has no use for it",
    "expert_feed_forward_length": "a model without experts has no use for it",
    "expert_used_count": "a model without experts has no use for it",
    "expert_gating_func": "a model without experts has no use for it",
    "expert_weights_norm": "a model without experts has no use for it",
    "expert_weights_scale": "a model without experts has no use for it",
    "feed_forward_length": "a model whose every layer is a mixture reads expert_feed_forward_length",
}
TOWERS = ("vision.", "audio.", "mm.")  # keys of towers for images and sound, which text doesn't use
# Keys that request a feature, with the value that requests nothing.
FEATURES: dict[str, Any] = {
    "attn_logit_softcapping": 0.0,
    "final_logit_softcapping": 0.0,
    "embedding_scale": 1.0,
    "residual_scale": 1.0,
    "logit_scale": 1.0,
    "attention.scale": 0.0,
    "attention.clamp_kqv": 0.0,
    "attention.max_alibi_bias": 0.0,
    "attention.temperature_scale": 0.0,
    "attention.temperature_length": 0,
    "attention.sliding_window": 0,
    "use_parallel_residual": False,
    "expert_count": 0,
    "expert_shared_count": 0,
    "expert_shared_feed_forward_length": 0,
    "expert_group_count": 1,
    "expert_group_used_count": 1,
    "leading_dense_block_count": 0,
    "interleave_moe_layer_step": 1,
    "moe_every_n_layers": 1,
    "nextn_predict_layers": 0,
    "rope.scaling.alpha": 0.0,
    "attention.shared_kv_layers": 0,
    "embedding_length_per_layer_input": 0,
    "swiglu_clamp_exp": 0.0,
    "decoder_start_token_id": None,
}


class Keys:
    """The keys of one architecture, without its prefix; each is checked when it is read.

    Args:
        metadata: metadata of a GGUF file.
        prefix: name of the architecture.
        features: the keys of FEATURES that the architecture supports.
    """

    def __init__(self, metadata: Mapping[str, Any], prefix: str, features: tuple[str, ...] = ()) -> None:
        self.metadata = metadata
        self.prefix = prefix
        self.features = features
        self._read: set[str] = set()

    def has(self, name: str) -> bool:
        """Return whether the file has this key."""
        return f"{self.prefix}.{name}" in self.metadata

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value from the file, unchecked."""
        self._read.add(name)
        return self.metadata.get(f"{self.prefix}.{name}", default)

    def fail(self, name: str, expected: str, got: object) -> NoReturn:
        """Raise ModelError for a value that no model can have."""
        raise ModelError.at(f"{self.prefix}.{name}", expected, repr(got))

    def refuse(self, name: str, got: object, supported: str) -> NoReturn:
        """Raise UnsupportedError for a value that llmlite doesn't run."""
        shown = f"{got:g}" if isinstance(got, float) else f"{got!r:.80}"
        raise UnsupportedError.about(
            f"{self.prefix}.{name}", f"{shown} is not supported; {supported}", expected=supported, got=got
        )

    def required(self, name: str, default: Any) -> Any:
        """Return a value, or the default if there is one."""
        value = self.get(name, default)
        if value is None:
            raise ModelError.missing(f"{self.prefix}.{name}", f"a {self.prefix} model needs it")
        return value

    def integer(
        self, name: str, default: int | None = None, *, at_least: int = 1, at_most: int = 2**31 - 1
    ) -> int:
        """Return a count."""
        return self._count(name, self.required(name, default), at_least, at_most)

    def per_layer(
        self,
        name: str,
        n_layer: int,
        default: int | tuple[int, ...] | None = None,
        *,
        at_least: int = 1,
        at_most: int = 2**31 - 1,
    ) -> tuple[int, ...]:
        """Return one count for each layer, from one value or an array of n_layer."""
        if not self.has(name) and isinstance(default, tuple):
            return default
        value = self.required(name, default)
        if isinstance(value, str) or not hasattr(value, "__len__"):
            return (self._count(name, value, at_least, at_most),) * n_layer
        if len(value) != n_layer:
            self.fail(name, f"one value or {n_layer}, one for each layer", f"{len(value)} values")
        return tuple(self._count(name, value[layer], at_least, at_most) for layer in range(n_layer))

    def _count(self, name: str, value: Any, at_least: int, at_most: int) -> int:
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
            self.fail(name, "an integer", value)
        if not at_least <= value <= at_most:
            self.fail(name, f"{at_least} to {at_most}", int(value))
        return int(value)

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number, 0 or more."""
        value = self.required(name, default)
        is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < 0:
            self.fail(name, "a number, 0 or more", value)
        return float(value)

    def positive(self, name: str, default: float | None = None) -> float:
        """Return a number above 0."""
        value = self.number(name, default)
        if value == 0:
            self.fail(name, "a number above 0", value)
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false."""
        value = self.get(name, default)
        if not isinstance(value, (bool, np.bool_)):
            self.fail(name, "true or false", value)
        return bool(value)

    def feature(self, name: str) -> Any:
        """Return the number or flag of a key of FEATURES.

        Raises:
            UnsupportedError: the value requests a feature that this architecture doesn't have.
        """
        neutral = FEATURES[name]
        value = self.flag(name, neutral) if isinstance(neutral, bool) else self.number(name, neutral or 0.0)
        if name in self.features or value == neutral or (not isinstance(neutral, bool) and value == 0):
            return value
        self.refuse(name, value, f"in a {self.prefix} model only {neutral} is")

    def refuse_unread(self) -> None:
        """Refuse keys that weren't read, unless they are known to change nothing.

        Raises:
            UnsupportedError: there is such a key. The error names it and its value.
        """
        start = f"{self.prefix}."
        for key, value in self.metadata.items():
            name = key.removeprefix(start)
            if not key.startswith(start) or name in self._read or name in HARMLESS:
                continue
            if name.startswith(TOWERS):
                continue
            if name in FEATURES:
                self.feature(name)
                continue
            raise UnsupportedError.about(
                key,
                f"{value!r:.60}: this key is unknown, and ignoring it could give wrong answers",
                expected="only known keys",
                got=key,
            )
