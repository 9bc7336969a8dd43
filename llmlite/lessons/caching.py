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
    """The numbers of a model that determine the size of its cache.

    Attributes:
        n_layer: number of layers.
        n_head: number of query heads.
        n_head_kv: number of key and value heads.
        head_size: numbers in one key of one head, as the model's file gives it.
    """

    n_layer: int
    n_head: int
    n_head_kv: int
    head_size: int


# Qwen/Qwen3-0.6B, config.json: hidden_size 1024 / 16 heads would give 64, but head_dim says 128.
QWEN3 = CacheShape(n_layer=28, n_head=16, n_head_kv=8, head_size=128)


def known_shapes() -> dict[str, CacheShape]:
    """Return the shapes that the lesson compares: model name -> CacheShape."""
    found = {}
    for name in KNOWN:
        shape = SHAPES[name]
        found[name] = CacheShape(shape.n_layer, shape.n_head, shape.n_head_kv, head_size(shape))
    return found | {"qwen3-0.6b": QWEN3}


def head_size(shape: Any) -> int:
    """Return how many numbers one key of one head has.

    Args:
        shape: a ModelConfig or a CacheShape, whose `head_size` is returned; or a synth.Shape, for which the
            result is n_embd / n_head.
    """
    return int(getattr(shape, "head_size", 0) or shape.n_embd // shape.n_head)


def cache_bytes(shape: Any, n_tokens: int, itemsize: int = 2) -> int:
    """Return the bytes of keys and values: 2 × n_layer × n_head_kv × head size × itemsize for each token.

    Layers without attention keep no keys or values, so they aren't counted.

    Args:
        shape: a ModelConfig, a CacheShape or a synth.Shape.
        n_tokens: number of tokens in the cache.
        itemsize: bytes per number: 2 for F16, 4 for F32.
    """
    n_layer = len(shape.attentions) if hasattr(shape, "attentions") else int(shape.n_layer)
    return 2 * n_layer * int(shape.n_head_kv) * head_size(shape) * n_tokens * itemsize if n_layer else 0


def tokens_processed(n_prompt: int, n_new: int, *, cached: bool) -> list[int]:
    """Return how many tokens the model processes for each of `n_new` generated tokens.

    With a cache, the model processes the whole prompt once, then one token at a time. Without a cache, it
    processes the whole text again for each new token.

    Args:
        n_prompt: number of tokens in the prompt.
        n_new: number of tokens to generate.
        cached: whether keys and values are kept.

    Returns:
        `n_new` numbers of tokens, one for each step.
    """
    if cached:
        return [n_prompt] + [1] * (n_new - 1) if n_new else []
    return [n_prompt + i for i in range(n_new)]


@dataclass(frozen=True)
class Filling:
    """The keys that the cache holds after a text of T tokens.

    Attributes:
        ids: the T token ids of the text.
        texts: the text of each token, with spaces and line ends made visible.
        size: float32 (layers with attention, n_head_kv, T): the length of each key, relative to the longest
            key of the same head.
    """

    ids: list[int]
    texts: list[str]
    size: np.ndarray


def filling(model: Model, prompt: str | Sequence[int]) -> Filling:
    """Run the model over a prompt and return the keys that its cache then holds.

    Args:
        model: the model to run.
        prompt: text, or token ids.

    Raises:
        UnsupportedError: no layer of the model keeps keys.
        The errors of `Model.trace`.
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
    """Measure how long the model takes to process one more token after `n_before` others.

    Args:
        model: the model to measure.
        n_before: number of tokens before the measured one.
        cached: whether the keys and values of the tokens before are kept. If not, each run processes the
            whole text.
        repeats: number of timed runs, after one that isn't timed.

    Returns:
        The time of the fastest run, in seconds.
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
    """Run the model over a text token by token, with the cache or without it.

    Args:
        model: the model to run.
        ids: the T token ids of the text.
        cached: whether keys and values are kept. If not, each step processes the whole text so far.

    Returns:
        The logits after each token, float32 (T, n_vocab), and the number of tokens that the model processed.
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
