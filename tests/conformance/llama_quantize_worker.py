"""Quantizes a GGUF file with llama.cpp's own driver, in a process of its own.

    python llama_quantize_worker.py IN.gguf OUT_FOLDER [IMATRIX.npz] FILE_TYPE_ID...

Writes OUT_FOLDER/ID.gguf for each file type. IMATRIX holds, per tensor name, the importances of its columns.
"""

import ctypes
import sys
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as api


def imatrix_array(path: str, kept: list) -> ctypes.Array:
    """The zero-terminated array that llama_model_quantize takes; `kept` keeps what it points to alive."""
    with np.load(path) as arrays:
        named = [(name.encode(), np.ascontiguousarray(arrays[name], np.float32)) for name in arrays.files]
    items = (api.llama_model_imatrix_data * (len(named) + 1))()
    for item, (name, values) in zip(items, named):
        item.name, item.size = name, values.size
        item.data = values.ctypes.data_as(type(item.data))
    kept += [named, items]
    return items


def main(source: str, folder: str, *rest: str) -> None:
    """Quantize the file to every type asked."""
    kept: list = []
    imatrix = imatrix_array(rest[0], kept) if rest[0].endswith(".npz") else None
    ids = [int(text) for text in rest if not text.endswith(".npz")]
    for file_type in ids:
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread = file_type, 1
        if imatrix is not None:
            params.imatrix = ctypes.cast(imatrix, ctypes.POINTER(api.llama_model_imatrix_data))
        target = Path(folder) / f"{file_type}.gguf"
        status = llama_cpp.llama_model_quantize(source.encode(), str(target).encode(), ctypes.byref(params))
        if status:
            raise SystemExit(f"llama_model_quantize: status {status} for file type {file_type}")


if __name__ == "__main__":
    main(*sys.argv[1:])
