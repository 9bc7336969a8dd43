"""The type of every tensor under every file type, against llama.cpp's own quantizing driver."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmlite import gguf
from llmlite.quantize import plan
from llmlite.quantize.mixes import FILE_TYPES
from tests.support.skeleton import skeleton

pytestmark = pytest.mark.conformance
WORKER = Path(__file__).with_name("llama_quantize_worker.py")
# a small model, Qwen2-0.5B's width, and TinyLlama's with four queries to a value
SHAPES = {
    "256 wide": {"n_embd": 256, "n_layer": 6, "n_head": 4, "n_head_kv": 2, "tied": True},
    "896 wide": {"n_embd": 896, "n_layer": 24, "n_head": 14, "n_head_kv": 2, "tied": True},
    "2048 wide": {"n_embd": 2048, "n_layer": 22, "n_head": 32, "n_head_kv": 8, "tied": False},
    "2048 wide, 32 layers, no sharing": {
        "n_embd": 2048, "n_layer": 32, "n_head": 16, "n_head_kv": 16, "tied": False,
    },
}  # fmt: skip
# llama.cpp refuses these for dense models or has no path to them from its driver
NOT_THERE = {"NVFP4"}


def llama_cpp_types(source: Path, folder: Path, imatrix: Path | None, names: list[str]) -> dict[str, dict]:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    command = [sys.executable, str(WORKER), str(source), str(folder)]
    command += [str(imatrix)] if imatrix else []
    command += [str(FILE_TYPES[name][0]) for name in names]
    done = subprocess.run(command, timeout=600, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {}
    for name in names:
        with gguf.read(folder / f"{FILE_TYPES[name][0]}.gguf") as file:
            found[name] = {tensor.name: tensor.type.name for tensor in file.tensors.values()}
    return found


@pytest.mark.parametrize("with_imatrix", [True, False], ids=["imatrix", "no imatrix"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_tensor_gets_the_type_llama_cpp_gives_it(
    shape: str, with_imatrix: bool, tmp_path: Path
) -> None:
    source = skeleton(tmp_path, **SHAPES[shape])
    names = [name for name in FILE_TYPES if name not in NOT_THERE]
    imatrix, importances = None, None
    if with_imatrix:
        with gguf.read(source) as file:
            importances = {
                name: np.ones(tensor.n_columns, np.float32)
                for name, tensor in file.tensors.items()
                if len(tensor.shape) == 2
            }
        imatrix = tmp_path / "imatrix.npz"
        np.savez(imatrix, **importances)
    else:
        names = [name for name in names if not name.startswith(("IQ1", "IQ2", "IQ3_XXS", "IQ3_XS", "Q2_K_S"))]
    expected = llama_cpp_types(source, tmp_path, imatrix, names)
    for name in names:
        ours = {row.name: row.target.name for row in plan(source, name, imatrix=importances)}
        assert ours == expected[name], name
