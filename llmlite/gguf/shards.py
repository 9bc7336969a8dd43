"""Split a model over several files, and merge it again. `reading` describes the files' names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from llmlite.errors import GGUFError
from llmlite.gguf.content import SPLIT_KEYS
from llmlite.gguf.file import GGUFFile
from llmlite.gguf.reading import MAX_SHARDS, read, shard_path
from llmlite.gguf.values import Typed
from llmlite.gguf.writer import write
from llmlite.quants.tensor import QuantTensor
from llmlite.system import files
from llmlite.terminal import Progress


def split(
    path: str | os.PathLike[str],
    prefix: str | os.PathLike[str],
    *,
    max_tensors: int | None = None,
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Split a GGUF file into PREFIX-00001-of-0000N.gguf and so on.

    The files appear when all of them are written. The first one appears last, because the others can't be
    opened without it.

    Args:
        path: the file to split.
        prefix: the beginning of the new files' paths.
        max_tensors: the maximum of tensors in a file. Give this, `max_bytes`, or both.
        max_bytes: the maximum of bytes of tensor data in a file. A larger tensor gets a file of its own.
        progress: called as progress(bytes_done, n_bytes).

    Returns:
        The paths of the new files.

    Raises:
        ValueError: there is no limit or one below 1, or a new file would replace a file of the source.
        GGUFError: the source is malformed.
        OSError: a file can't be read or written.
    """
    for name, limit in (("max_tensors", max_tensors), ("max_bytes", max_bytes)):
        if limit is not None and limit < 1:
            raise ValueError(f"{name} must be at least 1, got {limit}")
    if max_tensors is None and max_bytes is None:
        raise ValueError("give max_tensors or max_bytes")
    prefix = os.fspath(prefix)
    with read(path) as file:
        groups = list(_groups(file, max_tensors, max_bytes))
        if len(groups) > MAX_SHARDS:
            raise GGUFError(file.path, "tensors", None, f"at most {MAX_SHARDS} files", len(groups))
        sources = [file.path, *(shard.path for shard in file.shards)]
        for target in (shard_path(prefix, index, len(groups)) for index in range(len(groups))):
            if os.path.exists(target) and any(os.path.samefile(target, source) for source in sources):
                raise ValueError(f"{target}: this is a file of the source; choose another prefix")
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
    """Yield the tensors of each file, in order. There is at least one file."""
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
    """Return a file's metadata: all in the first one; in the others, only its number and the alignment."""
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
    """Merge the files of a split model into one file.

    Args:
        first: path of the model's first file.
        path: path of the new file.
        progress: called as progress(bytes_done, n_bytes).

    Raises:
        GGUFError: `first` isn't the first file of a split model, or a file is missing or malformed.
        OSError: a file can't be read or written.
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
