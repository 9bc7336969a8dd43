"""Download a GGUF file from the Hugging Face hub with huggingface_hub, its settings and its cache.

huggingface_hub resumes a download when a connection breaks. After several tries without progress, it gives up
and removes the incomplete file. It checks the size of each file, but not the hash. In its cache, a file's
name is the hash from the hub: SHA-256 for large files, Git's blob hash for small ones. So the hash is checked
here against this name.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from llmlite.catalog.folders import choose, is_model, listed
from llmlite.errors import LlmliteError
from llmlite.gguf.reading import NAME as SHARD
from llmlite.gguf.reading import shard_path

CHUNK = 1 << 20
HASH = re.compile("[0-9a-f]{64}|[0-9a-f]{40}")


def pull(repository: str, wanted: str | None) -> Path:
    """Return a GGUF file of a repository. It is downloaded if it isn't in huggingface_hub's cache.

    Args:
        repository: OWNER/REPO.
        wanted: a file's name, a type such as "Q4_K_M", or None if there is only one file.

    Raises:
        LlmliteError: huggingface_hub isn't installed or can't download the file, or the hash is wrong.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise LlmliteError(f"{repository}: needs huggingface_hub (pip install 'llmlite-kit[hub]')") from None
    try:
        file = _chosen(huggingface_hub, repository, wanted)
        paths = [_fetched(huggingface_hub, repository, part) for part in _parts(file)]
    except LlmliteError:
        raise
    except Exception as error:  # huggingface_hub also raises the errors of its HTTP library
        raise LlmliteError(f"{repository}: {_reason(error)}") from error
    return paths[0]


def _chosen(hub: Any, repository: str, wanted: str | None) -> str:
    """Return the name of the one file that matches."""
    if wanted is not None and wanted.endswith(".gguf"):
        if ".." in wanted.split("/") or wanted.startswith("/"):
            raise LlmliteError(f"{repository}: expected the path of a file in it, got {wanted!r}")
        return wanted
    names = sorted(name for name in hub.HfApi().list_repo_files(repository) if is_model(name))
    if not names:
        raise LlmliteError(
            f"{repository}: has no GGUF file; download the folder and convert it with `llmlite convert`"
        )
    chosen = choose(names, wanted)
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise LlmliteError(f"{repository}: say which file with {repository}:FILE: {listed(chosen)}")
    raise LlmliteError(f"{repository}: has no file or type {wanted!r}; it has {listed(names)}")


def _parts(file: str) -> list[str]:
    """Return the names of all files of a model, in order."""
    match = SHARD.fullmatch(file)
    if match is None:
        return [file]
    count = int(match["count"])
    return [shard_path(match["prefix"], index, count) for index in range(count)]


def _fetched(hub: Any, repository: str, name: str) -> Path:
    """Return the file in the cache, after its hash was compared with its name there."""
    path = Path(hub.hf_hub_download(repository, name))
    blob = Path(os.path.realpath(path))
    expected = blob.name
    if not HASH.fullmatch(
        expected
    ):  # on a file system without links, the cache has copies under the files' own names
        expected = str(hub.get_hf_file_metadata(hub.hf_hub_url(repository, name)).etag)
    digest = _digest(blob, expected)
    if digest != expected:
        blob.unlink()
        if path.is_symlink():
            path.unlink()
        raise LlmliteError(
            f"{repository}: {name}: expected the hash {expected}, got {digest}; the file was removed, "
            "pull again"
        )
    return path


def _digest(blob: Path, expected: str) -> str:
    """Return a file's hash, of the same kind as the expected one."""
    digest = hashlib.sha256()
    if len(expected) == 40:
        digest = hashlib.sha1(f"blob {blob.stat().st_size}\0".encode(), usedforsecurity=False)
    with blob.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    """Return the first line of huggingface_hub's error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]:.300}" if lines else type(error).__name__
