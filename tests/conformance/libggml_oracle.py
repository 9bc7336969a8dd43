"""Quantize and dequantize with the libggml that comes with llama-cpp-python: an oracle.

libggml aborts the process on some inputs, so it runs in one of its own:

    python libggml_oracle.py JOBS.npz RESULTS.npz

JOBS holds, per job J: `J.type` (id), and either `J.blocks` uint8 (n, type_size), answered by `J` float32,
or an optional `J.importance` (n_columns,), answered by `J` uint8: the blocks that `values` float32 (n_rows,
n_columns), common to all jobs, quantize to.
"""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

# without these, libggml's assertion ends the process
NEEDS_IMPORTANCE = {16: "IQ2_XXS", 17: "IQ2_XS", 19: "IQ1_S"}
ACTIVATIONS = {9: "q8_1", 15: "q8_K"}


class TypeTraits(ctypes.Structure):
    """The head of `struct ggml_type_traits` (ggml.h)."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_size", ctypes.c_int64),
        ("block_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


def load() -> ctypes.CDLL:
    """Load libggml from the installed llama_cpp, without importing it (that would load all of llama.cpp)."""
    folder = Path(find_spec("llama_cpp").submodule_search_locations[0]) / "lib"
    library = ctypes.CDLL(str(next(folder.glob("*ggml-base.[sd]*"))))
    library.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = (
        [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    )
    return library


def quantize(
    library: ctypes.CDLL, type_id: int, values: np.ndarray, importance: np.ndarray | None
) -> np.ndarray:
    """Quantize rows (n_rows, n_columns) float32; returns blocks (n, type_size) uint8."""
    if importance is None and type_id in NEEDS_IMPORTANCE:
        raise SystemExit(f"{NEEDS_IMPORTANCE[type_id]} needs an importance matrix")
    traits = library.ggml_get_type_traits(type_id).contents
    n_rows, n_columns = values.shape
    blocks = np.zeros((values.size // traits.block_size, traits.type_size), np.uint8)
    if type_id in ACTIVATIONS:  # never whole tensors: ggml_quantize_chunk doesn't know them
        rounding = library[f"quantize_row_{ACTIVATIONS[type_id]}_ref"]
        rounding.argtypes, rounding.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
        rounding(values.ctypes.data, blocks.ctypes.data, values.size)
        return blocks
    pointer = None if importance is None else importance.ctypes.data
    library.ggml_quantize_chunk(
        type_id, values.ctypes.data, blocks.ctypes.data, 0, n_rows, n_columns, pointer
    )
    return blocks


def dequantize(library: ctypes.CDLL, type_id: int, blocks: np.ndarray) -> np.ndarray:
    """Dequantize blocks (n, type_size) uint8; returns (n, block_size) float32."""
    traits = library.ggml_get_type_traits(type_id).contents
    values = np.zeros((len(blocks), traits.block_size), np.float32)
    traits.to_float(blocks.ctypes.data, values.ctypes.data, values.size)
    return values


def main(jobs_path: str, results_path: str) -> None:
    """Answer every job of one file in another."""
    library, results = load(), {}
    with np.load(jobs_path) as jobs:
        values = np.ascontiguousarray(jobs["values"], dtype=np.float32)
        for name in [key.removesuffix(".type") for key in jobs.files if key.endswith(".type")]:
            type_id = int(jobs[f"{name}.type"])
            if f"{name}.blocks" in jobs:
                results[name] = dequantize(library, type_id, np.ascontiguousarray(jobs[f"{name}.blocks"]))
                continue
            importance = jobs.get(f"{name}.importance")
            results[name] = quantize(library, type_id, values, importance)
    np.savez(results_path, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
