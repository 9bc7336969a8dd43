"""Read safetensors files: tensors are views of the mapped file, and everything is checked before use.

    u64 n       little-endian
    n bytes     JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
    the rest    data; offsets count from here, tensors follow each other without gaps

A large model is stored in several such files; model.safetensors.index.json maps its tensors to files.
Source: the format's description in the safetensors repository.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from llmlite.errors import GGUFError, UnsupportedError
from llmlite.gguf.file import file_bytes
from llmlite.gguf.parse import shown as plain
from llmlite.quants import QuantType, by_name
from llmlite.quants.tensor import QuantTensor

MAX_HEADER = 100_000_000  # bytes, the format's own limit
MAX_JSON = 1 << 28  # bytes; the largest tokenizer.json are near 40 MB
DTYPES = {"F64": "F64", "F32": "F32", "F16": "F16", "BF16": "BF16"}  # theirs -> ours
ITEM_SIZES = {
    **dict.fromkeys(("I64", "U64"), 8),
    **dict.fromkeys(("I32", "U32"), 4),
    **dict.fromkeys(("I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}  # bytes of an element, for dtypes that a file may have but that can't be converted
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
CUT_OFF = "the file is cut off: download it again"
DAMAGED = "the file is damaged: download it again"
POSITIONS = re.compile(r"(^|\.)position_ids$")  # 0, 1, 2 …: older folders of BERT store them


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, QuantTensor]:
    """Read one file.

    Args:
        path: path of the file.

    Returns:
        Name -> tensor, a view of the mapped file.

    Raises:
        GGUFError: the file is malformed or cut off; the error names the field.
        UnsupportedError: a tensor doesn't have floating-point numbers of 16, 32 or 64 bits.
        OSError: the file can't be read.
    """
    name = os.fspath(path)
    data = file_bytes(name, mmap=True)
    header, start = _header(name, data)
    tensors, end = {}, start
    header.pop("__metadata__", None)
    entries = [(_entry(name, key, entry), key) for key, entry in header.items()]
    for (begin, stop, dtype, shape), key in sorted(entries):
        label = plain(key)
        if start + begin != end:
            expected = f"a beginning at {end - start}, the end of the previous tensor"
            raise GGUFError(name, f"{label}: data_offsets", None, expected, begin, DAMAGED)
        end = start + stop
        if end > len(data):
            expected = f"an end within the {len(data) - start} bytes of data"
            raise GGUFError(name, f"{label}: data_offsets", None, expected, stop, CUT_OFF)
        if POSITIONS.search(key) and dtype not in DTYPES:
            continue
        kind = _type(name, key, dtype)
        tensors[key] = QuantTensor(key, kind, shape, data[start + begin : end].reshape(-1, kind.type_size))
    if end != len(data):
        raise GGUFError(name, "data", end, "the end of the file", f"{len(data) - end} bytes more", DAMAGED)
    return tensors


def read_folder(folder: str) -> dict[str, QuantTensor]:
    """Read the tensors of a folder: all those in its index, or those of its only file.

    Raises as `read_safetensors` does, and UnsupportedError if the folder has no tensors.
    """
    index = os.path.join(folder, INDEX)
    if not os.path.exists(index):
        single = os.path.join(folder, SINGLE)
        if not os.path.exists(single):
            raise UnsupportedError(
                f"{folder}: has no {SINGLE} and no {INDEX}; weights in other formats aren't read "
                "(pytorch_model.bin is a pickle, which can run code when it is opened)"
            )
        return read_safetensors(single)
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise GGUFError(index, "weight_map", None, "tensor names and their files", shown(places))
    shards: dict[str, dict[str, QuantTensor]] = {}
    tensors = {}
    for name, file_name in places.items():
        shard = shards.get(file_name) if isinstance(file_name, str) else None
        if shard is None:
            shard = shards[file_name] = read_safetensors(_inside(index, folder, name, file_name))
        if POSITIONS.search(name) and name not in shard:
            continue
        if name not in shard:
            raise GGUFError(index, plain(name), None, f"this tensor in {shown(file_name)}", "none", DAMAGED)
        tensors[name] = shard[name]
    return tensors


def read_json(path: str) -> dict[str, Any]:
    """Read a file that contains one JSON object.

    Raises:
        GGUFError: the file contains something else.
        OSError: the file can't be read.
    """
    return _object(path, _json_bytes(path), 0)


def read_json_list(path: str) -> list[Any]:
    """Read a file that contains one JSON list.

    Raises:
        GGUFError: the file contains something else.
        OSError: the file can't be read.
    """
    value = _parsed(path, _json_bytes(path), 0, "list")
    if not isinstance(value, list):
        raise GGUFError(path, "JSON", 0, "a list", shown(value), DAMAGED)
    return value


def _json_bytes(path: str) -> bytes:
    data = file_bytes(path, mmap=False)
    if len(data) > MAX_JSON:
        raise GGUFError(path, "JSON", None, f"at most {MAX_JSON} bytes", len(data))
    return data.tobytes()


def shown(value: object) -> str:
    """Return a file's value in the form for errors: ASCII, 60 characters at most."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _header(path: str, data: np.ndarray) -> tuple[dict[str, Any], int]:
    """Return the header's object, and the offset of the data."""
    if len(data) < 8:
        raise GGUFError(path, "header", 0, "8 bytes, its length", f"{len(data)} in all", CUT_OFF)
    length = int(data[:8].view("<u8")[0])
    if length > MAX_HEADER:
        raise GGUFError(path, "header: length", 0, f"at most {MAX_HEADER}", length, "not a safetensors file?")
    if 8 + length > len(data):
        raise GGUFError(path, "header: length", 0, f"at most {len(data) - 8}, the rest", length, CUT_OFF)
    return _object(path, data[8 : 8 + length].tobytes(), 8), 8 + length


def _parsed(path: str, raw: bytes, offset: int, expected: str) -> Any:
    """Parse JSON, and refuse an object in which a key occurs twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise GGUFError(path, "JSON", None, "each key once", f"{shown(key)} again", DAMAGED)
            found[key] = value
        return found

    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise GGUFError(path, "JSON", offset + error.start, "UTF-8", "something else", DAMAGED) from None
    except (ValueError, RecursionError) as error:  # RecursionError: too many nested brackets
        raise GGUFError(path, "JSON", offset, f"one {expected}", str(error)[:80], DAMAGED) from None


def _object(path: str, raw: bytes, offset: int) -> dict[str, Any]:
    value = _parsed(path, raw, offset, "object")
    if not isinstance(value, dict):
        raise GGUFError(path, "JSON", offset, "an object", shown(value), DAMAGED)
    return value


def _entry(path: str, name: str, entry: Any) -> tuple[int, int, str, tuple[int, ...]]:
    """Return one tensor's (begin, end, dtype, shape), each of them checked by itself."""
    name = plain(name)
    if not isinstance(entry, Mapping):
        raise GGUFError(path, name, None, "dtype, shape and data_offsets", shown(entry), DAMAGED)
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    dtype = entry.get("dtype")
    if not _counts(shape) or len(shape) > 8:
        raise GGUFError(path, f"{name}: shape", None, "a list of sizes", shown(shape), DAMAGED)
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise GGUFError(path, f"{name}: data_offsets", None, "[begin, end]", shown(offsets), DAMAGED)
    if not isinstance(dtype, str) or dtype not in (*DTYPES, *ITEM_SIZES):
        known = ", ".join((*DTYPES, *ITEM_SIZES))
        raise GGUFError(path, f"{name}: dtype", None, f"one of {known}", shown(dtype))
    size = by_name(DTYPES[dtype]).type_size if dtype in DTYPES else ITEM_SIZES[dtype]
    n_bytes = math.prod(shape) * size
    if offsets[1] - offsets[0] != n_bytes:
        expected = f"{n_bytes} bytes for {dtype} of shape {shape}"
        raise GGUFError(path, f"{name}: data_offsets", None, expected, offsets[1] - offsets[0], DAMAGED)
    return offsets[0], offsets[1], dtype, tuple(shape)


def _counts(values: Any) -> bool:
    """Return whether this is a list of whole numbers, none of them negative or above 63 bits."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _type(path: str, name: str, dtype: str) -> QuantType:
    if dtype not in DTYPES:
        raise UnsupportedError(
            f"{path}: {plain(name)} is {dtype}: only models in {', '.join(DTYPES)} can be converted"
        )
    return by_name(DTYPES[dtype])


def _inside(index: str, folder: str, name: str, file_name: Any) -> str:
    """Return the path of a shard. The index may only name files in its own folder."""
    is_name = isinstance(file_name, str) and file_name not in ("", ".", "..")
    if not is_name or any(sign in file_name for sign in "/\\:\0"):
        raise GGUFError(index, plain(name), None, "the name of a file in the same folder", shown(file_name),
                        "files in other folders are not opened")  # fmt: skip
    path = os.path.join(folder, file_name)
    if not os.path.exists(path):
        raise GGUFError(index, plain(name), None, f"a file {shown(file_name)} in the same folder", "none",
                        "a part of the model is missing")  # fmt: skip
    return path
