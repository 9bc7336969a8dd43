"""GGUFFile: a GGUF file opened for reading, decoded only where one looks."""

from __future__ import annotations

import copy
import math
import mmap as mmap_module
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any, NamedTuple

import numpy as np

from llmlite import guard
from llmlite.errors import ContentError, GGUFError
from llmlite.gguf.parse import Entry, Head, TensorInfo, parse, shown
from llmlite.gguf.values import STRING, StringArray, Typed, decode
from llmlite.quants import QuantType
from llmlite.tensor import QuantTensor


class Field(NamedTuple):
    """One field of a file's bytes.

    name: what it is, with the key or tensor it belongs to: "n_kv", "general.name: type".
    offset, n_bytes: where it lies, from the start of the file.
    type: "u32", "string", "[string]", … as metadata types are written; "padding"; a tensor type for its data.
    value: decoded; None for padding; the QuantTensor for tensor data.
    """

    name: str
    offset: int
    n_bytes: int
    type: str
    value: Any


class Metadata(Mapping[str, Any]):
    """The keys and values of a file. A value is decoded on first use, and kept.

    Numbers, bools and strings come as Python's; arrays of numbers and bools as read-only NumPy arrays in this
    machine's byte order, arrays of strings as a StringArray, which decodes each string on first use.
    """

    def __init__(self, data: np.ndarray, head: Head, hidden: frozenset[str] = frozenset()) -> None:
        self._data = data
        self._head = head
        self._entries = {key: entry for key, entry in head.entries.items() if key not in hidden}
        self._values: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            self._values[key] = _value(self._data, self._head, self._entries[key])
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def type(self, key: str) -> str:
        """The type of a value in the file: "u32", "string", "[f32]" … Raises KeyError."""
        return self._entries[key].type_name

    def typed(self) -> dict[str, Typed]:
        """All values with their types: a dict to change and to give to `write`."""
        return {key: Typed(self[key], self.type(key)) for key in self}

    def __repr__(self) -> str:
        return f"<Metadata of {len(self)} keys: {', '.join(list(self)[:4])}{', …' if len(self) > 4 else ''}>"


def _value(data: np.ndarray, head: Head, entry: Entry) -> Any:
    """Decode a value that parsing has delimited."""
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
    """The tensors of a file, or of all files of a split model, in order. Each is made when asked for."""

    def __init__(self, parts: list[tuple[np.ndarray, Head]]) -> None:
        self._places = {
            name: (data, head, info) for data, head in parts for name, info in head.tensors.items()
        }
        self._made: dict[str, QuantTensor] = {}

    def __getitem__(self, name: str) -> QuantTensor:
        tensor = self._made.get(name)
        if tensor is None:
            tensor = self._made[name] = _tensor(*self._places[name])
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def replacing(self, changed: Iterable[QuantTensor]) -> Tensors:
        """Return the same tensors, some of them replaced by those of their name. Raises KeyError."""
        tensors = copy.copy(self)
        tensors._made = dict(self._made)
        for tensor in changed:
            if tensor.name not in self:
                raise KeyError(tensor.name)
            tensors._made[tensor.name] = tensor
        return tensors

    def __repr__(self) -> str:
        return f"<{len(self)} tensors: {', '.join(list(self)[:4])}{', …' if len(self) > 4 else ''}>"


def _tensor(data: np.ndarray, head: Head, info: TensorInfo) -> QuantTensor:
    start = head.data_offset + info.offset
    blocks = data[start : start + info.n_bytes].reshape(-1, info.type.type_size)
    make = QuantTensor if head.byte_order == "little" else BigEndianTensor
    return make(info.name, info.type, info.dims[::-1], blocks)


class BigEndianTensor(QuantTensor):
    """A tensor of a big-endian file. `blocks` is a little-endian copy, made when it is first asked for."""

    __slots__ = ("_big", "_little")

    _big: np.ndarray
    _little: np.ndarray | None

    @property
    def blocks(self) -> np.ndarray:
        """(n_blocks, type_size) uint8 as in a little-endian file."""
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
    """Turn round the bytes of each field of each block, so scales and wide codes; single bytes stay.

    blocks: (n, type_size) uint8. Returns a copy if anything had to move.
    """
    swapped = kind.layout.newbyteorder("S")
    if swapped == kind.layout:
        return blocks
    guard.arm()
    records = np.ascontiguousarray(blocks).view(swapped)
    guard.check(blocks)
    return records.astype(kind.layout).view(np.uint8).reshape(blocks.shape)


class GGUFFile:
    """A GGUF file, or all the files of a split model, opened for reading; made by `read`.

    path: the file as it was named. version: 1, 2 or 3. byte_order: "little" or "big".
    alignment: of the tensors' data, in bytes. data_offset: where the tensors' data begins.
    file_size: bytes of the file, or of all the files of a split model.
    metadata: key -> value (see Metadata). tensors: name -> QuantTensor, whose blocks are views of the file.
    shards: the files of a split model, each as a GGUFFile of its own; empty otherwise.

    Use as a context manager, or leave it to the garbage collector: arrays taken from it stay valid after
    `close`, and the map ends when the last of them is gone.

    A pickle, or a deep copy, of a file holds its path and opens it again; that of bytes in memory holds the
    bytes. Tensors put in by `replacing` are part of it.
    """

    _location: tuple[str, bool] | None = None  # absolute path and mmap: how `read` opened it; None: in memory
    _changed: tuple[QuantTensor, ...] = ()  # what `replacing` put in

    def __init__(self, path: str, data: np.ndarray, head: Head, shards: list[GGUFFile] | None = None) -> None:
        self.path = path
        self.version = head.version
        self.byte_order = head.byte_order
        self.alignment = head.alignment
        self.data_offset = head.data_offset
        self.shards = shards or []
        self.file_size: int = sum(shard.file_size for shard in self.shards) if self.shards else len(data)
        self._data: np.ndarray | None = data
        self._head = head
        hidden = SPLIT_KEYS if self.shards else frozenset()
        self._metadata = Metadata(data, head, hidden)
        parts = [(shard._bytes(), shard._head) for shard in self.shards] or [(data, head)]
        self._tensors = Tensors(parts)

    def _bytes(self) -> np.ndarray:
        if self._data is None:
            raise ValueError(f"{self.path}: the file was closed")
        return self._data

    @property
    def metadata(self) -> Metadata:
        """Key -> value. Raises ValueError after close."""
        self._bytes()
        return self._metadata

    @property
    def tensors(self) -> Tensors:
        """Name -> QuantTensor. Raises ValueError after close."""
        self._bytes()
        return self._tensors

    def replacing(self, *changed: QuantTensor) -> GGUFFile:
        """Return this file as if some tensors were other ones: for experiments; nothing is written.

        Its metadata, and the places that `fields` tells, stay those of the file. Raises KeyError for a name
        that the file hasn't got.
        """
        other = copy.copy(self)
        other._tensors = self.tensors.replacing(changed)
        other._changed = (*self._changed, *changed)
        return other

    def __copy__(self) -> GGUFFile:
        other = object.__new__(GGUFFile)
        other.__dict__.update(self.__dict__)
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        data = self._bytes()
        if self._location is None:
            return _again, (self.path, data.tobytes(), None, self._changed)
        return _again, (self.path, self.file_size, self._location, self._changed)

    def metadata_type(self, key: str) -> str:
        """The type of a value in the file: "u32", "string", "[f32]" … Raises KeyError."""
        return self.metadata.type(key)

    def fields(self) -> Iterator[Field]:
        """Every field of the file in order, without a hole: header, metadata, tensor infos, padding, data.

        Of a split model, those of the first file; `shards` has the others.
        """
        from llmlite.gguf.fields import fields

        return fields(self._bytes(), self._head)

    @contextmanager
    def located(self) -> Iterator[None]:
        """Tell errors about this file's content which file it is, and where what they complain of lies.

        A ContentError that leaves the block gets its path and offset if it hasn't got them yet.
        """
        try:
            yield
        except ContentError as error:
            if error.path is None:
                error.path = self.path
                if error.key is not None and self._data is not None:
                    error.offset = self._find(error.key, error.index)
            raise

    def _find(self, name: str, index: int | None) -> int | None:
        """The offset in the file of a key's value, of element `index` of it, or of a tensor's entry."""
        entry = self._metadata._entries.get(name)
        if entry is None:
            place = self._tensors._places.get(name)
            return place[2].name_offset if place else None
        if index is None or index >= (entry.n or 0):
            return entry.offset
        if entry.starts is not None:
            return int(entry.starts[index])
        return entry.offset + index * entry.type.size

    def close(self) -> None:
        """Let go of the file. Arrays and tensors taken from it stay valid."""
        for shard in self.shards:
            shard.close()
        if self._data is not None:
            self._data = None
            del self._metadata, self._tensors

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _summary(self) -> list[tuple[str, str]]:
        n_weights = sum(math.prod(info.dims) for _, _, info in self._tensors._places.values())
        rows = [
            ("version", f"{self.version}, {self.byte_order}-endian"),
            ("bytes", f"{self.file_size:,}" + (f" in {len(self.shards)} files" if self.shards else "")),
            ("metadata", f"{len(self._metadata)} keys"),
            ("tensors", f"{len(self._tensors)}, {n_weights:,} weights"),
        ]
        architecture = self._metadata.get("general.architecture")
        if isinstance(architecture, str):
            rows.insert(0, ("architecture", shown(architecture)))
        return rows

    def __repr__(self) -> str:
        if self._data is None:
            return f"<GGUFFile {self.path}, closed>"
        return f"<GGUFFile {self.path}: {'; '.join(f'{name} {text}' for name, text in self._summary())}>"

    def _repr_html_(self) -> str:
        if self._data is None:
            return f"<p>{escape(repr(self))}</p>"
        body = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in self._summary()
        )
        return f"<table><caption>{escape(os.path.basename(self.path))}</caption>{body}</table>"


SPLIT_KEYS = frozenset({"split.no", "split.count", "split.tensors.count"})


def read(path: str | os.PathLike[str], *, mmap: bool = True) -> GGUFFile:
    """Open a GGUF file: version 1 to 3, little- or big-endian; the first file of a split model opens all.

    mmap: map the file into memory, so that only what is touched is read from the disk. Don't cut the file
        short while it is in use (on Linux, reading weights raises a GGUFError then); replacing it by another
        under the same name is fine. With False the whole file is read at once, and what happens to it
        afterwards doesn't matter.

    Raises:
        GGUFError: the file is malformed or cut off. OSError: it can't be read.
    Warns:
        GGUFWarning: bytes follow the last tensor.
    Source: the GGUF specification in ggml's docs/gguf.md, and gguf.cpp of llama.cpp.
    """
    file = read_one(path, mmap=mmap)
    if "split.count" in file.metadata:
        from llmlite.gguf.shards import read_shards

        file = read_shards(file, mmap=mmap)
    return file


def read_one(path: str | os.PathLike[str], *, mmap: bool = True) -> GGUFFile:
    """Open a single file, whether it is a part of a split model or not. As `read` otherwise."""
    name = os.fspath(path)
    data = file_bytes(name, mmap=mmap)
    file = GGUFFile(name, data, parse(data, name))
    file._location = os.path.abspath(name), mmap
    return file


def _again(
    path: str, content: bytes | int, location: tuple[str, bool] | None, changed: tuple[QuantTensor, ...]
) -> GGUFFile:
    """Make the file that a pickle describes. content: its bytes; or how many, if it lies at `location`.

    Raises: as `read`; GGUFError if the file isn't the size it had.
    """
    if location is None:
        assert isinstance(content, bytes)
        file = from_bytes(content, path)
    else:
        file = read(location[0], mmap=location[1])
        if file.file_size != content:
            raise GGUFError(path, "file", None, f"{content!r} bytes, as when it was pickled", file.file_size)
        file.path = path
    return file.replacing(*changed) if changed else file


def file_bytes(path: str, *, mmap: bool) -> np.ndarray:
    """The bytes of a regular file as read-only (n,) uint8, mapped or read."""
    # a pipe would wait for a writer if it were opened before looking what it is
    if not stat.S_ISREG(os.stat(path).st_mode):
        if os.path.isdir(path):
            raise IsADirectoryError(21, "Is a directory", path)
        raise GGUFError(path, "file", None, "a regular file", "a pipe or a device")
    with open(path, "rb") as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if not n_bytes:
            return np.empty(0, np.uint8)
        if mmap:
            try:
                mapped = mmap_module.mmap(file.fileno(), n_bytes, access=mmap_module.ACCESS_READ)
            except ValueError as error:
                raise GGUFError(
                    path, "file", None, f"{n_bytes} bytes", str(error), "it shrank meanwhile"
                ) from None
            guard.enter(mapped, path)
            return np.frombuffer(mapped, np.uint8)
        data = np.empty(n_bytes, np.uint8)
        got = _read_into(file, data)
    if got < n_bytes:
        raise GGUFError(path, "file", got, f"{n_bytes} bytes", f"{got}", "it shrank while it was read")
    data.flags.writeable = False
    return data


def _read_into(file: Any, data: np.ndarray) -> int:
    """Fill data from the file; return how many bytes there were."""
    view, got = memoryview(data), 0
    while got < len(data):
        n = file.readinto(view[got : got + (1 << 26)])
        if not n:
            break
        got += n
    return got


def from_bytes(data: bytes | bytearray | memoryview | np.ndarray, path: str = "bytes") -> GGUFFile:
    """Read a GGUF file that is already in memory; path names it in errors. Raises and warns as `read`."""
    array = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
    array.flags.writeable = False
    return GGUFFile(path, array, parse(array, path))
