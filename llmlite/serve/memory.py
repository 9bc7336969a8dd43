"""Check that a model fits into memory before it is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from llmlite import gguf, resources
from llmlite.description.config import ModelConfig
from llmlite.engine.kv_cache import DTYPES, KVCache
from llmlite.errors import LlmliteError
from llmlite.generate.batch import KEPT
from llmlite.model import DEFAULT_N_CTX
from llmlite.system.limits import memory_left


def needed(
    model: str | os.PathLike[str], *, n_ctx: int | None, kv_dtype: str, n_sequences: int
) -> tuple[int, int]:
    """Return the bytes of the weights, and of all caches when every text has filled its context."""
    with gguf.read(resources.model_path(model)) as file:
        with file.located():
            config = ModelConfig.from_metadata(file.metadata, file.tensors)
        weights = sum(tensor.n_bytes for tensor in file.tensors.values())
        size = min(config.n_ctx, DEFAULT_N_CTX) if n_ctx is None else n_ctx
        one = KVCache(config, size, DTYPES[kv_dtype]).n_bytes  # only reserves pages; uses no memory
        n_caches = n_sequences + KEPT + 1 if config.causal else 1  # the last one is the model's own
    return weights, one * n_caches


def available() -> int | None:
    """Return the bytes that this process may still take: the least that system, container and ulimit allow.

    Return None if this is unknown. Sources: /proc/meminfo MemAvailable; cgroup v2 memory.max and
    memory.current.
    """
    found = [left for left in (memory_left(),) if left is not None]
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        pass
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / name for name in ("memory.max", "memory.current"))
        found.append(max(0, int(limit.read_text()) - int(used.read_text())))
    except (OSError, ValueError):  # no limit, or "max"
        pass
    return min(found, default=None)


def check_memory(
    model: str | os.PathLike[str], *, n_ctx: int | None, kv_dtype: str, n_sequences: int
) -> None:
    """Refuse a model that doesn't fit.

    Raises:
        LlmliteError: If it needs more memory than is left (the message says how to need less), or the file
            isn't valid.
    """
    weights, cache = needed(model, n_ctx=n_ctx, kv_dtype=kv_dtype, n_sequences=n_sequences)
    left = available()
    if left is not None and weights + cache > left:
        raise LlmliteError(
            f"{model}: weights take {weights / 1e6:.0f} MB and {n_sequences} contexts {cache / 1e6:.0f} MB; "
            f"{left / 1e6:.0f} MB are left (--parallel, --ctx, --kv q8_0 need less; --ignore-memory loads it)"
        )
