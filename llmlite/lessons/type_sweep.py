"""The sweep: the size and the quality of the bundled model in every type.

`tools/sweep_types.py` runs the sweep, which takes minutes, and stores it in data/types.json. The lessons draw
the stored points. They can measure one of them again with `measure`, which uses the same code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from llmlite import gguf, resources
from llmlite.bench import imatrix
from llmlite.bench.quality import log_softmax
from llmlite.errors import UnsupportedError
from llmlite.model import Model
from llmlite.quantize import plan
from llmlite.quantize.mixes import FILE_TYPES, is_quantized
from llmlite.quants import TYPES, by_name
from llmlite.quants.iq import IQ
from llmlite.quants.k import K_QUANTS
from llmlite.quants.legacy import LEGACY
from llmlite.quants.record import QuantType
from llmlite.quants.tensor import QuantTensor

FILE = "types.json"
TEXT = "tales-eval.txt"
N_CTX, N_CHUNKS = 256, 8  # tokens in a chunk, whose second half is scored; number of chunks
N_IMATRIX = 12  # chunks that the importance matrix is measured on, after the scored ones
FAMILIES = ("plain", "legacy", "K", "IQ", "ternary and FP4")
SCOPES = {"tensors": "every matrix in this type", "mix": "a file as llmlite quantize makes it"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One way to store the bundled model, with its size and its quality.

    Attributes:
        name: the name of the type or of the mix.
        family: the family of the type, one of FAMILIES.
        scope: a key of SCOPES.
        imatrix: whether an importance matrix told the quantizer which columns matter.
        bits_per_weight: the type's bits per weight; for a mix, the bits of all tensors over all weights.
        n_bytes: bytes of all tensors.
        rms: RMS of the quantization error over RMS of the weights, for all quantized matrices together.
        perplexity: perplexity on the evaluation text.
        kl: mean KL divergence from the float32 model, in nats.
        top1: share of positions at which the likeliest token is that of the float32 model.
    """

    name: str
    family: str
    scope: str
    imatrix: bool
    bits_per_weight: float
    n_bytes: int
    rms: float
    perplexity: float
    kl: float
    top1: float

    @property
    def label(self) -> str:
        return f"{self.name} with imatrix" if self.imatrix else self.name


def family(type: QuantType) -> str:
    """Return the family that a type belongs to, one of FAMILIES."""
    groups = {"legacy": LEGACY, "K": K_QUANTS, "IQ": IQ}
    found = next((name for name, types in groups.items() if type in types), None)
    return found or ("plain" if type.block_size == 1 else "ternary and FP4")


def sweep_types() -> list[str]:
    """Return the names of the types that weights can be stored in and quantized to."""
    plain = ("F32", "F16", "BF16")
    blocks = [t for t in TYPES.values() if t.block_size > 1 and t.storable and t.encode]
    return [*plain, *(t.name for t in blocks)]


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """The sweep that is shipped with llmlite.

    Attributes:
        model: SHA-256 of the model's file from which the sweep was made.
        points: all points of the sweep.
    """

    model: str
    points: tuple[Point, ...]

    def find(self, name: str, *, scope: str = "tensors", imatrix: bool = False) -> Point:
        """Return one point.

        Args:
            name: the name of the type or of the mix.
            scope: a key of SCOPES.
            imatrix: whether an importance matrix was used.

        Raises:
            KeyError: the sweep has no such point.
        """
        for point in self.points:
            if (point.name, point.scope, point.imatrix) == (name, scope, imatrix):
                return point
        raise KeyError(f"{name}, {scope}, imatrix {imatrix}")


@cache
def shipped() -> Shipped:
    """Return the sweep that is shipped with llmlite.

    Raises:
        LlmliteError: the file is missing.
    """
    stored = json.loads(resources.data_path(FILE).read_text(encoding="utf-8"))
    return Shipped(model=stored["model"], points=tuple(Point(**point) for point in stored["points"]))


def write(points: Iterable[Point]) -> str:
    """Return the text of the file that stores the sweep."""
    rows = [json.dumps(_rounded(asdict(point)), ensure_ascii=False) for point in points]
    digest = resources.sha256(resources.model_path("tales"))
    return f'{{"model": "{digest}",\n "points": [\n  ' + ",\n  ".join(rows) + "\n ]}\n"


def _rounded(values: dict[str, object]) -> dict[str, object]:
    return {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in values.items()}


class Bench:
    """A float32 model and a text, with which quantized copies of the model are compared.

    The copies exist only in memory.

    Args:
        model: the model whose matrices are quantized; by default the bundled model.

    Attributes:
        model: the float32 model, with float32 keys and values and the eager executor.
        chunks: the token ids of the N_CHUNKS chunks of the text.
    """

    def __init__(self, model: Model | None = None) -> None:
        self.model = _exact(
            Model(gguf.read(resources.model_path("tales"))).gguf if model is None else model.gguf
        )
        text = resources.data_path(TEXT).read_text(encoding="utf-8")
        ids = self.model.tokenizer.encode(text[:120_000], add_special=False)
        self.chunks = [ids[i * N_CTX : (i + 1) * N_CTX] for i in range(N_CHUNKS)]
        self._for_imatrix = ids[N_CHUNKS * N_CTX : (N_CHUNKS + N_IMATRIX) * N_CTX]
        self._references = [self._scores(self.model, chunk) for chunk in self.chunks]
        self._made: dict[tuple[str, str, bool], QuantTensor] = {}
        self._imatrix: Mapping[str, np.ndarray] | None = None

    @property
    def matrices(self) -> list[QuantTensor]:
        """The matrices that quantization changes."""
        return [t for t in self.model.gguf.tensors.values() if is_quantized(t.name, len(t.shape))]

    def imatrix(self) -> Mapping[str, np.ndarray]:
        """Return an importance matrix: tensor name -> float32 (number of columns,).

        It is measured at the first call, on a part of the text that isn't scored.
        """
        if self._imatrix is None:
            self._imatrix = imatrix.collect(self.model, self._for_imatrix, n_ctx=N_CTX).means()
        return self._imatrix

    def measure_type(self, name: str, *, imatrix: bool = False) -> Point:
        """Quantize every matrix to one type, and measure the result.

        Args:
            name: the name of the type.
            imatrix: whether to quantize with an importance matrix.

        Raises:
            UnsupportedError: there is no such type, llmlite can't quantize to it, or it needs an importance
                matrix.
        """
        record = by_name(name)
        if record.needs_importance and not imatrix:
            raise UnsupportedError(f"{name} has too few bits to choose them without an importance matrix")
        targets = {tensor.name: record.name for tensor in self.matrices}
        return self._measure(record.name, record, "tensors", targets, imatrix)

    def measure_mix(self, name: str, *, imatrix: bool = False) -> Point:
        """Quantize the matrices to a mix of types, as `llmlite quantize` does, and measure the result.

        Args:
            name: the name of the mix, such as "Q4_K_M".
            imatrix: whether to quantize with an importance matrix.

        Raises:
            UnsupportedError: there is no such mix, or it needs an importance matrix.
        """
        rows = plan(self.model.gguf, name, imatrix=self.imatrix() if imatrix else None)
        targets = {row.name: row.target.name for row in rows if row.target is not row.source}
        return self._measure(name, by_name(FILE_TYPES[name][1]), "mix", targets, imatrix)

    def _measure(
        self, name: str, record: QuantType, scope: str, targets: Mapping[str, str], imatrix: bool
    ) -> Point:
        changed = [self._quantized(tensor, type_name, imatrix) for tensor, type_name in targets.items()]
        model = _exact(self.model.gguf.replacing(*changed))
        tensors = list(model.gguf.tensors.values())
        n_bytes = sum(tensor.n_bytes for tensor in tensors)
        n_weights = sum(tensor.n_elements for tensor in tensors)
        return Point(
            name=name,
            family=family(record),
            scope=scope,
            imatrix=imatrix,
            bits_per_weight=record.bits_per_weight if scope == "tensors" else 8 * n_bytes / n_weights,
            n_bytes=n_bytes,
            rms=self.rms(changed),
            **self.quality(model),
        )

    def _quantized(self, tensor: str, type_name: str, imatrix: bool) -> QuantTensor:
        key = (tensor, type_name, imatrix)
        if key not in self._made:
            importance = self.imatrix().get(tensor) if imatrix else None
            source = self.model.gguf.tensors[tensor]
            if importance is None and by_name(type_name).needs_importance:
                importance = np.ones(source.n_columns, np.float32)  # the importance matrix lacks this tensor
            self._made[key] = QuantTensor.quantize(source, type_name, tensor, importance, n_threads=2)
        return self._made[key]

    def rms(self, changed: Iterable[QuantTensor]) -> float:
        """Return the RMS error of quantized tensors, divided by the RMS of their original weights."""
        error = weights = 0.0
        for tensor in changed:
            exact = self.model.gguf.tensors[tensor.name].dequantize().astype(np.float64)
            error += float(np.sum((tensor.dequantize() - exact) ** 2))
            weights += float(np.sum(exact**2))
        return (error / weights) ** 0.5 if weights else 0.0

    def quality(self, model: Model) -> dict[str, float]:
        """Return "perplexity", "kl" and "top1" of a quantized copy of the model, over the text."""
        losses, divergences, agreed = [], [], []
        for chunk, (reference, _) in zip(self.chunks, self._references):
            scores, loss = self._scores(model, chunk)
            losses.append(loss)
            divergences.append((np.exp(reference) * (reference - scores)).sum(axis=-1))
            agreed.append(reference.argmax(axis=-1) == scores.argmax(axis=-1))
        return {
            "perplexity": float(np.exp(np.concatenate(losses).mean())),
            "kl": max(0.0, float(np.concatenate(divergences).mean())),  # rounding may fall below 0
            "top1": float(np.concatenate(agreed).mean()),
        }

    @staticmethod
    def _scores(model: Model, chunk: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the log probabilities (N_CTX / 2 - 1, V) in a chunk's second half, and the losses there."""
        first = len(chunk) // 2
        scores = log_softmax(model.logits(chunk)[first:-1])
        return scores, -scores[np.arange(len(scores)), chunk[first + 1 :]]


def _exact(file: gguf.GGUFFile) -> Model:
    return Model(file, kv_dtype="f32", executor="eager")


def measure(name: str, *, imatrix: bool = False) -> Point:
    """Measure one type on the bundled model, as in the sweep. This takes some seconds.

    Arguments and errors are those of `Bench.measure_type`.
    """
    return Bench().measure_type(name, imatrix=imatrix)


def front(points: Iterable[Point], cost: str = "kl") -> list[Point]:
    """Return the points that no other point beats in both size and cost, the smallest first.

    Args:
        points: the points to choose from.
        cost: the attribute of a point that is its cost.
    """
    best, found = float("inf"), []
    for point in sorted(points, key=lambda p: (p.bits_per_weight, getattr(p, cost))):
        if getattr(point, cost) < best:
            best = getattr(point, cost)
            found.append(point)
    return found
