"""What can be compared: one file per library, one record per backend in BACKENDS.

A backend's file is imported only in that backend's own process; this file imports none of them. Colours,
help, tables and environments follow from the records, so that adding a backend is a file and a record.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        """Return what a reader should know, as JSON values.

        `n_threads`, `type_k` and `isa` always (the instruction set that it was built for or chose, or that it
        doesn't tell); where it applies `version`, `own_quantization` (True where its weights aren't the
        file's), `note`.

        Four more methods are optional:
            convert(path, n_ctx) -> bool: write the file in a format of its own, kept in the cache; False if
                that was done before.
            compile(lengths) -> bool: after loading, compile what it compiles, for single steps and prompts of
                `lengths`; False if there is nothing to compile.
            write(ids, n_gen) -> list[int]: for a library with a decoding loop of its own: read `ids`, write
                `n_gen` + 1 tokens, return the nanoseconds of the last `n_gen`, one by one or only their sum.
            greedy(ids, n_gen) -> list[int]: the first `n_gen` tokens that it writes after `ids`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class BackendInfo:
    """One line of the table.

    Args:
        name: as on the command line.
        title: as in tables and figures.
        module: the file in this folder; its `make(**options)` returns the Backend.
        colour: a key of `llmlite.plots.COLOURS`. hatch: a pattern on it, as matplotlib writes it. Eight
            colours can be told apart by everybody, so a library has a pair of its own.
        requires: the modules it needs beyond llmlite's own, with spaces between.
        extra: the name for `pip install llmlite-kit[...]`, and of its own environment (see bench.envs).
        options: arguments of `make`.
        default: whether `compare` runs it unasked. minor: it is started last, because another row of the
            same library says more.
        keeps_quantized: False where weights are turned into floats on loading, so that the file's
            quantization changes neither its speed nor its memory.
        exact: True for float32 arithmetic throughout: held to the strict bar of agreement.
        openmp: whether OpenMP's waiting policy changes its speed, so that both are probed.
        agreement_tokens: how many positions are checked; fewer where logits are slow to get.
        gives_logits: False where the library tells its best token only: agreement is then by tokens.
    """

    name: str
    title: str
    module: str
    colour: str
    hatch: str = ""
    requires: str = ""
    extra: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    default: bool = False
    minor: bool = False
    keeps_quantized: bool = False
    exact: bool = False
    openmp: bool = False
    agreement_tokens: int = 128
    gives_logits: bool = True

    def python(self) -> str:
        """Return the interpreter that runs it: this one, or its own environment's; "" for none."""
        if all(find_spec(name) is not None for name in self.requires.split()):
            return sys.executable
        from llmlite.bench import envs

        return envs.python_with(self.extra, self.requires)

    def unavailable(self) -> str:
        """Return why this backend can't run here, or "" when it can."""
        if self.python():
            return ""
        return (
            f"not installed: pip install 'llmlite-kit[{self.extra}]', "
            f"or an environment of its own: llmlite bench env create {self.extra}"
        )


def _backend(name: str, title: str, module: str, colour: str, **rest: Any) -> BackendInfo:
    return BackendInfo(name=name, title=title, module=module, colour=colour, **rest)


_LLMLITE: dict[str, Any] = {"keeps_quantized": True}
_TORCH: dict[str, Any] = {"requires": "torch", "extra": "torch", "openmp": True}
_TF: dict[str, Any] = {"requires": "tensorflow", "extra": "tensorflow", "exact": True}
_HUB: dict[str, Any] = {**_TF, "requires": "tensorflow tensorflow_hub"}

# One record each: name, title, file, colour, and what differs from BackendInfo's defaults.
_LINES = (
    _backend(
        "llmlite", "llmlite", "llmlite_engine", "blue", **_LLMLITE, options={"executor": "auto"}, default=True
    ),
    _backend(
        "llmlite-f16",
        "llmlite, float16 cache",
        "llmlite_engine",
        "blue",
        **_LLMLITE,
        options={"executor": "auto", "kv_dtype": "f16"},
        minor=True,
    ),
    _backend(
        "llmlite-eager",
        "llmlite, NumPy only",
        "llmlite_engine",
        "sky",
        **_LLMLITE,
        exact=True,
        options={"executor": "eager"},
        minor=True,
    ),
    _backend(
        "torch-f32",
        "PyTorch float32",
        "torch_eager",
        "red",
        **_TORCH,
        exact=True,
        options={"dtype": "float32"},
        default=True,
    ),
    _backend(
        "torch-bf16",
        "PyTorch bfloat16",
        "torch_eager",
        "orange",
        **_TORCH,
        options={"dtype": "bfloat16"},
        default=True,
    ),
    _backend(
        "torch-compile",
        "PyTorch torch.compile",
        "torch_eager",
        "red",
        **_TORCH,
        exact=True,
        options={"dtype": "float32", "compiled": True},
    ),
    _backend(
        "torch-int8", "PyTorch dynamic int8", "torch_eager", "orange", **_TORCH, options={"dtype": "int8"}
    ),
    _backend(
        "torch-int4", "PyTorch packed int4", "torch_eager", "orange", **_TORCH, options={"dtype": "int4"}
    ),
    _backend(
        "transformers",
        "Transformers",
        "transformers_gguf",
        "yellow",
        requires="torch transformers accelerate gguf",
        extra="transformers",
        exact=True,
        openmp=True,
    ),
    _backend("tensorflow", "TensorFlow graph", "tensorflow_forward", "grey", **_TF, options={"graph": True}),
    _backend(
        "tensorflow-eager",
        "TensorFlow eager",
        "tensorflow_forward",
        "grey",
        **_TF,
        options={"graph": False},
        minor=True,
    ),
    _backend("tensorflow-xla", "TensorFlow XLA", "tensorflow_xla", "grey", **_TF),
    _backend("tensorflow-hub", "TensorFlow Hub", "tensorflow_xla", "grey", **_HUB, options={"hub": True}),
    _backend(
        "xllamacpp",
        "llama.cpp wheel (AVX2)",
        "xllamacpp_server",
        "green",
        requires="xllamacpp",
        extra="xllamacpp",
        keeps_quantized=True,
        openmp=True,
        agreement_tokens=24,
    ),
    _backend(
        "llamacpp",
        "llama.cpp native",
        "llamacpp",
        "green",
        requires="llama_cpp",
        extra="llamacpp",
        keeps_quantized=True,
        openmp=True,
    ),
    _backend(
        "openvino",
        "OpenVINO GenAI",
        "openvino_genai_gguf",
        "yellow",
        hatch="//",
        requires="openvino_genai",
        extra="openvino",
        keeps_quantized=True,
        gives_logits=False,
        agreement_tokens=48,
    ),
    _backend(
        "ctranslate2",
        "CTranslate2 int8",
        "ctranslate2_int8",
        "sky",
        hatch="xx",
        requires="ctranslate2",
        extra="ctranslate2",
        openmp=True,
    ),
    _backend(
        "ort-genai",
        "ONNX Runtime GenAI",
        "ort_genai_graph",
        "yellow",
        hatch="..",
        requires="onnxruntime_genai onnx",
        extra="ort-genai",
        keeps_quantized=True,
        openmp=True,
    ),
)
BACKENDS = {info.name: info for info in _LINES}


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
    return import_module(f"{__name__}.{info.module}").make(**info.options)
