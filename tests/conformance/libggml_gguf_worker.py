"""Print what libggml's own GGUF reader says of files, a line of JSON each. A process: it may abort.

Usage: python libggml_gguf_worker.py LIBRARY FILE...
"""

from __future__ import annotations

import ctypes
import json
import sys


class InitParams(ctypes.Structure):
    """struct gguf_init_params"""

    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


def main(library: str, *paths: str) -> None:
    ggml = ctypes.CDLL(library)
    signatures = {
        "gguf_init_from_file": (ctypes.c_void_p, [ctypes.c_char_p, InitParams]),
        "gguf_get_version": (ctypes.c_uint32, [ctypes.c_void_p]),
        "gguf_get_alignment": (ctypes.c_size_t, [ctypes.c_void_p]),
        "gguf_get_data_offset": (ctypes.c_size_t, [ctypes.c_void_p]),
        "gguf_get_n_kv": (ctypes.c_int64, [ctypes.c_void_p]),
        "gguf_get_n_tensors": (ctypes.c_int64, [ctypes.c_void_p]),
    }
    by_index = {
        "gguf_get_key": ctypes.c_char_p,
        "gguf_get_kv_type": ctypes.c_int,
        "gguf_get_arr_type": ctypes.c_int,
        "gguf_get_arr_n": ctypes.c_size_t,
        "gguf_get_arr_data": ctypes.c_void_p,
        "gguf_get_val_data": ctypes.c_void_p,
        "gguf_get_val_str": ctypes.c_char_p,
        "gguf_get_tensor_name": ctypes.c_char_p,
        "gguf_get_tensor_type": ctypes.c_int,
        "gguf_get_tensor_offset": ctypes.c_size_t,
        "gguf_get_tensor_size": ctypes.c_size_t,
    }
    for name, result in by_index.items():
        signatures[name] = (result, [ctypes.c_void_p, ctypes.c_int64])
    signatures["gguf_get_arr_str"] = (ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t])
    for name, (result, arguments) in signatures.items():
        function = getattr(ggml, name)
        function.restype, function.argtypes = result, arguments
    for path in paths:
        file = ggml.gguf_init_from_file(path.encode(), InitParams(True, None))
        print(json.dumps(describe(ggml, file) if file else None))


def describe(ggml: ctypes.CDLL, file: int) -> dict:
    """Everything, values as hexadecimal bytes."""
    return {
        "version": ggml.gguf_get_version(file),
        "alignment": ggml.gguf_get_alignment(file),
        "data_offset": ggml.gguf_get_data_offset(file),
        "kv": [
            [ggml.gguf_get_key(file, i).decode("utf-8", "replace"), *value(ggml, file, i)]
            for i in range(ggml.gguf_get_n_kv(file))
        ],
        "tensors": [
            [
                ggml.gguf_get_tensor_name(file, i).decode("utf-8", "replace"),
                ggml.gguf_get_tensor_type(file, i),
                ggml.gguf_get_tensor_offset(file, i),
                ggml.gguf_get_tensor_size(file, i),
            ]
            for i in range(ggml.gguf_get_n_tensors(file))
        ],
    }


def value(ggml: ctypes.CDLL, file: int, i: int) -> list:
    kind = ggml.gguf_get_kv_type(file, i)
    if kind == STRING:
        return [kind, ggml.gguf_get_val_str(file, i).hex()]
    if kind != ARRAY:
        return [kind, ctypes.string_at(ggml.gguf_get_val_data(file, i), SIZES[kind]).hex()]
    element, n = ggml.gguf_get_arr_type(file, i), ggml.gguf_get_arr_n(file, i)
    if element == STRING:
        return [kind, element, [ggml.gguf_get_arr_str(file, i, j).hex() for j in range(n)]]
    raw = ctypes.string_at(ggml.gguf_get_arr_data(file, i), n * SIZES[element]) if n else b""
    return [kind, element, raw.hex()]


if __name__ == "__main__":
    main(*sys.argv[1:])
