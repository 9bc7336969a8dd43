"""Real models for the lessons: the largest one here, and a model with all its matrices in another type."""

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
N_CTX = 256  # tokens in a chunk; the second half of each is scored


def largest_here() -> str:
    """Return "smollm2" if it was pulled, "tales" otherwise: the model that a comparison should be made on.

    LLMLITE_LESSON_MODEL names another one. In a run that nobody watches (nbval, `jupyter execute`) it is
    always the bundled one, so that every machine gets the same outputs.
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
    """Return a model with every matrix in one type, made in memory; its file stays as it is.

    Args:
        name: as for `llmlite.load`, without a type. type_name: such as "Q4_0".
        options: of `llmlite.model.Model`, such as kv_dtype and executor.

    Raises:
        As `llmlite.load`; UnsupportedError: the type can't be quantized to.
    """
    return Model(all_in(gguf.read(resources.model_path(name)), type_name), **options)


def all_in(file: gguf.GGUFFile, type_name: str) -> gguf.GGUFFile:
    """Return a file as if every matrix were of one type. Raises UnsupportedError as quantizing does."""
    wanted = by_name(type_name)
    matrices = [t for t in file.tensors.values() if is_quantized(t.name, len(t.shape))]
    changed = [t for t in matrices if t.type is not wanted]
    return file.replacing(*(QuantTensor.quantize(t, wanted.name, t.name, n_threads=2) for t in changed))


def perplexity(model: Model, n_tokens: int = 1024) -> float:
    """Return a model's perplexity on the beginning of the bundled tales, by llama.cpp's method.

    Args:
        n_tokens: how many of the model's own tokens are read; the second half of every 256 is scored.
    """
    found = quality.perplexity(model.logits, text_ids(model, n_tokens), n_ctx=N_CTX, bos_id=_bos(model))
    return float(found.value)


def divergence(model: Model, reference: Model, n_tokens: int = 512) -> Any:
    """Return how far a model's predictions are from another's of the same vocabulary, on that text."""
    ids = text_ids(reference, n_tokens)
    return quality.text_divergence(model.logits, reference.logits, ids, n_ctx=N_CTX, bos_id=_bos(reference))


def text_ids(model: Model, n_tokens: int) -> Sequence[int]:
    """Return the first tokens of the bundled tales, cut by the model's own tokenizer."""
    text = resources.data_path(TEXT).read_text(encoding="utf-8")
    return model.tokenizer.encode(text[: 12 * n_tokens], add_special=False)[:n_tokens]


def _bos(model: Model) -> int | None:
    return model.tokenizer.bos_id if model.tokenizer.add_bos else None
