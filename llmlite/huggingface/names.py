"""What Hugging Face calls a model's tensors, and how it lays them out, brought to GGUF's names and layout."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from llmlite.architectures import EXPERTS
from llmlite.errors import ModelError
from llmlite.huggingface.safetensors import shown
from llmlite.tensor import PendingTensor, QuantTensor

OUTER_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# What follows from config.json, yet stands in old files; GPT-2's attn.bias is its causal mask.
DERIVED = re.compile(r"\.(rotary_emb\.inv_freq|masked_bias)$|(^|\.)h\.\d+\.attn\.bias$")


@dataclass(frozen=True, kw_only=True)
class Names:
    """One family's names.

    Attributes:
        layers: what stands before a layer's number. optional: a beginning that some files leave out.
        outer, layer: their stem -> GGUF's, outside the layers and in them.
        experts: what stands before an expert's number; "" without a mixture.
        expert: the stem behind that number -> the matrix of EXPERTS.
        transposed: GGUF's stems of the matrices kept as (columns, rows).
    """

    layers: str = "model.layers."
    optional: str = ""
    outer: Mapping[str, str] = field(default_factory=lambda: OUTER_NAMES)
    layer: Mapping[str, str] = field(default_factory=lambda: LAYER_NAMES)
    experts: str = ""
    expert: Mapping[str, str] = field(default_factory=dict)
    transposed: tuple[str, ...] = ()

    def new(self, name: str) -> tuple[str, int | None] | None:
        """GGUF's name, and the expert's number if it is the tensor of one; None if it is unknown."""
        pattern = rf"(?:{re.escape(self.layers)}(\d{{1,4}})\.)?(.+)\.(weight|bias)"
        if not name.startswith((self.optional, "lm_head.")):
            name = self.optional + name
        match = re.fullmatch(pattern, name)
        if match is None:
            return None
        number, stem, kind = match.groups()
        prefix = f"blk.{int(number)}." if number else ""
        one = re.fullmatch(rf"{re.escape(self.experts)}(\d{{1,4}})\.(\w+)", stem)
        if self.experts and number and one and one[2] in self.expert:
            return f"{prefix}{self.expert[one[2]]}_exps.{kind}", int(one[1])
        stems = self.layer if number else self.outer
        return (f"{prefix}{stems[stem]}.{kind}", None) if stem in stems else None

    def old(self, name: str) -> str:
        """The name that a tensor has in the folder: what its owner knows it by."""
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
        if match is None:
            return name
        number, stem, kind = match.groups()
        stems = {new: old for old, new in (self.layer if number else self.outer).items()}
        stems |= {f"{new}_exps": f"{self.experts}*.{old}" for old, new in self.expert.items()}
        if stem not in stems:
            return name
        return f"{self.layers}{number}.{stems[stem]}.{kind}" if number else f"{stems[stem]}.{kind}"


def _mixture(router: str, experts: str, stems: tuple[str, str, str]) -> Names:
    """Llama's names with experts in place of the one feed-forward network; stems in the order of EXPERTS."""
    layer = {old: new for old, new in LAYER_NAMES.items() if new not in EXPERTS}
    return Names(
        layer=layer | {router: "ffn_gate_inp"}, experts=experts, expert=dict(zip(stems, EXPERTS, strict=True))
    )


LLAMA = Names()
BY_CLASS = {
    "MixtralForCausalLM": _mixture("block_sparse_moe.gate", "block_sparse_moe.experts.", ("w1", "w3", "w2")),
    "Qwen3MoeForCausalLM": _mixture("mlp.gate", "mlp.experts.", ("gate_proj", "up_proj", "down_proj")),
    "GPT2LMHeadModel": Names(
        layers="transformer.h.",
        optional="transformer.",
        outer={
            "transformer.wte": "token_embd",
            "transformer.wpe": "position_embd",
            "transformer.ln_f": "output_norm",
            "lm_head": "output",
        },
        layer={
            "ln_1": "attn_norm",
            "attn.c_attn": "attn_qkv",
            "attn.c_proj": "attn_output",
            "ln_2": "ffn_norm",
            "mlp.c_fc": "ffn_up",
            "mlp.c_proj": "ffn_down",
        },
        transposed=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
    ),
}  # every other class has Llama's


def renamed(
    folder: str, sources: Mapping[str, QuantTensor], names: Names, *, tied: bool
) -> dict[str, QuantTensor]:
    """The tensors under GGUF's names: experts stacked, (columns, rows) turned to (rows, columns).

    Nothing is copied: what must be made is made when its blocks are asked for.

    tied: config.json says that output and embedding are one. An output of its own stays all the same.

    Raises: ModelError for a tensor that isn't of this architecture, is there twice, or is missing.
    Warns: such an output.
    """
    found: dict[str, QuantTensor] = {}
    stacks: dict[str, dict[int, QuantTensor]] = {}
    for name, tensor in sources.items():
        if DERIVED.search(name):
            continue
        known = names.new(name)
        if known is None:
            raise ModelError(f"{folder}: {shown(name)}: not a tensor of this architecture")
        new, expert = known
        among = found if expert is None else stacks.setdefault(new, {})
        key = new if expert is None else expert
        if key in among:
            raise ModelError(f"{folder}: {shown(name)}: this tensor is there twice, under two names")
        among[key] = tensor  # type: ignore[index]  # a name among tensors, a number among experts
    if tied and "output.weight" in found:
        if _same(found["output.weight"], found.get("token_embd.weight")):
            del found["output.weight"]
        else:
            warnings.warn(
                f"{folder}: lm_head.weight differs from the embedding, though tie_word_embeddings is true: "
                "it is kept, as transformers does",
                stacklevel=3,
            )
    if not tied and "output.weight" not in found:
        raise ModelError(f"{folder}: lm_head.weight: this tensor is missing; tie_word_embeddings isn't true")
    for new, tensor in found.items():
        if new.split(".")[-2] in names.transposed and len(tensor.shape) == 2:
            found[new] = _turned(tensor)
    return found | {new: _stacked(folder, new, stack, names) for new, stack in stacks.items()}


def _same(one: QuantTensor, other: QuantTensor | None) -> bool:
    """Whether two matrices hold the same numbers, whatever their types."""
    if other is None or one.shape != other.shape:
        return False
    step = max(1, (1 << 20) // max(1, one.n_columns))
    slabs = (slice(at, at + step) for at in range(0, one.n_rows, step))
    return all(np.array_equal(one.dequantize(s), other.dequantize(s), equal_nan=True) for s in slabs)


def _turned(source: QuantTensor) -> QuantTensor:
    """A matrix (columns, rows) as (rows, columns)."""
    rows, columns = source.shape[::-1]

    def make() -> np.ndarray:
        numbers = source.blocks.reshape(columns, rows, -1).swapaxes(0, 1)  # a number's bytes stay together
        return np.ascontiguousarray(numbers).reshape(-1, source.type.type_size)

    return PendingTensor(source.name, source.type, (rows, columns), make)


def _stacked(folder: str, name: str, stack: Mapping[int, QuantTensor], names: Names) -> QuantTensor:
    """The matrices of all experts as one tensor (n_expert, rows, columns)."""
    old, first = names.old(name), next(iter(stack.values()))
    missing = sorted(set(range(len(stack))) - stack.keys())
    if missing:
        raise ModelError(f"{folder}: {old.replace('*', str(missing[0]))}: this tensor is missing")
    experts = [stack[i] for i in range(len(stack))]
    for expert in experts:
        if (expert.shape, expert.type) != (first.shape, first.type):
            raise ModelError(
                f"{folder}: {expert.name}: expected {first.type.name} {first.shape} like {first.name}, "
                f"got {expert.type.name} {expert.shape}"
            )

    def make() -> np.ndarray:
        return np.concatenate([expert.blocks for expert in experts])

    return PendingTensor(name, first.type, (len(experts), *first.shape), make)
