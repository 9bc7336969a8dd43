"""The records of mixers other than attention, from a file's keys."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llmlite.description.layers import DeltaNet, LatentAttention, Mamba, Mamba2, Rope, ShortConvolution

if TYPE_CHECKING:
    from llmlite.description.layer_keys import Layers

MAX_STATE = 4096  # rows of a head's state; models have up to 256
MAX_TAPS = 64  # of a convolution over the latest tokens; models have 3 or 4


def latent(build: Layers, i: int) -> LatentAttention:
    """Return the record of layer i of DeepSeek-V2 or -V3."""
    keys, rope, n_head = build.keys, build.ropes[False], build.n_head[i]
    if rope is None or rope.dim >= build.key_size:
        dim = rope.dim if rope else 0
        keys.fail("rope.dimension_count", f"less than a key's length, {build.key_size}", dim)
    expected = 1 if build.is_split else n_head
    if build.n_head_kv[i] != expected:
        keys.fail("attention.head_count_kv", str(expected), build.n_head_kv[i])
    rank = keys.integer("attention.kv_lora_rank")
    return LatentAttention(
        n_head=n_head,
        n_head_kv=1,
        key_size=rank + rope.dim,
        value_size=rank,
        head_key_size=build.key_size,
        head_value_size=build.value_size,
        scale=build.scale * _latent_magnitude(build, rope) ** 2,
        rope=rope,
        q_rank=keys.integer("attention.q_lora_rank", 0, at_least=0),
        split=build.is_split,
    )


def _latent_magnitude(build: Layers, rope: Rope) -> float:
    """Return yarn's factor for queries and keys, which also applies to the parts that aren't rotated.

    Source: llama.cpp's deepseek2.cpp, whose key holds a tenth of the multiplier.
    """
    keys, factor = build.keys, 1 / rope.scale
    if factor != 1 and (rope.yarn is None or not rope.yarn.mix):
        keys.refuse("rope.scaling.factor", factor, "without yarn only 1 is")
    return rope.magnitude * (1 + _latent_multiplier(build) * math.log(max(factor, 1.0)))


def _latent_multiplier(build: Layers) -> float:
    return build.keys.number("rope.scaling.yarn_log_multiplier", 0.0)


def recurrent_layers(build: Layers) -> list[bool]:
    """Return whether each layer is recurrent: it has no key/value heads, or the file lists it."""
    keys, n_layer = build.keys, build.n_layer
    if build.architecture.recurrent != "delta_net":
        return [n_head_kv == 0 for n_head_kv in build.n_head_kv]
    period = keys.integer("full_attention_interval", 4)
    listed = keys.get("attention.recurrent_layers")
    if listed is None:
        return [(i + 1) % period != 0 for i in range(n_layer)]
    if isinstance(listed, str) or not hasattr(listed, "__len__") or len(listed) != n_layer:
        keys.fail("attention.recurrent_layers", f"{n_layer} values, one for each layer", listed)
    return [bool(recurrent) for recurrent in listed]


def delta_net(build: Layers) -> DeltaNet:
    """Return the record of a layer without attention, in Qwen 3.5 or Qwen3-Next."""
    keys, entry = build.keys, build.architecture
    inner, n_head_k = keys.integer("ssm.inner_size"), keys.integer("ssm.group_count")
    n_head = keys.integer("ssm.time_step_rank", at_most=inner)
    head_size = keys.integer("ssm.state_size", at_most=MAX_STATE)
    if n_head % n_head_k:
        keys.fail("ssm.time_step_rank", f"a multiple of group_count, {n_head_k}", n_head)
    if inner != n_head * head_size:
        keys.fail("ssm.inner_size", f"time_step_rank times state_size, {n_head * head_size}", inner)
    return DeltaNet(
        n_head_k=n_head_k,
        n_head=n_head,
        head_size=head_size,
        n_taps=keys.integer("ssm.conv_kernel", at_least=2, at_most=MAX_TAPS),
        tiled=entry.tiled_heads,
        fused_rates=not entry.tiled_heads,
    )


def short_convolution(build: Layers) -> ShortConvolution:
    """Return the record of a layer without attention, in LFM2."""
    n_taps = build.keys.integer("shortconv.l_cache", at_least=2, at_most=MAX_TAPS)
    return ShortConvolution(width=build.n_embd, n_taps=n_taps)


def mamba(build: Layers) -> Mamba:
    """Return the record of a layer of Mamba."""
    keys = build.keys
    if keys.flag("ssm.dt_b_c_rms", False):
        keys.refuse("ssm.dt_b_c_rms", True, "only false is")
    return Mamba(
        width=keys.integer("ssm.inner_size"),
        rank=keys.integer("ssm.time_step_rank"),
        state_size=keys.integer("ssm.state_size", at_most=MAX_STATE),
        n_taps=keys.integer("ssm.conv_kernel", at_least=2, at_most=MAX_TAPS),
    )


def mamba2(build: Layers) -> Mamba2:
    """Return the record of a layer of Mamba-2."""
    keys = build.keys
    inner = keys.integer("ssm.inner_size")
    n_head = keys.integer("ssm.time_step_rank", at_most=inner)
    n_group = keys.integer("ssm.group_count", 1, at_most=n_head)
    if inner % n_head or n_head % n_group:
        keys.fail(
            "ssm.time_step_rank",
            f"a divisor of inner_size, {inner}, and a multiple of group_count",
            n_head,
        )
    return Mamba2(
        n_head=n_head,
        head_size=inner // n_head,
        n_group=n_group,
        state_size=keys.integer("ssm.state_size", at_most=MAX_STATE),
        n_taps=keys.integer("ssm.conv_kernel", at_least=2, at_most=MAX_TAPS),
    )


RECURRENT = {  # an entry's name of a mixer -> its record
    "short_convolution": short_convolution,
    "mamba": mamba,
    "mamba2": mamba2,
    "delta_net": delta_net,
}
