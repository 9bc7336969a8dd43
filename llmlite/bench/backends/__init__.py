"""The backends that can be compared: one file per library, one record per backend in BACKENDS.

A backend's file is imported only in that backend's own process; this file imports none of them. Colours,
help, tables and environments are derived from the records. A new backend needs only a file and a record.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np


# not platform.machine(): a worker imports this file while its import is timed
MACHINE = os.uname().machine if hasattr(os, "uname") else os.environ.get("PROCESSOR_ARCHITECTURE", "")


class Backend(Protocol):
    """The interface that a worker needs from a backend: one sequence, greedy decoding, end tokens ignored."""

    def start(self) -> None:
        """Import everything the backend needs."""
        ...

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        """Load a GGUF file with an empty cache of `n_ctx` positions; both replace the previous ones."""
        ...

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Read `ids` from an empty cache and return the logits after each of them, float32 (T, V)."""
        ...

    def prefill(self, ids: Sequence[int]) -> int:
        """Empty the cache, read `ids` and return the best next token; only the last logits are computed."""
        ...

    def step(self, token: int) -> int:
        """Read one more token and return the best next token."""
        ...

    def about(self) -> dict[str, Any]:
        """Return facts that a reader should know, as JSON values.

        `n_threads`, `type_k` and `isa` are required. `isa` is the instruction set that the library was built
        for or chose, or a text that says that it reports none. `version`, `own_quantization` (True if its
        weights aren't the file's) and `note` are optional.

        Four more methods are optional:
            convert(path, n_ctx) -> bool: convert the file to the backend's own format and keep it in the
            cache; return False if that was done before.
            compile(lengths) -> bool: after loading, compile for single steps and for prompts of `lengths`;
            return False if there is nothing to compile. If the backend keeps code between runs, its attribute
            `compiled_anew` says whether this call had to compile.
            write(ids, n_gen) -> list[int]: for a library with its own decoding loop: read `ids`, write
            `n_gen` + 1 tokens, and return the nanoseconds of each of the last `n_gen`, or only their sum.
            greedy(ids, n_gen) -> list[int]: return the first `n_gen` tokens that it writes after `ids`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class BackendInfo:
    """The description of one backend.

    Attributes:
        name: name on the command line.
        title: name in tables and figures.
        module: the file in this folder; its `make(**options)` returns the Backend.
        colour: a key of `llmlite.plots.COLOURS`.
        hatch: a pattern on the colour, in matplotlib's notation. Only eight colours can be told apart by
            everyone, so each library has its own pair of colour and pattern.
        requires: the modules it needs in addition to llmlite's own, separated by spaces.
        extra: name of its extra for `pip install llmlite-kit[...]`, and of its own environment (see
            bench.envs).
        options: arguments of `make`.
        default: whether `compare` runs it by default.
        minor: whether it is started last, because another backend of the same library is more important.
        keeps_quantized: False if weights become floats on loading, so that the file's quantization changes
            neither speed nor memory.
        maps_file: whether it reads all weights from the mapped file and makes no copy.
        exact: True for float32 arithmetic throughout, which must pass the strict test of agreement.
        openmp: whether OpenMP's waiting policy changes its speed; both policies are then tried.
        keeps_work: whether it keeps compiled code or a converted model in a cache folder. Its very first
            start then takes longer than later ones.
        agreement_tokens: number of positions checked; smaller for a library whose logits are slow to get.
        gives_logits: False if the library returns only the best token; agreement is then judged by tokens.
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
    maps_file: bool = False
    exact: bool = False
    openmp: bool = False
    keeps_work: bool = False
    agreement_tokens: int = 128
    gives_logits: bool = True

    def python(self) -> str:
        """Return the interpreter that runs the backend: this one or its own environment's; "" if none can."""
        if all(find_spec(name) is not None for name in self.requires.split()):
            return sys.executable
        from llmlite.bench import envs

        return envs.python_with(self.extra, self.requires)

    def unavailable(self) -> str:
        """Return the reason why this backend can't run here; "" if it can."""
        if self.python():
            return ""
        return (
            f"not installed: pip install 'llmlite-kit[{self.extra}]', "
            f"or make a separate environment: llmlite bench env create {self.extra}"
        )


def wheel_title(machine: str) -> str:
    """Return the title of llama.cpp's wheel; one build serves all processors of this kind."""
    return f"llama.cpp wheel{' (AVX2)' * (machine.lower() in ('x86_64', 'amd64'))}"


def _backend(name: str, title: str, module: str, colour: str, **rest: Any) -> BackendInfo:
    return BackendInfo(name=name, title=title, module=module, colour=colour, **rest)


_LLMLITE: dict[str, Any] = {"keeps_quantized": True, "maps_file": True}
_TORCH: dict[str, Any] = {"requires": "torch", "extra": "torch", "openmp": True}
_TF: dict[str, Any] = {"requires": "tensorflow", "extra": "tensorflow", "exact": True}
_HUB: dict[str, Any] = {**_TF, "requires": "tensorflow tensorflow_hub"}

# Each record: name, title, file, colour, and the fields that differ from BackendInfo's defaults.
_LINES = (
    _backend(
        "llmlite",
        "llmlite",
        "llmlite_engine",
        "blue",
        **_LLMLITE,
        keeps_work=True,
        options={"executor": "auto"},
        default=True,
    ),
    _backend(
        "llmlite-f16",
        "llmlite, float16 cache",
        "llmlite_engine",
        "blue",
        **_LLMLITE,
        keeps_work=True,
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
        keeps_work=True,
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
    _backend(
        "tensorflow-hub",
        "TensorFlow Hub",
        "tensorflow_xla",
        "grey",
        **_HUB,
        keeps_work=True,
        options={"hub": True},
    ),
    _backend(
        "xllamacpp",
        wheel_title(MACHINE),
        "xllamacpp_server",
        "green",
        requires="xllamacpp",
        extra="xllamacpp",
        keeps_quantized=True,
        openmp=True,
        agreement_tokens=24,
        default=True,  # the native build needs a compiler
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
        keeps_work=True,
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
        keeps_work=True,
    ),
)
BACKENDS = {info.name: info for info in _LINES}


def by_name(name: str) -> BackendInfo:
    """Return the entry called `name`.

    Raises:
        ValueError: the name is unknown; the message lists the known names.
    """
    if name not in BACKENDS:
        raise ValueError(f"no backend {name!r}; there are: {', '.join(BACKENDS)}")
    return BACKENDS[name]


def make(name: str) -> Backend:
    """Make the backend called `name`; only a worker process may call this.

    Raises:
        ValueError: the name is unknown; the message lists the known names.
    """
    info = by_name(name)
    return import_module(f"{__name__}.{info.module}").make(**info.options)
