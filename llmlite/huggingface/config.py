"""Read config.json key by key, and convert it to the hyper-parameters of a GGUF file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from llmlite.description.architectures import Architecture, by_class
from llmlite.errors import ModelError, UnsupportedError
from llmlite.huggingface.safetensors import read_json, shown

# an activation of layers.ACTIVATIONS -> its names in config.json
ACTIVATIONS = {
    "silu": ("silu", "swish", "swiglu"),
    "gelu": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
    "gelu_erf": ("gelu",),
    "relu2": ("relu2",),
    "swiglu_oai": ("silu",),
}
UNLIMITED = 2**20  # the context length that llama.cpp's converter writes for a model without a limit
NEVER_TURNED = 1e30  # the divisor that llama.cpp's converter writes for a frequency of 0
ACTIVATION_KEYS = ("hidden_activation", "hidden_act", "activation_function")
EPS_KEYS = {
    "rms": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "layer": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
}
EPS_NAMES = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}


class Config:
    """The content of config.json. Methods check the values that they return; errors name the key.

    Args:
        path: path of the file.

    Attributes:
        path: path of the file.
        values: its object.
        class_name: the class of transformers, set by `architecture`.

    Raises:
        GGUFError: the file isn't JSON.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.values = read_json(path)

    def fail(self, key: str, expected: str, got: object) -> NoReturn:
        raise ModelError(f"{self.path}: {key}: expected {expected}, got {shown(got)}")

    def refuse(self, text: str) -> NoReturn:
        raise UnsupportedError(f"{self.path}: {text}")

    def architecture(self) -> Architecture:
        """Return the architecture. Refuse variants that would run but give wrong answers."""
        named = self.values.get("architectures")
        if not isinstance(named, list) or len(named) != 1:
            self.fail("architectures", "a list of one", named)
        try:
            architecture = by_class(named[0])
        except UnsupportedError as error:
            self.refuse(str(error))
        if self.values.get("quantization_config"):
            self.refuse("quantization_config: only models that are not quantized can be converted")
        self.class_name = named[0]
        key = next((key for key in ACTIVATION_KEYS if self.values.get(key) is not None), None)
        usual = ACTIVATIONS[architecture.activation]
        if key is not None and self.values[key] not in usual:
            self.refuse(f"{key}: {shown(self.values[key])} is not supported, only {usual[0]!r} is")
        return architecture

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            self.fail(key, "true or false", value)
        return value

    def integer(self, key: str | Sequence[str], default: int | None = None) -> int:
        """Return a count. Of several keys, the first one in the file is used."""
        keys = (key,) if isinstance(key, str) else key
        key = next((name for name in keys if self.values.get(name) is not None), keys[0])
        value = self.values.get(key)
        value = default if value is None else value
        if type(value) is not int or not 0 < value < 2**31:
            self.fail(key, "a whole number above 0", "nothing" if value is None else value)
        return value

    def number(self, values: Mapping[str, Any], key: str, default: float | None = None) -> float:
        value = values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            self.fail(key, "a number above 0", "nothing" if value is None else value)
        return float(value)

    def hyperparameters(self, architecture: Architecture) -> dict[str, Any]:
        """Return the keys of a GGUF file, without the architecture's prefix."""
        if architecture.recurrent and self.values.get("num_attention_heads") is None:
            return self._without_attention(architecture)
        n_head = self.integer(("num_attention_heads", "n_head"))
        found: dict[str, Any] = {
            "block_count": self.integer(("num_hidden_layers", "n_layer")),
            "context_length": self._n_ctx(architecture),
            "embedding_length": self.integer(("hidden_size", "n_embd")),
            "attention.head_count": n_head,
            "attention.head_count_kv": self.integer("num_key_value_heads", n_head),
            EPS_NAMES[architecture.norm]: self._eps(architecture),
            "vocab_size": self.integer("vocab_size"),
        }
        n_embd = found["embedding_length"]
        n_ff = self.integer(("intermediate_size", "n_inner", "ffn_hidden_size"), 4 * n_embd)
        found["feed_forward_length"] = n_ff
        if self.head_size() * n_head != n_embd:
            found |= {"attention.key_length": self.head_size(), "attention.value_length": self.head_size()}
        if architecture.rope_pairs:
            found |= self._rope_keys(architecture)
        if architecture.windows is not None:
            found |= self._windows(architecture)
        if architecture.expert_count_required or self.class_name == "MixtralForCausalLM":
            found |= self._experts()
        if not architecture.causal:
            found["attention.causal"] = False
        found |= architecture.hyperparameters(self)
        return {key: value for key, value in found.items() if value is not None}

    def _without_attention(self, architecture: Architecture) -> dict[str, Any]:
        """Return the keys of a model that has neither attention nor feed-forward networks."""
        return {
            "block_count": self.integer("num_hidden_layers"),
            "context_length": self.integer("max_position_embeddings", UNLIMITED),
            "embedding_length": self.integer("hidden_size"),
            "feed_forward_length": 0,
            "attention.head_count": 0,
            EPS_NAMES[architecture.norm]: self._eps(architecture),
            "vocab_size": self.integer("vocab_size"),
        } | architecture.hyperparameters(self)

    def _eps(self, architecture: Architecture) -> float:
        keys = EPS_KEYS[architecture.norm]
        key = next((key for key in keys if self.values.get(key) is not None), keys[0])
        return self.number(self.values, key, 1e-5 if architecture.norm == "layer" else None)

    def _rope_keys(self, architecture: Architecture) -> dict[str, Any]:
        rope = self.rope()
        share = self.number(rope | self.values, "partial_rotary_factor", 1.0)
        if share != 1 and architecture.rope_pairs == "norm" and architecture.reordered:
            self.refuse("partial_rotary_factor: only 1 is supported in this architecture")
        found: dict[str, Any] = {
            "rope.freq_base": self.number(rope | self.values, "rope_theta", 10000.0),
            "rope.dimension_count": int(self.head_size() * share),
        }
        return found | self._rope_scaling(rope)

    def _rope_scaling(self, rope: dict[str, Any]) -> dict[str, Any]:
        """Return the keys of the scaling of RoPE's frequencies."""
        kind = self._rope_type()
        if kind == "linear":
            return {"rope.scaling.type": "linear", "rope.scaling.factor": self.number(rope, "factor")}
        if kind not in ("yarn", "longrope"):
            return {}
        n_ctx = self.integer(("max_position_embeddings", "n_positions"))
        original = self.integer("original_max_position_embeddings", n_ctx)
        if rope.get("original_max_position_embeddings") is not None:
            original = int(self.number(rope, "original_max_position_embeddings"))
        implied = rope.get(
            "original_max_position_embeddings", self.values.get("original_max_position_embeddings")
        )
        factor = self.number(rope, "factor", None if implied is None else n_ctx / original)
        found: dict[str, Any] = {"rope.scaling.original_context_length": original}
        if kind == "longrope":
            usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
            return found | {"rope.scaling.attn_factor": self.number(rope, "attention_factor", usual)}
        found |= {"rope.scaling.type": "yarn", "rope.scaling.factor": factor}
        for theirs, ours in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
            if rope.get(theirs) is not None:
                found[f"rope.scaling.{ours}"] = self.number(rope, theirs)
        usual = 1 + 0.1 * math.log(factor) if factor > 1 else 1.0  # the default of GGUF readers
        wanted = self._yarn_magnitude(rope, factor, usual)
        if abs(wanted - usual) > 1e-9:
            found["rope.scaling.attn_factor"] = wanted / usual
        return found

    def _yarn_magnitude(self, rope: dict[str, Any], factor: float, usual: float) -> float:
        """Return the factor of cosines and sines. Source: transformers, _compute_yarn_parameters."""
        if rope.get("attention_factor") is not None:
            return self.number(rope, "attention_factor")
        if not (rope.get("mscale") and rope.get("mscale_all_dim")):
            return usual

        def scale(m: float) -> float:
            return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0

        return scale(self.number(rope, "mscale")) / scale(self.number(rope, "mscale_all_dim"))

    def _windows(self, architecture: Architecture) -> dict[str, Any]:
        """Return the keys of windows, with the pattern only if it isn't the architecture's default."""
        rule, n_layer = architecture.windows, self.integer(("num_hidden_layers", "n_layer"))
        assert rule is not None
        if self.values.get("sliding_window") is None or not self.flag("use_sliding_window", True):
            return {"attention.sliding_window": 0} if rule.size else {}
        found: dict[str, Any] = {"attention.sliding_window": self.integer("sliding_window")}
        kinds = self.values.get("layer_types")
        if isinstance(kinds, list):
            windowed = [kind == "sliding_attention" for kind in kinds]
            if windowed != rule.layers(n_layer):
                periods = (n for n in range(1, n_layer + 2) if windowed == rule.layers(n_layer, n))
                found["attention.sliding_window_pattern"] = next(periods, np.array(windowed))
        base = self.number(self.rope("sliding_attention") | self._local_base(), "rope_theta", 10000.0)
        usual = rule.rope_base or self.number(self.rope() | self.values, "rope_theta", 10000.0)
        if base != usual:
            found["rope.freq_base_swa"] = base
        return found

    def _local_base(self) -> dict[str, Any]:
        base = self.values.get("rope_local_base_freq", self.values.get("local_rope_theta"))
        if base is None and self.rope("sliding_attention") == self.rope():
            base = self.values.get("rope_theta")
        return {} if base is None else {"rope_theta": base}

    def _experts(self) -> dict[str, Any]:
        """Return a mixture's keys. Refuse variants that would run but give wrong answers."""
        count = "num_local_experts" if self.values.get("num_local_experts") is not None else "num_experts"
        found = {
            "expert_count": self.integer(count),
            "expert_used_count": self.integer("num_experts_per_tok"),
        }
        if self.integer("decoder_sparse_step", 1) != 1 or self.values.get("mlp_only_layers"):
            self.refuse("decoder_sparse_step, mlp_only_layers: only mixtures in every layer are supported")
        if self.values.get("moe_intermediate_size") is not None:
            found["expert_feed_forward_length"] = self.integer("moe_intermediate_size")
        return found

    def shares_add_up(self, wanted: bool) -> None:
        """Check whether the chosen experts' weights add up to 1; refuse if this isn't `wanted`."""
        if self.flag("norm_topk_prob") != wanted:
            self.refuse(f"norm_topk_prob: only {str(wanted).lower()} is supported in this architecture")

    def head_size(self) -> int:
        n_embd = self.integer(("hidden_size", "n_embd"))
        n_head = self.integer(("num_attention_heads", "n_head"))
        if self.values.get("head_dim") is None and n_embd % n_head:
            self.fail("hidden_size", f"a multiple of num_attention_heads, {n_head}", n_embd)
        return self.integer("head_dim", n_embd // n_head)

    def _n_ctx(self, architecture: Architecture) -> int:
        """Return the context length, at most the size of a window that a GGUF file can't express."""
        n_ctx = self.integer(("max_position_embeddings", "n_positions"))
        if architecture.windows is not None:
            return n_ctx
        if self.values.get("sliding_window") is None or not self.flag("use_sliding_window", True):
            return n_ctx
        return min(n_ctx, self.integer("sliding_window"))

    def rope(self, kind: str = "full_attention") -> dict[str, Any]:
        """Return the object with RoPE's parameters, under its new name or its old one.

        Args:
            kind: the kind of layers, if the object has parameters for each kind.
        """
        for key in ("rope_parameters", "rope_scaling"):
            value = self.values.get(key)
            if value is not None and not isinstance(value, dict):
                self.fail(key, "an object", value)
            if value and all(isinstance(each, dict) for each in value.values()):
                value = value.get(kind, {})
            if value:
                return value
        return {}

    def _rope_type(self) -> str:
        kind = self.rope().get("rope_type", self.rope().get("type", "default"))
        known = ("default", "linear", "llama3", "yarn", "longrope", "proportional")
        if kind not in known:
            self.refuse(f"rope_type: {shown(kind)} is not supported; supported are {', '.join(known)}")
        return kind

    def rope_factors(self) -> dict[str, np.ndarray]:
        """Return the divisors of RoPE's frequencies: name of the tensor -> float32 (dim/2,).

        In Llama 3.x, long waves are stretched by `factor`, short ones are kept, and those between are
        blended. longrope has divisors for contexts up to the original length, and others for longer ones.
        Source: transformers' modeling_rope_utils.py, _compute_llama3_parameters.
        """
        rope = self.rope()
        if self._rope_type() == "longrope":
            return {
                f"rope_factors_{kind}": self._factors(rope, f"{kind}_factor") for kind in ("long", "short")
            }
        if self._rope_type() == "proportional":
            return {"rope_freqs": self._proportional(rope)}
        if self._rope_type() != "llama3":
            return {}
        factor, low, high, n_ctx = (
            self.number(rope, key)
            for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        )
        if low >= high:
            self.fail("low_freq_factor", f"less than high_freq_factor, {high}", low)
        base = self.number(rope | self.values, "rope_theta", 10000.0)
        exponents = np.arange(0, self.head_size(), 2) / self.head_size()
        wavelengths = 2 * math.pi * base**exponents  # in tokens
        blend = np.clip((n_ctx / wavelengths - low) / (high - low), 0, 1)  # 0: stretched, 1: kept
        return {"rope_freqs": (1 / ((1 - blend) / factor + blend)).astype(np.float32)}

    def _proportional(self, rope: dict[str, Any]) -> np.ndarray:
        """Return the divisors of proportional RoPE: 1 for rotated pairs, a huge number for the others.

        Source: transformers' modeling_rope_utils.py, _compute_proportional_rope_parameters.
        """
        if self.number(rope, "factor", 1.0) != 1:
            self.refuse("factor: only 1 is supported in proportional RoPE")
        size = self.global_head_size()
        turned = int(self.number(rope, "partial_rotary_factor", 1.0) * size // 2)
        return np.where(np.arange(size // 2) < turned, 1, NEVER_TURNED).astype(np.float32)

    def global_head_size(self) -> int:
        """Return the size of heads in layers without a window, which may be another than in windowed ones."""
        return int(self.in_global_layers("head_dim", "global_head_dim") or self.head_size())

    def in_global_layers(self, key: str, named: str) -> int | None:
        """Return the value of `key` in layers without a window; None if it is the same as in other layers.

        Args:
            key: a key of config.json.
            named: the key for the value in all layers without a window.
        """
        if self.values.get(named) is not None:
            return self.integer(named)
        each, kinds = self.values.get("per_layer_config"), self.values.get("layer_types")
        if not isinstance(each, dict) or not isinstance(kinds, list):
            return None
        found = {
            changes.get(key)
            for i, changes in each.items()
            if isinstance(changes, dict)
            and str(i).isdecimal()
            and kinds[int(i) : int(i) + 1] == ["full_attention"]
        }
        if len(found) > 1 or not all(type(value) is int and value > 0 for value in found - {None}):
            self.fail(f"per_layer_config: {key}", "one whole number for all layers without a window", found)
        return next(iter(found), None)

    def _factors(self, rope: dict[str, Any], key: str) -> np.ndarray:
        """Return a list of positive numbers as float32."""
        values = rope.get(key)
        if not isinstance(values, list) or not all(
            isinstance(each, int | float) and 0 < each < 1e30 for each in values
        ):
            self.fail(key, "a list of positive numbers", values)
        return np.array(values, np.float32)
