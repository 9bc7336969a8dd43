"""Measure what an importance matrix gains on the bundled model, and write the table of it.

python -m tests.conformance.imatrix_table docs/measurements/imatrix.md
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmlite import resources
from llmlite.bench.imatrix import collect
from llmlite.bench.quality import perplexity, text_divergence
from llmlite.model import Model, load
from llmlite.quantize import quantize_file

N_CTX = 256
FILE_TYPES = tuple("Q2_K Q3_K_S Q3_K_M Q4_K_S Q4_K_M Q5_K_M Q6_K IQ2_XXS IQ2_XS IQ3_XXS".split())
HEAD = """\
# What an importance matrix gains

Made by `python -m tests.conformance.imatrix_table docs/measurements/imatrix.md`; do not edit.
The bundled model,
quantized without and with an importance matrix (`llmlite imatrix`). The matrix is measured on
{n_calibration:,} tokens of the evaluation text's first half. Kullback-Leibler divergence from the F16 model
(nats) and perplexity are measured on its second half, {n_chunks} chunks of {n_ctx}.
The F16 model's perplexity there is {reference}. A dash means the type requires an importance matrix.
Sizes differ where llama.cpp's mixes, which llmlite follows, give some tensors more bits in a file without.

| type | KL without | KL with | ratio | perplexity without | with | MB without | with |
|---|---|---|---|---|---|---|---|
"""


class Gain(NamedTuple):
    """Mean divergence from F16 (nats), perplexity and bytes of one file type; NaN for what can't be made."""

    file_type: str
    without: float
    with_imatrix: float
    perplexity_without: float
    perplexity_with: float
    n_bytes_without: float
    n_bytes_with: float


def halves(tales: Path) -> tuple[list[int], list[int]]:
    """The evaluation text's token ids: one half to calibrate on, the other to measure on."""
    text = resources.data_path("tales-eval.txt").read_text(encoding="utf-8")
    ids = load(tales, executor="eager").tokenizer.encode(text, add_special=False)
    middle = len(ids) // 2
    return ids[:middle], ids[middle:]


def n_calibration(n_chunks: int | None, calibration: list[int]) -> int:
    """How many chunks to calibrate on: as many as are measured, if there are."""
    there_are = len(calibration) // N_CTX
    return there_are if n_chunks is None else min(n_chunks, there_are)


def remembered(model: Model) -> Callable[[list[int]], np.ndarray]:
    """model.logits, computed once for each chunk."""
    known: dict[tuple[int, ...], np.ndarray] = {}

    def logits_of(chunk: list[int]) -> np.ndarray:
        if tuple(chunk) not in known:
            known[tuple(chunk)] = model.logits(chunk)
        return known[tuple(chunk)]

    return logits_of


def gains(
    tales: Path, folder: Path, file_types: tuple[str, ...] = FILE_TYPES, *, n_chunks: int | None = None
) -> Iterator[Gain]:
    """Quantize with and without, and measure both on so many chunks (None: all there are)."""
    calibration, measured = halves(tales)
    reference = load(tales, executor="eager")
    bos_id = reference.tokenizer.bos_id if reference.tokenizer.add_bos else None
    settings = {"n_ctx": N_CTX, "bos_id": bos_id, "n_chunks": n_chunks}
    wanted = remembered(load(tales))
    means = collect(
        reference, calibration, n_ctx=N_CTX, n_chunks=n_calibration(n_chunks, calibration)
    ).means()
    for file_type in file_types:
        found = []
        for imatrix in (None, means):
            if imatrix is None and file_type.startswith(("IQ1", "IQ2")):
                found.append((math.nan, math.nan, math.nan))
                continue
            path = folder / f"{file_type}-{imatrix is not None}.gguf"
            quantize_file(tales, path, file_type, imatrix=imatrix)
            logits_of = remembered(load(path))
            kl = text_divergence(logits_of, wanted, measured, **settings).kl
            found.append((kl, perplexity(logits_of, measured, **settings).value, path.stat().st_size))
            path.unlink()
        yield Gain(file_type, *(number for pair in zip(*found) for number in pair))


def table(tales: Path, folder: Path, *, n_chunks: int) -> str:
    """The whole page."""
    reference = load(tales, executor="eager")
    calibration, measured = halves(tales)
    bos_id = reference.tokenizer.bos_id if reference.tokenizer.add_bos else None
    own = perplexity(reference.logits, measured, n_ctx=N_CTX, bos_id=bos_id, n_chunks=n_chunks)
    text = HEAD.format(
        n_calibration=n_calibration(n_chunks, calibration) * N_CTX,
        n_chunks=min(n_chunks, len(measured) // N_CTX),
        n_ctx=N_CTX,
        reference=f"{own.value:.4f} ± {own.standard_error:.4f}",
    )
    for row in gains(tales, folder, n_chunks=n_chunks):
        cells = [row.without, row.with_imatrix, row.with_imatrix / row.without]
        cells += [row.perplexity_without, row.perplexity_with]
        cells += [row.n_bytes_without / 1e6, row.n_bytes_with / 1e6]
        digits = (5, 5, 2, 4, 4, 2, 2)
        shown = ["–" if math.isnan(cell) else f"{cell:.{n}f}" for cell, n in zip(cells, digits)]
        text += f"| {row.file_type} | {' | '.join(shown)} |\n"
        print(text.splitlines()[-1], flush=True)
    return text


def main(target: str, n_chunks: int = 40) -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = table(resources.model_path("tales"), Path(folder), n_chunks=n_chunks)
    Path(target).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
