"""List the models on this machine, of any program, with the memory that they need.

from llmlite.inventory import models
for entry in models():
    print(entry.name, entry.type, entry.n_bytes, entry.memory)
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmlite import catalog, gguf, resources
from llmlite.description.config import ModelConfig
from llmlite.engine.kv_cache import KVCache
from llmlite.errors import LlmliteError
from llmlite.model import DEFAULT_N_CTX, KV_DTYPES
from llmlite.quantize.mixes import FILE_TYPES

BUNDLED_LICENCE = "MIT"  # data/tales-card.md
SIBLING = re.compile(r"(?P<stem>(?P<model>.+)-(?P<type>[A-Z0-9_]+)-[0-9a-f]{12})-[0-9a-f]{16}\.gguf")


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One model file.

    Attributes:
        name: the name for `load` and the command line.
        owner: "bundled", "pulled", "cached" (a quantized copy), or the name of another program.
        path: the file.
        n_bytes: its size, or that of all files of a split model.
        architecture, type, licence: as stated in the file; "" if it doesn't have them.
        weights: bytes of the weights, which stay in the file and are mapped into memory.
        n_ctx: the default context length in tokens.
        cache: bytes of keys and values when that context is full.
        problem: the reason why llmlite can't run it, or "". With one, n_ctx and cache are 0.
    """

    name: str
    owner: str
    path: Path
    n_bytes: int
    architecture: str = ""
    type: str = ""
    licence: str = ""
    weights: int = 0
    n_ctx: int = 0
    cache: int = 0
    problem: str = ""

    @property
    def memory(self) -> int:
        """Bytes that are needed to run it: weights, and keys and values of the default context."""
        return self.weights + self.cache


def models() -> list[ModelFile]:
    """Return the models on this machine: bundled, pulled, cached copies, then those of other programs.

    A file that can't be read is listed with the reason. Nothing is downloaded.
    """
    entries = [
        examine(name, "bundled", resources.model_path(name), licence=BUNDLED_LICENCE)
        for name in resources.BUNDLED_MODELS
    ]
    cache = resources.cache_dir()
    entries += [
        examine(model.name, "pulled", path, licence=model.licence) for model, path in catalog.pulled(cache)
    ]
    entries += _siblings(cache / "models", entries)
    entries += [
        examine(found.name, found.owner, found.path, licence=found.licence) for found in catalog.everything()
    ]
    return entries


def examine(name: str, owner: str, path: Path, *, licence: str = "") -> ModelFile:
    """Describe one file. A fault of the file becomes its `problem`; no error is raised.

    Args:
        name, owner, path: see `ModelFile`.
        licence: the licence from another source; "" for that in the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `llmlite show` reports them
            with gguf.read(path) as file:
                return _described(name, owner, file, licence)
    except (LlmliteError, OSError) as error:
        problem = str(error).replace(f"{path}: ", "")
        return ModelFile(
            name=name, owner=owner, path=path, n_bytes=_size(path), licence=licence, problem=problem
        )


def _described(name: str, owner: str, file: gguf.GGUFFile, licence: str) -> ModelFile:
    weights = sum(tensor.n_bytes for tensor in file.tensors.values())
    n_ctx, cache, problem = 0, 0, ""
    try:
        config = ModelConfig.from_metadata(file.metadata, file.tensors)
        n_ctx = min(config.n_ctx, DEFAULT_N_CTX)
        cache = KVCache(config, n_ctx, KV_DTYPES["f16"]).n_bytes  # memory is only reserved, not used
    except LlmliteError as error:
        n_ctx, problem = 0, str(error)
    return ModelFile(
        name=name,
        owner=owner,
        path=Path(file.path),
        n_bytes=file.file_size,
        architecture=_text(file, "general.architecture"),
        type=_type(file),
        licence=licence or _text(file, "general.license"),
        weights=weights,
        n_ctx=n_ctx,
        cache=cache,
        problem=problem,
    )


def _type(file: gguf.GGUFFile) -> str:
    """Return the file's mix, such as Q4_K_M. If it has none, return the type of most weights."""
    number = file.metadata.get("general.file_type")
    for name, (known, _) in FILE_TYPES.items():
        if isinstance(number, (int, np.integer)) and number == known:
            return name
    counts: Counter[str] = Counter()
    for tensor in file.tensors.values():
        counts[tensor.type.name] += tensor.n_elements
    return counts.most_common(1)[0][0] if counts else ""


def _text(file: gguf.GGUFFile, key: str) -> str:
    value = file.metadata.get(key)
    return value if isinstance(value, str) else ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _siblings(folder: Path, sources: list[ModelFile]) -> list[ModelFile]:
    """Return the cached copies that are up to date. Older ones are never used again."""
    by_name = {entry.name: entry for entry in sources}
    found = []
    for path in sorted(folder.glob("*.gguf")):
        match = SIBLING.fullmatch(path.name)
        source = by_name.get(match["model"]) if match else None
        if match is None or source is None:
            continue
        if resources.sibling_stem(source.path, source.name, match["type"]) == match["stem"]:
            name = f"{source.name}:{match['type']}"
            found.append(examine(name, "cached", path, licence=source.licence))
    return found
