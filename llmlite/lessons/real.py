"""Models for the lessons: the largest one on this machine, and a model with all matrices in another type."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from llmlite import catalog, gguf, resources
from llmlite.bench import quality
from llmlite.errors import LlmliteError
from llmlite.lessons import progress
from llmlite.model import Model
from llmlite.quantize.mixes import is_quantized
from llmlite.quants import by_name
from llmlite.quants.tensor import QuantTensor

BUNDLED = "tales"
REAL = "smollm2"
SWITCH = "LLMLITE_LESSON_MODEL"
TEXT = "tales-eval.txt"
N_CTX = 256  # tokens in a chunk, whose second half is scored


def largest_here() -> str:
    """Return the name of the model that a comparison should use: "smollm2" if it was pulled, else "tales".

    If LLMLITE_LESSON_MODEL is set, its value is returned instead. Otherwise, in a run that nobody watches
    (nbval, `jupyter execute`), the result is always "tales", so that every machine gets the same outputs.
    """
    if os.environ.get(SWITCH):
        return os.environ[SWITCH]
    if not progress.somebody_clicks():
        return BUNDLED
    try:
        catalog.pulled_path(REAL, resources.cache_dir())
    except LlmliteError:
        return BUNDLED
    return REAL


def in_type(name: str, type_name: str, **options: Any) -> Model:
    """Load a model with every matrix quantized to one type in memory. Its file isn't changed.

    Args:
        name: the name or path of the model, as for `llmlite.load`, without a type.
        type_name: the name of the type, such as "Q4_0".
        options: options of `llmlite.model.Model`, such as kv_dtype and executor.

    Raises:
        UnsupportedError: llmlite can't quantize to this type.
        The errors of `llmlite.load`.
    """
    return Model(all_in(gguf.read(resources.model_path(name)), type_name), **options)


def all_in(file: gguf.GGUFFile, type_name: str) -> gguf.GGUFFile:
    """Return a copy of a file with every matrix quantized to one type in memory.

    Args:
        file: the open file.
        type_name: the name of the type, such as "Q4_0".

    Raises:
        UnsupportedError: llmlite can't quantize to this type.
    """
    wanted = by_name(type_name)
    matrices = [t for t in file.tensors.values() if is_quantized(t.name, len(t.shape))]
    changed = [t for t in matrices if t.type is not wanted]
    return file.replacing(*(QuantTensor.quantize(t, wanted.name, t.name, n_threads=2) for t in changed))


def perplexity(model: Model, n_tokens: int = 1024) -> float:
    """Return a model's perplexity on the beginning of the bundled tales, by llama.cpp's method.

    Args:
        model: the model to measure.
        n_tokens: how many tokens of the text are read. The second half of every 256 tokens is scored.
    """
    found = quality.perplexity(model.logits, text_ids(model, n_tokens), n_ctx=N_CTX, bos_id=_bos(model))
    return float(found.value)


def divergence(model: Model, reference: Model, n_tokens: int = 512) -> Any:
    """Measure how far a model's predictions are from a reference's, on the beginning of the bundled tales.

    Args:
        model: the model to measure.
        reference: a model with the same vocabulary.
        n_tokens: how many tokens of the text are read. The second half of every 256 tokens is scored.

    Returns:
        A `llmlite.bench.quality.Divergence`.
    """
    ids = text_ids(reference, n_tokens)
    return quality.text_divergence(model.logits, reference.logits, ids, n_ctx=N_CTX, bos_id=_bos(reference))


def text_ids(model: Model, n_tokens: int) -> Sequence[int]:
    """Return the first `n_tokens` token ids of the bundled tales, from the model's own tokenizer."""
    text = resources.data_path(TEXT).read_text(encoding="utf-8")
    return model.tokenizer.encode(text[: 12 * n_tokens], add_special=False)[:n_tokens]


def _bos(model: Model) -> int | None:
    return model.tokenizer.bos_id if model.tokenizer.add_bos else None
