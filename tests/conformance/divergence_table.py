"""What computing with quantized weights costs, in our engine and in llama.cpp, and the table of it.

    python -m tests.conformance.divergence_table docs/measurements/engine-divergence.md

One file of each type is run three times: by the eager executor, which multiplies float32 activations with
dequantized weights; by the planned executor; and by llama.cpp. Both of the latter round activations to bytes.
The weights are the same, so what is left is that rounding. The bundled model, keys and values in float32.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import llmlite as ll
from llmlite import resources
from llmlite.bench.quality import Divergence, divergence
from llmlite.engine.kv_cache import KVCache
from llmlite.model import Model
from llmlite.quantize import quantize_file
from tests.support.llama_cpp import run_llama_cpp

FILE_TYPES = (
    "F16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K_M Q4_K_M Q5_K_M Q6_K IQ4_NL IQ4_XS".split()
)  # those whose matrices have kernels of their own
N_CTX, N_CHUNKS = 512, 3
HEAD = """\
# What the engine's rounding costs

Made by `python -m tests.conformance.divergence_table docs/measurements/engine-divergence.md`; do not edit.
Mean
Kullback-Leibler divergence (nats, times 1e-6) of a file's predictions from those that float32 activations
and the same dequantized weights give, and the share of positions whose likeliest token is the same. The
bundled model, {n_tokens:,} positions of its evaluation text, {n_chunks} chunks of {n_ctx}; keys and values in
float32. llama.cpp without repacking of weights. Decoding: our engine token by token, on other kernels than a
prompt's. Ratios: our divergence over llama.cpp's. ±: the mean's standard error; a few positions, where two
continuations are about as likely, make up half of it. For Q8_0 both round alike, 32 activations to a scale;
for K and IQ types llama.cpp has 256 to a scale.

| type | KL prompt | KL decoding | KL llama.cpp | ratio prompt | ratio decoding | top-1 | top-1 llama.cpp |
|---|---|---|---|---|---|---|---|
"""


class Row(NamedTuple):
    """Divergence from float32 arithmetic on one file's weights."""

    file_type: str
    prompt: Divergence
    decoding: Divergence
    llama_cpp: Divergence


def chunks(tales: Path, n_chunks: int) -> list[list[int]]:
    """The first chunks of the evaluation text, N_CTX token ids each."""
    text = resources.data_path("tales-eval.txt").read_text(encoding="utf-8")
    ids = ll.load(tales, executor="eager").tokenizer.encode(text, add_special=False)
    return [ids[i * N_CTX : (i + 1) * N_CTX] for i in range(n_chunks)]


def token_by_token(model: Model, ids: list[int]) -> np.ndarray:
    """Logits (T, V), each computed by a step of a single token."""
    cache = KVCache(model.config, len(ids), np.float32)
    return np.concatenate([model.executor([token], cache, n_outputs=1) for token in ids])


def measure(tales: Path, folder: Path, file_type: str, texts: list[list[int]]) -> Row:
    """Quantize to `file_type`, run all, and compare."""
    path = tales
    if file_type != "F16":
        path = folder / f"{file_type}.gguf"
        quantize_file(tales, path, file_type)
    eager, planned = (ll.load(path, kv_dtype="f32", executor=name) for name in ("eager", "planned"))
    slow = {op.type for op in planned.executor.plan(1, 1, np.float32).ops if op.kernel is None}
    assert not slow, f"{file_type}: {slow} have no kernels"
    wanted = np.concatenate([eager.logits(ids) for ids in texts])
    answers = (
        [planned.logits(ids) for ids in texts],
        [token_by_token(planned, ids) for ids in texts],
        [run_llama_cpp(path, ids, folder)["logits"] for ids in texts],
    )
    return Row(file_type, *(divergence(np.concatenate(rows), wanted) for rows in answers))


def rows(
    tales: Path, folder: Path, file_types: tuple[str, ...] | list[str] = FILE_TYPES, n_chunks: int = N_CHUNKS
) -> Iterator[Row]:
    texts = chunks(tales, n_chunks)
    for file_type in file_types:
        yield measure(tales, folder, file_type, texts)


def table(found: Iterator[Row], n_chunks: int) -> str:
    """The whole page."""
    text = HEAD.format(n_tokens=n_chunks * N_CTX, n_chunks=n_chunks, n_ctx=N_CTX)
    for row in found:
        prompt, decoding, theirs = row.prompt.kl, row.decoding.kl, row.llama_cpp.kl
        answers = (row.prompt, row.decoding, row.llama_cpp)
        cells = [f"{1e6 * answer.kl:.1f} ± {1e6 * answer.kl_error:.1f}" for answer in answers]
        cells += [f"{prompt / theirs:.2f}", f"{decoding / theirs:.2f}"]
        cells += [f"{100 * answer.top1:.2f} %" for answer in (row.prompt, row.llama_cpp)]
        text += f"| {row.file_type} | {' | '.join(cells)} |\n"
        print(text.splitlines()[-1], flush=True)
    return text


def main(target: str, n_chunks: int = N_CHUNKS) -> None:
    tales = resources.model_path("tales")
    with tempfile.TemporaryDirectory() as folder:
        text = table(rows(tales, Path(folder), n_chunks=n_chunks), n_chunks)
    Path(target).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
