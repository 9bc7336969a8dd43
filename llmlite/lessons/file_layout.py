"""The purpose of every byte of a GGUF file: fields by offset, regions, and how to read a field."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmlite.errors import LlmliteError
from llmlite.gguf import Field, GGUFFile
from llmlite.gguf.file import file_bytes
from llmlite.quants.tensor import QuantTensor

REGIONS = ("header", "metadata", "tensor list", "padding", "tensor data")
HEADER_FIELDS = 4  # magic, version, n_tensors, n_kv
SHOWN_VALUE = 90  # characters
# The `struct` code of each number type. `how_to_read` puts the byte order before it: "<" or ">".
STRUCT = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q"}
STRUCT |= {"f32": "f", "f64": "d", "bool": "?"}


@dataclass(frozen=True)
class Region:
    """A contiguous part of a file.

    Attributes:
        name: the region's name, one of REGIONS.
        offset: position of its first byte, from the start of the file.
        n_bytes: its size in bytes.
        n_fields: its number of fields.
    """

    name: str
    offset: int
    n_bytes: int
    n_fields: int


class ByteMap:
    """The fields of a file, found by number, by offset or by name.

    Args:
        file: an open, single GGUF file (not one of several shards).

    Attributes:
        file: the open file.
        fields: all fields of the file, in order and without gaps.
        data: uint8 (file size,): the bytes of the file.
        regions: the regions that the file has, in the order of REGIONS.

    Raises:
        LlmliteError: the file is split into shards.
        OSError: the file can't be read again.
    """

    def __init__(self, file: GGUFFile) -> None:
        if file.path is None:
            raise LlmliteError("the map of a file's bytes needs a file")
        self.file = file
        self.fields: list[Field] = list(file.fields())
        self.data = file_bytes(file.path, mmap=True)
        self._starts = [field.offset for field in self.fields]
        self._region_of = [self._region(field, i) for i, field in enumerate(self.fields)]
        self.regions = self._regions()

    def at(self, offset: int) -> int:
        """Return the number of the field that contains the byte at `offset`.

        Raises:
            ValueError: the offset is outside the file.
        """
        if not 0 <= offset < len(self.data):
            raise ValueError(f"byte {offset} is not in the file, which has {len(self.data)} bytes")
        i = bisect_right(self._starts, offset) - 1
        while self.fields[i].n_bytes == 0:  # an empty string has no bytes
            i -= 1
        return i

    def named(self, name: str) -> int:
        """Return the number of the field called `name`.

        Raises:
            KeyError: the file has no such field.
        """
        for i, field in enumerate(self.fields):
            if field.name == name:
                return i
        raise KeyError(name)

    def region(self, i: int) -> str:
        """Return the region of field `i`: one of REGIONS."""
        return self._region_of[i]

    def raw(self, i: int, limit: int | None = None) -> bytes:
        """Return the bytes of field `i`, at most `limit` of them."""
        field = self.fields[i]
        end = field.offset + (field.n_bytes if limit is None else min(limit, field.n_bytes))
        return self.data[field.offset : end].tobytes()

    def value(self, i: int) -> str:
        """Return the value of field `i` as short text."""
        value = self.fields[i].value
        if value is None:
            return f"{self.fields[i].n_bytes} bytes that mean nothing"
        if isinstance(value, QuantTensor):
            return f"{' × '.join(map(str, value.shape))} weights of type {value.type.name}"
        text = repr(value.tolist() if isinstance(value, np.ndarray) and value.size <= 8 else value)
        text = " ".join(text.split())
        return text if len(text) <= SHOWN_VALUE else text[: SHOWN_VALUE - 1] + "…"

    def how_to_read(self, i: int) -> str:
        """Return how to read field `i`: a Python expression that gives its value, or the rule in words."""
        field = self.fields[i]
        order = "<" if self.file.byte_order == "little" else ">"
        if field.type in STRUCT:
            end = field.offset + field.n_bytes
            return f'struct.unpack("{order}{STRUCT[field.type]}", data[{field.offset}:{end}])'
        if field.type == "string":
            known = "four letters" if i == 0 else "its length comes before it"
            return f"UTF-8 text; {known}"
        if field.type == "padding":
            return f"fills up to a multiple of {self.file.alignment}"
        if isinstance(field.value, QuantTensor):
            kind = field.value.type
            return f"blocks of {kind.type_size} bytes, each {kind.block_size} weights, in type {kind.name}"
        return f"one element after the other, type {field.type}; their count comes before them"

    def rows(self, first: int = 0, n: int = 24) -> list[list[Any]]:
        """Return fields as rows of a table: offset, first bytes in hexadecimal, name, type, value.

        Args:
            first: the number of the first field.
            n: the largest number of rows.
        """
        rows = []
        for i in range(first, min(first + n, len(self.fields))):
            field = self.fields[i]
            shown = self.raw(i, 8).hex(" ") + (" …" if field.n_bytes > 8 else "")
            rows.append([str(field.offset), shown, field.name, field.type, self.value(i)])
        return rows

    def _region(self, field: Field, i: int) -> str:
        if i < HEADER_FIELDS:
            return "header"
        if isinstance(field.value, QuantTensor):
            return "tensor data"
        if field.type == "padding":
            return "padding"
        return "tensor list" if field.name.split(": ")[0] in self.file.tensors else "metadata"

    def _regions(self) -> tuple[Region, ...]:
        totals: dict[str, tuple[int, int, int]] = {}
        for name, field in zip(self._region_of, self.fields):
            offset, n_bytes, n_fields = totals.get(name, (field.offset, 0, 0))
            totals[name] = (offset, n_bytes + field.n_bytes, n_fields + 1)
        return tuple(Region(name, *totals[name]) for name in REGIONS if name in totals)
