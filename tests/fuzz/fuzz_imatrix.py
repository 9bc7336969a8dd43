"""Throw importance matrices at the reader and the planner: used or refused, and never a weight that is lost.

python tests/fuzz/fuzz_imatrix.py --inputs 100000 --seed 1
"""

from __future__ import annotations

import functools
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from tests.fuzz import fuzzing
from tests.fuzz.fuzz_gguf import mutated
from tests.support.gguf_builder import GGUFBuilder
from tests.support.tiny_models import tiny_model

VALUES = (
    0.0,
    1.0,
    1e-45,
    1e-30,
    1e-3,
    2.5,
    1e30,
    3e38,
    -1.0,
    -1e-30,
    float("nan"),
    float("inf"),
    float("-inf"),
)
SIZES = (1, 2, 3, 4, 64, 255, 256, 257)


@functools.cache
def model() -> Any:
    from llmlite import gguf

    tiny = tiny_model(n_layer=1, n_embd=256, n_ff=256, n_expert=4)
    path = Path(tempfile.mkdtemp(prefix="fuzz-imatrix-")) / "model.gguf"
    return gguf.read(tiny.write(path))


def numbers(dice: random.Random, n: int) -> np.ndarray:
    """n numbers: ordinary ones, some or all replaced by odd ones."""
    out = np.random.default_rng(dice.randrange(2**32)).random(n).astype(np.float32)
    kind = dice.random()
    if kind < 0.3:
        out[:] = dice.choice(VALUES)
    elif kind < 0.5:
        out[dice.randrange(n)] = dice.choice(VALUES)
    elif kind < 0.7:
        out[: dice.randrange(n + 1)] = dice.choice((0.0, 0.0, 1e-38, 1e38))
    return out


def inputs(n: int, seed: int) -> Iterator[bytes]:
    """n files with entries of right and wrong names, shapes and numbers; some with damaged bytes."""
    dice = random.Random(seed)
    names = [name for name in model().tensors if name.startswith("blk.")]
    for _ in range(n):
        builder = GGUFBuilder(3, "little").kv("general.type", "string", "imatrix")
        for name in dice.sample([*names, "foreign.weight", "x"], dice.randrange(1, 6)):
            shape = model().tensors[name].shape if name in names else (4, 256)
            n_columns = shape[-1] if dice.random() < 0.8 else dice.choice(SIZES)
            n_matrices = (shape[0] if len(shape) == 3 else 1) if dice.random() < 0.8 else dice.choice(SIZES)
            sums = numbers(dice, n_columns * n_matrices)
            builder.tensor(f"{name}.in_sum2", (n_columns, n_matrices), 0, sums.nbytes, data=sums.tobytes())
            if dice.random() < 0.9:
                n_counts = n_matrices if dice.random() < 0.9 else dice.choice(SIZES)
                counts = numbers(dice, n_counts)
                builder.tensor(f"{name}.counts", (1, n_counts), 0, counts.nbytes, data=counts.tobytes())
        data = builder.build()
        yield data if dice.random() < 0.9 else mutated(data, [data], dice)


def check(data: bytes, folder: Path) -> str:
    """Read a file, plan with it, and quantize one of its tensors."""
    from llmlite.quantize import plan, read_imatrix
    from llmlite.quants.tensor import QuantTensor

    path = folder / "imatrix.gguf"
    path.write_bytes(data)

    def act() -> None:
        found = read_imatrix(path)
        plan(model(), "Q4_K_M", imatrix=found)
        name = next(name for name in found if name in model().tensors)
        tensor = model().tensors[name]
        kind = ("Q3_K", "Q4_0", "IQ4_NL", "Q6_K")[len(data) % 4]
        if len(tensor.shape) > 1:
            made = QuantTensor.quantize(tensor, kind, name, found[name]).dequantize()
            weights = tensor.dequantize()
            # a row whose weights were lost would be off by as much as it holds
            off = ((made - weights) ** 2).sum(axis=-1) / (weights**2).sum(axis=-1)
            assert np.isfinite(off).all() and off.max() < 0.5, f"{name} in {kind}: {off.max()}"

    return fuzzing.outcome(act)


if __name__ == "__main__":
    fuzzing.main(__doc__, inputs, check)
