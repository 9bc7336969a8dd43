"""The transformer: its hyper-parameters, its weights and its forward pass, written once.

`forward` calls a small set of operations. What they do is the executor's business: the eager one computes
each at once in NumPy (llmlite/engine/eager.py), the planned one writes each down to run it later.
Shapes: T tokens, D n_embd, H heads, K key/value heads, Dh head size, F n_ff, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np

from llmlite.architectures import MATRICES, NORMS, Architecture, by_name
from llmlite.errors import ModelError, UnsupportedError

if TYPE_CHECKING:
    from llmlite.kv_cache import KVCache, LayerCache
    from llmlite.tensor import QuantTensor

X = Any  # see Operations
MAX_LAYERS = 512  # llama.cpp's LLAMA_MAX_LAYERS


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The hyper-parameters of a model, under llama.cpp's names.

    Attributes:
        n_head, n_head_kv: query heads, and the key/value heads that groups of them share.
        n_embd, n_ff, head_size, n_vocab: widths.
        n_ctx: the context length the model was trained for.
        rms_eps: added to the mean of squares in RMSNorm.
        rope_dim: how many elements of each head RoPE turns; rope_base: its lowest frequency's base.
        rope_scale: every position is multiplied by it (linear scaling of the context).
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
            raise UnsupportedError(f"values of another size ({value_size}) than keys ({head_size})")
        rope_dim = keys.integer("rope.dimension_count", head_size, at_most=head_size)
        if rope_dim % 2:
            keys.fail("rope.dimension_count", "an even number", rope_dim)
        return cls(
            architecture=architecture,
            n_layer=n_layer,
            n_embd=n_embd,
            n_head=n_head,
            n_head_kv=n_head_kv,
            head_size=head_size,
            n_ff=keys.integer("feed_forward_length", n_layer=n_layer),
            n_ctx=keys.integer("context_length"),
            n_vocab=_n_vocab(keys, tensors),
            rms_eps=keys.positive("attention.layer_norm_rms_epsilon"),
            rope_dim=rope_dim,
            rope_base=keys.positive("rope.freq_base", 10000.0),
            rope_scale=_rope_scale(keys),
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
            raise UnsupportedError(
                f"{self.prefix}.{name}: layers that differ: {sorted(distinct)}",
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
    if keys.number("expert_count", 0) > 0:
        raise UnsupportedError(
            f"{keys.prefix}.expert_count: mixtures of experts are not supported yet",
            expected="no experts",
            got=keys.number("expert_count"),
        )
    scaling = keys.get("rope.scaling.type", "none")
    if not isinstance(scaling, str) or scaling not in ("none", "linear"):
        raise UnsupportedError(
            f"{keys.prefix}.rope.scaling.type: {scaling!r} is not supported; supported are none, linear"
        )


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


@dataclass(frozen=True)
class Weights:
    """A model's weights as the forward pass reads them.

    Matrices are QuantTensors over the mapped file; vectors (norm gains, biases) float32 arrays.

    Attributes:
        token_embd: (V, D). output: (V, D), the same tensor when the embeddings are tied.
        output_norm: (D,) gains of the last norm.
        frequencies: (rope_dim/2,) angles in radians by which one position turns each pair.
        layers: for each layer its tensors by their names without "blk.N.".
    """

    token_embd: QuantTensor
    output: QuantTensor
    output_norm: np.ndarray
    frequencies: np.ndarray
    layers: tuple[dict[str, Any], ...]

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, QuantTensor], config: ModelConfig) -> Weights:
        """Check every tensor's name and shape against `config`, and sort them by layer.

        Raises:
            ModelError: a tensor is missing, has another shape than the hyper-parameters give it, or
                isn't one of this architecture: leaving it out would give wrong answers.
        """
        shapes = _shapes(config)
        required = _required(config)
        for name in shapes:
            if name not in tensors and name in required:
                raise ModelError.absent(name)
        for name, tensor in tensors.items():
            if name not in shapes:
                raise ModelError(
                    f"{name}: not a tensor of the {config.architecture.name} architecture",
                    expected=f"only tensors of the {config.architecture.name} architecture",
                    got=name,
                )
            if tuple(tensor.shape) != shapes[name]:
                raise ModelError.at(name, f"shape {shapes[name]}", str(tuple(tensor.shape)))
        usable: dict[str, Any] = {name: _usable(tensor) for name, tensor in tensors.items()}
        return cls(
            token_embd=usable["token_embd.weight"],
            output=usable.get("output.weight", usable["token_embd.weight"]),
            output_norm=usable["output_norm.weight"],
            frequencies=rope_frequencies(config, usable.get("rope_freqs.weight")),
            layers=tuple(_layer(usable, f"blk.{i}.") for i in range(config.n_layer)),
        )


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor a model of this configuration may have -> its shape, (rows, columns)."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (config.n_vocab, config.n_embd),
        "output_norm.weight": (config.n_embd,),
        "output.weight": (config.n_vocab, config.n_embd),
        "rope_freqs.weight": (config.rope_dim // 2,),
    }
    for layer in range(config.n_layer):
        for name in NORMS:
            shapes[f"blk.{layer}.{name}.weight"] = (config.n_embd,)
        for name, (rows, columns) in MATRICES.items():
            shapes[f"blk.{layer}.{name}.weight"] = (getattr(config, rows), getattr(config, columns))
            shapes[f"blk.{layer}.{name}.bias"] = (getattr(config, rows),)
    return shapes


def _required(config: ModelConfig) -> set[str]:
    parts = [f"{name}.weight" for name in (*NORMS, *MATRICES)]
    parts += [f"{name}.bias" for name in config.architecture.biases]
    layers = {f"blk.{layer}.{part}" for layer in range(config.n_layer) for part in parts}
    return {"token_embd.weight", "output_norm.weight"} | layers


def _usable(tensor: QuantTensor) -> QuantTensor | np.ndarray:
    """A matrix as it is; a vector, which is read whole at every step and small, as float32."""
    return tensor if len(tensor.shape) > 1 else np.ascontiguousarray(tensor.dequantize())


def _layer(usable: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in usable.items() if name.startswith(prefix)}


def rope_frequencies(config: ModelConfig, factors: np.ndarray | None = None) -> np.ndarray:
    """Return the angle by which RoPE turns each pair of elements from one position to the next.

        frequency[i] = rope_scale * rope_base ** (-2i / rope_dim) / factors[i]

    Args:
        factors: the tensor `rope_freqs` of Llama 3.x, (rope_dim/2,) float32, or None.

    Returns:
        float32 (rope_dim/2,), in radians.

    Raises:
        ModelError: a factor that isn't a positive number.
    """
    if factors is not None and not (np.isfinite(factors) & (factors > 0)).all():
        raise ModelError("rope_freqs.weight: expected positive numbers throughout")
    exponents = np.arange(0, config.rope_dim, 2) / config.rope_dim
    frequencies = config.rope_scale * config.rope_base**-exponents
    return (frequencies if factors is None else frequencies / factors).astype(np.float32)


class Operations(Protocol):
    """What the forward pass is made of. X is an executor's own: an array, or a note of one to come.

    Their formulas stand in llmlite/engine/eager.py. Each works on any number of tokens.
    """

    def embed(self, w: QuantTensor, ids: Any) -> X:
        """Rows of w."""

    def rms_norm(self, x: X, gain: np.ndarray, eps: float) -> X:
        """Each row divided by its root mean square, times gain."""

    def matmul(self, w: QuantTensor, x: X, bias: np.ndarray | None = None) -> X:
        """x @ w.T + bias."""

    def rope(self, x: X, n_head: int, frequencies: np.ndarray, pairs: str) -> X:
        """Pairs of elements of each head turned by position * frequency."""

    def attention(self, q: X, k: X, v: X, cache: LayerCache, n_head: int, scale: float) -> X:
        """Store k and v; for each query the values, weighted by how well their keys answer it."""

    def silu_mul(self, gate: X, up: X) -> X:
        """gate * sigmoid(gate) * up."""

    def add(self, a: X, b: X) -> X:
        """a + b."""

    def outputs(self, x: X) -> X:
        """Only the rows of those tokens whose logits are wanted."""

    def name(self, x: X, name: str, layer: int | None = None, heads: int | None = None) -> X:
        """x itself, known from now on as "name-layer"."""


def forward(ops: Operations, weights: Weights, config: ModelConfig, cache: KVCache, ids: Any) -> X:
    """Describe one step of the model: `ids` (T,) stand at the positions behind those in `cache`.

    Returns what `ops` makes of it: from the eager executor the logits, float32 (n_outputs, V), of the
    last tokens. Must agree with llama.cpp's graph (src/models/llama.cpp, qwen2.cpp); `ops.name` gives
    each result the name it has there.
    """
    x = ops.name(ops.embed(weights.token_embd, ids), "embd")  # (T, D)
    for layer, w in enumerate(weights.layers):
        x = ops.add(x, _attention(ops, w, weights.frequencies, config, cache[layer], x))
        if layer == config.n_layer - 1:
            x = ops.outputs(x)  # nothing after this mixes tokens: keep those whose logits are wanted
        x = ops.name(x, "ffn_inp", layer)
        x = ops.add(x, _feed_forward(ops, w, config, layer, x))
        x = ops.name(x, "l_out", layer)
    x = ops.name(ops.rms_norm(x, weights.output_norm, config.rms_eps), "result_norm")
    return ops.name(ops.matmul(weights.output, x), "result_output")  # (n_outputs, V)


def _attention(
    ops: Operations, w: Mapping, frequencies: np.ndarray, config: ModelConfig, cache: LayerCache, x: X
) -> X:
    layer, H, K = cache.layer, config.n_head, config.n_head_kv
    pairs = config.architecture.rope_pairs
    x = ops.name(ops.rms_norm(x, w["attn_norm.weight"], config.rms_eps), "attn_norm", layer)
    q = _matmul(ops, w, "attn_q", x)  # (T, H*Dh)
    k = _matmul(ops, w, "attn_k", x)  # (T, K*Dh)
    v = ops.name(_matmul(ops, w, "attn_v", x), "Vcur", layer, heads=K)
    q = ops.name(ops.rope(q, H, frequencies, pairs), "Qcur", layer, heads=H)
    k = ops.name(ops.rope(k, K, frequencies, pairs), "Kcur", layer, heads=K)
    x = ops.attention(q, k, v, cache, H, config.attention_scale)  # (T, H*Dh)
    return ops.name(_matmul(ops, w, "attn_output", ops.name(x, "kqv_out", layer)), "attn_out", layer)


def _feed_forward(ops: Operations, w: Mapping, config: ModelConfig, layer: int, x: X) -> X:
    x = ops.name(ops.rms_norm(x, w["ffn_norm.weight"], config.rms_eps), "ffn_norm", layer)
    gate = ops.name(_matmul(ops, w, "ffn_gate", x), "ffn_gate", layer)  # (T, F)
    up = ops.name(_matmul(ops, w, "ffn_up", x), "ffn_up", layer)
    x = ops.name(ops.silu_mul(gate, up), "ffn_swiglu", layer)
    return ops.name(_matmul(ops, w, "ffn_down", x), "ffn_out", layer)  # (T, D)


def _matmul(ops: Operations, w: Mapping, name: str, x: X) -> X:
    """x @ W.T, plus the bias if the file has one: biases need no flag."""
    return ops.matmul(w[f"{name}.weight"], x, w.get(f"{name}.bias"))
