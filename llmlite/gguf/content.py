"""The content of an opened GGUF file: its metadata and tensors as mappings, decoded on first use."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from llmlite.gguf.parse import Head, MetadataEntry, TensorInfo
from llmlite.gguf.values import STRING, StringArray, Typed, decode
from llmlite.quants import QuantType
from llmlite.quants.tensor import QuantTensor
from llmlite.system import guard

SPLIT_KEYS = frozenset({"split.no", "split.count", "split.tensors.count"})


class Field(NamedTuple):
    """One field of a file's bytes.

    Attributes:
        name: the field's name, with the key or tensor that it belongs to: "n_kv", "general.name: type".
        offset: its position, in bytes from the start of the file.
        n_bytes: its size.
        type: a metadata type ("u32", "string", "[string]", …), "padding", or a tensor type for its data.
        value: the decoded value; None for padding; the QuantTensor for a tensor's data.
    """

    name: str
    offset: int
    n_bytes: int
    type: str
    value: Any


class Metadata(Mapping[str, Any]):
    """The keys and values of a file. A value is decoded on first use, and kept.

    Numbers, bools and strings are Python objects. Arrays of numbers and bools are read-only NumPy arrays in
    this machine's byte order. Arrays of strings are a StringArray, which decodes each string on first use.
    """

    def __init__(self, data: np.ndarray, head: Head, hidden: frozenset[str] = frozenset()) -> None:
        self._data = data
        self._head = head
        self._entries = {key: entry for key, entry in head.entries.items() if key not in hidden}
        self._values: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            self._values[key] = value_of(self._data, self._head, self._entries[key])
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def type(self, key: str) -> str:
        """Return the type of a value in the file: "u32", "string", "[f32]" … Raises KeyError."""
        return self._entries[key].type_name

    def typed(self) -> dict[str, Typed]:
        """Return all values with their types: a new dict, to change and to pass to `write`."""
        return {key: Typed(self[key], self.type(key)) for key in self}

    def __repr__(self) -> str:
        return f"<Metadata of {len(self)} keys: {', '.join(list(self)[:4])}{', …' if len(self) > 4 else ''}>"


def value_of(data: np.ndarray, head: Head, entry: MetadataEntry) -> Any:
    """Decode a value whose place was found by `parse`."""
    if entry.type is STRING:
        if entry.starts is not None:
            return StringArray(memoryview(data), entry.starts, head.width, head.byte_order)
        return decode(memoryview(data)[entry.offset + head.width : entry.end])
    dtype = entry.type.dtype(head.byte_order)
    if entry.n is None:
        return np.frombuffer(data, dtype, 1, entry.offset)[0].item()
    if entry.n == 0:
        values = np.empty(0, dtype.newbyteorder("="))
    else:  # a copy: aligned, and in this machine's byte order
        values = np.frombuffer(data, dtype, entry.n, entry.offset).astype(dtype.newbyteorder("="))
    values.flags.writeable = False
    return values


class Tensors(Mapping[str, QuantTensor]):
    """The tensors of a file, or of all files of a split model, in order. Each is made on first use."""

    def __init__(self, parts: list[tuple[np.ndarray, Head]]) -> None:
        self._places = {
            name: (data, head, info) for data, head in parts for name, info in head.tensors.items()
        }
        self._made: dict[str, QuantTensor] = {}

    def __getitem__(self, name: str) -> QuantTensor:
        tensor = self._made.get(name)
        if tensor is None:
            tensor = self._made[name] = tensor_of(*self._places[name])
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def replacing(self, changed: Iterable[QuantTensor]) -> Tensors:
        """Return a copy in which each tensor of `changed` replaces the tensor of the same name.

        Raises:
            KeyError: there is no tensor of such a name.
        """
        tensors = copy.copy(self)
        tensors._made = dict(self._made)
        for tensor in changed:
            if tensor.name not in self:
                raise KeyError(tensor.name)
            tensors._made[tensor.name] = tensor
        return tensors

    def __repr__(self) -> str:
        return f"<{len(self)} tensors: {', '.join(list(self)[:4])}{', …' if len(self) > 4 else ''}>"


def tensor_of(data: np.ndarray, head: Head, info: TensorInfo) -> QuantTensor:
    """Return a tensor whose place was found by `parse`; its blocks are a view of `data`."""
    start = head.data_offset + info.offset
    blocks = data[start : start + info.n_bytes].reshape(-1, info.type.type_size)
    make = QuantTensor if head.byte_order == "little" else BigEndianTensor
    return make(info.name, info.type, info.dims[::-1], blocks)


class BigEndianTensor(QuantTensor):
    """A tensor of a big-endian file. `blocks` is a little-endian copy, made on first use."""

    __slots__ = ("_big", "_little")

    _big: np.ndarray
    _little: np.ndarray | None

    @property
    def blocks(self) -> np.ndarray:
        """The blocks as a little-endian file stores them: (n_blocks, type_size) uint8."""
        if self._little is None:
            self._little = byte_swapped(self._big, self.type)
        return self._little

    @blocks.setter
    def blocks(self, big: np.ndarray) -> None:
        self._big, self._little = big, None

    @property
    def n_bytes(self) -> int:
        """Bytes of its blocks."""
        return self._big.nbytes


def byte_swapped(blocks: np.ndarray, kind: QuantType) -> np.ndarray:
    """Reverse the bytes of every field of each block that is wider than a byte, such as a scale.

    blocks: (n, type_size) uint8. Returns `blocks` itself if the type has no such field, else a copy.
    """
    swapped = kind.layout.newbyteorder("S")
    if swapped == kind.layout:
        return blocks
    guard.arm()
    records = np.ascontiguousarray(blocks).view(swapped)
    guard.check(blocks)
    return records.astype(kind.layout).view(np.uint8).reshape(blocks.shape)
