"""Models split over several files: read them as one, split one, merge them.

The files are named PREFIX-00001-of-00003.gguf and so on. Each says in its metadata which it is and how many
there are; the first has all other metadata, and each has its own tensors.
Source: llama.cpp's tools/gguf-split and llama_split_path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from llmlite import files
from llmlite.errors import GGUFError
from llmlite.gguf.file import SPLIT_KEYS, GGUFFile, read, read_one
from llmlite.gguf.parse import shown
from llmlite.gguf.values import Typed
from llmlite.gguf.writer import Progress, write
from llmlite.tensor import QuantTensor

NAME = re.compile(r"(?P<prefix>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)
MAX_SHARDS = 65535  # split.no and split.count are u16


def shard_path(prefix: str, index: int, count: int) -> str:
    """The name of file `index`, counted from 0, of `count`."""
    return f"{prefix}-{index + 1:05d}-of-{count:05d}.gguf"


def read_shards(first: GGUFFile, *, mmap: bool = True) -> GGUFFile:
    """Open the other files of a split model, given its first one, and present all as one file.

    A file whose split.count is 1 is returned as it is.
    Raises GGUFError: not the first file, or one is missing, or they disagree. OSError: one can't be read.
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
    """An integer of the metadata."""
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
    """What all names begin with: taken from the name this file was opened by, never from inside it."""
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
    """Every tensor once, and as many as the first file says."""
    seen: set[str] = set()
    for shard in shards:
        for name, info in shard._head.tensors.items():
            if name in seen:
                raise GGUFError(
                    shard.path,
                    shown(name),
                    info.name_offset,
                    "each tensor once",
                    "one that an earlier file of the model has",
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
                "a file is missing or of another model",
            )


def split(
    path: str | os.PathLike[str],
    prefix: str | os.PathLike[str],
    *,
    max_tensors: int | None = None,
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Split a GGUF file into PREFIX-00001-of-0000N.gguf and so on; return their paths.

    max_tensors: the most tensors in a file. max_bytes: the most bytes of tensor data in a file, unless
        one tensor alone has more. At least one of them.
    progress: called as progress(bytes_done, n_bytes).

    The files appear when all are written, the first one last: without it nothing can be opened.
    Raises: ValueError without a limit, with one below 1, or for a prefix of the source's own files;
        GGUFError, OSError as `read` and `write`.
    """
    for name, limit in (("max_tensors", max_tensors), ("max_bytes", max_bytes)):
        if limit is not None and limit < 1:
            raise ValueError(f"{name} must be at least 1, got {limit}")
    if max_tensors is None and max_bytes is None:
        raise ValueError("say max_tensors or max_bytes")
    prefix = os.fspath(prefix)
    with read(path) as file:
        groups = list(_groups(file, max_tensors, max_bytes))
        if len(groups) > MAX_SHARDS:
            raise GGUFError(file.path, "tensors", None, f"at most {MAX_SHARDS} files", len(groups))
        sources = [file.path, *(shard.path for shard in file.shards)]
        for target in (shard_path(prefix, index, len(groups)) for index in range(len(groups))):
            if os.path.exists(target) and any(os.path.samefile(target, source) for source in sources):
                raise ValueError(f"{target}: is a file of the source itself; choose another prefix")
        total = sum(tensor.n_bytes for tensor in file.tensors.values())
        done = 0
        with files.together():
            for index in reversed(range(len(groups))):
                metadata = _shard_metadata(file, index, len(groups))

                def report(n: int, _: int, base: int = done) -> None:
                    if progress is not None:
                        progress(base + n, total)

                write(
                    shard_path(prefix, index, len(groups)),
                    metadata,
                    groups[index],
                    version=file.version,
                    byte_order=file.byte_order,
                    progress=report,
                )
                done += sum(tensor.n_bytes for tensor in groups[index].values())
    return [shard_path(prefix, index, len(groups)) for index in range(len(groups))]


def _groups(
    file: GGUFFile, max_tensors: int | None, max_bytes: int | None
) -> Iterator[dict[str, QuantTensor]]:
    """The tensors of each file, in order. There is one file at least."""
    group: dict[str, QuantTensor] = {}
    n_bytes = 0
    for name, tensor in file.tensors.items():
        full = (max_tensors is not None and len(group) >= max_tensors) or (
            max_bytes is not None and n_bytes + tensor.n_bytes > max_bytes
        )
        if group and full:
            yield group
            group, n_bytes = {}, 0
        group[name] = tensor
        n_bytes += tensor.n_bytes
    yield group


def _shard_metadata(file: GGUFFile, index: int, count: int) -> dict[str, Any]:
    """The first file's metadata are the model's; the others' say only which they are, and the alignment."""
    metadata = {
        key: value
        for key, value in file.metadata.typed().items()
        if key not in SPLIT_KEYS and (index == 0 or key == "general.alignment")
    }
    return metadata | {
        "split.no": Typed(index, "u16"),
        "split.count": Typed(count, "u16"),
        "split.tensors.count": Typed(len(file.tensors), "i32"),
    }


def merge(
    first: str | os.PathLike[str], path: str | os.PathLike[str], *, progress: Progress | None = None
) -> None:
    """Write the model that begins with file `first` as one file at `path`.

    Raises: GGUFError: not a split model, or not its first file, or as `read`. OSError.
    """
    with read(first) as file:
        if not file.shards:
            raise GGUFError(
                file.path, "split.count", None, "the first file of a split model", "a whole model"
            )
        write(
            path,
            file.metadata,
            file.tensors,
            version=file.version,
            byte_order=file.byte_order,
            progress=progress,
        )
