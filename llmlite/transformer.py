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

from llmlite.architectures import EXPERTS, FUSED, HEAD_NORMS, MATRICES, NORMS, Architecture, by_name
from llmlite.errors import ModelError, UnsupportedError

if TYPE_CHECKING:
    from llmlite.kv_cache import KVCache, LayerCache
    from llmlite.tensor import QuantTensor

X = Any  # see Operations
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
            raise UnsupportedError(f"values of another size ({value_size}) than keys ({head_size})")
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
    for name, usual in (
        ("expert_gating_func", SOFTMAX_GATING), ("expert_weights_scale", 1), ("expert_shared_count", 0),
        ("expert_group_count", 1),
    ):  # fmt: skip
        value = keys.number(name, usual)
        if value not in (usual, 0):
            raise UnsupportedError(f"{keys.prefix}.{name}: {value:g} is not supported, only {usual} is")
    scaling = keys.get("rope.scaling.type", "none")
    if not isinstance(scaling, str) or scaling not in ("none", "linear"):
        raise UnsupportedError(
            f"{keys.prefix}.rope.scaling.type: {scaling!r} is not supported; supported are none, linear"
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


@dataclass(frozen=True)
class Weights:
    """A model's weights as the forward pass reads them.

    Matrices are QuantTensors over the mapped file; vectors (norm gains, biases) float32 arrays.

    Attributes:
        token_embd: (V, D). output: (V, D), the same tensor when the embeddings are tied.
        output_norm: (D,) gains of the last norm. output_norm_bias: (D,), or None.
        frequencies: (rope_dim/2,) angles in radians by which one position turns each pair.
        positions: float32 (n_ctx, D), a learned vector for each position, or None.
        layers: for each layer its tensors by their names without "blk.N.".
    """

    token_embd: QuantTensor
    output: QuantTensor
    output_norm: np.ndarray
    frequencies: np.ndarray
    layers: tuple[dict[str, Any], ...]
    output_norm_bias: np.ndarray | None = None
    positions: np.ndarray | None = None

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
        positions = tensors.get("position_embd.weight")
        return cls(
            token_embd=usable["token_embd.weight"],
            output=usable.get("output.weight", usable["token_embd.weight"]),
            output_norm=usable["output_norm.weight"],
            frequencies=rope_frequencies(config, usable.get("rope_freqs.weight")),
            layers=tuple(_layer(usable, f"blk.{i}.", config) for i in range(config.n_layer)),
            output_norm_bias=usable.get("output_norm.bias"),
            positions=None if positions is None else np.ascontiguousarray(positions.dequantize()),
        )


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
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


def _required(config: ModelConfig) -> set[str]:
    always = {"token_embd.weight", "output_norm.weight", "output_norm.bias", "position_embd.weight"}
    biases = {f"{name}.bias" for name in (*config.architecture.biases, *NORMS)}
    parts = [part for part in _layer_shapes(config) if part.endswith(".weight") or part in biases]
    layers = {f"blk.{layer}.{part}" for layer in range(config.n_layer) for part in parts}
    return always | layers


def _usable(tensor: QuantTensor) -> QuantTensor | np.ndarray:
    """A matrix as it is; a vector, which is read whole at every step and small, as float32."""
    return tensor if len(tensor.shape) > 1 else np.ascontiguousarray(tensor.dequantize())


def _layer(usable: Mapping[str, Any], prefix: str, config: ModelConfig) -> dict[str, Any]:
    found = {name.removeprefix(prefix): value for name, value in usable.items() if name.startswith(prefix)}
    for whole in config.architecture.fused:
        for part in ("weight", "bias"):
            found |= _split(whole, part, found.pop(f"{whole}.{part}"), config)
    return found


def _split(whole: str, part: str, tensor: Any, config: ModelConfig) -> dict[str, Any]:
    """The rows of a fused tensor as the matrices or biases they stand for: views, no copies."""
    found, at = {}, 0
    for name in FUSED[whole]:
        end = at + getattr(config, MATRICES[name][0])
        if part == "bias":
            found[f"{name}.bias"] = np.ascontiguousarray(tensor[at:end])
        else:
            found[f"{name}.weight"] = tensor.slice_rows(at, end)
        at = end
    return found


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

    def layer_norm(self, x: X, gain: np.ndarray, bias: np.ndarray, eps: float) -> X:
        """Each row less its mean, divided by its standard deviation, times gain, plus bias."""

    def positions(self, table: np.ndarray) -> X:
        """Rows of table for the positions of the step's tokens."""

    def matmul(self, w: QuantTensor, x: X, bias: np.ndarray | None = None) -> X:
        """x @ w.T + bias."""

    def route(self, scores: X, n_used: int) -> Any:
        """For each token the n_used experts with the highest scores, and how much each of them counts."""

    def spread(self, x: X, routes: Any) -> X:
        """Each token's row once for each of its experts, those of one expert behind each other."""

    def expert_matmul(self, w: QuantTensor, x: X, routes: Any) -> X:
        """Each row of `spread` times the matrix of its expert."""

    def gather(self, x: X, routes: Any) -> X:
        """For each token the weighted sum of its rows of `spread`."""

    def rope(self, x: X, n_head: int, frequencies: np.ndarray, pairs: str) -> X:
        """Pairs of elements of each head turned by position * frequency."""

    def attention(self, q: X, k: X, v: X, cache: LayerCache, n_head: int, scale: float) -> X:
        """Store k and v; for each query the values, weighted by how well their keys answer it."""

    def silu_mul(self, gate: X, up: X) -> X:
        """gate * sigmoid(gate) * up."""

    def gelu(self, x: X) -> X:
        """x times about the share of a normal distribution below x."""

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
    if weights.positions is not None:
        x = ops.name(ops.add(x, ops.positions(weights.positions)), "inpL")
    for layer, w in enumerate(weights.layers):
        x = ops.add(x, _attention(ops, w, weights.frequencies, config, cache[layer], x))
        if layer == config.n_layer - 1:
            x = ops.outputs(x)  # nothing after this mixes tokens: keep those whose logits are wanted
        x = ops.name(x, "ffn_inp", layer)
        x = ops.add(x, _feed_forward(ops, w, config, layer, x))
        x = ops.name(x, "l_out", layer)
    x = norm(ops, weights.output_norm, weights.output_norm_bias, config.rms_eps, x)
    return ops.name(ops.matmul(weights.output, ops.name(x, "result_norm")), "result_output")  # (n_outputs, V)


def norm(ops: Operations, gain: np.ndarray, bias: np.ndarray | None, eps: float, x: X) -> X:
    """LayerNorm where the file has a bias for it, RMSNorm elsewhere."""
    return ops.rms_norm(x, gain, eps) if bias is None else ops.layer_norm(x, gain, bias, eps)


def _layer_norm(ops: Operations, w: Mapping, name: str, config: ModelConfig, layer: int, x: X) -> X:
    return ops.name(norm(ops, w[f"{name}.weight"], w.get(f"{name}.bias"), config.rms_eps, x), name, layer)


def _attention(
    ops: Operations, w: Mapping, frequencies: np.ndarray, config: ModelConfig, cache: LayerCache, x: X
) -> X:
    layer, H, K = cache.layer, config.n_head, config.n_head_kv
    x = _layer_norm(ops, w, "attn_norm", config, layer, x)
    q = _matmul(ops, w, "attn_q", x)  # (T, H*Dh)
    k = _matmul(ops, w, "attn_k", x)  # (T, K*Dh)
    v = ops.name(_matmul(ops, w, "attn_v", x), "Vcur", layer, heads=K)
    if "attn_q_norm.weight" in w:  # each head by itself
        q = ops.name(ops.rms_norm(q, w["attn_q_norm.weight"], config.rms_eps), "Qcur_normed", layer, heads=H)
        k = ops.name(ops.rms_norm(k, w["attn_k_norm.weight"], config.rms_eps), "Kcur_normed", layer, heads=K)
    if config.rope_dim:
        pairs = config.architecture.rope_pairs
        q, k = ops.rope(q, H, frequencies, pairs), ops.rope(k, K, frequencies, pairs)
    q, k = ops.name(q, "Qcur", layer, heads=H), ops.name(k, "Kcur", layer, heads=K)
    x = ops.attention(q, k, v, cache, H, config.attention_scale)  # (T, H*Dh)
    return ops.name(_matmul(ops, w, "attn_output", ops.name(x, "kqv_out", layer)), "attn_out", layer)


def _feed_forward(ops: Operations, w: Mapping, config: ModelConfig, layer: int, x: X) -> X:
    x = _layer_norm(ops, w, "ffn_norm", config, layer, x)
    if config.n_expert:
        return _experts(ops, w, config, layer, x)
    up = ops.name(_matmul(ops, w, "ffn_up", x), "ffn_up", layer)  # (T, F)
    if "ffn_gate.weight" in w:
        gate = ops.name(_matmul(ops, w, "ffn_gate", x), "ffn_gate", layer)
        x = ops.name(ops.silu_mul(gate, up), "ffn_swiglu", layer)
    else:
        x = ops.name(ops.gelu(up), "ffn_gelu", layer)
    return ops.name(_matmul(ops, w, "ffn_down", x), "ffn_out", layer)  # (T, D)


def _experts(ops: Operations, w: Mapping, config: ModelConfig, layer: int, x: X) -> X:
    """A mixture: each token goes through the experts its scores are highest for. S is T * n_expert_used."""
    scores = ops.name(ops.matmul(w["ffn_gate_inp.weight"], x), "ffn_moe_logits", layer)  # (T, n_expert)
    routes = ops.route(scores, config.n_expert_used)
    x = ops.spread(x, routes)  # (S, D)
    gate = ops.expert_matmul(w["ffn_gate_exps.weight"], x, routes)  # (S, F)
    up = ops.expert_matmul(w["ffn_up_exps.weight"], x, routes)
    x = ops.expert_matmul(w["ffn_down_exps.weight"], ops.silu_mul(gate, up), routes)  # (S, D)
    return ops.name(ops.gather(x, routes), "ffn_moe_out", layer)  # (T, D)


def _matmul(ops: Operations, w: Mapping, name: str, x: X) -> X:
    """x @ W.T, plus the bias if the file has one: biases need no flag."""
    return ops.matmul(w[f"{name}.weight"], x, w.get(f"{name}.bias"))
