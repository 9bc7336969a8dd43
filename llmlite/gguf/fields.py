"""Name every byte of a GGUF file, for a byte map."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llmlite.gguf.content import Field, tensor_of, value_of
from llmlite.gguf.parse import Head, MetadataEntry, TensorInfo, shown
from llmlite.gguf.values import STRING, decode


class _Reader:
    """Make Fields from consecutive numbers and strings."""

    def __init__(self, data: np.ndarray, head: Head) -> None:
        self.data, self.head, self.at = data, head, 0
        self.size_type = "u64" if head.width == 8 else "u32"
        self.count_type = "i64" if head.width == 8 else "u32"

    def number(self, name: str, type_name: str) -> Field:
        n_bytes = int(type_name[1:]) // 8
        raw = self.data[self.at : self.at + n_bytes].tobytes()
        value = int.from_bytes(raw, self.head.byte_order, signed=type_name[0] == "i")  # type: ignore[arg-type]
        field = Field(name, self.at, n_bytes, type_name, value)
        self.at += n_bytes
        return field

    def string(self, name: str) -> Iterator[Field]:
        length = self.number(f"{name}: length", self.size_type)
        yield length
        raw = self.data[self.at : self.at + length.value].tobytes()
        yield Field(name, self.at, length.value, "string", decode(raw))
        self.at += length.value


def fields(data: np.ndarray, head: Head) -> Iterator[Field]:
    """Yield every field of a parsed file, in order and without gaps.

    Args:
        data: uint8 (file size,): the bytes of the file.
        head: the result of `parse`.
    """
    reader = _Reader(data, head)
    yield Field("magic", 0, 4, "string", "GGUF")
    reader.at = 4
    yield reader.number("version", "u32")
    yield reader.number("n_tensors", reader.count_type)
    yield reader.number("n_kv", reader.count_type)
    for entry in head.entries.values():
        yield from _entry(reader, entry)
    for info in head.tensors.values():
        yield from _tensor_info(reader, info)
    yield from _data(reader)


def _entry(reader: _Reader, entry: MetadataEntry) -> Iterator[Field]:
    """Yield the key, type and value of one entry. All elements of an array are one field."""
    name = shown(entry.key)
    yield from reader.string(f"{name}: key")
    yield reader.number(f"{name}: type", "i32")
    if entry.n is not None:
        yield reader.number(f"{name}: element type", "i32")
        yield reader.number(f"{name}: count", reader.size_type)
    elif entry.type is STRING:
        yield from reader.string(name)
        return
    value = value_of(reader.data, reader.head, entry)
    yield Field(name, reader.at, entry.end - reader.at, entry.type_name, value)
    reader.at = entry.end


def _tensor_info(reader: _Reader, info: TensorInfo) -> Iterator[Field]:
    name = shown(info.name)
    yield from reader.string(f"{name}: name")
    yield reader.number(f"{name}: n_dims", "u32")
    for i in range(len(info.dims)):
        yield reader.number(f"{name}: dims[{i}]", reader.count_type)
    yield reader.number(f"{name}: type", "i32")
    yield reader.number(f"{name}: offset", "u64")


def _data(reader: _Reader) -> Iterator[Field]:
    """Yield the tensors' data, the padding between them, and any bytes after the last one."""
    head, size = reader.head, len(reader.data)
    for info in head.tensors.values():
        start = head.data_offset + info.offset
        yield from _padding(reader, start)
        yield Field(
            f"{shown(info.name)}: data",
            start,
            info.n_bytes,
            info.type.name,
            tensor_of(reader.data, head, info),
        )
        reader.at = start + info.n_bytes
    yield from _padding(reader, min(size, -(-reader.at // head.alignment) * head.alignment))
    if reader.at < size:
        yield Field("trailing bytes", reader.at, size - reader.at, "padding", None)


def _padding(reader: _Reader, until: int) -> Iterator[Field]:
    if until > reader.at:
        yield Field("padding", reader.at, until - reader.at, "padding", None)
        reader.at = until
