"""A GGUF file for the frameworks: the hyper-parameters of its forward pass, and its weights as float32.

Every backend that has no GGUF types of its own reads the file through this module, so that all of them get
the same numbers.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from llmlite import gguf, resources
from llmlite._version import __version__
from llmlite.description.config import ModelConfig
from llmlite.errors import UnsupportedError
from llmlite.quants.tensor import QuantTensor


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The hyper-parameters that a forward pass needs in addition to the weights.

    Attributes:
        architecture: name of the architecture in the file.
        n_layer, n_embd, n_head, n_head_kv, head_size, n_ff, n_vocab, n_expert, n_expert_used: see
            ModelConfig.
        rms_eps, rope_dim, rope_base, rope_scale: see ModelConfig.
        rope_pairs: "norm" (2i, 2i+1), "neox" (i, i + rope_dim/2), or "" without RoPE.
        head_norms: whether queries and keys are normalized head by head before RoPE.
    """

    architecture: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_size: int
    n_ff: int
    n_vocab: int
    n_expert: int
    n_expert_used: int
    rms_eps: float
    rope_dim: int
    rope_base: float
    rope_scale: float
    rope_pairs: str
    head_norms: bool

    @classmethod
    def of(cls, config: ModelConfig) -> Shape:
        """Return the shape that `config` describes."""
        architecture = config.architecture
        names = (
            "n_layer n_embd n_head n_head_kv head_size n_ff n_vocab n_expert n_expert_used "
            "rms_eps rope_dim rope_base rope_scale"
        ).split()
        return cls(
            architecture=architecture.name,
            rope_pairs=architecture.rope_pairs,
            head_norms=architecture.head_norms == "head",
            **{name: getattr(config, name) for name in names},
        )

    def angles(self, n_ctx: int, rope_freqs: np.ndarray | None = None) -> np.ndarray:
        """Return the RoPE angle of each position and pair, float64 (n_ctx, rope_dim/2).

        Args:
            n_ctx: number of positions.
            rope_freqs: (rope_dim/2,) divisors of the frequencies; None if the file has none.
        """
        exponents = np.arange(0, self.rope_dim, 2) / self.rope_dim
        frequencies = self.rope_scale * self.rope_base**-exponents
        if rope_freqs is not None:
            frequencies = frequencies / rope_freqs.astype(np.float64)
        return np.outer(np.arange(n_ctx), frequencies)


@contextmanager
def opened(path: str) -> Iterator[tuple[Shape, Mapping[str, QuantTensor]]]:
    """Open a GGUF file and yield its Shape and its tensors by name; they are valid only inside the block.

    Raises:
        LlmliteError: the file isn't a model that llmlite reads.
    """
    with gguf.read(path) as file:
        yield Shape.of(ModelConfig.from_metadata(file.metadata, file.tensors)), file.tensors


def floats(tensor: QuantTensor) -> np.ndarray:
    """Return a copy of a tensor's weights as float32."""
    return np.array(tensor.dequantize(), np.float32)


def refuse(shape: Shape, library: str, architectures: Sequence[str], *, experts: bool = False) -> None:
    """Refuse a model that a backend's forward pass doesn't support.

    Args:
        shape: the model's hyper-parameters.
        library: name of the library for the message.
        architectures: names of the supported architectures.
        experts: whether mixtures of experts are supported.

    Raises:
        UnsupportedError: the model isn't supported; the message names the supported architectures.
    """
    if shape.architecture in architectures and (experts or not shape.n_expert):
        return
    without = "" if experts else " without experts"
    got = shape.architecture + (" with experts" if shape.n_expert else "")
    raise UnsupportedError(
        f"{library}'s side of the comparison runs {' and '.join(architectures)}{without}, not {got}"
    )


def cached(path: str, kind: str, make: Callable[[str], None]) -> tuple[str, bool]:
    """Return the cached folder that holds `path` converted to `kind`, and whether this call made it.

    The folder's name depends on the file's content and llmlite's version, so that a changed file is converted
    again.

    Args:
        path: the GGUF file.
        kind: name of the converted form.
        make: function that makes the folder whose name it is given and fills it.
    """
    digest = hashlib.sha256(__version__.encode())
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    folder = resources.cache_dir() / "bench-models" / f"{kind}-{digest.hexdigest()[:16]}"
    if folder.is_dir():
        return str(folder), False
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        make(str(part))
        os.replace(part, folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return str(folder), True
