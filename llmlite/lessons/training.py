"""A tiny Llama in PyTorch that learns the bundled tales, and its way into a GGUF file.

This is the only module of the lessons that needs PyTorch. The tensors have the names of transformers, so that
`llmlite convert` can read the folder that `save` writes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - everybody's name for it
from torch import Tensor, nn

from llmlite import resources
from llmlite.model import Model

D, N_LAYER, N_HEAD, N_HEAD_KV, N_FF = 128, 2, 4, 2, 384
HEAD = D // N_HEAD
N_CTX, EPS, BASE = 256, 1e-5, 10000.0
ROWS, LENGTH = 8, 96  # texts in a batch, tokens in each text


class Layer(nn.Module):
    """A layer: attention and a feed-forward network, each added to the residual stream (B, T, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(D, EPS), nn.RMSNorm(D, EPS)
        widths = {"q_proj": N_HEAD * HEAD, "k_proj": N_HEAD_KV * HEAD, "v_proj": N_HEAD_KV * HEAD}
        self.self_attn = nn.ModuleDict({name: nn.Linear(D, n, bias=False) for name, n in widths.items()})
        self.self_attn["o_proj"] = nn.Linear(N_HEAD * HEAD, D, bias=False)
        sizes = {"gate_proj": (D, N_FF), "up_proj": (D, N_FF), "down_proj": (N_FF, D)}
        self.mlp = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})

    def forward(self, x: Tensor) -> Tensor:
        h = self.input_layernorm(x)
        q, k, v = (self.self_attn[f"{n}_proj"](h).unflatten(-1, (-1, HEAD)).transpose(1, 2) for n in "qkv")
        mixed = F.scaled_dot_product_attention(_turned(q), _turned(k), v, is_causal=True, enable_gqa=True)
        x = x + self.self_attn["o_proj"](mixed.transpose(1, 2).flatten(-2))
        h = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h))


def _turned(x: Tensor) -> Tensor:
    """Apply RoPE to x (B, H, T, Dh), on the pairs (i, i + Dh/2) as in transformers."""
    frequencies = BASE ** (-torch.arange(0, HEAD, 2, dtype=x.dtype) / HEAD)
    angles = torch.outer(torch.arange(x.shape[2], dtype=x.dtype), frequencies)  # (T, Dh/2)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=-1)


class TinyLlama(nn.Module):
    """A Llama that maps token ids (B, T) to logits (B, T, V). Its output matrix is the embedding matrix.

    Args:
        n_vocab: the size of the vocabulary, V.
        seed: the seed of the random weights.
    """

    def __init__(self, n_vocab: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed_tokens = nn.Embedding(n_vocab, D)
        self.layers = nn.ModuleList(Layer() for _ in range(N_LAYER))
        self.norm = nn.RMSNorm(D, EPS)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                inner = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.05 / math.sqrt(2 * N_LAYER) if inner else 0.05)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x), self.embed_tokens.weight)


def text_ids(teacher: Model) -> np.ndarray:
    """Return the bundled tales as token ids, int64 (T,).

    Args:
        teacher: the model whose tokenizer is used.
    """
    text = resources.data_path("tales-eval.txt").read_text(encoding="utf-8")
    return np.array(teacher.tokenizer.encode(text, add_special=False), np.int64)


def batch(ids: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Cut a random batch out of a text.

    Args:
        ids: int64 (T,): the token ids of the text.
        rng: the generator that chooses the places.

    Returns:
        The token ids, int64 (ROWS, LENGTH), and for each of them the id of the next token, of the same shape.
    """
    starts = rng.integers(0, len(ids) - LENGTH - 1, ROWS)
    pieces = torch.from_numpy(np.stack([ids[i : i + LENGTH + 1] for i in starts]))
    return pieces[:, :-1], pieces[:, 1:]


def loss_of(model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of a batch, in nats per token.

    Args:
        model: the model, which maps token ids (B, T) to logits (B, T, V).
        ids: int64 (B, T): the token ids.
        targets: int64 (B, T): the id of the token that follows each of them.
    """
    return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())


def train(
    model: TinyLlama, ids: np.ndarray, steps: int, *, rate: float = 4e-3, seed: int = 0,
    on_step: Callable[[int, float], Any] | None = None,
) -> list[float]:  # fmt: skip
    """Train a model with Adam. The learning rate first rises, then falls.

    Only one thread is used. More threads would gain little on such a small model, and they would wait for
    each other if a core is busy.

    Args:
        model: the model, which is changed.
        ids: int64 (T,): the token ids of the text.
        steps: number of steps, one batch each.
        rate: the highest learning rate.
        seed: the seed of the generator that chooses the batches.
        on_step: called after each step with the step's number, from 0, and its loss.

    Returns:
        The loss of each step, in nats per token.
    """
    with _one_thread():
        return _trained(model, ids, steps, rate, seed, on_step)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let PyTorch use only one thread until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _trained(
    model: TinyLlama, ids: np.ndarray, steps: int, rate: float, seed: int,
    on_step: Callable[[int, float], Any] | None,
) -> list[float]:  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    rng, losses = np.random.default_rng(seed), []
    for step in range(steps):
        share = min(1.0, (step + 1) / 20) * (1 - 0.9 * step / steps)
        optimizer.param_groups[0]["lr"] = rate * share
        loss = loss_of(model, *batch(ids, rng))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if on_step is not None:
            on_step(step, losses[-1])
    return losses


def save(model: TinyLlama, teacher: Model, folder: str | os.PathLike[str]) -> Path:
    """Write a model and its tokenizer into a folder, in the files that transformers' save_pretrained writes.

    Args:
        model: the model to write.
        teacher: the model whose tokenizer and chat template are written.
        folder: the folder to write to, which is made if it doesn't exist.

    Returns:
        The path of the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    n_vocab = model.embed_tokens.num_embeddings
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": n_vocab, "hidden_size": D,
        "intermediate_size": N_FF, "num_hidden_layers": N_LAYER, "num_attention_heads": N_HEAD,
        "num_key_value_heads": N_HEAD_KV, "max_position_embeddings": N_CTX, "rms_norm_eps": EPS,
        "rope_theta": BASE, "tie_word_embeddings": True, "hidden_act": "silu",
        "bos_token_id": teacher.tokenizer.bos_id, "eos_token_id": teacher.tokenizer.eos_id,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    arrays = {f"model.{name}": w.detach().float().numpy() for name, w in model.named_parameters()}
    (folder / "model.safetensors").write_bytes(_safetensors(arrays))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(teacher)), encoding="utf-8")
    settings = {
        "add_bos_token": True,
        "bos_token": _text(teacher, "bos_id"),
        "eos_token": _text(teacher, "eos_id"),
    }
    settings["chat_template"] = teacher.metadata["tokenizer.chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def _safetensors(arrays: dict[str, np.ndarray]) -> bytes:
    """Return a safetensors file: the header's length in eight bytes, the header in JSON, then the numbers."""
    header, at = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(a.tobytes() for a in arrays.values())


def _tokenizer(teacher: Model) -> dict[str, Any]:
    """Return the teacher's vocabulary in the form of tokenizer.json."""
    metadata = teacher.metadata
    tokens, kinds = list(metadata["tokenizer.ggml.tokens"]), list(metadata["tokenizer.ggml.token_type"])
    added = [
        {"id": i, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for i, text in enumerate(tokens) if kinds[i] == 3
    ]  # fmt: skip
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": {text: i for i, text in enumerate(tokens)}}
    model["merges"] = list(metadata["tokenizer.ggml.merges"])
    return {
        "version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": split,
        "post_processor": None, "decoder": split, "model": model,
    }  # fmt: skip


def _text(teacher: Model, special: str) -> str:
    return teacher.tokenizer.token(getattr(teacher.tokenizer, special))
