"""The ladder: one matrix times one vector, step by step from NumPy to the engine's own kernel.

    ladder = measure_ladder(("Q4_0",))
    for step in ladder.steps:
        print(step.rung, step.gigabytes_per_second)

Every rung computes the same product of quantized weights. The answers are compared before any rung is timed.
The matrix is larger than the caches, as a model is. So memory limits the last rungs, not arithmetic.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from time import perf_counter_ns, sleep
from typing import Any, ClassVar, Self

import numpy as np

from llmlite.bench import environment
from llmlite.bench.roofline import Roof, measure_roof
from llmlite.bench.saved import Saved, check_positive
from llmlite.engine.cpu import usable_threads
from llmlite.engine.eager import Eager
from llmlite.engine.matvec import SCALAR, MatVec
from llmlite.errors import LlmliteError
from llmlite.quants.tensor import QuantTensor

TYPES = ("Q4_0", "Q8_0", "Q4_K")
AGREE = 1e-5  # largest difference over the largest answer, because float32 sums differ by order
SETTLE = 0.05  # seconds for the last rung's threads to leave the cores (a BLAS's threads spin for a while)
POOL_ROWS = 512  # rows quantized; a longer matrix repeats them in random order

Product = Callable[[np.ndarray], np.ndarray]  # x (width,) -> W x (rows,)


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One way to compute the product.

    Attributes:
        name: key of the rung.
        title: name for axes of figures.
        about: a sentence that describes it.
        uses_team: whether all threads work on the product.
    """

    name: str
    title: str
    about: str
    uses_team: bool = False


_RUNGS = (
    Rung(
        name="numpy",
        title="NumPy",
        about="Weights become float32, a slab at a time; then BLAS multiplies, with every core if it can.",
        uses_team=True,
    ),
    Rung(
        name="scalar",
        title="numba, scalar",
        about="Weights are unpacked, multiplied and added one at a time; none is stored as a float.",
    ),
    Rung(
        name="simd",
        title="numba, SIMD",
        about="64 weights at a time, as bytes, are multiplied by activations that were quantized to bytes.",
    ),
    Rung(
        name="team",
        title="SIMD, all threads",
        about="The same kernel, with the rows shared among a team of threads.",
        uses_team=True,
    ),
)


def rungs() -> tuple[Rung, ...]:
    """Return the rungs in climbing order."""
    return _RUNGS


@dataclass(frozen=True, kw_only=True)
class RungStep:
    """The measurement of one rung.

    Attributes:
        rung: name of the Rung.
        type: quantization of the weights.
        n_rows, width: size of the matrix.
        n_threads: threads of a compiled rung; for NumPy, the largest number that its BLAS may use.
        bytes: size of the matrix.
        operations: number of multiplications and additions.
        samples_ns: nanoseconds of each run.
        max_error: largest difference from NumPy, relative to the largest answer.
    """

    rung: str
    type: str
    n_rows: int
    width: int
    n_threads: int
    bytes: int
    operations: int
    samples_ns: tuple[int, ...]
    max_error: float

    def __post_init__(self) -> None:
        if self.rung not in {rung.name for rung in _RUNGS}:
            raise ValueError(f"no rung {self.rung!r}")
        object.__setattr__(self, "samples_ns", tuple(self.samples_ns))
        if not self.samples_ns:
            raise ValueError(f"{self.rung} {self.type}: no samples")
        for value in (self.n_rows, self.width, self.bytes, self.operations, *self.samples_ns):
            check_positive(f"{self.rung} {self.type}", value)

    @property
    def median_ns(self) -> float:
        return median(self.samples_ns)

    @property
    def best_ns(self) -> int:
        return min(self.samples_ns)

    @property
    def gigabytes_per_second(self) -> float:
        """Gigabytes of quantized weights read per second, from the median."""
        return self.bytes / self.median_ns

    @property
    def gigaops_per_second(self) -> float:
        """Billions of multiplications and additions per second, from the median."""
        return self.operations / self.median_ns

    def as_record(self) -> dict[str, Any]:
        """Return the fields and the figures derived from them, as JSON values."""
        return {
            **asdict(self),
            "samples_ns": list(self.samples_ns),
            "median_ns": self.median_ns,
            "best_ns": self.best_ns,
            "gigabytes_per_second": self.gigabytes_per_second,
            "gigaops_per_second": self.gigaops_per_second,
        }


@dataclass(kw_only=True)
class Ladder(Saved):
    """Rungs measured in one run.

    Attributes:
        steps: the measurements, in climbing order within each type.
        roof: the machine's limits at that time; None if they weren't measured.
    """

    KIND: ClassVar[str] = "ladder"
    SAMPLE: ClassVar[str] = "samples/ladder.json"

    steps: list[RungStep] = field(default_factory=list)
    roof: Roof | None = None

    def of(self, type: str) -> list[RungStep]:
        """Return the steps of one quantization, the lowest rung first."""
        return [step for step in self.steps if step.type == type]

    def records(self) -> list[dict[str, Any]]:
        """Return one JSON object per step, for pandas.DataFrame."""
        return [step.as_record() for step in self.steps]

    @classmethod
    def _from_object(cls, found: Mapping[str, Any]) -> Self:
        return cls(
            environment=dict(found["environment"]),
            steps=[RungStep(**step) for step in found["steps"]],
            roof=Roof(**found["roof"]) if found["roof"] else None,
        )


def measure_ladder(
    types: Sequence[str] = TYPES,
    rungs: Sequence[str] | None = None,
    n_rows: int = 65536,
    width: int = 2048,
    repeats: int = 7,
    n_threads: int | None = None,
    roof: bool = True,
) -> Ladder:
    """Measure rungs in turns on one matrix of each type.

    Args:
        types: quantizations from TYPES.
        rungs: names of rungs; None for all.
        n_rows, width: size of the matrix. By default it has 75 MB or more, which fits in no cache.
        repeats: runs of each rung.
        n_threads: threads of the last rung; None for as many as a model would use.
        roof: also measure the machine's limits.

    Raises:
        LlmliteError: a rung's answer differs from NumPy's; nothing of this type was timed.
        KernelError: kernels can't be compiled or loaded here.
        ValueError: an unknown type or rung, or a size below 1.
    """
    names = [rung.name for rung in _RUNGS if rungs is None or rung.name in rungs]
    unknown = sorted(({*rungs} - {*names} if rungs else set()) | {*types} - SCALAR)
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}; rungs: {[r.name for r in _RUNGS]}, types: {TYPES}")
    if min(n_rows, width, repeats) < 1:
        raise ValueError("n_rows, width and repeats must be at least 1")
    ladder = Ladder(environment=environment.record())
    for type_name in types:
        w = random_matrix(type_name, n_rows, width)
        ladder.steps += _measure(w, names, repeats, n_threads or usable_threads())
    if roof:
        ladder.roof = measure_roof(n_threads)
    return ladder


def product(rung: str, w: QuantTensor, n_threads: int | None = None) -> Product:
    """Return the function of one rung that multiplies `w` by a vector.

    Args:
        rung: name of the rung.
        w: the matrix.
        n_threads: threads of the rung "team"; the others ignore it.
    """
    if rung == "numpy":
        return lambda x: Eager(0, 0).matmul(w, x[None])[0]
    return MatVec(w, n_threads=n_threads if rung == "team" else 1, scalar=rung == "scalar")


def random_matrix(type_name: str, n_rows: int, width: int, seed: int = 0) -> QuantTensor:
    """Return normally distributed weights; rows beyond POOL_ROWS repeat earlier ones in random order."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((min(n_rows, POOL_ROWS), width), np.float32)
    pool = QuantTensor.quantize(values, type_name, "pool")
    rows = pool.blocks.reshape(len(values), -1)[rng.integers(0, len(values), n_rows)]
    return QuantTensor(f"W {type_name}", pool.type, (n_rows, width), rows.reshape(-1, pool.type.type_size))


def exact_activations(width: int, seed: int = 0) -> np.ndarray:
    """Return activations, float32 (width,), that quantization to bytes doesn't change.

    So rungs that quantize activations agree with those that don't. All values are multiples of 1/128, and the
    largest of every 32 is 127/128.
    """
    levels = np.random.default_rng(seed).integers(-127, 128, width)
    levels[::32] = 127
    return (levels / 128).astype(np.float32)


def _measure(w: QuantTensor, names: Sequence[str], repeats: int, n_threads: int) -> list[RungStep]:
    x = exact_activations(w.n_columns)
    expected = product("numpy", w)(x)
    products = {name: product(name, w, n_threads) for name in names}
    errors = {name: _error(run(x), expected) for name, run in products.items()}  # also a warm-up
    wrong = [f"{name} by {error:.1g}" for name, error in errors.items() if not error <= AGREE]
    if wrong:
        raise LlmliteError(
            f"{w.type.name}: answers differ from NumPy's, so nothing was timed: {', '.join(wrong)}"
        )
    samples: dict[str, list[int]] = {name: [] for name in names}
    order = random.Random(0)
    for _ in range(repeats):
        for name in order.sample(names, len(names)):
            sleep(SETTLE)
            products[name](x)  # wakes the rung's threads
            begin = perf_counter_ns()
            products[name](x)
            samples[name].append(perf_counter_ns() - begin)
    uses_team = {rung.name: rung.uses_team for rung in _RUNGS}
    return [
        RungStep(
            rung=name,
            type=w.type.name,
            n_rows=w.shape[0],
            width=w.shape[1],
            n_threads=n_threads if uses_team[name] else 1,
            bytes=w.n_bytes,
            operations=2 * w.n_elements,
            samples_ns=tuple(samples[name]),
            max_error=errors[name],
        )
        for name in names
    ]


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
