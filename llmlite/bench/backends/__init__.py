"""What can be compared: one file per library, one line per backend in BACKENDS.

A backend's file is imported only in that backend's own process; this file imports none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np


class Backend(Protocol):
    """What a worker asks of a backend. One sequence, greedy, end tokens ignored."""

    def start(self) -> None:
        """Import everything the backend needs."""
        ...

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        """Load a GGUF file with an empty cache of `n_ctx` positions, replacing the one before."""
        ...

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Return the logits after each of `ids`, from an empty cache: float32 (T, V)."""
        ...

    def prefill(self, ids: Sequence[int]) -> int:
        """Empty the cache, read `ids`, compute the last position's logits only; return the best token."""
        ...

    def step(self, token: int) -> int:
        """Read one more token and return the best next one."""
        ...

    def about(self) -> dict[str, Any]:
        """Return `n_threads`, `type_k` and whatever else a reader should know, as JSON values."""
        ...


@dataclass(frozen=True, kw_only=True)
class BackendInfo:
    """One line of the table.

    Args:
        name: as on the command line.
        title: as in tables and figures.
        module: the file in this folder; its `make(**options)` returns the Backend.
        requires: the package it needs beyond llmlite's own.
        extra: the name for `pip install llmlite-kit[...]`.
        keeps_quantized: False where weights are turned into floats on loading, so that the file's
            quantization changes neither its speed nor its memory.
        exact: True for float32 arithmetic throughout: held to the strict bar of agreement.
        options: arguments of `make`.
        default: whether `compare` runs it unasked.
    """

    name: str
    title: str
    module: str
    requires: str = ""
    extra: str = ""
    keeps_quantized: bool = False
    exact: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    default: bool = True

    def unavailable(self) -> str:
        """Return why this backend can't run here, or "" when it can."""
        if self.requires and find_spec(self.requires) is None:
            return f"not installed: pip install 'llmlite-kit[{self.extra}]'"
        return ""


BACKENDS = {
    info.name: info
    for info in (
        BackendInfo(
            name="llmlite",
            title="llmlite",
            module="llmlite_engine",
            keeps_quantized=True,
            options=(("executor", "auto"),),
        ),
        BackendInfo(
            name="llmlite-f16",
            title="llmlite, float16 cache",
            module="llmlite_engine",
            keeps_quantized=True,
            options=(("executor", "auto"), ("kv_dtype", "f16")),
            default=False,
        ),
        BackendInfo(
            name="llmlite-eager",
            title="llmlite, NumPy only",
            module="llmlite_engine",
            keeps_quantized=True,
            exact=True,
            options=(("executor", "eager"),),
            default=False,
        ),
        BackendInfo(
            name="torch-f32",
            title="PyTorch float32",
            module="torch_eager",
            requires="torch",
            extra="torch",
            exact=True,
            options=(("dtype", "float32"),),
        ),
        BackendInfo(
            name="torch-bf16",
            title="PyTorch bfloat16",
            module="torch_eager",
            requires="torch",
            extra="torch",
            options=(("dtype", "bfloat16"),),
        ),
        *(
            BackendInfo(
                name=name,
                title=title,
                module="tensorflow_forward",
                requires="tensorflow",
                extra="tensorflow",
                exact=True,
                options=(("graph", graph),),
                default=False,
            )
            for name, title, graph in (
                ("tensorflow", "TensorFlow graph", True),
                ("tensorflow-eager", "TensorFlow eager", False),
            )
        ),
        BackendInfo(
            name="llamacpp",
            title="llama.cpp",
            module="llamacpp",
            requires="llama_cpp",
            extra="llamacpp",
            keeps_quantized=True,
            default=False,
        ),
    )
}


def by_name(name: str) -> BackendInfo:
    """Return the entry called `name`.

    Raises:
        ValueError: naming those there are.
    """
    if name not in BACKENDS:
        raise ValueError(f"no backend {name!r}; there are: {', '.join(BACKENDS)}")
    return BACKENDS[name]


def make(name: str) -> Backend:
    """Return the backend called `name`; only a worker process calls this."""
    info = by_name(name)
    return import_module(f"{__name__}.{info.module}").make(**dict(info.options))
