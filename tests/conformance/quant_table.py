"""Compare every tensor type with libggml on a million weights, and write the table of it.

python -m tests.conformance.quant_table docs/measurements/quant-conformance.md
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import gguf as gguf_py
import numpy as np
from gguf import quants as gguf_quants

from llmlite import quants
from llmlite.quants.tensor import QuantTensor

ORACLE = Path(__file__).with_name("libggml_oracle.py")
SHAPE = (512, 2048)  # 2^20 weights
N_BLOCKS = 2000  # random bytes to dequantize, per type
KINDS = [t for t in quants.TYPES.values() if t.block_size > 1 and t.storable]
WEIGHINGS = ("none", "ones", "importance")


@dataclass
class Row:
    """What was found about one type. Ratios are of root mean square errors, ours to libggml's."""

    kind: quants.QuantType
    same_as_libggml: bool
    same_as_gguf: bool | None  # None: the gguf package can't read the type
    same_bytes: dict[str, float] = field(default_factory=dict)  # share of blocks that are equal
    ratio: dict[str, float] = field(default_factory=dict)
    relative_error: float = 0.0
    seconds: float = 0.0


def sample() -> tuple[np.ndarray, np.ndarray]:
    """Weights with heavy tails and rows and columns of different size, and uneven importances of columns."""
    random = np.random.default_rng(1)
    spread = np.exp(0.5 * random.standard_normal((SHAPE[0], 1)) + 0.3 * random.standard_normal(SHAPE[1]))
    values = (0.02 * random.standard_t(5, SHAPE) * spread).astype(np.float32)
    return values, np.exp(random.standard_normal(SHAPE[1])).astype(np.float32)


def importances(column_importance: np.ndarray) -> dict[str, np.ndarray | None]:
    """The importance that each weighing gives to the quantizers."""
    return {"none": None, "ones": np.ones(SHAPE[1], np.float32), "importance": column_importance}


def measure(kinds: list[quants.QuantType] = KINDS) -> Iterator[Row]:
    """Ask libggml once about all types, then compare type by type."""
    values, column_importance = sample()
    given = importances(column_importance)
    jobs: dict[str, object] = {"values": values}
    for kind in kinds:
        random = np.random.default_rng(kind.id)
        jobs[f"{kind.name}.type"] = kind.id
        jobs[f"{kind.name}.blocks"] = random.integers(0, 256, (N_BLOCKS, kind.type_size), dtype=np.uint8)
        for weighing, importance in given.items():
            if importance is None and kind.needs_importance:
                continue
            jobs[f"{kind.name}/{weighing}.type"] = kind.id
            if importance is not None:
                jobs[f"{kind.name}/{weighing}.importance"] = importance
    answers = ask(jobs)
    for kind in kinds:
        yield compare(kind, jobs[f"{kind.name}.blocks"], values, given, answers)


def ask(jobs: dict[str, object]) -> dict[str, np.ndarray]:
    """Have libggml do the jobs in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "jobs.npz", **jobs)
        command = [sys.executable, str(ORACLE), f"{folder}/jobs.npz", f"{folder}/results.npz"]
        subprocess.run(command, check=True, timeout=900)
        with np.load(Path(folder) / "results.npz") as results:
            return dict(results)


def compare(
    kind: quants.QuantType,
    blocks: np.ndarray,
    values: np.ndarray,
    given: dict[str, np.ndarray | None],
    answers: dict[str, np.ndarray],
) -> Row:
    """Compare one type's weights bit by bit, and its errors under each weighing."""
    ours = kind.dequantize(blocks)
    row = Row(kind, same_weights(ours, answers[kind.name]), read_by_gguf(kind, blocks, ours))
    for weighing, importance in given.items():
        theirs = answers.get(f"{kind.name}/{weighing}")
        if theirs is None:
            continue
        start = time.thread_time()  # of this thread alone: what else runs doesn't count
        tensor = QuantTensor.quantize(values, kind.name, importance=importance)
        row.seconds = time.thread_time() - start
        cost = 1.0 if importance is None else importance
        error = rms(cost, tensor.dequantize() - values)
        their_error = rms(cost, kind.dequantize(theirs).reshape(SHAPE) - values)
        row.same_bytes[weighing] = float((tensor.blocks == theirs).all(axis=1).mean())
        row.ratio[weighing] = error / their_error
        if weighing == "ones":
            row.relative_error = error / rms(1.0, values)
    return row


def rms(cost: np.ndarray | float, off: np.ndarray) -> float:
    """Root of the weighted mean square, over all weights at once."""
    return float(np.sqrt(np.mean(cost * off.astype(np.float64) ** 2)))


def same_weights(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Equal bit for bit; a NaN equals any NaN, since its sign is left open by the C compiler."""
    equal = ours.view(np.uint32) == theirs.view(np.uint32)
    return bool((equal | (np.isnan(ours) & np.isnan(theirs))).all())


def read_by_gguf(kind: quants.QuantType, blocks: np.ndarray, ours: np.ndarray) -> bool | None:
    """Whether the gguf package gives the same bits; None if it can't read the type."""
    try:
        with np.errstate(all="ignore"):
            theirs = gguf_quants.dequantize(blocks, gguf_py.GGMLQuantizationType(kind.id))
    except (ValueError, NotImplementedError):
        return None
    return bool(np.array_equal(ours.view(np.uint32).ravel(), theirs.view(np.uint32).ravel()))


HEADER = f"""\
# Tensor types compared with libggml

Made by `python -m tests.conformance.quant_table docs/measurements/quant-conformance.md`; do not edit.
Oracles: libggml of
llama-cpp-python {{version}} (`ggml_quantize_chunk`, `to_float`) and the `gguf` package {{gguf}}.

- **reads**: {N_BLOCKS:,} blocks of random bytes give the same bits as with libggml / the gguf package.
- **error**: relative root mean square error of llmlite's quantizing with equal importances.
- **same blocks** and **error ratio**: {SHAPE[0] * SHAPE[1]:,} heavy-tailed weights quantized by both, without
  an importance matrix / with ones / with uneven importances; the share of blocks with identical bytes, and
  our root mean square error divided by libggml's, weighted by the same importances. Below 1, ours is smaller.
  libggml refuses (–) some types without an importance matrix. Where it takes the squared weights for
  importances then (IQ1_M, IQ2_S, IQ3), llmlite takes equal ones, hence ratios far below 1.
- **speed**: million weights per second of processor time, one thread of NumPy, with importances.

| type | bits per weight | reads | error | same blocks | error ratio | speed |
|---|---|---|---|---|---|---|
"""


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    from importlib.metadata import version

    lines = [HEADER.format(version=version("llama-cpp-python"), gguf=version("gguf"))]
    for row in rows:
        reads = f"{_yes(row.same_as_libggml)} / {_yes(row.same_as_gguf)}"
        same = " / ".join(_share(row.same_bytes.get(name)) for name in WEIGHINGS)
        ratio = " / ".join(_figure(row.ratio.get(name)) for name in WEIGHINGS)
        speed = float(f"{SHAPE[0] * SHAPE[1] / 1e6 / row.seconds:.2g}")
        lines.append(
            f"| {row.kind.name} | {row.kind.bits_per_weight:g} | {reads} | {row.relative_error:.4f} "
            f"| {same} | {ratio} | {speed:g} |\n"
        )
    return "".join(lines)


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "NO", None: "–"}[value]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %" if value < 1 else "all"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(table(list(measure())), encoding="utf-8")
