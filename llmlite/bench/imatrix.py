"""Importance matrices: the importance of each column of each weight tensor, measured on a text.

The larger the activation that a weight is multiplied by, the more an error in the weight costs. Therefore the
quantizers weight the errors in each column by the mean square of its activations.

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

    Attributes:
        squares: sums of squared activations, float32 (n_columns,) for each tensor.
        counts: number of tokens summed, for each tensor.
        chunk_size: number of tokens read together.
        n_chunks: number of chunks read so far.
    """

    chunk_size: int
    squares: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    counts: dict[str, int] = field(default_factory=dict, repr=False)
    n_chunks: int = 0

    def means(self) -> dict[str, np.ndarray]:
        """Return the mean squares that the quantizers take, float32 (n_columns,) by tensor name."""
        return {name: total / np.float32(self.counts[name]) for name, total in self.squares.items()}

    def add(self, name: str, x: np.ndarray) -> None:
        """Add the activations `x` (T, n_columns) that the tensor `name` is multiplied by."""
        total = np.einsum("tc,tc->c", x, x, dtype=np.float64)
        self.squares[name] = (self.squares.get(name, 0) + total).astype(np.float32)
        self.counts[name] = self.counts.get(name, 0) + len(x)

    def write(self, path: str | os.PathLike[str], dataset: str = "") -> None:
        """Write the matrix in llama.cpp's GGUF format, which `llmlite quantize` and llama-quantize read.

        Args:
            path: the file to write.
            dataset: name of the text it was measured on; it is stored in the file.
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
    """The eager operations, which add the activations of each product to an Imatrix first."""

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
    """Run a text through a model and measure the activations of each weight's columns.

    Args:
        model: the model to measure.
        ids: the text's tokens. They are read in chunks, each from an empty cache; an incomplete chunk at the
            end is dropped.
        n_ctx: tokens in a chunk.
        n_chunks: stop after this many chunks; None reads all.
        progress: called as progress(chunks_done, n_chunks).

    Raises:
        ValueError: the text is shorter than one chunk.
        NumericsError: a result isn't finite, because the model is damaged; the message names the first one.
        ModelError: the squares of a tensor's activations add up to infinity; the message names the first
            such tensor.

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
        check_importance(total[None], name, "its activations aren't finite: the sum of squares")
    return imatrix
