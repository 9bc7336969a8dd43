"""Layers that replace attention: a tiny model of each kind, what it remembers, and how far back.

The weights are random, so these models have learned nothing. They show what a kind of layer is able to keep.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmlite import gguf
from llmlite.description.config import ModelConfig
from llmlite.description.shapes import required_tensors, tensor_shapes
from llmlite.engine.kv_cache import KVCache
from llmlite.engine.recurrent import RecurrentState
from llmlite.model import Model, load
from llmlite.quants.tensor import QuantTensor

D, N_LAYER, N_VOCAB, N_CTX, WINDOW = 128, 2, 512, 4096, 16
_COMMON = {"block_count": N_LAYER, "context_length": N_CTX, "embedding_length": D}
_HEADS = {
    "attention.head_count": 4, "attention.head_count_kv": 2, "feed_forward_length": 256,
    "rope.freq_base": 10000.0, "rope.dimension_count": 32, "attention.layer_norm_rms_epsilon": 1e-5,
}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # name in the lesson -> architecture, hyper-parameters
    "attention": ("llama", _HEADS),
    "window": (
        "gemma3",
        _HEADS
        | {"attention.key_length": 32, "attention.value_length": 32, "attention.sliding_window": WINDOW},
    ),
    "convolution": ("lfm2", _HEADS | {"attention.head_count_kv": [0] * N_LAYER, "shortconv.l_cache": 3}),
    "recurrent": (
        "mamba2",
        {
            "attention.head_count": 0, "attention.head_count_kv": 0, "feed_forward_length": 0,
            "attention.layer_norm_rms_epsilon": 1e-5, "ssm.conv_kernel": 4, "ssm.inner_size": 2 * D,
            "ssm.state_size": 32, "ssm.time_step_rank": 8, "ssm.group_count": 1,
        },
    ),
}  # fmt: skip
_DELTA = _HEADS | {
    "attention.key_length": 32, "attention.value_length": 32, "rope.dimension_sections": [8, 4, 4, 0],
    "ssm.conv_kernel": 4, "ssm.inner_size": D, "ssm.state_size": 32, "ssm.time_step_rank": 4,
    "ssm.group_count": 2,
}  # fmt: skip
MORE: dict[str, tuple[str, dict[str, Any]]] = {  # further kinds that can be made
    "delta net": ("qwen35", _DELTA),
    "hybrid": ("qwen35", _DELTA | {"full_attention_interval": 2}),  # a delta net, then attention
}


def make(kind: str, folder: str | os.PathLike[str], *, seed: int = 0, executor: str = "auto") -> Model:
    """Write a tiny random model whose layers are all of one kind, and load it.

    Args:
        kind: the kind of layer, a key of KINDS or MORE. Only "hybrid" has layers of two kinds.
        folder: the folder that the model's file is written to.
        seed: the seed of the random weights.
        executor: the executor to load the model with, as for `llmlite.load`.

    Raises:
        ValueError: there is no such kind.
        OSError: the file can't be written.
    """
    kinds = KINDS | MORE
    if kind not in kinds:
        raise ValueError(f"no kind {kind!r}; there are: {', '.join(kinds)}")
    name, more = kinds[kind]
    metadata = {"general.architecture": name, **{f"{name}.{k}": v for k, v in (_COMMON | more).items()}}
    embeddings = QuantTensor.quantize(np.zeros((N_VOCAB, D), np.float32), "F32", "token_embd.weight")
    config = ModelConfig.from_metadata(metadata, {embeddings.name: embeddings})
    random = np.random.default_rng(seed)
    wanted = required_tensors(config) | {"output.weight"}
    tensors = {
        tensor: _drawn(tensor, shape, random)
        for tensor, shape in tensor_shapes(config).items()
        if tensor in wanted
    }
    path = Path(folder) / f"{kind.replace(' ', '-')}.gguf"
    gguf.write(path, metadata, tensors)
    return load(path, executor=executor, kv_dtype="f32", n_threads=1)


def _drawn(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Return random weights for a tensor.

    Gains are 1. A recurrent head's rate decides how fast it forgets, so the heads get slow and fast rates.
    """
    if name.endswith("ssm_a"):
        return -np.geomspace(0.01, 1.0, shape[0], dtype=np.float32).reshape(shape)
    if name.endswith(("norm.weight", "ssm_d")):
        return np.ones(shape, np.float32)
    scale = 0.5 if "conv" in name else 0.1
    return (scale * random.standard_normal(shape)).astype(np.float32)


def influence(model: Model, distances: Sequence[int], *, seed: int = 0) -> list[float]:
    """Measure how much one earlier token influences the logits after a random text.

    For each distance, the token at that distance before the end is replaced by another one.

    Args:
        model: a model that `make` returned.
        distances: how far before the last token the replaced token is; 0 is the last token itself.
        seed: the seed of the random text.

    Returns:
        For each distance the largest change of a logit, relative to that of the first distance. An exact 0
        means that the token has no influence at all.
    """
    ids = np.random.default_rng(seed).integers(0, N_VOCAB, max(distances) + 1).tolist()
    last = _last(model, ids)
    found = []
    for distance in distances:
        other = list(ids)
        other[-1 - distance] = (other[-1 - distance] + 1) % N_VOCAB
        found.append(float(np.abs(_last(model, other) - last).max()))
    return [value / (found[0] or 1.0) for value in found]


def _last(model: Model, ids: Sequence[int]) -> np.ndarray:
    return model.executor(ids, KVCache(model.config, len(ids), np.float32, chunk=len(ids)), n_outputs=1)[0]


def memory_bytes(model: Model, n_tokens: int) -> int:
    """Return the bytes that all layers keep after `n_tokens` tokens: states, or float32 keys and values."""
    total = 0
    for i, layer in enumerate(model.config.layers):
        state = model.cache[i]
        if isinstance(state, RecurrentState):
            total += 4 * int(np.prod(state.spec.tail_shape) + np.prod(state.spec.state_shape))
            continue
        mixer = layer.mixer
        kept = min(n_tokens, mixer.window) if mixer.window else n_tokens
        total += 4 * kept * (mixer.k_width + mixer.v_width)
    return total


def decode_microseconds(model: Model, depths: Sequence[int], *, repetitions: int = 40) -> list[float]:
    """Measure the time of one decoding step after texts of several lengths.

    Args:
        model: a model that `make` returned.
        depths: the numbers of tokens before the measured step.
        repetitions: the number of timed steps for each depth.

    Returns:
        For each depth the shortest time, in microseconds.
    """
    ids = np.random.default_rng(0).integers(0, N_VOCAB, max(depths)).tolist()
    found = []
    for depth in depths:
        cache = KVCache(model.config, depth + repetitions, np.float32, chunk=256)
        for start in range(0, depth, 256):
            model.executor(ids[start : min(depth, start + 256)], cache, n_outputs=1)
        times = []
        for _ in range(repetitions):
            begin = time.perf_counter()
            model.executor(ids[:1], cache, n_outputs=1)
            times.append(time.perf_counter() - begin)
        found.append(1e6 * min(times))
    return found


@dataclass(frozen=True)
class Memory:
    """The memory of a recurrent layer after a text.

    Attributes:
        tail: float32 (taps - 1, width): the latest inputs of the layer's convolution.
        state: float32 (H, N, P): a matrix for each head; None if the layer has only a convolution.
    """

    tail: np.ndarray
    state: np.ndarray | None


def memory(model: Model, ids: Sequence[int], layer: int) -> Memory | None:
    """Run a model over a text and return the memory of one layer; None if the layer keeps keys and values.

    Args:
        model: the model to run.
        ids: the token ids of the text.
        layer: the number of the layer.
    """
    cache = KVCache(model.config, len(ids), np.float32, chunk=len(ids))
    model.executor(ids, cache, n_outputs=1)
    held = cache[layer]
    if not isinstance(held, RecurrentState):
        return None
    turn = held.memory.turn
    state = held.state(turn).copy()
    return Memory(held.tail(turn).copy(), state.reshape(-1, *state.shape[-2:]) if state.size else None)
