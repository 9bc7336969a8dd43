"""Open a GGUF file, or all files of a split model as one; and open the file of a pickle again.

The files of a split model are named PREFIX-00001-of-00003.gguf and so on. The metadata of each has its own
number and the number of files. Only the first has the rest of the metadata. Each has tensors of its own.
Source: llama.cpp's tools/gguf-split and llama_split_path.
"""

from __future__ import annotations

import copyreg
import os
import re
from typing import Any

from llmlite.errors import GGUFError
from llmlite.gguf.file import GGUFFile, from_bytes, read_one
from llmlite.gguf.parse import shown
from llmlite.quants.tensor import QuantTensor

NAME = re.compile(r"(?P<prefix>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)
MAX_SHARDS = 65535  # split.no and split.count are u16


def shard_path(prefix: str, index: int, count: int) -> str:
    """Return the path of file `index`, counted from 0, of `count` files."""
    return f"{prefix}-{index + 1:05d}-of-{count:05d}.gguf"


def read(path: str | os.PathLike[str], *, mmap: bool = True) -> GGUFFile:
    """Open a GGUF file of version 1 to 3, little- or big-endian. The first file of a split model opens all.

    Args:
        path: path of the file.
        mmap: map the file into memory, so only the parts in use are read from the disk. Don't truncate the
            file while it is open: on Linux, reading its weights then raises GGUFError. Replacing it by
            another file of the same name is safe. If False, the whole file is read now, and later changes
            of it have no effect.

    Returns:
        The open file.

    Raises:
        GGUFError: the file is malformed or cut off.
        OSError: the file can't be read.

    Warns:
        GGUFWarning: bytes follow the last tensor.

    Source: the GGUF specification in ggml's docs/gguf.md, and gguf.cpp of llama.cpp.
    """
    file = read_one(path, mmap=mmap)
    if "split.count" in file.metadata:
        file = read_shards(file, mmap=mmap)
    return file


def read_shards(first: GGUFFile, *, mmap: bool = True) -> GGUFFile:
    """Open the other files of a split model, given its first one, and present all as one file.

    A file whose split.count is 1 is returned unchanged.
    Raises GGUFError if it isn't the first file, or if one is missing or belongs to another model. Raises
    OSError if one can't be read.
    """
    count = _number(first, "split.count")
    if not 1 <= count <= MAX_SHARDS:
        raise _error(first, "split.count", f"1 to {MAX_SHARDS}", count)
    if count == 1:
        return first
    prefix = _prefix(first, count)
    shards = [first]
    for index in range(1, count):
        path = shard_path(prefix, index, count)
        if not os.path.exists(path):
            raise GGUFError(
                path,
                "file",
                None,
                f"file {index + 1} of {count} of a split model",
                "no such file",
                "all its files belong in one folder",
            )
        shard = read_one(path, mmap=mmap)
        for key, expected in (("split.no", index), ("split.count", count)):
            if _number(shard, key) != expected:
                raise _error(
                    shard,
                    key,
                    f"{expected}, as the file's name and the first file say",
                    _number(shard, key),
                    "the file belongs to another model, or was renamed",
                )
        shards.append(shard)
    _check_tensors(shards)
    whole = GGUFFile(first.path, first._bytes(), first._head, shards)
    whole._location = first._location
    return whole


def _number(file: GGUFFile, key: str) -> int:
    """Return an integer of the metadata."""
    if key not in file.metadata:
        raise GGUFError(
            file.path, key, None, "a number", "no such key", "the file isn't part of a split model"
        )
    value = file.metadata[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise _error(file, key, "an integer", f"type {file.metadata_type(key)}")
    return value


def _error(file: GGUFFile, key: str, expected: str, got: object, hint: str | None = None) -> GGUFError:
    return GGUFError(file.path, key, file._head.entries[key].offset, expected, got, hint)


def _prefix(first: GGUFFile, count: int) -> str:
    """Return the prefix of all files' paths. It is taken from this file's path, never from its content."""
    number = _number(first, "split.no")
    match = NAME.fullmatch(first.path)
    if match is None or int(match["count"]) != count or int(match["number"]) != number + 1:
        raise GGUFError(
            first.path,
            "file name",
            None,
            f"{shard_path('NAME', number, count)}",
            shown(os.path.basename(first.path)),
            "the other files are found by this one's name",
        )
    if number:
        raise _error(
            first,
            "split.no",
            "0, the first file",
            number,
            f"open {os.path.basename(shard_path(match['prefix'], 0, count))}",
        )
    return match["prefix"]


def _check_tensors(shards: list[GGUFFile]) -> None:
    """Check that no tensor occurs twice, and that there are as many as the first file says."""
    seen: set[str] = set()
    for shard in shards:
        for name, info in shard._head.tensors.items():
            if name in seen:
                raise GGUFError(
                    shard.path,
                    shown(name),
                    info.name_offset,
                    "each tensor once",
                    "one that is also in an earlier file",
                )
            seen.add(name)
    if "split.tensors.count" in shards[0].metadata:
        expected = _number(shards[0], "split.tensors.count")
        if expected != len(seen):
            raise _error(
                shards[0],
                "split.tensors.count",
                f"{len(seen)}, the tensors in all files",
                expected,
                "a file is missing, or belongs to another model",
            )


def _again(
    path: str, content: bytes | int, location: tuple[str, bool] | None, changed: tuple[QuantTensor, ...]
) -> GGUFFile:
    """Return the file of a pickle. content: its bytes, or their number if the file is at `location`.

    Raises as `read` does, and GGUFError if the file's size has changed.
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


def _reduced(file: GGUFFile) -> tuple[Any, ...]:
    data = file._bytes()
    if file._location is None:
        return _again, (file.path, data.tobytes(), None, file._changed)
    return _again, (file.path, file.file_size, file._location, file._changed)


copyreg.pickle(GGUFFile, _reduced)
