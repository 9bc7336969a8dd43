"""The type of each tensor in a quantized file: llama.cpp's mixes, as tables.

Not all tensors of a Q4_K_M file are Q4_K: some lose more than others with few bits, so they keep more bits.
The choices are those of `llama_tensor_get_type_impl` in llama.cpp's llama-quant.cpp, without its exceptions
for single architectures. So a file made here has the same types as one made by llama-quantize.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmlite.errors import UnsupportedError
from llmlite.quants import QuantType, by_name
from llmlite.quants.tensor import QuantTensor

# file type -> (its number in `general.file_type`, the type that most tensors get)
FILE_TYPES: dict[str, tuple[int, str]] = {
    "F32": (0, "F32"),
    "F16": (1, "F16"),
    "BF16": (32, "BF16"),
    "Q4_0": (2, "Q4_0"),
    "Q4_1": (3, "Q4_1"),
    "Q5_0": (8, "Q5_0"),
    "Q5_1": (9, "Q5_1"),
    "Q8_0": (7, "Q8_0"),
    "Q2_K": (10, "Q2_K"),
    "Q2_K_S": (21, "Q2_K"),
    "Q3_K_S": (11, "Q3_K"),
    "Q3_K_M": (12, "Q3_K"),
    "Q3_K_L": (13, "Q3_K"),
    "Q4_K_S": (14, "Q4_K"),
    "Q4_K_M": (15, "Q4_K"),
    "Q5_K_S": (16, "Q5_K"),
    "Q5_K_M": (17, "Q5_K"),
    "Q6_K": (18, "Q6_K"),
    "IQ1_S": (24, "IQ1_S"),
    "IQ1_M": (31, "IQ1_M"),
    "IQ2_XXS": (19, "IQ2_XXS"),
    "IQ2_XS": (20, "IQ2_XS"),
    "IQ2_S": (28, "IQ2_XS"),
    "IQ2_M": (29, "IQ2_S"),
    "IQ3_XXS": (23, "IQ3_XXS"),
    "IQ3_XS": (22, "IQ3_S"),
    "IQ3_S": (26, "IQ3_S"),
    "IQ3_M": (27, "IQ3_S"),
    "IQ4_NL": (25, "IQ4_NL"),
    "IQ4_XS": (30, "IQ4_XS"),
    "TQ1_0": (36, "TQ1_0"),
    "TQ2_0": (37, "TQ2_0"),
    "MXFP4_MOE": (38, "MXFP4"),
    "NVFP4": (39, "NVFP4"),
    "Q1_0": (40, "Q1_0"),
    "Q2_0": (41, "Q2_0"),
}
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}  # as llama-quantize reads them

# if a row isn't a whole number of blocks of the first type, it gets the second, or F16 if that doesn't fit
FALLBACKS = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}

VERY_LOW = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"})  # as file types
# small or sensitive tensors, by their names
NEVER = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid\.weight|altup|laurel|per_layer_model_proj"
    r"|^position_embd\.|\.position_embd|^token_types\.|ssm_conv1d|shortconv\.conv\.weight"
    r"|indexer\.[kq]_proj\.weight|time_mix_(first|w[012]|v[012]|a[12]|a0|g[12]|decay_w[12]|lerp_fused)\.weight"
    r"|attn_rel_b\.weight|\.rel_pos|\.patch_embd|\.patch_merger"
)
_KINDS = (
    ("output", re.compile(r"^output\.weight$")),
    ("embedding", re.compile(r"^(per_layer_)?token_embd\.weight$")),
    ("attn_qkv", re.compile(r"attn_qkv\.weight")),
    ("attn_v", re.compile(r"attn_(v|kv_b)\.weight")),
    ("attn_k", re.compile(r"attn_k\.weight")),
    ("attn_q", re.compile(r"attn_q\.weight")),
    ("attn_output", re.compile(r"attn_output\.weight")),
    ("ffn_up", re.compile(r"ffn_up")),
    ("ffn_gate", re.compile(r"ffn_gate")),
    ("ffn_down", re.compile(r"ffn_down")),
)


def kind_of(name: str) -> str:
    """Return a tensor's purpose for the mixes: "attn_v", "ffn_down", ..., "other"."""
    return next((kind for kind, pattern in _KINDS if pattern.search(name)), "other")


def is_quantized(name: str, n_dims: int) -> bool:
    """Return whether the tensor is quantized: matrices are, but norms, gates and positions aren't."""
    return n_dims >= 2 and name.endswith("weight") and not NEVER.search(name)


@dataclass(frozen=True, kw_only=True)
class Situation:
    """The facts that a tensor's type depends on.

    Attributes:
        mix, name: the mix, and the tensor's name.
        n_columns: weights in a row.
        is_stacked: whether the tensor holds the matrices of several experts.
        i, n: the tensor's index among those of its kind, layer by layer, and their number.
        n_layer, n_expert: numbers of layers and experts.
        n_gqa: query heads per key/value head.
        is_tied: whether the embedding is also the output matrix.
        has_importance: whether there is an importance matrix.
    """

    mix: str
    name: str
    n_columns: int
    is_stacked: bool
    i: int
    n: int
    n_layer: int
    n_gqa: int
    n_expert: int
    is_tied: bool
    has_importance: bool

    @property
    def more_bits(self) -> bool:
        """Whether the layer is in the first or last eighth, or one of every three in between."""
        return self.i < self.n // 8 or self.i >= 7 * self.n // 8 or (self.i - self.n // 8) % 3 == 2

    @property
    def in_first_eighth(self) -> bool:
        """Whether the layer is in the first eighth, whose errors pass through all other layers."""
        return self.i < self.n // 8


def _output(s: Situation, base: str) -> str:
    if s.mix == "MXFP4_MOE" or s.n_columns % by_name(base).block_size:
        return "Q8_0"
    if s.mix in VERY_LOW or s.mix == "IQ3_XXS":
        return "Q5_K"
    return base if base == "Q8_0" else "Q6_K"


def _embedding(s: Situation, base: str) -> str:
    if s.mix in ("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"):
        return "Q2_K"
    if s.mix in ("IQ2_S", "IQ2_M", "IQ3_XXS"):
        return "IQ3_S"
    return "Q4_K" if s.mix in ("TQ1_0", "TQ2_0", "Q2_0") else base


def _very_low(s: Situation, kind: str, base: str) -> str:
    better = "IQ3_S" if s.mix in ("IQ2_S", "IQ2_M") else "Q2_K"
    if kind in ("attn_v", "attn_qkv"):
        return "Q4_K" if s.n_gqa >= 4 or s.n_expert >= 4 else better
    if kind == "attn_k" and s.n_expert == 8:
        return "Q4_K"
    if kind == "ffn_down":
        return better if s.in_first_eighth else base
    if kind == "attn_output":
        if s.n_expert == 8:
            return "Q5_K"
        return {"IQ1_S": "IQ2_XXS", "IQ1_M": "IQ2_XXS", "IQ2_S": "IQ3_S", "IQ2_M": "IQ3_S"}.get(s.mix, base)
    return base


def _attn_v(s: Situation, base: str) -> str:
    if s.n_expert == 8:
        return "Q8_0"
    shared = s.n_gqa >= 4  # several heads share a value, so its tensor is small but affects all of them
    chosen = {
        "Q2_K": "Q4_K" if shared else "Q3_K",
        "Q2_K_S": "Q4_K" if shared else base,
        "IQ3_XXS": "Q4_K" if shared else (base if s.has_importance else "IQ3_S"),
        "IQ3_XS": "Q4_K" if shared else base,
        "IQ3_S": "Q4_K" if shared else base,
        "IQ3_M": "Q4_K",
        "Q3_K_M": "Q5_K" if s.i < 2 else "Q4_K",
        "Q3_K_L": "Q5_K",
        "IQ4_NL": "Q5_K" if shared else base,
        "IQ4_XS": "Q5_K" if shared else base,
        "Q4_K_M": "Q6_K" if s.more_bits else base,
        "Q5_K_M": "Q6_K" if s.more_bits else base,
        "Q4_K_S": "Q5_K" if s.i < 4 else base,
    }.get(s.mix, base)
    if s.n_layer == 80 and s.n_gqa > 1 and chosen in ("Q3_K", "Q4_K"):
        return "Q5_K"  # the 70B shape: eight heads share a value
    return chosen


def _ffn_down(s: Situation, base: str) -> str:
    return {
        "Q2_K": "Q3_K",
        "Q2_K_S": "Q4_K" if s.in_first_eighth else base,
        "IQ3_XXS": base if s.has_importance else ("Q4_K" if s.in_first_eighth else "Q3_K"),
        "Q3_K_M": "Q5_K" if s.i < s.n // 16 else "Q4_K",
        "IQ3_M": "Q4_K" if s.in_first_eighth or (s.n_expert == 8 and s.more_bits) else base,
        "Q3_K_L": "Q5_K",
        "Q4_K_M": "Q6_K" if s.more_bits else base,
        "Q5_K_M": "Q6_K" if s.more_bits else base,
        "IQ4_NL": "Q5_K" if s.in_first_eighth and not s.has_importance else base,
        "IQ4_XS": "Q5_K" if s.in_first_eighth and not s.has_importance else base,
        "Q4_K_S": "Q5_K" if s.in_first_eighth else base,
        "Q4_0": "Q4_1" if s.in_first_eighth and s.has_importance else base,
        "Q5_0": "Q5_1" if s.in_first_eighth and s.has_importance else base,
    }.get(s.mix, base)


_EXPERTS_OUTPUT_Q5 = frozenset(
    ["Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M"]
    + ["IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS"]
)


def _attn_output(s: Situation, base: str) -> str:
    if s.n_expert == 8:
        return "Q5_K" if s.mix in _EXPERTS_OUTPUT_Q5 else base
    return {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}.get(
        s.mix, base
    )


def _attn_q_or_k(s: Situation, kind: str, base: str) -> str:
    if kind == "attn_k" and s.n_expert == 8:
        return "Q8_0"
    return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(s.mix, base)


def choose(s: Situation, base: str) -> str:
    """Choose the type of one tensor in a mix, before its row width is considered."""
    kind = kind_of(s.name)
    if kind == "output" or (kind == "embedding" and s.is_tied):
        return _output(s, base)
    if s.mix == "MXFP4_MOE":
        return "MXFP4" if s.is_stacked else "Q8_0"
    if kind == "embedding":
        return _embedding(s, base)
    if s.mix in VERY_LOW:
        return _very_low(s, kind, base)
    if kind in ("attn_v", "attn_qkv"):
        return _attn_v(s, base)
    if kind in ("attn_q", "attn_k"):
        return _attn_q_or_k(s, kind, base)
    if kind == "ffn_down":
        return _ffn_down(s, base)
    if kind == "attn_output":
        return _attn_output(s, base)
    if kind in ("ffn_gate", "ffn_up") and s.mix == "IQ3_XS":
        return "IQ3_XXS" if s.n // 8 <= s.i < 7 * s.n // 8 else base
    return base


def fitted(chosen: str, n_columns: int) -> str:
    """Return the type if n_columns is a multiple of its block, else its fallback, else F16."""
    if n_columns % by_name(chosen).block_size == 0:
        return chosen
    second = FALLBACKS.get(chosen, chosen)
    return second if n_columns % by_name(second).block_size == 0 else "F16"


def assign(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, QuantTensor],
    file_type: str,
    *,
    pure: bool = False,
    overrides: Sequence[tuple[str, str]] = (),
    has_importance: bool = False,
) -> dict[str, QuantType]:
    """Determine the type of every tensor of a file under a mix.

    Args:
        metadata: the file's metadata.
        tensors: the file's tensors.
        file_type: the mix, such as "Q4_K_M" (see `FILE_TYPES`).
        pure: give every weight the mix's main type, including embedding and output. If a row doesn't fit, the
            type's fallback is used.
        overrides: (regular expression, type name) pairs. The first one that matches a tensor's name decides.
        has_importance: whether there is an importance matrix.

    Returns:
        Tensor name -> type, in file order. Tensors that stay unquantized keep their type.

    Raises:
        UnsupportedError: the mix or a type is unknown.
    """
    mix = canonical(file_type)
    base = FILE_TYPES[mix][1]
    facts = _model_facts(metadata)
    is_tied = "output.weight" not in tensors
    patterns = [(re.compile(pattern), by_name(name).name) for pattern, name in overrides]
    counters: dict[str, int] = {}
    n_values = sum(kind_of(name) in ("attn_v", "attn_qkv") for name in tensors)
    assigned = {}
    for name in sorted(tensors, key=_layer_order):
        tensor = tensors[name]
        if not is_quantized(name, _n_dims(tensor)):
            continue
        kind = "attn_v" if kind_of(name) == "attn_qkv" else kind_of(name)
        rank = counters.get(kind, 0)
        manual = next((to for pattern, to in patterns if pattern.search(name)), None)
        if manual is not None or pure or base in ("F32", "F16", "BF16"):
            chosen = manual or base
        else:
            counters[kind] = rank + 1
            by_name_only = kind.startswith("ffn") and facts["n_expert"] > 1  # experts may be out of order
            chosen = choose(
                Situation(
                    mix=mix,
                    name=name,
                    n_columns=tensor.n_columns,
                    is_stacked=len(tensor.shape) > 2 and tensor.shape[-3] > 1,
                    i=_layer_order(name)[0] if by_name_only else rank,
                    n=n_values if kind == "attn_v" else facts["n_layer"],
                    is_tied=is_tied,
                    has_importance=has_importance,
                    **facts,
                ),
                base,
            )
        assigned[name] = by_name(fitted(chosen, tensor.n_columns))
    return {name: assigned.get(name, tensor.type) for name, tensor in tensors.items()}


def canonical(file_type: str) -> str:
    """Return the full name of a mix: "q4_k" -> "Q4_K_M". Raises UnsupportedError for an unknown one."""
    mix = ALIASES.get(file_type.upper(), file_type.upper())
    if mix not in FILE_TYPES:
        known = ", ".join([*FILE_TYPES, *ALIASES])
        raise UnsupportedError(f"unknown file type {file_type!r}; known are {known}")
    return mix


def _n_dims(tensor: QuantTensor) -> int:
    """Return the number of dimensions as GGML counts them: without trailing ones, in GGUF's order."""
    dims = list(tensor.dims)
    while len(dims) > 1 and dims[-1] == 1:
        dims.pop()
    return len(dims)


def _layer_order(name: str) -> tuple[int, str]:
    layer = re.match(r"blk\.(\d+)\.", name)
    return (int(layer.group(1)) if layer else -1, name)


def _model_facts(metadata: Mapping[str, Any]) -> dict[str, int]:
    prefix = metadata.get("general.architecture", "llama")

    def number(key: str, default: int) -> int:
        value = metadata.get(f"{prefix}.{key}", default)
        return int(value) if isinstance(value, (int, float)) else int(next(iter(value), default))

    n_head = number("attention.head_count", 1)
    n_head_kv = number("attention.head_count_kv", n_head)
    return {
        "n_layer": number("block_count", 0),
        "n_gqa": n_head // n_head_kv if n_head_kv else 0,
        "n_expert": number("expert_count", 0),
    }
