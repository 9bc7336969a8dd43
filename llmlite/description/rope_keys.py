"""The rotation of queries and keys, from a file's keys."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from llmlite.description.layers import Rope, Yarn

if TYPE_CHECKING:
    from llmlite.description.layer_keys import Layers


def rope(build: Layers, windowed: bool) -> Rope | None:
    """Return the rotation of queries and keys in windowed layers or in the others; None without rotation."""
    entry, keys, rule = build.architecture, build.keys, build.architecture.windows
    if not entry.rope_pairs:
        return None
    if "rope.scaling.finetuned" in entry.features and not keys.flag("rope.scaling.finetuned", True):
        return None
    size, key = build.sizes[False][0], "rope.dimension_count"
    dim = keys.integer(key, size, at_most=size)
    if windowed and entry.window_sizes:
        size, key = build.sizes[True][0], "rope.dimension_count_swa"
        dim = keys.integer(key, min(dim, size), at_most=size)
    if dim % 2:
        keys.fail(key, "an even number", dim)
    rope = Rope(dim=dim, pairs=entry.rope_pairs, base=keys.positive("rope.freq_base", 10000.0))
    if windowed and rule is not None:
        base = keys.positive("rope.freq_base_swa", rule.rope_base or rope.base)
        rope = replace(rope, base=base)
        if not rule.scaled:
            return rope
    return _scaled(build, rope)


def _scaled(build: Layers, rope: Rope) -> Rope:
    """Return `rope` with the scaling that the file requests."""
    keys = build.keys
    kind = keys.get("rope.scaling.type", "linear")
    if not isinstance(kind, str) or kind not in ("none", "linear", "yarn", "longrope"):
        keys.refuse("rope.scaling.type", kind, "supported are none, linear, yarn, longrope")
    magnitude = keys.number("rope.scaling.attn_factor", 1.0) or 1.0
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0))
    if kind == "none" or factor == 0:  # llama.cpp takes 0 for absent
        factor = 1.0
    rope = replace(rope, scale=1 / factor, magnitude=magnitude)
    if "rope_freqs.weight" in build.tensors:
        rope = replace(rope, factors="rope_freqs")
    if "rope_factors_short.weight" in build.tensors:
        build.n_ctx_original = keys.integer("rope.scaling.original_context_length", build.n_ctx)
        rope = replace(rope, factors="rope_factors_short", scale=1.0)
    if kind == "yarn":
        return _yarn(build, rope, factor)
    return rope


def _yarn(build: Layers, rope: Rope, factor: float) -> Rope:
    keys = build.keys
    mix = keys.number("rope.scaling.yarn_ext_factor", 1.0)
    yarn = Yarn(
        n_ctx=keys.integer("rope.scaling.original_context_length", build.n_ctx),
        beta_fast=keys.positive("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.positive("rope.scaling.yarn_beta_slow", 1.0),
        mix=mix,
        rounded=build.architecture.yarn_rounded,
    )
    magnitude = rope.magnitude * (keys.number("rope.scaling.yarn_attn_factor", 1.0) or 1.0)
    multiplier = keys.number("rope.scaling.yarn_log_multiplier", 0.0)
    if build.architecture.latent and multiplier:  # the multiplier is part of the attention's scale instead
        return replace(rope, yarn=yarn, magnitude=magnitude)
    if mix:
        magnitude *= (1 + 0.1 * math.log(factor)) if factor > 1 else 1.0
        if multiplier:
            magnitude /= (1 + 0.1 * multiplier * math.log(factor)) if factor > 1 else 1.0
    return replace(rope, yarn=yarn, magnitude=magnitude)
