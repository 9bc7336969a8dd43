"""Write files of known models' shapes with random weights, to measure speed and memory without a download.

The weights are noise of the right types, and the vocabulary has the right size. llama.cpp loads such files
too. The generated text has no meaning.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from llmlite import gguf
from llmlite.description.architectures import ARCHITECTURES
from llmlite.description.config import NORM_EPS, ModelConfig
from llmlite.description.shapes import required_tensors, tensor_shapes
from llmlite.errors import UnsupportedError
from llmlite.quantize import mixes
from llmlite.quants import QuantType, by_name
from llmlite.quants.tensor import QuantTensor

POOL_WEIGHTS = 1 << 17  # weights quantized once per type; rows are drawn from their blocks
N_BYTES = 256
SMALL_VOCABULARY, SMALL_CONTEXT = 1024, 256
_NONE = np.zeros((0, 1), np.uint8)  # blocks of a tensor that has only a name, a type and a shape
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The widths of a published model, under ModelConfig's names.

    Attributes:
        head_size, rope_base: 0 for n_embd / n_head, and for learned positions.
        n_expert, n_expert_used: numbers of experts of a mixture; n_ff is then the width of one expert.
        n_token_types: token types of an encoder that distinguishes the texts of a pair.
        more: other hyper-parameters, without the architecture's prefix. They have precedence.
        optional: its tensors that the architecture doesn't require, without "blk.N.".
    """

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
    head_size: int = 0
    n_expert: int = 0
    n_expert_used: int = 0
    n_token_types: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)
    optional: tuple[str, ...] = ()


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
    "qwen3-0.6b": Shape(
        architecture="qwen3", n_layer=28, n_embd=1024, n_head=16, n_head_kv=8, head_size=128, n_ff=3072,
        n_vocab=151936, n_ctx=40960, rope_base=1000000.0, is_tied=True,
    ),
    "gpt2": Shape(
        architecture="gpt2", n_layer=12, n_embd=768, n_head=12, n_head_kv=12, n_ff=3072, n_vocab=50257,
        n_ctx=1024, rope_base=0.0, is_tied=True,
    ),
    "gemma3-270m": Shape(
        architecture="gemma3", n_layer=18, n_embd=640, n_head=4, n_head_kv=1, head_size=256, n_ff=2048,
        n_vocab=262144, n_ctx=32768, rope_base=1000000.0, is_tied=True,
        more={"attention.sliding_window": 512},
    ),
    "gemma3-1b": Shape(
        architecture="gemma3", n_layer=26, n_embd=1152, n_head=4, n_head_kv=1, head_size=256, n_ff=6912,
        n_vocab=262144, n_ctx=32768, rope_base=1000000.0, is_tied=True,
        more={"attention.sliding_window": 512},
    ),
    "gemma4-e2b": Shape(
        architecture="gemma4", n_layer=35, n_embd=1536, n_head=8, n_head_kv=1, head_size=512, n_ff=6144,
        n_vocab=262144, n_ctx=131072, rope_base=1000000.0, is_tied=True,
        more={"feed_forward_length": [6144] * 15 + [12288] * 20, "attention.shared_kv_layers": 20,
              "attention.sliding_window": 512,
              "attention.sliding_window_pattern": [True, True, True, True, False] * 7,
              "attention.key_length_swa": 256, "attention.value_length_swa": 256,
              "rope.dimension_count_swa": 256, "rope.freq_base_swa": 10000.0,
              "embedding_length_per_layer_input": 256, "final_logit_softcapping": 30.0},
        optional=("rope_freqs.weight", "layer_output_scale.weight"),
    ),
    "gemma2-2b": Shape(
        architecture="gemma2", n_layer=26, n_embd=2304, n_head=8, n_head_kv=4, head_size=256, n_ff=9216,
        n_vocab=256000, n_ctx=8192, rope_base=10000.0, is_tied=True,
        more={"attention.sliding_window": 4096, "attn_logit_softcapping": 50.0,
              "final_logit_softcapping": 30.0},
    ),
    "phi-2": Shape(
        architecture="phi2", n_layer=32, n_embd=2560, n_head=32, n_head_kv=32, n_ff=10240, n_vocab=51200,
        n_ctx=2048, rope_base=10000.0, is_tied=False, more={"rope.dimension_count": 32},
    ),
    "phi-4-mini": Shape(
        architecture="phi3", n_layer=32, n_embd=3072, n_head=24, n_head_kv=8, n_ff=8192, n_vocab=200064,
        n_ctx=131072, rope_base=10000.0, is_tied=True,
        more={"rope.dimension_count": 96, "rope.scaling.original_context_length": 4096,
              "rope.scaling.attn_factor": 1.190238},
        optional=("rope_factors_long.weight", "rope_factors_short.weight"),
    ),
    "smollm3-3b": Shape(
        architecture="smollm3", n_layer=36, n_embd=2048, n_head=16, n_head_kv=4, n_ff=11008, n_vocab=128256,
        n_ctx=65536, rope_base=5000000.0, is_tied=True,
    ),
    "granite-3.3-2b": Shape(
        architecture="granite", n_layer=40, n_embd=2048, n_head=32, n_head_kv=8, n_ff=8192, n_vocab=49159,
        n_ctx=131072, rope_base=10000000.0, is_tied=True,
        more={"embedding_scale": 12.0, "residual_scale": 0.22, "logit_scale": 8.0,
              "attention.scale": 0.015625},
    ),
    "granite-3.1-1b-a400m": Shape(
        architecture="granitemoe", n_layer=24, n_embd=1024, n_head=16, n_head_kv=8, n_ff=512, n_vocab=49155,
        n_ctx=131072, rope_base=1500000.0, is_tied=True, n_expert=32, n_expert_used=8,
        more={"embedding_scale": 12.0, "residual_scale": 0.22, "logit_scale": 6.0,
              "attention.scale": 0.015625},
    ),
    "olmo2-1b": Shape(
        architecture="olmo2", n_layer=16, n_embd=2048, n_head=16, n_head_kv=16, n_ff=8192, n_vocab=100352,
        n_ctx=4096, rope_base=500000.0, is_tied=False,
    ),
    "starcoder2-3b": Shape(
        architecture="starcoder2", n_layer=30, n_embd=3072, n_head=24, n_head_kv=2, n_ff=12288, n_vocab=49152,
        n_ctx=16384, rope_base=999999.44, is_tied=True, more={"attention.sliding_window": 4096},
    ),
    "stablelm-3b": Shape(
        architecture="stablelm", n_layer=32, n_embd=2560, n_head=32, n_head_kv=32, n_ff=6912, n_vocab=50304,
        n_ctx=4096, rope_base=10000.0, is_tied=False,
        more={"rope.dimension_count": 20, "use_parallel_residual": False},
        optional=("ffn_norm.weight", "ffn_norm.bias"),
    ),
    "pythia-160m": Shape(
        architecture="gptneox", n_layer=12, n_embd=768, n_head=12, n_head_kv=12, n_ff=3072, n_vocab=50304,
        n_ctx=2048, rope_base=10000.0, is_tied=False,
        more={"rope.dimension_count": 16, "use_parallel_residual": True},
    ),
    "exaone4-1.2b": Shape(
        architecture="exaone4", n_layer=30, n_embd=2048, n_head=32, n_head_kv=8, n_ff=4096, n_vocab=102400,
        n_ctx=65536, rope_base=1000000.0, is_tied=True,
    ),
    "command-r7b": Shape(
        architecture="cohere2", n_layer=32, n_embd=4096, n_head=32, n_head_kv=8, n_ff=14336, n_vocab=256000,
        n_ctx=132096, rope_base=50000.0, is_tied=True,
        more={"attention.sliding_window": 4096, "logit_scale": 0.25},
    ),
    "bitnet-2b": Shape(
        architecture="bitnet", n_layer=30, n_embd=2560, n_head=20, n_head_kv=5, n_ff=6912, n_vocab=128256,
        n_ctx=4096, rope_base=500000.0, is_tied=True,
    ),
    "glm4-9b": Shape(
        architecture="glm4", n_layer=40, n_embd=4096, n_head=32, n_head_kv=2, head_size=128, n_ff=13696,
        n_vocab=151552, n_ctx=32768, rope_base=10000.0, is_tied=False, more={"rope.dimension_count": 64},
    ),
    "falcon-7b": Shape(
        architecture="falcon", n_layer=32, n_embd=4544, n_head=71, n_head_kv=1, n_ff=18176, n_vocab=65024,
        n_ctx=2048, rope_base=10000.0, is_tied=False,
    ),
    "ministral-3-3b": Shape(
        architecture="mistral3", n_layer=26, n_embd=3072, n_head=32, n_head_kv=8, head_size=128, n_ff=9216,
        n_vocab=131072, n_ctx=262144, rope_base=1000000.0, is_tied=True,
        more={"rope.scaling.type": "yarn", "rope.scaling.factor": 16.0,
              "rope.scaling.original_context_length": 16384, "attention.temperature_scale": 0.1},
    ),
    "aya-23-8b": Shape(
        architecture="command-r", n_layer=32, n_embd=4096, n_head=32, n_head_kv=8, n_ff=14336, n_vocab=256000,
        n_ctx=8192, rope_base=10000.0, is_tied=True, more={"logit_scale": 0.0625},
    ),
    "olmo3-7b": Shape(
        architecture="olmo2", n_layer=32, n_embd=4096, n_head=32, n_head_kv=32, n_ff=11008, n_vocab=100278,
        n_ctx=65536, rope_base=500000.0, is_tied=False, more={"attention.sliding_window": 4096},
    ),
    "qwen3.5-0.8b": Shape(
        architecture="qwen35", n_layer=24, n_embd=1024, n_head=8, n_head_kv=2, head_size=256, n_ff=3584,
        n_vocab=248320, n_ctx=262144, rope_base=10000000.0, is_tied=True,
        more={"rope.dimension_count": 64, "rope.dimension_sections": [11, 11, 10, 0], "ssm.conv_kernel": 4,
              "ssm.state_size": 128, "ssm.group_count": 16, "ssm.time_step_rank": 16,
              "ssm.inner_size": 2048},
    ),
    "lfm2-350m": Shape(
        architecture="lfm2", n_layer=16, n_embd=1024, n_head=16, n_head_kv=8, n_ff=4608, n_vocab=65536,
        n_ctx=128000, rope_base=1000000.0, is_tied=True,
        more={"attention.head_count_kv": [8 if i in (2, 5, 8, 10, 12, 14) else 0 for i in range(16)],
              "shortconv.l_cache": 3},
    ),
    "mamba2-130m": Shape(
        architecture="mamba2", n_layer=24, n_embd=768, n_head=1, n_head_kv=1, n_ff=0, n_vocab=50288,
        n_ctx=1048576, rope_base=0.0, is_tied=True,
        more={"attention.head_count": 0, "attention.head_count_kv": 0, "ssm.conv_kernel": 4,
              "ssm.state_size": 128, "ssm.group_count": 1, "ssm.time_step_rank": 24, "ssm.inner_size": 1536},
    ),
    "mamba-130m": Shape(
        architecture="mamba", n_layer=24, n_embd=768, n_head=1, n_head_kv=1, n_ff=0, n_vocab=50280,
        n_ctx=1048576, rope_base=0.0, is_tied=True,
        more={"attention.head_count": 0, "attention.head_count_kv": 0, "ssm.conv_kernel": 4,
              "ssm.state_size": 16, "ssm.time_step_rank": 48, "ssm.inner_size": 1536},
    ),
    "all-minilm-l6": Shape(
        architecture="bert", n_layer=6, n_embd=384, n_head=12, n_head_kv=12, n_ff=1536, n_vocab=30522,
        n_ctx=512, rope_base=0.0, is_tied=True, n_token_types=2, more={"pooling_type": 1},
    ),
    "nomic-embed-137m": Shape(
        architecture="nomic-bert", n_layer=12, n_embd=768, n_head=12, n_head_kv=12, n_ff=3072, n_vocab=30528,
        n_ctx=2048, rope_base=1000.0, is_tied=True, n_token_types=2, more={"pooling_type": 1},
    ),
    "modernbert-149m": Shape(
        architecture="modern-bert", n_layer=22, n_embd=768, n_head=12, n_head_kv=12, n_ff=1152, n_vocab=50368,
        n_ctx=8192, rope_base=160000.0, is_tied=True,
        more={"attention.sliding_window": 128, "rope.freq_base_swa": 10000.0, "pooling_type": 2},
    ),
    "jina-v2-33m": Shape(
        architecture="jina-bert-v2", n_layer=4, n_embd=512, n_head=8, n_head_kv=8, n_ff=2048, n_vocab=30528,
        n_ctx=8192, rope_base=0.0, is_tied=True, n_token_types=2, more={"pooling_type": 1},
    ),
    "embeddinggemma-300m": Shape(
        architecture="gemma-embedding", n_layer=24, n_embd=768, n_head=3, n_head_kv=1, head_size=256,
        n_ff=1152, n_vocab=262144, n_ctx=2048, rope_base=1000000.0, is_tied=True,
        more={"attention.sliding_window": 512, "pooling_type": 1},
    ),
    # The first 4 of 24 layers
    "gpt-oss-20b-4-layers": Shape(
        architecture="gpt-oss", n_layer=4, n_embd=2880, n_head=64, n_head_kv=8, head_size=64, n_ff=2880,
        n_vocab=201088, n_ctx=131072, rope_base=150000.0, is_tied=False, n_expert=32, n_expert_used=4,
        more={"attention.sliding_window": 128, "rope.scaling.type": "yarn", "rope.scaling.factor": 32.0,
              "rope.scaling.original_context_length": 4096},
    ),
    "qwen1.5-moe-a2.7b-4-layers": Shape(
        architecture="qwen2moe", n_layer=4, n_embd=2048, n_head=16, n_head_kv=16, n_ff=1408, n_vocab=151936,
        n_ctx=8192, rope_base=1000000.0, is_tied=False, n_expert=60, n_expert_used=4,
        more={"feed_forward_length": 5632, "expert_shared_feed_forward_length": 5632},
        optional=("ffn_gate_inp_shexp.weight",),
    ),
    # The first 4 of 27 layers, of which one has no experts
    "deepseek-v2-lite-4-layers": Shape(
        architecture="deepseek2", n_layer=4, n_embd=2048, n_head=16, n_head_kv=1, n_ff=1408, n_vocab=102400,
        n_ctx=163840, rope_base=10000.0, is_tied=False, n_expert=64, n_expert_used=6,
        more={"feed_forward_length": 10944, "leading_dense_block_count": 1, "expert_shared_count": 2,
              "attention.q_lora_rank": 0, "attention.kv_lora_rank": 512, "rope.dimension_count": 64,
              "attention.key_length": 576, "attention.value_length": 512,
              "attention.key_length_mla": 192, "attention.value_length_mla": 128},
    ),
    # The first 4 of 16 layers
    "olmoe-1b-7b-4-layers": Shape(
        architecture="olmoe", n_layer=4, n_embd=2048, n_head=16, n_head_kv=16, n_ff=1024, n_vocab=50304,
        n_ctx=4096, rope_base=10000.0, is_tied=False, n_expert=64, n_expert_used=8,
    ),
    # The first 4 of 48 layers: all 30 billion weights would leave no memory for a second program
    "qwen3-30b-a3b-4-layers": Shape(
        architecture="qwen3moe", n_layer=4, n_embd=2048, n_head=32, n_head_kv=4, head_size=128, n_ff=768,
        n_vocab=151936, n_ctx=40960, rope_base=1000000.0, is_tied=False, n_expert=128, n_expert_used=8,
    ),
}  # fmt: skip


def synthesize(
    path: str | os.PathLike[str],
    shape: str,
    type_name: str = "Q4_0",
    *,
    small: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a model of a known shape with random weights.

    Args:
        path: the file to write.
        shape: one of SHAPES.
        type_name: a type or mix, such as "Q8_0" or "Q4_K_M". Tensors get the same types as in llama.cpp.
        small: write few tokens and experts, and two layers if all are equal, for tests of readers.
        seed: seed of the random numbers.
        progress: called as progress(bytes_done, n_bytes).

    Raises:
        UnsupportedError: the shape or the type is unknown.
        OSError: the file can't be written.
    """
    if shape not in SHAPES:
        raise UnsupportedError(f"{shape!r} is not a known shape; known are {', '.join(SHAPES)}")
    widths = _reduced(SHAPES[shape]) if small else SHAPES[shape]
    metadata = _metadata(shape, widths, type_name)
    shapes = _tensor_shapes(widths)
    plain = {name: _Random(name, by_name("F32"), size, lambda _: _NONE) for name, size in shapes.items()}
    types = mixes.assign(metadata, plain, type_name)
    pools: dict[str, np.ndarray] = {}
    random = np.random.default_rng(seed)

    def draw(tensor: QuantTensor) -> np.ndarray:
        return _draw(tensor, pools, random)

    tensors = {name: _Random(name, types[name], size, draw) for name, size in shapes.items()}
    gguf.write(path, metadata, tensors, progress=progress)


def _reduced(widths: Shape) -> Shape:
    """Return the shape of a small model with the same features."""
    by_layer = any(isinstance(value, list | tuple) for value in widths.more.values())
    return replace(
        widths,
        n_layer=widths.n_layer if by_layer else min(widths.n_layer, 2),
        n_vocab=SMALL_VOCABULARY,
        n_ctx=min(widths.n_ctx, SMALL_CONTEXT),
        n_ff=min(widths.n_ff, 2 * widths.n_embd),
        n_expert=min(widths.n_expert, 2 * widths.n_expert_used),
    )


class _Random(QuantTensor):
    """A tensor whose blocks are drawn when they are written, so only one tensor is in memory at a time."""

    __slots__ = ("_make",)

    def __init__(
        self, name: str, kind: QuantType, shape: tuple[int, ...], make: Callable[[QuantTensor], np.ndarray]
    ) -> None:
        self.name, self.type, self.shape, self._make = name, kind, shape, make

    @property
    def blocks(self) -> np.ndarray:  # type: ignore[override] # the base class keeps them in a slot
        return self._make(self)


def _draw(tensor: QuantTensor, pools: dict[str, np.ndarray], random: np.random.Generator) -> np.ndarray:
    if tensor.name.endswith("ssm_a"):  # rates: a state must forget
        return np.full(tensor.shape, -1, np.float32).view(np.uint8).reshape(-1, 4)
    if len(tensor.shape) == 1:
        values = np.ones(tensor.shape, np.float32)
        if tensor.name.endswith("bias"):
            values = random.standard_normal(tensor.shape, np.float32) * np.float32(0.1)
        return values.view(np.uint8).reshape(-1, 4)
    kind = tensor.type
    if kind.name not in pools:
        # models are initialized with 0.02, which keeps the logits of noise finite
        sample = random.standard_normal((POOL_WEIGHTS // 256, 256), np.float32) * np.float32(0.02)
        pools[kind.name] = QuantTensor.quantize(sample, kind.name).blocks
    pool = pools[kind.name]
    if kind.block_size > 1:
        return pool[random.integers(0, len(pool), tensor.n_elements // kind.block_size)]
    rows = pool.reshape(-1, 256 * kind.type_size)  # plain numbers are drawn 256 at a time, which is faster
    n = -(-tensor.n_elements // 256)
    drawn = rows[random.integers(0, len(rows), n)].reshape(-1, kind.type_size)
    return drawn[: tensor.n_elements]


def _tensor_shapes(widths: Shape) -> dict[str, tuple[int, ...]]:
    prefix = widths.architecture
    hyper = {"general.architecture": prefix}
    hyper |= {f"{prefix}.{key}": value for key, value in _hyperparameters(widths).items()}
    hyper |= _token_types(widths)
    embeddings = _Random(
        "token_embd.weight", by_name("F32"), (widths.n_vocab, widths.n_embd), lambda _: _NONE
    )
    config = ModelConfig.from_metadata(hyper, {embeddings.name: embeddings})
    wanted = required_tensors(config) | (set() if widths.is_tied else {"output.weight"})
    return {
        name: shape
        for name, shape in tensor_shapes(config).items()
        if name in wanted or name.endswith(widths.optional)
    }


def _token_types(widths: Shape) -> dict[str, Any]:
    return {"tokenizer.ggml.token_type_count": widths.n_token_types} if widths.n_token_types else {}


def _hyperparameters(widths: Shape) -> dict[str, Any]:
    head_size = widths.head_size or widths.n_embd // widths.n_head
    found: dict[str, Any] = {
        "block_count": widths.n_layer,
        "context_length": widths.n_ctx,
        "embedding_length": widths.n_embd,
        "feed_forward_length": widths.n_ff,
        "attention.head_count": widths.n_head,
        "attention.head_count_kv": widths.n_head_kv,
        NORM_EPS[ARCHITECTURES[widths.architecture].norm]: 1e-5,
    }
    if widths.rope_base:
        found |= {"rope.freq_base": widths.rope_base, "rope.dimension_count": head_size}
    if widths.head_size:
        found |= {"attention.key_length": head_size, "attention.value_length": head_size}
    if widths.n_expert:
        found |= {"expert_count": widths.n_expert, "expert_used_count": widths.n_expert_used}
        found |= {"expert_feed_forward_length": widths.n_ff}
    return found | dict(widths.more)


def _metadata(name: str, widths: Shape, type_name: str) -> dict[str, Any]:
    prefix = widths.architecture
    return {
        "general.architecture": prefix,
        "general.name": f"{name} with random weights",
        "general.file_type": mixes.FILE_TYPES[mixes.canonical(type_name)][0],
        **{f"{prefix}.{key}": value for key, value in _hyperparameters(widths).items()},
        **_tokenizer(widths.n_vocab),
        **_token_types(widths),
    }


def _tokenizer(n_vocab: int) -> Mapping[str, Any]:
    """Return a byte-level BPE of n_vocab tokens: all bytes, then merges of two tokens, then special ones."""
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
