"""The transformer's forward pass, written once.

`forward` walks the layers of a model (llmlite.description.layers) and calls a small set of operations
(llmlite/engine/operations.py). The executor implements them: the eager one computes each immediately in NumPy
(llmlite/engine/eager.py), and the planned one records them to run them later. No line here asks for an
architecture's name. Shapes: T tokens, D n_embd, F n_ff, V vocabulary.
"""

from __future__ import annotations

from typing import Any

from llmlite.description.config import ModelConfig
from llmlite.description.layers import Experts, FeedForward
from llmlite.description.weights import Weights
from llmlite.engine.mixers import MIXERS
from llmlite.engine.operations import LayerContext, Operations, X, adapted, normed, sigmoid


def forward(ops: Operations[X], weights: Weights, config: ModelConfig, ids: Any) -> X:
    """Describe one step of the model.

    It must agree with llama.cpp's graph (src/models); `ops.name` gives each result its name in that graph.

    Args:
        ops: the executor's operations.
        weights: the model's weights.
        config: the model's configuration.
        ids: token ids (T,), or None if the executor has them. The executor knows their positions.

    Returns:
        The logits (n_outputs, V), or an encoder's last states (n_outputs, D), in the executor's own type: for
        the eager executor, a float32 array.
    """
    x = embeddings(ops, weights, config, ids)  # (T, D)
    inputs = layer_inputs(ops, weights, config, ids, x) if config.n_embd_per_layer else None
    for i, (layer, w) in enumerate(zip(config.layers, weights.layers)):
        x = block(LayerContext(ops, i, layer, w, weights, i == config.n_layer - 1, inputs), x)
    x = outer_norm(ops, weights, config, "output_norm", "result_norm", x)
    return logits(ops, weights, config, x) if weights.output is not None else x


def embeddings(ops: Operations[X], weights: Weights, config: ModelConfig, ids: Any) -> X:
    """Return the tokens' embeddings, scaled, with types and positions added, and normalized: (T, D)."""
    x = ops.name(_rows(ops, weights, "token_embd", ids), "embd")
    if config.embedding_scale != 1:
        x = ops.name(ops.scale(x, config.embedding_scale), "inp_scaled")
    if weights.token_types is not None:
        x = ops.add(x, ops.token_types(weights.token_types))
    if weights.positions is not None:
        x = ops.name(ops.add(x, ops.positions(weights.positions)), "inpL")
    return outer_norm(ops, weights, config, "token_embd_norm", "inp_norm", x)


def _rows(ops: Operations[X], weights: Weights, name: str, ids: Any) -> X:
    """Return a table's rows for the tokens, with the adapters' products added."""
    x = ops.embed(weights.outer[f"{name}.weight"], ids)
    low_rank = weights.outer.get(f"{name}.lora")
    return x if low_rank is None else ops.add(x, ops.matmul(low_rank.b, ops.embed(low_rank.a, ids)))


def layer_inputs(ops: Operations[X], weights: Weights, config: ModelConfig, ids: Any, x: X) -> X:
    """Return the numbers that each layer adds of its own (Gemma 4): (T, L*P), P numbers for each of L layers.

    They are the scaled sum of the token's own vector for each layer and of a projection of its embedding x.
    """
    P, outer = config.n_embd_per_layer, weights.outer
    own = ops.scale(_rows(ops, weights, "per_layer_token_embd", ids), P**0.5)
    own = ops.name(own, "inp_per_layer_selected")
    made = ops.matmul(outer["per_layer_model_proj.weight"], x)
    made = adapted(ops, made, x, outer.get("per_layer_model_proj.lora"))
    made = ops.scale(made, config.n_embd**-0.5)
    made = ops.name(ops.rms_norm(made, outer["per_layer_proj_norm.weight"], config.rms_eps), "per_layer_proj")
    return ops.name(ops.scale(ops.add(made, own), 0.5**0.5), "inp_per_layer")


def outer_norm(ops: Operations[X], weights: Weights, config: ModelConfig, tensor: str, name: str, x: X) -> X:
    """Return a norm outside the layers, or x itself if the model has none of that name."""
    if f"{tensor}.weight" not in weights.outer:
        return x
    gain, bias = weights.outer[f"{tensor}.weight"], weights.outer.get(f"{tensor}.bias")
    return ops.name(normed(ops, config.architecture.norm, gain, bias, config.rms_eps, x), name)


def logits(ops: Operations[X], weights: Weights, config: ModelConfig, x: X) -> X:
    """Return a score for every token of the vocabulary: (n_outputs, V)."""
    assert weights.output is not None
    y = ops.matmul(weights.output, x, weights.outer.get("output.bias"))
    x = adapted(ops, y, x, weights.outer.get("output.lora"))
    if config.logit_scale != 1:
        x = ops.scale(x, config.logit_scale)
    if config.final_softcap:
        x = ops.softcap(x, config.final_softcap)
    return ops.name(x, "result_output")


def block(b: LayerContext[X], x: X) -> X:
    """Apply one layer: the mixer, then the feed-forward network; each result is added to its input."""
    ops, layer = b.ops, b.layer
    inner = b.norm("attn_norm", x)
    read = b.norm("attn_norm_2", x) if b.has("attn_norm_2") else inner
    mixed = _branch(b, "post_attention_norm", MIXERS[type(layer.mixer)](b, read))
    if b.is_last:  # nothing after this mixes tokens, so keep only those whose logits are needed
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


def add_layer_input(b: LayerContext[X], x: X) -> X:
    """Return x plus this layer's projection of its own columns of `inputs`: (T, D) -> (T, D)."""
    ops, width = b.ops, b.w["inp_gate.weight"].shape[0]
    assert b.inputs is not None  # forward makes them for every model whose layers have `inp_gate`
    own = ops.columns(b.inputs, b.i * width, width)
    if b.is_last:
        own = ops.outputs(own)
    gated = ops.activate("gelu", b.matmul("inp_gate", b.name(x, "pe_in")), own)  # (T, P)
    made = b.norm("post_norm", b.matmul("proj", gated))
    return ops.add(x, b.name(made, "per_layer_embd_out"))


def _branch(b: LayerContext[X], norm: str, x: X) -> X:
    """Apply the end of a branch: its norm, if there is one, and its scale."""
    x = b.norm(norm, x)
    return x if b.layer.residual_scale == 1 else b.ops.scale(x, b.layer.residual_scale)


def feed_forward(b: LayerContext[X], x: X, before: X) -> X:
    """Apply the feed-forward network or the experts to each token: (T, D) -> (T, D).

    `before` is x before its norm.
    """
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


def dense(b: LayerContext[X], spec: FeedForward, x: X, suffix: str = "") -> X:
    """Apply one feed-forward network, gated or not; `suffix` ends its tensors' names."""
    up = b.name(b.matmul(f"ffn_up{suffix}", x), f"ffn_up{suffix}")  # (T, F)
    if spec.gated:
        gate = b.name(b.matmul(f"ffn_gate{suffix}", x), f"ffn_gate{suffix}")
        x = b.ops.activate(spec.activation, gate, up)
        x = b.name(x, f"{GATED_NAMES.get(spec.activation, 'ffn_act')}{suffix}")
    else:
        name = "ffn_gelu" if spec.activation == "gelu" else "ffn_act"
        x = b.name(b.ops.activate(spec.activation, up), f"{name}{suffix}")
    x = b.norm(f"ffn_sub_norm{suffix}", x)
    return b.name(b.matmul(f"ffn_down{suffix}", x), f"ffn_out{suffix}")  # (T, D)


# Activation -> the name of its product with `up` in a trace
GATED_NAMES = {
    "silu": "ffn_swiglu",
    "gelu": "ffn_geglu",
    "gelu_erf": "ffn_geglu",
    "swiglu_oai": "ffn_swiglu_oai",
}


def experts(b: LayerContext[X], spec: Experts, x: X, routed_by: X) -> X:
    """Apply a mixture of experts: the scores choose each token's experts. S is T * n_used.

    Args:
        b: the layer.
        spec: its record of experts.
        x: the input of the experts, (T, D).
        routed_by: the input of the scores, (T, D).
    """
    ops, w, inner = b.ops, b.w, x
    scores = b.name(b.matmul("ffn_gate_inp", routed_by), "ffn_moe_logits")  # (T, n_expert)
    routes = ops.route(scores, spec, w.get("exp_probs_b.bias"), b.i)
    x = ops.spread(x, routes)  # (S, D)

    def matmul(name: str, x: X) -> X:
        y = ops.expert_matmul(w[f"{name}_exps.weight"], x, routes, w.get(f"{name}_exps.bias"))
        low_rank = w.get(f"{name}_exps.lora")
        if low_rank is None:
            return y
        inner = ops.expert_matmul(low_rank.a, x, routes)
        return ops.add(y, ops.expert_matmul(low_rank.b, inner, routes))

    def named(x: X, name: str) -> X:
        return ops.name_routed(x, f"ffn_moe_{name}", b.i, routes)

    if "ffn_gate_up_exps.weight" in w:  # it has the rows of the gate, then those of `up`
        both = named(matmul("ffn_gate_up", x), "gate_up")
        gate, up = ops.columns(both, 0, spec.n_ff), ops.columns(both, spec.n_ff, spec.n_ff)
    else:
        gate, up = matmul("ffn_gate", x), matmul("ffn_up", x)
    gate, up = named(gate, "gate"), named(up, "up")
    act = GATED_NAMES.get(spec.activation, "ffn_act").removeprefix("ffn_")
    x = matmul("ffn_down", named(ops.activate(spec.activation, gate, up), act))  # (S, F) -> (S, D)
    x = named(x, "down")
    if "ffn_down_exps.scale" in w:
        x = named(ops.scale_experts(x, w["ffn_down_exps.scale"], routes), "down_scaled")
    rows = x
    b.inside("ffn_moe_weighted", lambda: routes.by_token(rows) * routes.weights[..., None])
    x = b.name(ops.gather(rows, routes), "ffn_moe_out")  # (T, D)
    if not spec.n_ff_shared:
        return x
    shared = dense(b, FeedForward(n_ff=spec.n_ff_shared, activation=spec.activation), inner, "_shexp")
    if "ffn_gate_inp_shexp.weight" in w:
        gate = b.name(ops.matmul(w["ffn_gate_inp_shexp.weight"], inner), "shared_expert_gate")
        b.inside("shared_expert_gate_sigmoid", lambda: sigmoid(gate))
        shared = b.name(ops.gate(shared, gate), "ffn_shexp_gated")
    return b.name(ops.add(x, shared), "ffn_out")
