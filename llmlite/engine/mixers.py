"""The mixers of a layer's tokens: a function for each record of llmlite.description.layers.

Shapes: T tokens, D n_embd, H heads, K key/value heads, Dh head size.
"""

from __future__ import annotations

import numpy as np

from llmlite.description.layers import (
    Attention,
    DeltaNet,
    LatentAttention,
    Mamba,
    Mamba2,
    ShortConvolution,
)
from llmlite.engine.operations import LayerContext, X, side_by_side, sigmoid


def attention(b: LayerContext[X], x: X) -> X:
    """Apply softmax attention: (T, D) -> (T, D)."""
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
        gate = b.name(gate, "gate_reshaped")
        b.inside("gate_sigmoid", lambda: sigmoid(gate))
        x = b.name(ops.gate(b.name(x, "attn_pregate"), gate), "attn_gated")
    x = b.norm("attn_sub_norm", x)
    return b.name(b.matmul("attn_output", x), "attn_out")


def keys_and_values(b: LayerContext[X], x: X) -> tuple[X, X]:
    """Return the keys (T, K*Dk) and values (T, K*Dv) that a layer stores."""
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


def latent_attention(b: LayerContext[X], x: X) -> X:
    """Apply latent attention, with one short row c for each token: (T, D) -> (T, D). R is kv_rank.

    A score is (K_h c) · q = c · (K_hᵀ q), so the query is multiplied once, instead of every key. The values'
    matrix is applied in the same way, to the head's result.
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
    row = b.name(b.name(row, "Vcur"), "kv_cmpr")  # one row is both
    k = b.name(ops.join(row, k_pe, 1, 1), "Kcur")
    x = ops.attention(q, k, None, b.i, spec, None)  # (T, H*R)
    x = b.name(ops.head_matmul(w["attn_v_b.weight"], x), "kqv_mla", heads=H)  # (T, H*Dv)
    x = b.name(x, "kqv_out")
    return b.name(b.matmul("attn_output", x), "attn_out")


def head_norm(b: LayerContext[X], tensor: str, x: X, name: str, n_head: int) -> X:
    """Return the norm of queries or keys, or x itself if the layer has none.

    RMSNorm applies to each head separately or to the whole row, depending on the gain's length. LayerNorm
    applies to each head separately, and each head has its own gain.
    """
    gain = b.w.get(f"{tensor}.weight")
    if gain is None:
        return x
    x = b.name(x, name.replace("normed", "raw"), heads=n_head)
    if b.layer.norm == "rms":
        x = b.ops.rms_norm(x, gain, b.layer.eps)
    else:
        x = b.ops.layer_norm(x, gain, None, b.layer.eps, parts=n_head)
    return b.name(x, name, heads=n_head)


def short_convolution(b: LayerContext[X], x: X) -> X:
    """Apply a gated convolution over the latest tokens: (T, D) -> (T, D)."""
    ops = b.ops
    before, after, x = parts = [b.matmul(f"shortconv.{part}", x) for part in ("b", "c", "x")]  # (T, D) each
    b.inside("conv.in_proj", lambda: side_by_side(parts))
    x = ops.convolve(ops.multiply(before, x), b.w["shortconv.conv.weight"], None, b.i)
    x = ops.multiply(after, b.name(x, "conv.conv"))
    return b.name(b.matmul("shortconv.out_proj", x), "conv.out_proj")


def mamba2(b: LayerContext[X], x: X) -> X:
    """Apply a state-space model: (T, D) -> (T, D). E is the width of all heads."""
    ops, w = b.ops, b.w
    spec: Mamba2 = b.layer.mixer
    z, x, dt = (b.matmul(f"ssm_in_{part}", x) for part in ("z", "xbc", "dt"))  # (T, E), (T, C), (T, H)
    x = ops.convolve(x, w["ssm_conv1d.weight"], w.get("ssm_conv1d.bias"), b.i)
    x = b.name(ops.activate("silu", x), "ssm_conv")
    x = ops.scan(x, dt, w["ssm_a"], w["ssm_d"], w["ssm_dt.bias"], b.i, spec)
    x = ops.activate("silu", z, b.name(x, "mamba2_y_add_d"))
    if spec.n_group == 1:
        x = ops.rms_norm(x, w["ssm_norm.weight"], b.layer.eps)
    else:  # each group separately
        x = ops.rms_norm(x, None, b.layer.eps, width=spec.inner_width // spec.n_group)
        x = ops.multiply_row(x, w["ssm_norm.weight"])
    return b.name(b.matmul("ssm_out", b.name(x, "ssm_norm")), "mamba_out")


def mamba(b: LayerContext[X], x: X) -> X:
    """Apply a state-space model of single columns: (T, D) -> (T, D). E is the mixer's width."""
    ops, w = b.ops, b.w
    spec: Mamba = b.layer.mixer
    both = b.matmul("ssm_in", x)  # (T, 2 E)
    x, z = ops.columns(both, 0, spec.width), ops.columns(both, spec.width, spec.width)
    x = ops.convolve(x, w["ssm_conv1d.weight"], w.get("ssm_conv1d.bias"), b.i)
    x = b.name(ops.activate("silu", x), "ssm_conv")
    db = b.matmul("ssm_x", x)  # (T, rank + 2 N): input of the time step, then b and c
    dt = ops.project(db, w["ssm_dt.weight"], w["ssm_dt.bias"])  # (T, E)
    x = ops.scan_columns(x, dt, db, w["ssm_a"], w["ssm_d"], b.i, spec)
    x = ops.activate("silu", z, b.name(x, "mamba_y_add_d"))
    return b.name(b.matmul("ssm_out", x), "mamba_out")


def delta_net(b: LayerContext[X], x: X) -> X:
    """Apply linear attention by the gated delta rule: (T, D) -> (T, D).

    There are H heads of N numbers for values, and K heads for keys.
    """
    ops, w = b.ops, b.w
    spec: DeltaNet = b.layer.mixer
    N, r = spec.head_size, spec.n_head // spec.n_head_k
    if spec.fused_rates:  # for each key head, beta and alpha of its value heads
        rates = b.name(b.matmul("ssm_ba", x), "linear_attn_mixed_ba")
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
