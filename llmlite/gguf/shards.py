"""Split a model over several files, and merge it again. `reading` says how the files are named."""

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
