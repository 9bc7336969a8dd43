"""Files of a known model's shape with random weights: speed and memory can be measured without its download.

The weights are noise in the right types, the vocabulary has the right size, and llama.cpp loads the file too.
What it generates means nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmlite import gguf, mixes
from llmlite.architectures import ARCHITECTURES, MATRICES, NORMS
from llmlite.errors import UnsupportedError
from llmlite.quants import QuantType, by_name
from llmlite.tensor import QuantTensor

POOL_WEIGHTS = 1 << 17  # quantized once per type; rows are drawn from these blocks
N_BYTES = 256
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The widths of a published model; names as in ModelConfig."""

    architecture: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_ff: int
    n_vocab: int
    n_ctx: int
    rope_base: float
    is_tied: bool


SHAPES = {
    "llama-3.2-1b": Shape(
        architecture="llama", n_layer=16, n_embd=2048, n_head=32, n_head_kv=8, n_ff=8192, n_vocab=128256,
        n_ctx=131072, rope_base=500000.0, is_tied=True,
    ),
    "tinyllama-1.1b": Shape(
        architecture="llama", n_layer=22, n_embd=2048, n_head=32, n_head_kv=4, n_ff=5632, n_vocab=32000,
        n_ctx=2048, rope_base=10000.0, is_tied=False,
    ),
    "smollm2-135m": Shape(
        architecture="llama", n_layer=30, n_embd=576, n_head=9, n_head_kv=3, n_ff=1536, n_vocab=49152,
        n_ctx=8192, rope_base=100000.0, is_tied=True,
    ),
    "qwen2.5-0.5b": Shape(
        architecture="qwen2", n_layer=24, n_embd=896, n_head=14, n_head_kv=2, n_ff=4864, n_vocab=151936,
        n_ctx=32768, rope_base=1000000.0, is_tied=True,
    ),
}  # fmt: skip


def synthesize(
    path: str | os.PathLike[str],
    shape: str,
    type_name: str = "Q4_0",
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a model of a known shape with random weights.

    Args:
        path: the file to write. shape: one of SHAPES.
        type_name: a type or mix, such as "Q8_0" or "Q4_K_M": tensors get what llama.cpp would give them.
        progress: called as progress(bytes_done, n_bytes).

    Raises:
        UnsupportedError: an unknown shape or type. OSError: the file can't be written.
    """
    if shape not in SHAPES:
        raise UnsupportedError(f"{shape!r} is not a known shape; known are {', '.join(SHAPES)}")
    widths = SHAPES[shape]
    metadata = _metadata(shape, widths, type_name)
    shapes = _tensor_shapes(widths)
    blank = np.zeros((0, 1), np.uint8)
    plain = {name: _Random(name, by_name("F32"), size, lambda _: blank) for name, size in shapes.items()}
    types = mixes.assign(metadata, plain, type_name)
    pools: dict[str, np.ndarray] = {}
    random = np.random.default_rng(seed)

    def draw(tensor: QuantTensor) -> np.ndarray:
        return _draw(tensor, pools, random)

    tensors = {name: _Random(name, types[name], size, draw) for name, size in shapes.items()}
    gguf.write(path, metadata, tensors, progress=progress)


class _Random(QuantTensor):
    """A tensor whose blocks are drawn when the writer takes them: one at a time stands in memory."""

    __slots__ = ("_make",)

    def __init__(
        self, name: str, kind: QuantType, shape: tuple[int, ...], make: Callable[[QuantTensor], np.ndarray]
    ) -> None:
        self.name, self.type, self.shape, self._make = name, kind, shape, make

    @property
    def blocks(self) -> np.ndarray:  # type: ignore[override] # the base class keeps them in a slot
        return self._make(self)


def _draw(tensor: QuantTensor, pools: dict[str, np.ndarray], random: np.random.Generator) -> np.ndarray:
    if len(tensor.shape) == 1:
        values = np.ones(tensor.shape, np.float32)
        if tensor.name.endswith("bias"):
            values = random.standard_normal(tensor.shape, np.float32) * np.float32(0.1)
        return values.view(np.uint8).reshape(-1, 4)
    kind = tensor.type
    if kind.name not in pools:
        # 0.02 is what models are initialised with, and keeps the logits of noise finite
        sample = random.standard_normal((POOL_WEIGHTS // 256, 256), np.float32) * np.float32(0.02)
        pools[kind.name] = QuantTensor.quantize(sample, kind.name).blocks
    pool = pools[kind.name]
    if kind.block_size > 1:
        return pool[random.integers(0, len(pool), tensor.n_elements // kind.block_size)]
    rows = pool.reshape(-1, 256 * kind.type_size)  # plain numbers: drawn 256 at a time, which is quicker
    n = -(-tensor.n_elements // 256)
    drawn = rows[random.integers(0, len(rows), n)].reshape(-1, kind.type_size)
    return drawn[: tensor.n_elements]


def _tensor_shapes(widths: Shape) -> dict[str, tuple[int, ...]]:
    head_size = widths.n_embd // widths.n_head
    sizes = {
        "n_embd": widths.n_embd,
        "n_embd_q": widths.n_embd,
        "n_embd_kv": widths.n_head_kv * head_size,
        "n_ff": widths.n_ff,
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (widths.n_vocab, widths.n_embd)}
    for layer in range(widths.n_layer):
        for name in NORMS:
            shapes[f"blk.{layer}.{name}.weight"] = (widths.n_embd,)
        for name, (rows, columns) in MATRICES.items():
            shapes[f"blk.{layer}.{name}.weight"] = (sizes[rows], sizes[columns])
            if name in ARCHITECTURES[widths.architecture].biases:
                shapes[f"blk.{layer}.{name}.bias"] = (sizes[rows],)
    shapes["output_norm.weight"] = (widths.n_embd,)
    if not widths.is_tied:
        shapes["output.weight"] = (widths.n_vocab, widths.n_embd)
    return shapes


def _metadata(name: str, widths: Shape, type_name: str) -> dict[str, Any]:
    hyper = {
        "block_count": widths.n_layer,
        "context_length": widths.n_ctx,
        "embedding_length": widths.n_embd,
        "feed_forward_length": widths.n_ff,
        "attention.head_count": widths.n_head,
        "attention.head_count_kv": widths.n_head_kv,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": widths.rope_base,
        "rope.dimension_count": widths.n_embd // widths.n_head,
    }
    prefix = widths.architecture
    return {
        "general.architecture": prefix,
        "general.name": f"{name} with random weights",
        "general.file_type": mixes.FILE_TYPES[mixes.canonical(type_name)][0],
        **{f"{prefix}.{key}": value for key, value in hyper.items()},
        **_tokenizer(widths.n_vocab),
    }


def _tokenizer(n_vocab: int) -> Mapping[str, Any]:
    """A byte-level BPE of n_vocab tokens: all bytes, then merges of two tokens each, then special ones."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(N_BYTES) if byte not in visible]
    tokens = [chr(byte) for byte in visible] + [chr(N_BYTES + i) for i in range(len(hidden))]
    merges: list[str] = []
    n_merges = n_vocab - N_BYTES - len(SPECIALS)
    known = set(tokens)
    for left in list(tokens) + [a + b for a in "etaoinshrdlu" for b in "etaoinshrdluETAOIN"]:
        for right in tokens[:N_BYTES]:
            if len(merges) < n_merges and left in known and left + right not in known:
                merges.append(f"{left} {right}")
                tokens.append(left + right)
                known.add(left + right)
    tokens += [f"<|extra_{i}|>" for i in range(n_merges - len(merges))]
    tokens += SPECIALS
    normal, control, unused = 1, 3, 5
    types = np.full(n_vocab, normal, np.int32)
    types[N_BYTES + len(merges) :] = unused
    types[-len(SPECIALS) :] = control
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.add_bos_token": False,
    }
