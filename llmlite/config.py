"""A model's hyper-parameters, and the names and shapes of its tensors, which follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from llmlite.architectures import EXPERTS, FUSED, HEAD_NORMS, MATRICES, NORMS, Architecture, by_name
from llmlite.errors import ModelError, UnsupportedError

if TYPE_CHECKING:
    from llmlite.tensor import QuantTensor

MAX_LAYERS = 512  # llama.cpp's LLAMA_MAX_LAYERS
MAX_EXPERTS = 512  # llama.cpp's LLAMA_MAX_EXPERTS
SOFTMAX_GATING = 1  # llama.cpp's LLAMA_EXPERT_GATING_FUNC_TYPE_SOFTMAX
NORM_EPS = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The hyper-parameters of a model, under llama.cpp's names.

    Attributes:
        n_head, n_head_kv: query heads, and the key/value heads that groups of them share.
        n_embd, n_ff, head_size, n_vocab: widths.
        n_ctx: the context length the model was trained for.
        rms_eps: added to the mean of squares in RMSNorm, to the variance in LayerNorm.
        rope_dim: how many elements of each head RoPE turns; rope_base: its lowest frequency's base.
        rope_scale: every position is multiplied by it (linear scaling of the context).
        n_expert, n_expert_used: feed-forward networks of a layer, and how many of them each token goes
            through; 0 where a layer has a single one. n_ff is then the width of one expert.
    """

    architecture: Architecture
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_size: int
    n_ff: int
    n_ctx: int
    n_vocab: int
    rms_eps: float
    rope_dim: int
    rope_base: float
    rope_scale: float
    n_expert: int = 0
    n_expert_used: int = 0

    @property
    def n_embd_q(self) -> int:
        """Width of all query heads together, H * Dh."""
        return self.n_head * self.head_size

    @property
    def n_embd_kv(self) -> int:
        """Width of all key/value heads together, K * Dh."""
        return self.n_head_kv * self.head_size

    @property
    def attention_scale(self) -> float:
        """What scores are multiplied by before the softmax: 1/sqrt(Dh)."""
        return 1 / math.sqrt(self.head_size)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], tensors: Mapping[str, QuantTensor]) -> ModelConfig:
        """Read the hyper-parameters and check them against each other.

        Args:
            metadata: a GGUF file's; keys as in the GGUF specification, read as llama.cpp's
                llama-model.cpp reads them, with the same defaults.
            tensors: the file's; the token embeddings' shape gives n_vocab.

        Raises:
            ModelError: a key is missing or its value impossible; names key, expected and got.
            UnsupportedError: an architecture or a variant that llmlite doesn't run.
        """
        if "general.architecture" not in metadata:
            raise ModelError.missing("general.architecture", "without it this is not a model")
        architecture = by_name(metadata["general.architecture"])
        keys = _Keys(metadata, architecture.name)
        _refuse_variants(keys)
        n_layer = keys.integer("block_count", at_most=MAX_LAYERS)
        n_embd = keys.integer("embedding_length")
        n_head = keys.integer("attention.head_count", n_layer=n_layer)
        n_head_kv = keys.integer("attention.head_count_kv", n_head, n_layer=n_layer)
        if n_head % n_head_kv:
            keys.fail("attention.head_count_kv", f"a divisor of head_count, {n_head}", n_head_kv)
        if not keys.has("attention.key_length") and n_embd % n_head:
            keys.fail("embedding_length", f"a multiple of head_count, {n_head}", n_embd)
        head_size = keys.integer("attention.key_length", n_embd // n_head)
        value_size = keys.integer("attention.value_length", n_embd // n_head)
        if value_size != head_size:
            raise UnsupportedError.about(
                f"{keys.prefix}.attention.value_length",
                f"values of another size ({value_size}) than keys ({head_size})",
            )
        rope_dim = 0
        if architecture.rope_pairs:
            rope_dim = keys.integer("rope.dimension_count", head_size, at_most=head_size)
        if rope_dim % 2:
            keys.fail("rope.dimension_count", "an even number", rope_dim)
        n_expert, n_expert_used = _n_experts(keys, architecture)
        n_ff = keys.integer("feed_forward_length", n_layer=n_layer)
        if n_expert:
            n_ff = keys.integer("expert_feed_forward_length", n_ff)
        return cls(
            architecture=architecture,
            n_layer=n_layer,
            n_embd=n_embd,
            n_head=n_head,
            n_head_kv=n_head_kv,
            head_size=head_size,
            n_ff=n_ff,
            n_ctx=keys.integer("context_length"),
            n_vocab=_n_vocab(keys, tensors),
            rms_eps=keys.positive(NORM_EPS[architecture.norm]),
            rope_dim=rope_dim,
            rope_base=keys.positive("rope.freq_base", 10000.0),
            rope_scale=_rope_scale(keys),
            n_expert=n_expert,
            n_expert_used=n_expert_used,
        )


class _Keys:
    """Hyper-parameters by name, without the architecture's prefix, checked as they are read."""

    def __init__(self, metadata: Mapping[str, Any], prefix: str) -> None:
        self.metadata = metadata
        self.prefix = prefix

    def has(self, name: str) -> bool:
        return f"{self.prefix}.{name}" in self.metadata

    def get(self, name: str, default: Any = None) -> Any:
        return self.metadata.get(f"{self.prefix}.{name}", default)

    def fail(self, name: str, expected: str, got: object) -> NoReturn:
        raise ModelError.at(f"{self.prefix}.{name}", expected, repr(got))

    def required(self, name: str, default: Any) -> Any:
        value = self.get(name, default)
        if value is None:
            raise ModelError.missing(f"{self.prefix}.{name}", f"a {self.prefix} model needs it")
        return value

    def integer(
        self, name: str, default: int | None = None, *, at_most: int = 2**31 - 1, n_layer: int | None = None
    ) -> int:
        """A count from 1 to `at_most`; given `n_layer`, also an array of one value for each layer."""
        value = self.required(name, default)
        if n_layer is None or isinstance(value, str) or not hasattr(value, "__len__"):
            return self.count(name, value, at_most)
        if len(value) != n_layer:
            self.fail(name, f"one value or {n_layer}, one for each layer", f"{len(value)} values")
        distinct = {self.count(name, value[layer], at_most) for layer in range(n_layer)}
        if len(distinct) > 1:
            raise UnsupportedError.about(
                f"{self.prefix}.{name}",
                f"layers that differ: {sorted(distinct)}",
                expected="the same for every layer",
                got=sorted(distinct),
            )
        return distinct.pop()

    def count(self, name: str, value: Any, at_most: int) -> int:
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
            self.fail(name, "an integer", value)
        if not 1 <= value <= at_most:
            self.fail(name, f"1 to {at_most}", int(value))
        return int(value)

    def number(self, name: str, default: float | None = None) -> float:
        value = self.required(name, default)
        is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < 0:
            self.fail(name, "a number, 0 or more", value)
        return float(value)

    def positive(self, name: str, default: float | None = None) -> float:
        value = self.number(name, default)
        if value == 0:
            self.fail(name, "a number above 0", value)
        return value


def _refuse_variants(keys: _Keys) -> None:
    """Refuse what would run but give wrong answers."""
    for name, usual in (
        ("expert_gating_func", SOFTMAX_GATING), ("expert_weights_scale", 1), ("expert_shared_count", 0),
        ("expert_group_count", 1),
    ):  # fmt: skip
        value = keys.number(name, usual)
        if value not in (usual, 0):
            raise UnsupportedError.about(
                f"{keys.prefix}.{name}", f"{value:g} is not supported, only {usual} is"
            )
    scaling = keys.get("rope.scaling.type", "none")
    if not isinstance(scaling, str) or scaling not in ("none", "linear"):
        raise UnsupportedError.about(
            f"{keys.prefix}.rope.scaling.type", f"{scaling!r} is not supported; supported are none, linear"
        )


def _n_experts(keys: _Keys, architecture: Architecture) -> tuple[int, int]:
    """How many experts a layer has, and how many of them a token uses; 0, 0 without a mixture."""
    if not architecture.expert_count_required and keys.number("expert_count", 0) == 0:
        return 0, 0
    n_expert = keys.integer("expert_count", at_most=MAX_EXPERTS)
    return n_expert, keys.integer("expert_used_count", at_most=n_expert)


def _rope_scale(keys: _Keys) -> float:
    older = keys.number("rope.scale_linear", 1.0)
    factor = keys.number("rope.scaling.factor", older)
    if keys.get("rope.scaling.type") == "none" or factor == 0:  # llama.cpp takes 0 for absent
        return 1.0
    return 1 / factor


def _n_vocab(keys: _Keys, tensors: Mapping[str, QuantTensor]) -> int:
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


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor a model of this configuration may have -> its shape, (rows, columns)."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (config.n_vocab, config.n_embd),
        "output_norm.weight": (config.n_embd,),
        "output.weight": (config.n_vocab, config.n_embd),
    }
    if config.architecture.rope_pairs:
        shapes["rope_freqs.weight"] = (config.rope_dim // 2,)
    else:
        shapes["position_embd.weight"] = (config.n_ctx, config.n_embd)
    if config.architecture.norm == "layer":
        shapes["output_norm.bias"] = (config.n_embd,)
    layer_shapes = _layer_shapes(config)
    return shapes | {
        f"blk.{i}.{part}": size for i in range(config.n_layer) for part, size in layer_shapes.items()
    }


def _layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in NORMS:
        shapes[f"{name}.weight"] = (config.n_embd,)
        if config.architecture.norm == "layer":
            shapes[f"{name}.bias"] = (config.n_embd,)
    if config.architecture.head_norms:
        shapes |= {f"{name}.weight": (config.head_size,) for name in HEAD_NORMS}
    for name, (rows, columns) in _matrices(config).items():
        if config.n_expert and name in EXPERTS:
            shapes[f"{name}_exps.weight"] = (config.n_expert, rows, columns)
        else:
            shapes[f"{name}.weight"] = (rows, columns)
            shapes[f"{name}.bias"] = (rows,)
    if config.n_expert:
        shapes["ffn_gate_inp.weight"] = (config.n_expert, config.n_embd)
    return shapes


def _matrices(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """The matrices of a layer as its file names them -> rows, columns."""
    sizes = {
        name: (getattr(config, rows), getattr(config, columns)) for name, (rows, columns) in MATRICES.items()
    }
    for name in config.architecture.absent:
        del sizes[name]
    for whole in config.architecture.fused:
        parts = [sizes.pop(part) for part in FUSED[whole]]
        sizes[whole] = sum(rows for rows, _ in parts), parts[0][1]
    return sizes


def required_tensors(config: ModelConfig) -> set[str]:
    """The names of the tensors that such a model must have; for `output.weight` the embeddings may stand."""
    always = {"token_embd.weight", "output_norm.weight", "output_norm.bias", "position_embd.weight"}
    biases = {f"{name}.bias" for name in (*config.architecture.biases, *NORMS)}
    parts = [part for part in _layer_shapes(config) if part.endswith(".weight") or part in biases]
    layers = {f"blk.{layer}.{part}" for layer in range(config.n_layer) for part in parts}
    return always | layers
