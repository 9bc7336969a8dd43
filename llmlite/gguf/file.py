"""One GGUF file, opened for reading."""

from __future__ import annotations

import copy
import math
import mmap as mmap_module
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import numpy as np

from llmlite.errors import ContentError, GGUFError
from llmlite.gguf.content import SPLIT_KEYS, Field, Metadata, Tensors
from llmlite.gguf.fields import fields
from llmlite.gguf.parse import Head, parse, shown
from llmlite.quants.tensor import QuantTensor
from llmlite.system import guard


class GGUFFile:
    """A GGUF file, or all the files of a split model, opened for reading; made by `read`.

    Use it as a context manager, or leave it to the garbage collector. Arrays taken from it stay valid after
    `close`: the file stays mapped until the last of them is gone.

    A pickle or a deep copy holds the path and opens the file again. If the file was read from bytes in
    memory, the copy holds these bytes. Tensors changed by `replacing` are kept in both cases.

    Attributes:
        path: the path as it was given.
        version: 1, 2 or 3.
        byte_order: "little" or "big".
        alignment: alignment of the tensors' data, in bytes.
        data_offset: offset of the tensors' data, in bytes.
        file_size: bytes of the file, or of all the files of a split model.
        metadata: key -> value (see Metadata).
        tensors: name -> QuantTensor, whose blocks are views of the file.
        shards: the files of a split model, each as a GGUFFile of its own; otherwise empty.
    """

    _location: tuple[str, bool] | None = None  # absolute path and mmap, as given to `read`; None: in memory
    _changed: tuple[QuantTensor, ...] = ()  # the tensors given to `replacing`

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
        """The metadata: key -> value.

        Raises:
            ValueError: the file was closed.
        """
        self._bytes()
        return self._metadata

    @property
    def tensors(self) -> Tensors:
        """The tensors: name -> QuantTensor.

        Raises:
            ValueError: the file was closed.
        """
        self._bytes()
        return self._tensors

    def replacing(self, *changed: QuantTensor) -> GGUFFile:
        """Return a copy of this file with some tensors replaced, for experiments. Nothing is written.

        The metadata and the offsets of `fields` remain those of the file.

        Args:
            changed: tensors, each with the name of the tensor that it replaces.

        Raises:
            KeyError: the file has no tensor of such a name.
        """
        other = copy.copy(self)
        other._tensors = self.tensors.replacing(changed)
        other._changed = (*self._changed, *changed)
        return other

    def __copy__(self) -> GGUFFile:
        other = object.__new__(GGUFFile)
        other.__dict__.update(self.__dict__)
        return other

    def metadata_type(self, key: str) -> str:
        """Return the type of a value in the file: "u32", "string", "[f32]" … Raises KeyError."""
        return self.metadata.type(key)

    def fields(self) -> Iterator[Field]:
        """Yield every field in order, without gaps: header, metadata, tensor infos, padding, data.

        For a split model, these are the fields of the first file; `shards` has the others.
        """
        return fields(self._bytes(), self._head)

    @contextmanager
    def located(self) -> Iterator[None]:
        """Add this file's path, and the offset of the faulty value, to errors about the file's content.

        Only a ContentError that leaves the block without a path is changed.
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
        """Return the offset in the file of a key's value, of its element `index`, or of a tensor's entry."""
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
        """Close the file. Arrays and tensors taken from it stay valid."""
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


def read_one(path: str | os.PathLike[str], *, mmap: bool = True) -> GGUFFile:
    """Open a single file as `read` does, but open no other files of a split model."""
    name = os.fspath(path)
    data = file_bytes(name, mmap=mmap)
    file = GGUFFile(name, data, parse(data, name))
    file._location = os.path.abspath(name), mmap
    return file


def file_bytes(path: str, *, mmap: bool) -> np.ndarray:
    """Return the bytes of a regular file as read-only (n,) uint8, mapped or read."""
    # checked before opening, because opening a pipe waits for a writer
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
                    path, "file", None, f"{n_bytes} bytes", str(error), "the file shrank while it was opened"
                ) from None
            guard.enter(mapped, path)
            return np.frombuffer(mapped, np.uint8)
        data = np.empty(n_bytes, np.uint8)
        got = _read_into(file, data)
    if got < n_bytes:
        raise GGUFError(path, "file", got, f"{n_bytes} bytes", f"{got}", "the file shrank while it was read")
    data.flags.writeable = False
    return data


def _read_into(file: Any, data: np.ndarray) -> int:
    """Fill data from the file; return the number of bytes read."""
    view, got = memoryview(data), 0
    while got < len(data):
        n = file.readinto(view[got : got + (1 << 26)])
        if not n:
            break
        got += n
    return got


def from_bytes(data: bytes | bytearray | memoryview | np.ndarray, path: str = "bytes") -> GGUFFile:
    """Read a GGUF file that is already in memory.

    Args:
        data: the bytes of the file.
        path: the file's name in errors.

    Errors and warnings are those of `read`.
    """
    array = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
    array.flags.writeable = False
    return GGUFFile(path, array, parse(array, path))
