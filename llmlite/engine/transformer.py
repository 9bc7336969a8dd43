"""The transformer's forward pass, written once.

`forward` walks the layers of a model (llmlite.description.layers) and calls a small set of operations. The
executor decides how each is done: the eager one computes each at once in NumPy (llmlite/engine/eager.py), the
planned one writes each down to run it later. No line here asks for an architecture's name.
Shapes: T tokens, D n_embd, H heads, K key/value heads, Dh head size, F n_ff, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from llmlite.description.config import ModelConfig
from llmlite.description.layers import (
    Attention,
    DeltaNet,
    Experts,
    FeedForward,
    LatentAttention,
    Layer,
    Mamba,
    Mamba2,
    ShortConvolution,
)
from llmlite.description.lora import LowRank
from llmlite.description.weights import RopeTable, Weights

if TYPE_CHECKING:
    from llmlite.quants.tensor import QuantTensor

X = Any  # see Operations


class Operations(Protocol):
    """What the forward pass is made of. X is an executor's own: an array, or a note of one to come.

    Their formulas are in llmlite/engine/eager.py. Each works on any number of tokens.
    """

    def embed(self, w: QuantTensor, ids: Any) -> X:
        """Rows of w."""

    def rms_norm(self, x: X, gain: np.ndarray | None, eps: float, width: int = 0) -> X:
        """Each stretch of a row, as long as gain or `width`, divided by its root mean square, times gain."""

    def layer_norm(self, x: X, gain: np.ndarray, bias: np.ndarray | None, eps: float) -> X:
        """Each row less its mean, divided by its standard deviation, times gain, plus bias."""

    def positions(self, table: np.ndarray) -> X:
        """Rows of table for the positions of the step's tokens."""

    def token_types(self, table: np.ndarray) -> X:
        """Rows of table for the types of the step's tokens: 0, or 1 in the second text of a pair."""

    def matmul(self, w: QuantTensor, x: X, bias: np.ndarray | None = None) -> X:
        """x @ w.T + bias."""

    def head_matmul(self, w: QuantTensor, x: X) -> X:
        """Each head's stretch of a row times the matrix of its head."""

    def route(self, scores: X, spec: Experts, bias: np.ndarray | None = None) -> Any:
        """For each token the experts that it goes through, and how much each of them counts."""

    def spread(self, x: X, routes: Any) -> X:
        """Each token's row once for each of its experts, those of one expert next to each other."""

    def expert_matmul(self, w: QuantTensor, x: X, routes: Any, bias: np.ndarray | None = None) -> X:
        """Each row of `spread` times the matrix of its expert, plus its bias."""

    def scale_experts(self, x: X, factors: np.ndarray, routes: Any) -> X:
        """Each row of `spread` times its expert's factor."""

    def gather(self, x: X, routes: Any) -> X:
        """For each token the weighted sum of its rows of `spread`."""

    def rope(self, x: X, n_head: int, table: RopeTable) -> X:
        """Pairs of elements of each head turned by position * frequency."""

    def attention(
        self, q: X, k: X | None, v: X | None, layer: int, spec: Attention, sinks: np.ndarray | None
    ) -> X:
        """Store k and v; for each query the values, weighted by how well their keys answer it."""

    def convolve(self, x: X, taps: np.ndarray, bias: np.ndarray | None, layer: int) -> X:
        """Each column's latest values weighed by its taps; the layer's state keeps the last of them."""

    def multiply(self, a: X, b: X) -> X:
        """a · b, number by number."""

    def multiply_row(self, x: X, row: np.ndarray) -> X:
        """x · row, for every row of x."""

    def scan(
        self, x: X, dt: X, a: np.ndarray, d: np.ndarray, dt_bias: np.ndarray, layer: int, spec: Mamba2
    ) -> X:
        """Token by token the state forgets, takes up x by b and is read by c: rows of x are heads | b | c."""

    def delta_rule(
        self, x: X, qk: X, beta: X, alpha: X, a: np.ndarray, dt_bias: np.ndarray, layer: int, spec: DeltaNet
    ) -> X:
        """Token by token each head's state forgets by alpha, is corrected at a key by beta, and is read."""

    def project(self, x: X, w: np.ndarray, bias: np.ndarray) -> X:
        """The first columns of x, as many as w has rows, times w, plus bias."""

    def scan_columns(self, x: X, dt: X, db: X, a: np.ndarray, d: np.ndarray, layer: int, spec: Mamba) -> X:
        """As `scan`, each column with rates of its own; b and c are the last columns of db."""

    def activate(self, kind: str, x: X, up: X | None = None) -> X:
        """An activation (layers.ACTIVATIONS) of x, times up if it is given."""

    def gate(self, x: X, by: X) -> X:
        """x times the sigmoid of `by`, row by row; `by` has the width of x, or 1."""

    def add(self, a: X, b: X) -> X:
        """a + b."""

    def add_row(self, x: X, row: np.ndarray) -> X:
        """x + row, for every row of x."""

    def scale(self, x: X, factor: float) -> X:
        """x · factor."""

    def softcap(self, x: X, cap: float) -> X:
        """cap · tanh(x / cap)."""

    def temperature(self, x: X, spec: Attention) -> X:
        """Each row times 1 + scale · ln(floor(position / length) + 1)."""

    def columns(self, x: X, start: int, width: int, stride: int = 0) -> X:
        """Columns `start` … `start + width - 1` of each row, or of each stretch of `stride` columns."""

    def join(self, a: X, b: X, n_head: int, n_head_b: int) -> X:
        """For each head its stretch of a, then its stretch of b: of n_head_b = 1 all heads take the same."""

    def outputs(self, x: X) -> X:
        """Only the rows of those tokens whose logits are wanted."""

    def name(self, x: X, name: str, layer: int | None = None, heads: int | None = None) -> X:
        """x itself, known from now on as "name-layer"."""


@dataclass(frozen=True)
class Block:
    """What a layer's functions read: its number, record and tensors, and the angles it turns by.

    Attributes:
        inputs: what every layer adds of its own, one layer's columns after the other's, or None.
    """

    ops: Operations
    i: int
    layer: Layer
    w: Mapping[str, Any]
    weights: Weights
    is_last: bool
    inputs: X | None = None

    def name(self, x: X, name: str, heads: int | None = None) -> X:
        """x, called "name-layer"."""
        return self.ops.name(x, name, self.i, heads=heads)

    def matmul(self, name: str, x: X) -> X:
        """x @ W.T, plus the bias if the file has one, and what adapters add: neither needs a flag."""
        y = self.ops.matmul(self.w[f"{name}.weight"], x, self.w.get(f"{name}.bias"))
        return adapted(self.ops, y, x, self.w.get(f"{name}.lora"))

    def has(self, name: str) -> bool:
        """Whether the layer has a tensor of that name."""
        return f"{name}.weight" in self.w

    def norm(self, name: str, x: X) -> X:
        """The norm of that name; x itself if the layer has none."""
        if not self.has(name):
            return x
        gain, bias = self.w[f"{name}.weight"], self.w.get(f"{name}.bias")
        return self.name(normed(self.ops, self.layer.norm, gain, bias, self.layer.eps, x), name)


def normed(ops: Operations, kind: str, gain: np.ndarray, bias: np.ndarray | None, eps: float, x: X) -> X:
    """RMSNorm ("rms") or LayerNorm ("layer")."""
    return ops.rms_norm(x, gain, eps) if kind == "rms" else ops.layer_norm(x, gain, bias, eps)


def adapted(ops: Operations, y: X, x: X, low_rank: LowRank | None) -> X:
    """y, a matrix times x, plus what adapters of that matrix add: B (A x)."""
    return y if low_rank is None else ops.add(y, ops.matmul(low_rank.b, ops.matmul(low_rank.a, x)))


def forward(ops: Operations, weights: Weights, config: ModelConfig, ids: Any) -> X:
    """Describe one step of the model: `ids` (T,) are at the positions that the executor knows.

    Returns what `ops` makes of it: from the eager executor the logits, float32 (n_outputs, V), or of an
    encoder the last states, (n_outputs, D). Must agree with llama.cpp's graph (src/models); `ops.name` gives
    each result the name it has there.
    """
    x = embeddings(ops, weights, config, ids)  # (T, D)
    inputs = layer_inputs(ops, weights, config, ids, x) if config.n_embd_per_layer else None
    for i, (layer, w) in enumerate(zip(config.layers, weights.layers)):
        x = block(Block(ops, i, layer, w, weights, i == config.n_layer - 1, inputs), x)
    x = outer_norm(ops, weights, config, "output_norm", "result_norm", x)
    return logits(ops, weights, config, x) if weights.output is not None else x


def embeddings(ops: Operations, weights: Weights, config: ModelConfig, ids: Any) -> X:
    """The rows of the embedding, with what the model adds to them: (T, D)."""
    x = ops.name(_rows(ops, weights, "token_embd", ids), "embd")
    if config.embedding_scale != 1:
        x = ops.name(ops.scale(x, config.embedding_scale), "inp_scaled")
    if weights.token_types is not None:
        x = ops.add(x, ops.token_types(weights.token_types))
    if weights.positions is not None:
        x = ops.name(ops.add(x, ops.positions(weights.positions)), "inpL")
    return outer_norm(ops, weights, config, "token_embd_norm", "inp_norm", x)


def _rows(ops: Operations, weights: Weights, name: str, ids: Any) -> X:
    """The rows of a table for the tokens, with what adapters add to them."""
    x = ops.embed(weights.outer[f"{name}.weight"], ids)
    low_rank = weights.outer.get(f"{name}.lora")
    return x if low_rank is None else ops.add(x, ops.matmul(low_rank.b, ops.embed(low_rank.a, ids)))


def layer_inputs(ops: Operations, weights: Weights, config: ModelConfig, ids: Any, x: X) -> X:
    """What each layer adds of its own (Gemma 4): (T, L*P), P numbers for each of L layers.

    Half of it is a vector of the token for each layer, the other half is made of the embeddings `x`.
    """
    P, outer = config.n_embd_per_layer, weights.outer
    own = ops.scale(_rows(ops, weights, "per_layer_token_embd", ids), P**0.5)
    own = ops.name(own, "inp_per_layer_selected")
    made = ops.matmul(outer["per_layer_model_proj.weight"], x)
    made = adapted(ops, made, x, outer.get("per_layer_model_proj.lora"))
    made = ops.scale(made, config.n_embd**-0.5)
    made = ops.name(ops.rms_norm(made, outer["per_layer_proj_norm.weight"], config.rms_eps), "per_layer_proj")
    return ops.name(ops.scale(ops.add(made, own), 0.5**0.5), "inp_per_layer")


def outer_norm(ops: Operations, weights: Weights, config: ModelConfig, tensor: str, name: str, x: X) -> X:
    """A norm outside the layers; x itself if the model has none of that name."""
    if f"{tensor}.weight" not in weights.outer:
        return x
    gain, bias = weights.outer[f"{tensor}.weight"], weights.outer.get(f"{tensor}.bias")
    return ops.name(normed(ops, config.architecture.norm, gain, bias, config.rms_eps, x), name)


def logits(ops: Operations, weights: Weights, config: ModelConfig, x: X) -> X:
    """A score for every token of the vocabulary: (n_outputs, V)."""
    assert weights.output is not None
    y = ops.matmul(weights.output, x, weights.outer.get("output.bias"))
    x = adapted(ops, y, x, weights.outer.get("output.lora"))
    if config.logit_scale != 1:
        x = ops.scale(x, config.logit_scale)
    if config.final_softcap:
        x = ops.softcap(x, config.final_softcap)
    return ops.name(x, "result_output")


def block(b: Block, x: X) -> X:
    """One layer: what mixes tokens, then what works on each alone; each is added to what came in."""
    ops, layer = b.ops, b.layer
    inner = b.norm("attn_norm", x)
    read = b.norm("attn_norm_2", x) if b.has("attn_norm_2") else inner
    mixed = _branch(b, "post_attention_norm", MIXERS[type(layer.mixer)](b, read))
    if b.is_last:  # nothing after this mixes tokens: keep those whose logits are wanted
        x, mixed = ops.outputs(x), ops.outputs(mixed)
        inner = ops.outputs(inner) if layer.parallel else inner
    if layer.parallel:
        read = b.norm("ffn_norm", x) if b.has("ffn_norm") else inner
        after = _branch(b, "post_ffw_norm", feed_forward(b, read, x))
        return b.name(ops.add(ops.add(x, mixed), after), "l_out")
    x = b.name(b.norm("attn_output_norm", ops.add(x, mixed)), "ffn_inp")
    if layer.feed_forward is not None:
        after = feed_forward(b, b.norm("ffn_norm", x), x)
        x = b.norm("layer_output_norm", ops.add(x, _branch(b, "post_ffw_norm", after)))
    if b.inputs is not None:
        x = add_layer_input(b, x)
    if b.has("layer_output_scale"):
        x = b.name(ops.scale(x, float(b.w["layer_output_scale.weight"][0])), "out_scaled")
    return b.name(x, "l_out")


def add_layer_input(b: Block, x: X) -> X:
    """x plus what this layer makes of its own columns of `inputs`: (T, D) -> (T, D)."""
    ops, width = b.ops, b.w["inp_gate.weight"].shape[0]
    own = ops.columns(b.inputs, b.i * width, width)
    if b.is_last:
        own = ops.outputs(own)
    gated = ops.activate("gelu", b.matmul("inp_gate", b.name(x, "pe_in")), own)  # (T, P)
    made = b.norm("post_norm", b.matmul("proj", gated))
    return ops.add(x, b.name(made, "per_layer_embd_out"))


def _branch(b: Block, norm: str, x: X) -> X:
    """The end of a branch: its norm, if there is one, and its scale."""
    x = b.norm(norm, x)
    return x if b.layer.residual_scale == 1 else b.ops.scale(x, b.layer.residual_scale)


def attention(b: Block, x: X) -> X:
    """Softmax attention: (T, D) -> (T, D)."""
    ops = b.ops
    spec: Attention = b.layer.mixer
    H = spec.n_head
    q, gate = b.matmul("attn_q", x), None  # (T, H*Dk), or for each head a query and a gate
    if spec.output_gate:
        both, size = b.name(q, "Qcur_full"), spec.key_size
        q, gate = ops.columns(both, 0, size, 2 * size), ops.columns(both, size, size, 2 * size)
    k, v = keys_and_values(b, x) if spec.shared is None else (None, None)
    q = head_norm(b, "attn_q_norm", q, "Qcur_normed", H)
    if spec.rope is not None:
        q = ops.rope(q, H, b.weights.ropes[spec.rope])
    if spec.temperature_scale:
        q = ops.temperature(q, spec)
    q = b.name(q, "Qcur", heads=H)
    x = ops.attention(q, k, v, b.i, spec, b.w.get("attn_sinks.weight"))  # (T, H*Dv)
    x = b.name(x, "kqv_out")
    if gate is not None:
        x = b.name(ops.gate(b.name(x, "attn_pregate"), b.name(gate, "gate_reshaped")), "attn_gated")
    x = b.norm("attn_sub_norm", x)
    return b.name(b.matmul("attn_output", x), "attn_out")


def keys_and_values(b: Block, x: X) -> tuple[X, X]:
    """The keys (T, K*Dk) and values (T, K*Dv) that a layer stores."""
    ops = b.ops
    spec: Attention = b.layer.mixer
    K = spec.n_head_kv
    k = b.matmul("attn_k", x)
    v = b.name(k if spec.keys_as_values else b.matmul("attn_v", x), "Vcur", heads=K)
    if spec.norm_values:
        v = b.name(ops.rms_norm(v, None, b.layer.eps, width=spec.value_size), "Vcur_normed", heads=K)
    k = head_norm(b, "attn_k_norm", k, "Kcur_normed", K)
    if spec.rope is not None:
        k = ops.rope(k, K, b.weights.ropes[spec.rope])
    return b.name(k, "Kcur", heads=K), v


def latent_attention(b: Block, x: X) -> X:
    """Attention by one short row for each token, absorbed: (T, D) -> (T, D). R is kv_rank.

    scores: (K_h c) · q = c · (K_hᵀ q), so the query is multiplied once, not every key; values likewise.
    """
    ops, w = b.ops, b.w
    spec: LatentAttention = b.layer.mixer
    H, plain, turned, size = spec.n_head, spec.plain_size, spec.rope_size, spec.head_key_size
    table = b.weights.ropes[spec.rope]  # type: ignore[index]  # config._latent: there is one
    if spec.q_rank:
        q = b.matmul("attn_q_b", b.norm("attn_q_a_norm", b.matmul("attn_q_a", x)))
    else:
        q = b.matmul("attn_q", x)  # (T, H*Dh)
    q = b.name(q, "q", heads=H)
    q_pe = b.name(ops.rope(ops.columns(q, plain, turned, size), H, table), "q_pe", heads=H)
    q = b.name(ops.columns(q, 0, plain, size), "q_nope", heads=H)
    q = b.name(ops.head_matmul(w["attn_k_b.weight"], q), "q_nope_absorbed", heads=H)  # (T, H*R)
    q = b.name(ops.join(q, q_pe, H, H), "Qcur", heads=H)
    row = b.name(b.matmul("attn_kv_a_mqa", x), "kv_cmpr_pe")  # (T, R + turned)
    k_pe = b.name(ops.rope(ops.columns(row, spec.kv_rank, turned), 1, table), "k_pe")
    row = ops.rms_norm(ops.columns(row, 0, spec.kv_rank), w["attn_kv_a_norm.weight"], b.layer.eps)
    k = b.name(ops.join(b.name(row, "kv_cmpr"), k_pe, 1, 1), "Kcur")
    x = b.name(ops.attention(q, k, None, b.i, spec, None), "kqv", heads=H)  # (T, H*R)
    x = b.name(ops.head_matmul(w["attn_v_b.weight"], x), "kqv_out")  # (T, H*Dv)
    return b.name(b.matmul("attn_output", x), "attn_out")


def head_norm(b: Block, tensor: str, x: X, name: str, n_head: int) -> X:
    """RMSNorm of each head by itself, or of the whole row: the gain's length says which."""
    gain = b.w.get(f"{tensor}.weight")
    return x if gain is None else b.name(b.ops.rms_norm(x, gain, b.layer.eps), name, heads=n_head)


def feed_forward(b: Block, x: X, before: X) -> X:
    """What works on each token alone: (T, D) -> (T, D). `before` is x before its norm."""
    spec = b.layer.feed_forward
    assert spec is not None
    if isinstance(spec, FeedForward):
        return dense(b, spec, x)
    if spec.beside is None:
        return experts(b, spec, x, x)
    both = b.name(b.norm("post_ffw_norm_1", dense(b, spec.beside, x)), "ffn_mlp")
    unit = b.ops.rms_norm(
        before, b.w["ffn_gate_inp.scale"] * b.w["ffn_gate_inp.scale"].size ** -0.5, b.layer.eps
    )
    mixed = experts(b, spec, b.norm("pre_ffw_norm_2", before), unit)
    mixed = b.name(b.norm("post_ffw_norm_2", mixed), "ffn_moe")
    return b.name(b.ops.add(both, mixed), "ffn_moe_combined")


def dense(b: Block, spec: FeedForward, x: X, suffix: str = "") -> X:
    """One network, gated or not; `suffix` of its tensors' names."""
    up = b.name(b.matmul(f"ffn_up{suffix}", x), f"ffn_up{suffix}")  # (T, F)
    if spec.gated:
        gate = b.name(b.matmul(f"ffn_gate{suffix}", x), f"ffn_gate{suffix}")
        x = b.ops.activate(spec.activation, gate, up)
        x = b.name(x, f"ffn_swiglu{suffix}" if spec.activation == "silu" else f"ffn_act{suffix}")
    else:
        name = "ffn_gelu" if spec.activation == "gelu" else "ffn_act"
        x = b.name(b.ops.activate(spec.activation, up), f"{name}{suffix}")
    x = b.norm(f"ffn_sub_norm{suffix}", x)
    return b.name(b.matmul(f"ffn_down{suffix}", x), f"ffn_out{suffix}")  # (T, D)


def experts(b: Block, spec: Experts, x: X, routed_by: X) -> X:
    """A mixture: each token goes through the experts that its scores choose. S is T * n_used.

    Args:
        x: what the experts read. routed_by: what the scores are made of; both (T, D).
    """
    ops, w, inner = b.ops, b.w, x
    scores = b.name(b.matmul("ffn_gate_inp", routed_by), "ffn_moe_logits")  # (T, n_expert)
    routes = ops.route(scores, spec, w.get("exp_probs_b.bias"))
    x = ops.spread(x, routes)  # (S, D)

    def matmul(name: str, x: X) -> X:
        y = ops.expert_matmul(w[f"{name}_exps.weight"], x, routes, w.get(f"{name}_exps.bias"))
        low_rank = w.get(f"{name}_exps.lora")
        if low_rank is None:
            return y
        inner = ops.expert_matmul(low_rank.a, x, routes)
        return ops.add(y, ops.expert_matmul(low_rank.b, inner, routes))

    if "ffn_gate_up_exps.weight" in w:  # the rows of the gate, then those of `up`
        both = matmul("ffn_gate_up", x)
        gate, up = ops.columns(both, 0, spec.n_ff), ops.columns(both, spec.n_ff, spec.n_ff)
    else:
        gate, up = matmul("ffn_gate", x), matmul("ffn_up", x)
    x = matmul("ffn_down", ops.activate(spec.activation, gate, up))  # (S, F) -> (S, D)
    if "ffn_down_exps.scale" in w:
        x = ops.scale_experts(x, w["ffn_down_exps.scale"], routes)
    x = b.name(ops.gather(x, routes), "ffn_moe_out")  # (T, D)
    if not spec.n_ff_shared:
        return x
    shared = dense(b, FeedForward(n_ff=spec.n_ff_shared, activation=spec.activation), inner, "_shexp")
    if "ffn_gate_inp_shexp.weight" in w:
        shared = ops.gate(shared, ops.matmul(w["ffn_gate_inp_shexp.weight"], inner))
    return b.name(ops.add(x, shared), "ffn_out")


def short_convolution(b: Block, x: X) -> X:
    """A gated convolution over the latest tokens: (T, D) -> (T, D)."""
    ops = b.ops
    before, after, x = (b.matmul(f"shortconv.{part}", x) for part in ("b", "c", "x"))  # (T, D) each
    x = ops.convolve(ops.multiply(before, x), b.w["shortconv.conv.weight"], None, b.i)
    x = ops.multiply(after, b.name(x, "conv.conv"))
    return b.name(b.matmul("shortconv.out_proj", x), "conv.out_proj")


def mamba2(b: Block, x: X) -> X:
    """A state-space model: (T, D) -> (T, D). E is the width of all heads."""
    ops, w = b.ops, b.w
    spec: Mamba2 = b.layer.mixer
    z, x, dt = (b.matmul(f"ssm_in_{part}", x) for part in ("z", "xbc", "dt"))  # (T, E), (T, C), (T, H)
    x = ops.convolve(x, w["ssm_conv1d.weight"], w.get("ssm_conv1d.bias"), b.i)
    x = b.name(ops.activate("silu", x), "ssm_conv")
    x = ops.scan(x, dt, w["ssm_a"], w["ssm_d"], w["ssm_dt.bias"], b.i, spec)
    x = ops.activate("silu", z, b.name(x, "mamba2_y_add_d"))
    if spec.n_group == 1:
        x = ops.rms_norm(x, w["ssm_norm.weight"], b.layer.eps)
    else:  # each group by itself
        x = ops.rms_norm(x, None, b.layer.eps, width=spec.inner_width // spec.n_group)
        x = ops.multiply_row(x, w["ssm_norm.weight"])
    return b.name(b.matmul("ssm_out", b.name(x, "ssm_norm")), "mamba_out")


def mamba(b: Block, x: X) -> X:
    """A state-space model of single columns: (T, D) -> (T, D). E is the mixer's width."""
    ops, w = b.ops, b.w
    spec: Mamba = b.layer.mixer
    both = b.matmul("ssm_in", x)  # (T, 2 E)
    x, z = ops.columns(both, 0, spec.width), ops.columns(both, spec.width, spec.width)
    x = ops.convolve(x, w["ssm_conv1d.weight"], w.get("ssm_conv1d.bias"), b.i)
    x = b.name(ops.activate("silu", x), "ssm_conv")
    db = b.matmul("ssm_x", x)  # (T, rank + 2 N): what the time step comes from, b and c
    dt = ops.project(db, w["ssm_dt.weight"], w["ssm_dt.bias"])  # (T, E)
    x = ops.scan_columns(x, dt, db, w["ssm_a"], w["ssm_d"], b.i, spec)
    x = ops.activate("silu", z, b.name(x, "mamba_y_add_d"))
    return b.name(b.matmul("ssm_out", x), "mamba_out")


def delta_net(b: Block, x: X) -> X:
    """Linear attention by the gated delta rule: (T, D) -> (T, D). H heads of N numbers, K of keys."""
    ops, w = b.ops, b.w
    spec: DeltaNet = b.layer.mixer
    N, r = spec.head_size, spec.n_head // spec.n_head_k
    if spec.fused_rates:  # for each key head what concerns its value heads
        rates = b.matmul("ssm_ba", x)
        beta, alpha = ops.columns(rates, 0, r, 2 * r), ops.columns(rates, r, r, 2 * r)
    else:
        beta, alpha = b.matmul("ssm_beta", x), b.matmul("ssm_alpha", x)
    beta, alpha = b.name(beta, "beta"), b.name(alpha, "alpha")  # (T, H) each
    z = b.name(b.matmul("attn_gate", x), "z")  # (T, H*N)
    x = b.name(b.matmul("attn_qkv", x), "linear_attn_qkv_mixed")  # (T, 2*K*N + H*N)
    x = b.name(ops.convolve(x, w["ssm_conv1d.weight"], None, b.i), "conv_output_raw")
    x = b.name(ops.activate("silu", x), "conv_output_silu")
    # x / sqrt(Σ x² + eps), as an RMSNorm whose gains are 1/sqrt(N)
    unit = np.full(N, N**-0.5, np.float32)
    qk = ops.rms_norm(ops.columns(x, 0, 2 * spec.key_width), unit, L2_EPS / N)
    x = ops.delta_rule(x, qk, beta, alpha, w["ssm_a"], w["ssm_dt.bias"], b.i, spec)  # (T, H*N)
    x = ops.rms_norm(b.name(x, "attn_output"), w["ssm_norm.weight"], b.layer.eps)
    x = b.name(ops.activate("silu", z, x), "final_output")
    return b.name(b.matmul("ssm_out", x), "linear_attn_out")


L2_EPS = 1e-6  # added to the sum of squares of a query or key, in transformers for any model

# a layer's record -> the function that mixes its tokens
MIXERS = {
    Attention: attention,
    LatentAttention: latent_attention,
    ShortConvolution: short_convolution,
    Mamba: mamba,
    Mamba2: mamba2,
    DeltaNet: delta_net,
}
