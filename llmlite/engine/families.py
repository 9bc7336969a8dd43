"""Which quant types have kernels of their own, in which shape. Others run through NumPy, visibly slower."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmlite.engine.jit import Kernel, kernel


@dataclass(frozen=True, kw_only=True)
class Family:
    """The kernels of one quant type.

    Attributes:
        module: the file in `llmlite/engine/kernels`.
        suffix: of the kernels' names in it.
        block: weights in a block: a row must be whole blocks of it.
        sub: weights that share a scale, 32 or 16; 0 for plain floats, whose activations stay floats.
        zero: what is subtracted from an unpacked quant.
        has_minimum: whether a sub-block subtracts a minimum.
        full_bytes: whether quants use all of a byte; else they are below 128.
    """

    module: str
    suffix: str
    block: int
    sub: int = 0
    zero: int = 0
    has_minimum: bool = False
    full_bytes: bool = False

    @property
    def matvec(self) -> Kernel:
        """out = W x for few tokens."""
        return kernel(self.module, f"matvec_{self.suffix}")

    @property
    def matmul(self) -> Kernel:
        """out = X Wᵀ for many tokens."""
        if not self.sub:
            return kernel(self.module, f"matmul_{self.suffix}")
        form = "_min" if self.has_minimum else "_bytes" if self.full_bytes else ""
        return kernel("quantized", f"matmul{self.sub}{form}")

    @property
    def unpack(self) -> Kernel:
        """The routine by which `matmul` of a quantized type reads 32 rows."""
        return kernel(self.module, f"unpack_{self.suffix}")

    @property
    def embed(self) -> Kernel:
        """Rows as floats."""
        return kernel(self.module, f"embed_{self.suffix}")


def _plain(suffix: str) -> Family:
    return Family(module="dense", suffix=suffix, block=16)


def _blocks(suffix: str, zero: int, **facts: bool) -> Family:
    return Family(module="blocks32", suffix=suffix, block=32, sub=32, zero=zero, **facts)


def _super(suffix: str, zero: int, sub: int = 32, **facts: bool) -> Family:
    return Family(module="blocks256", suffix=suffix, block=256, sub=sub, zero=zero, **facts)


# GGML's type id -> its kernels
FAMILIES: dict[int, Family] = {
    0: _plain("f32"),
    1: _plain("f16"),
    30: _plain("bf16"),
    2: _blocks("q4_0", 8),
    3: _blocks("q4_1", 0, has_minimum=True),
    6: _blocks("q5_0", 16),
    7: _blocks("q5_1", 0, has_minimum=True),
    8: _blocks("q8_0", 128, full_bytes=True),
    20: _blocks("iq4_nl", 128, full_bytes=True),
    39: _blocks("mxfp4", 12),
    10: _super("q2_k", 0, 16, has_minimum=True),
    11: _super("q3_k", 4, 16),
    12: _super("q4_k", 0, has_minimum=True),
    13: _super("q5_k", 0, has_minimum=True),
    14: _super("q6_k", 32, 16),
    23: _super("iq4_xs", 128, full_bytes=True),
}


def every_kernel(types: Iterable[int] = FAMILIES) -> list[Kernel]:
    """The kernels that any model needs, and those of the types, given by id: of all types by default."""
    basic = ("rms_norm", "add", "add_bias", "silu_mul", "take_outputs", "rope", "quantize", "quantize_mixed")
    found = [kernel("basic", name) for name in (*basic, "store_f16", "store_f32")]
    found += [kernel("basic", name) for name in ("layer_norm", "positions", "gelu")]
    experts = ("choose_experts", "sort_rows", "spread", "each_expert", "gather")
    found += [kernel("experts", name) for name in experts]
    kinds = ("attention_f16", "attention_f32", "attention_prompt_f16")
    forms = [kind + head for kind in kinds for head in ("", "_64", "_128")]
    found += [kernel("attention", name) for name in (*forms, "merge_parts")]
    found += [kernel("team", name) for name in ("run", "work", "stop")]
    for family in (FAMILIES[type_id] for type_id in types):
        found += [family.matvec, family.matmul, family.embed, *([family.unpack] if family.sub else [])]
    return list(dict.fromkeys(found))
