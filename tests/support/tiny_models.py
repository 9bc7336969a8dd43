"""Make tiny models with random weights for tests: any architecture, any type, in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmlite import gguf
from llmlite.description.architectures import ARCHITECTURES
from llmlite.description.config import NORM_EPS, ModelConfig
from llmlite.description.shapes import ALWAYS_F32, required_tensors, tensor_shapes
from llmlite.quants import by_name
from llmlite.quants.tensor import PendingTensor, QuantTensor

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("Ġ t", "h e", "Ġt he", "i n", "e r", "Ġ a", "o n", "Ġ s")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass
class TinyModel:
    """Hold a model's metadata and float32 arrays, to change, quantize and write them."""

    metadata: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(repr=False)

    def tensors(self, type_name: str = "F32") -> dict[str, QuantTensor]:
        """Return the arrays as QuantTensors: matrices in the given type, vectors in F32."""
        return {
            name: QuantTensor.quantize(array, type_name if quantizable(name, array) else "F32", name)
            for name, array in self.arrays.items()
        }

    def write(self, path: Path, type_name: str = "F32") -> Path:
        """Write the model as a GGUF file; return its path."""
        gguf.write(path, self.metadata, self.tensors(type_name))
        return path


def quantizable(name: str, array: np.ndarray) -> bool:
    """Return whether llama.cpp may store this tensor in another type than F32."""
    kept = name.endswith((*ALWAYS_F32, "ssm_dt.weight")) or "ffn_gate_inp" in name or "position_embd" in name
    return array.ndim > 1 and not kept


def tiny_model(
    architecture: str = "llama",
    *,
    n_layer: int = 2,
    n_embd: int = 64,
    n_head: int = 4,
    n_head_kv: int = 2,
    n_ff: int = 128,
    n_ctx: int = 128,
    tied: bool = False,
    rope_freqs: bool = False,
    n_expert: int = 0,
    n_expert_used: int = 2,
    seed: int = 0,
    more: Mapping[str, Any] | None = None,
) -> TinyModel:
    """Make a model with random weights that are large enough to give different logits.

    Args:
        more: further hyper-parameters, without the architecture's prefix; they replace the others.
    """
    random = np.random.default_rng(seed)
    tokens, merges = vocabulary()
    hyper = {
        "block_count": n_layer,
        "context_length": n_ctx,
        "embedding_length": n_embd,
        "feed_forward_length": n_ff,
        "attention.head_count": n_head,
        "attention.head_count_kv": n_head_kv,
        NORM_EPS[ARCHITECTURES[architecture].norm]: 1e-5,
        "rope.freq_base": 10000.0,
    }
    hyper |= _own_keys(architecture, n_layer, n_embd, n_head, n_head_kv)
    if n_expert:
        hyper |= {"expert_count": n_expert, "expert_used_count": n_expert_used}
        hyper |= {"expert_feed_forward_length": n_ff} if architecture != "llama" else {}
    hyper |= dict(more or {})
    metadata = {"general.architecture": architecture} | {f"{architecture}.{k}": v for k, v in hyper.items()}
    if ARCHITECTURES[architecture].token_types:
        metadata["tokenizer.ggml.token_type_count"] = 2
    shapes = _shapes_of(metadata, (len(tokens), n_embd), tied)
    arrays = {name: _random(random, name, shape) for name, shape in shapes.items()}
    if rope_freqs:
        arrays["rope_freqs.weight"] = np.linspace(1, 8, n_embd // n_head // 2, dtype=np.float32)
    return TinyModel(metadata | _tokenizer(tokens, merges), arrays)


def _own_keys(architecture: str, n_layer: int, n_embd: int, n_head: int, n_head_kv: int) -> dict[str, Any]:
    """Return the hyper-parameters that an architecture adds to Llama's, and those with other values."""
    entry = ARCHITECTURES[architecture]
    hyper: dict[str, Any] = {}
    if "use_parallel_residual" in entry.features:
        hyper["use_parallel_residual"] = True
    if entry.latent:
        hyper |= {"attention.head_count_kv": 1, "attention.kv_lora_rank": 32, "rope.dimension_count": 16}
        hyper |= {"attention.key_length_mla": 48, "attention.value_length_mla": 32}
    if entry.recurrent == "short_convolution":
        hyper["attention.head_count_kv"] = [n_head_kv if i % 3 == 1 else 0 for i in range(n_layer)]
        hyper["shortconv.l_cache"] = 3
    if entry.recurrent == "delta_net":  # every second layer has attention
        hyper |= {"ssm.conv_kernel": 4, "ssm.inner_size": 2 * n_embd, "ssm.state_size": 32}
        hyper |= {"ssm.time_step_rank": n_embd // 16, "ssm.group_count": 2, "rope.dimension_count": 8}
        hyper["full_attention_interval"] = 2
    if entry.recurrent == "mamba2":
        if entry.rope_pairs:  # every second layer has attention
            hyper["attention.head_count_kv"] = [n_head_kv if i % 2 else 0 for i in range(n_layer)]
        else:
            hyper |= {"attention.head_count": 0, "attention.head_count_kv": 0, "feed_forward_length": 0}
        hyper |= {"ssm.conv_kernel": 4, "ssm.inner_size": 2 * n_embd, "ssm.state_size": 32}
        hyper |= {"ssm.time_step_rank": n_head, "ssm.group_count": n_head_kv}
    if entry.recurrent == "mamba":
        hyper |= {"attention.head_count": 0, "attention.head_count_kv": 0, "feed_forward_length": 0}
        hyper |= {"ssm.conv_kernel": 4, "ssm.inner_size": 2 * n_embd, "ssm.state_size": 16}
        hyper["ssm.time_step_rank"] = -(-n_embd // 16)
    return hyper


def _shapes_of(
    metadata: dict[str, Any], embedding: tuple[int, int], tied: bool
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors that the model must have, and of its output matrix."""
    blank = PendingTensor("token_embd.weight", by_name("F32"), embedding, lambda: np.empty((0, 4), np.uint8))
    config = ModelConfig.from_metadata(metadata, {"token_embd.weight": blank})
    wanted = required_tensors(config) | (set() if tied else {"output.weight"})
    shapes = {name: shape for name, shape in tensor_shapes(config).items() if name in wanted}
    return dict(sorted(shapes.items(), key=lambda item: item[0].startswith("output")))


def _random(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("norm.weight"):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if name.endswith("ssm_a"):  # decay rates
        return -random.uniform(0.1, 2, shape).astype(np.float32)
    spread = 0.5 if name.endswith("bias") else 2 / np.sqrt(shape[-1])
    return (random.standard_normal(shape) * spread).astype(np.float32)


def vocabulary() -> tuple[list[str], list[str]]:
    """Return tokens and merges of a byte-level BPE: every byte, a few pairs, ChatML's special tokens."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = [chr(byte) for byte in visible] + [chr(256 + i) for i in range(len(hidden))]
    return [*letters, *("".join(merge.split()) for merge in MERGES), *SPECIALS], list(MERGES)


def _tokenizer(tokens: list[str], merges: list[str]) -> dict[str, Any]:
    normal, control = 1, 3
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(
            [normal] * (len(tokens) - len(SPECIALS)) + [control] * len(SPECIALS), np.int32
        ),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }


# Models for comparisons, on which every other program must agree
SMALL_MODELS = {
    "llama": lambda: tiny_model("llama", tied=True),
    "qwen2": lambda: tiny_model("qwen2"),
    "llama with rope factors": lambda: tiny_model("llama", rope_freqs=True),
    "one head each": lambda: tiny_model("llama", n_head_kv=4),
    "quantized": lambda: tiny_model("llama"),
}
