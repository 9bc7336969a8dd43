"""The cache of keys and values: the work it saves and the memory it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from llmlite.description.layers import Attention
from llmlite.engine.kv_cache import KVCache
from llmlite.errors import UnsupportedError
from llmlite.lessons.tokens import visible
from llmlite.model import Model
from llmlite.synth import SHAPES
from llmlite.tokenizers import as_ids

KNOWN = ("llama-3.2-1b", "tinyllama-1.1b", "smollm2-135m", "qwen2.5-0.5b")


@dataclass(frozen=True)
class CacheShape:
    """The numbers that decide a cache's size. head_size: numbers in a key, as the model's file says."""

    n_layer: int
    n_head: int
    n_head_kv: int
    head_size: int


# Qwen/Qwen3-0.6B, config.json: hidden_size 1024 / 16 heads would give 64, but head_dim says 128.
QWEN3 = CacheShape(n_layer=28, n_head=16, n_head_kv=8, head_size=128)


def known_shapes() -> dict[str, CacheShape]:
    """Return the models whose caches the lesson compares, with the head sizes that their files give."""
    found = {}
    for name in KNOWN:
        shape = SHAPES[name]
        found[name] = CacheShape(shape.n_layer, shape.n_head, shape.n_head_kv, head_size(shape))
    return found | {"qwen3-0.6b": QWEN3}


def head_size(shape: Any) -> int:
    """Return how many numbers a key has: a ModelConfig says it; for a Shape it is n_embd / n_head."""
    return int(getattr(shape, "head_size", 0) or shape.n_embd // shape.n_head)


def cache_bytes(shape: Any, n_tokens: int, itemsize: int = 2) -> int:
    """Return the bytes of keys and values: 2 × layers × heads × head size × itemsize for each token.

    Layers without attention keep none.

    Args:
        shape: a ModelConfig or a synth.Shape. itemsize: bytes per number, 2 for F16, 4 for F32.
    """
    n_layer = len(shape.attentions) if hasattr(shape, "attentions") else int(shape.n_layer)
    return 2 * n_layer * int(shape.n_head_kv) * head_size(shape) * n_tokens * itemsize if n_layer else 0


def tokens_processed(n_prompt: int, n_new: int, *, cached: bool) -> list[int]:
    """Return how many tokens go through the model for each of `n_new` new ones.

    With a cache: the prompt once, then one at a time. Without: the whole text each time.
    """
    if cached:
        return [n_prompt] + [1] * (n_new - 1) if n_new else []
    return [n_prompt + i for i in range(n_new)]


@dataclass(frozen=True)
class Filling:
    """A text's keys in the cache.

    Args:
        ids: the tokens, T of them. texts: as a reader sees them.
        size: float32 (layers with attention, n_head_kv, T), the length of each key relative to the longest of
            its head.
    """

    ids: list[int]
    texts: list[str]
    size: np.ndarray


def filling(model: Model, prompt: str | Sequence[int]) -> Filling:
    """Run the model over a prompt and return the keys that its cache then holds.

    Raises:
        As `Model.trace`; UnsupportedError: no layer of the model keeps keys.
    """
    layers = [i for i, layer in enumerate(model.config.layers) if isinstance(layer.mixer, Attention)]
    if not layers:
        raise UnsupportedError(f"a {model.config.architecture.name} model keeps no keys and values to show")
    ids = model.tokenizer.encode(prompt) if isinstance(prompt, str) else as_ids(prompt, "prompt")
    trace = model.trace(ids)
    keys = np.stack([trace[f"Kcur-{layer}"] for layer in layers])  # (L, T, K, Dh)
    size = np.linalg.norm(keys, axis=-1).transpose(0, 2, 1)  # (L, K, T)
    size = size / np.maximum(size.max(axis=-1, keepdims=True), 1e-30)
    return Filling(ids, [visible(model.tokenizer, token) for token in ids], size.astype(np.float32))


def seconds_for_one_more(model: Model, n_before: int, *, cached: bool, repeats: int = 3) -> float:
    """Return the seconds that one more token takes after `n_before` others: the fastest of a few tries.

    cached: whether their keys and values are kept; if not, the whole text is read again.
    """
    ids = [(7 * i) % model.config.n_vocab for i in range(n_before + 1)]
    cache = KVCache(model.config, len(ids), model.cache.dtype.type, chunk=len(ids))
    model.executor(ids[:-1], cache, n_outputs=1)
    found = []
    for _ in range(repeats + 1):  # the first also plans the step
        cache.truncate(n_before if cached else 0)
        chunk = ids[-1:] if cached else ids
        begin = perf_counter()
        model.executor(chunk, cache, n_outputs=1)
        found.append(perf_counter() - begin)
    return min(found[1:])


def logits_step_by_step(model: Model, ids: Sequence[int], *, cached: bool) -> tuple[np.ndarray, int]:
    """Feed a text token by token, with the cache or without one.

    Returns:
        The logits after each token, float32 (T, n_vocab), and how many tokens went through the model.
    """
    rows, processed = [], 0
    cache = KVCache(model.config, len(ids), model.cache.dtype.type, chunk=len(ids))
    for n in range(1, len(ids) + 1):
        chunk = ids[n - 1 : n]
        if not cached:
            cache.truncate(0)
            chunk = ids[:n]
        rows.append(model.executor(chunk, cache, n_outputs=1)[0])
        processed += len(chunk)
    return np.array(rows), processed
