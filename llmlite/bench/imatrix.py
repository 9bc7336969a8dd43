"""Importance matrices: how strongly each column of each weight is used, measured on a text.

An error in a weight costs as much as the activation it meets is large: the mean square of each column's
activations weighs the errors when a model is quantized.

    imatrix = collect(model, model.tokenizer.encode(text))
    imatrix.write("imatrix.gguf")
    quantize_file("model-f16.gguf", "model-q3_k_m.gguf", "Q3_K_M", imatrix=imatrix.means())
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llmlite import gguf
from llmlite.engine.eager import Eager
from llmlite.engine.kv_cache import KVCache
from llmlite.engine.transformer import forward
from llmlite.model import Model
from llmlite.quants.tensor import QuantTensor, check_importance
from llmlite.terminal import Progress


@dataclass
class Imatrix:
    """Sums over the tokens seen, by tensor name.

    squares: (n_columns,) float32 each, sums of squared activations. counts: how many tokens were summed.
    chunk_size: tokens that were read together; n_chunks: how often.
    """

    chunk_size: int
    squares: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    counts: dict[str, int] = field(default_factory=dict, repr=False)
    n_chunks: int = 0

    def means(self) -> dict[str, np.ndarray]:
        """Mean squares (n_columns,) float32 by tensor name: what the quantizers take."""
        return {name: total / np.float32(self.counts[name]) for name, total in self.squares.items()}

    def add(self, name: str, x: np.ndarray) -> None:
        """Count the activations x (T, n_columns) that a tensor is about to meet."""
        total = np.einsum("tc,tc->c", x, x, dtype=np.float64)
        self.squares[name] = (self.squares.get(name, 0) + total).astype(np.float32)
        self.counts[name] = self.counts.get(name, 0) + len(x)

    def write(self, path: str | os.PathLike[str], dataset: str = "") -> None:
        """Write it in llama.cpp's GGUF form, which `llmlite quantize` and llama-quantize read.

        dataset: the name of the text it was measured on, kept in the file.
        """
        metadata = {
            "general.type": "imatrix",
            "imatrix.datasets": gguf.Typed([dataset], "[string]"),
            "imatrix.chunk_count": np.uint32(self.n_chunks),
            "imatrix.chunk_size": np.uint32(self.chunk_size),
        }
        tensors: dict[str, np.ndarray] = {}
        for name in sorted(self.squares):
            tensors[f"{name}.in_sum2"] = self.squares[name]  # one matrix, no experts: one dimension
            tensors[f"{name}.counts"] = np.array([self.counts[name]], np.float32)
        gguf.write(path, metadata, tensors)


class _Watching(Eager):
    """The eager operations, with every product's activations counted first."""

    def __init__(self, imatrix: Imatrix, cache: KVCache, n_outputs: int) -> None:
        super().__init__(0, n_outputs, cache=cache)
        self.imatrix = imatrix

    def matmul(self, w: QuantTensor, x: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        self.imatrix.add(w.name, x)
        return super().matmul(w, x, bias)


def collect(
    model: Model,
    ids: Sequence[int],
    *,
    n_ctx: int = 512,
    n_chunks: int | None = None,
    progress: Progress | None = None,
) -> Imatrix:
    """Run a text through a model and measure what each weight's columns meet.

    ids: the text's tokens, read in chunks of n_ctx, each from an empty cache; the rest is dropped.
    n_chunks: stop after this many. progress: called as progress(chunks_done, n_chunks).

    Raises: ValueError if the text is shorter than one chunk. The model is damaged: NumericsError
        naming the first result that isn't finite; ModelError naming the first tensor that meets numbers whose
        squares add up to infinity.
    Source: llama.cpp, tools/imatrix.
    """
    starts = range(0, len(ids) - n_ctx + 1, n_ctx)[:n_chunks]
    if not starts:
        raise ValueError(f"the text has {len(ids)} tokens, fewer than one chunk of {n_ctx}")
    imatrix = Imatrix(n_ctx)
    bos_id = model.tokenizer.bos_id if model.tokenizer.add_bos else None
    for done, start in enumerate(starts, 1):
        chunk = np.array(ids[start : start + n_ctx], dtype=np.int64)
        if bos_id is not None:
            chunk[0] = bos_id
        cache = KVCache(model.config, n_ctx, np.float32, chunk=n_ctx)
        cache.reserve(n_ctx)
        forward(_Watching(imatrix, cache, n_ctx), model.weights, model.config, chunk)
        imatrix.n_chunks = done
        if progress is not None:
            progress(done, len(starts))
    for name, total in imatrix.squares.items():
        check_importance(total[None], name, "what it meets is no number: the sum of squares")
    return imatrix
