"""The transformer: its weights and its forward pass, written once.

`forward` calls a small set of operations. What they do is the executor's business: the eager one computes
each at once in NumPy (llmlite/engine/eager.py), the planned one writes each down to run it later.
Shapes: T tokens, D n_embd, H heads, K key/value heads, Dh head size, F n_ff, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from llmlite.architectures import FUSED, MATRICES
from llmlite.config import ModelConfig, required_tensors, tensor_shapes
from llmlite.errors import ModelError

if TYPE_CHECKING:
    from llmlite.kv_cache import KVCache, LayerCache
    from llmlite.tensor import QuantTensor

X = Any  # see Operations


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
        shapes = tensor_shapes(config)
        required = required_tensors(config)
        for name in shapes:
            if name not in tensors and name in required:
                raise ModelError.absent(name)
        for name, tensor in tensors.items():
            if name not in shapes:
                raise ModelError.about(
                    name,
                    f"not a tensor of the {config.architecture.name} architecture",
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
        raise ModelError.about("rope_freqs.weight", "expected positive numbers throughout")
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
