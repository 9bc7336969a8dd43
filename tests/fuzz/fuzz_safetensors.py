"""Throw damaged safetensors files at the reader: each is read or refused, nothing else.

python tests/fuzz/fuzz_safetensors.py --inputs 100000 --seed 1
"""

from __future__ import annotations

import copy
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from tests.fuzz import fuzzing
from tests.fuzz.fuzz_gguf import mutated
from tests.support.huggingface_folders import packed, safetensors

JUNK: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 8, 2**31, 2**63, 10**40, 1.5, float("nan")),
    *("", "F32", "F16", "BF16", "I64", "F8_E4M3", "X" * 5000, "\udc80", [], [0], [2, 3], [0, 0], [-1, 5]),
    *([2**62, 4], [[1]], ["1"], {}, {"dtype": "F32"}, {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
)


def seeds() -> list[bytes]:
    floats = np.arange(6, dtype=np.float32).reshape(2, 3)
    return [
        safetensors(
            {"a": floats, "b": floats.astype(np.float16), "c": np.float64([[1]]), "d": np.float32(1)}
        ),
        safetensors({"a": floats.astype(np.float16)}, dtypes={"a": "BF16"}),
        safetensors({"e": np.empty((0, 3), np.float32), "f": floats}),
        packed({}),
    ]


def inputs(n: int, seed: int) -> Iterator[bytes]:
    """n files: headers whose JSON is changed here or there, and files with damaged bytes."""
    dice, good = random.Random(seed), seeds()
    for _ in range(n):
        data = dice.choice(good)
        size = int.from_bytes(data[:8], "little")
        if dice.random() < 0.6 and size > 2:
            header = json.loads(data[8 : 8 + size])
            for _ in range(dice.choice((1, 1, 2))):
                name = dice.choice([*header])
                junk = copy.deepcopy(dice.choice(JUNK))
                if dice.random() < 0.2 or not isinstance(header[name], dict):
                    header[dice.choice([name, "é", "", "x" * 200])] = junk
                else:
                    header[name][dice.choice(["dtype", "shape", "data_offsets"])] = junk
            data = packed(header, data[8 + size :])
        yield data if dice.random() < 0.3 else mutated(data, good, dice)


def check(data: bytes, folder: Path) -> str:
    """Read a file and dequantize all of it."""
    from llmlite.huggingface import read_safetensors

    path = folder / "input.safetensors"
    path.write_bytes(data)

    def act() -> None:
        for tensor in read_safetensors(path).values():
            assert tensor.dequantize().shape == tensor.shape
            assert len(tensor.blocks) == tensor.n_elements

    return fuzzing.outcome(act)


if __name__ == "__main__":
    fuzzing.main(__doc__, inputs, check)
