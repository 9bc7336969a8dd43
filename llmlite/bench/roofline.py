"""The roofline: the limits of the machine, and the position of each operation of a model below them.

An operation that does little work for each byte that it reads can't be faster than memory. One that does much
work can't be faster than the arithmetic units. The roof is the lower of the two lines:

    operations/s ≤ min(peak, intensity · bandwidth),    intensity = operations / byte

(Williams, Waterman, Patterson: Roofline, CACM 2009.) Only the bytes of weights count here, and only the
multiplications and additions with weights, because activations stay in the caches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from llmlite.bench import environment
from llmlite.bench.saved import Saved, check_positive
from llmlite.engine.bandwidth import ReadBandwidth
from llmlite.engine.cpu import usable_threads
from llmlite.engine.matvec import PeakArithmetic
from llmlite.engine.planned import PlannedExecutor
from llmlite.engine.recording import N_TOKENS, Buffer, Op
from llmlite.errors import LlmliteError

if TYPE_CHECKING:
    from llmlite.model import Model

# Operations per number written, for kernels without weights. A mere copy counts as one operation, so that it
# has a place in the figure.
PER_NUMBER = {"rms_norm": 4, "silu_mul": 5, "rope": 3, "quantize": 3}


@dataclass(frozen=True, kw_only=True)
class Roof:
    """The machine's two limits, measured.

    Attributes:
        n_threads: threads that measured the limits.
        bytes_per_second: bytes read from memory per second.
        f32_per_second, int8_per_second: multiplications and additions per second, with all operands in
            registers.
    """

    n_threads: int
    bytes_per_second: float
    f32_per_second: float
    int8_per_second: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            check_positive(f"roof: {name}", value)

    def peak(self, kind: str = "int8") -> float:
        """Return the peak of "int8" or "f32" arithmetic, in operations per second.

        Raises:
            ValueError: `kind` is neither "int8" nor "f32".
        """
        peaks = {"int8": self.int8_per_second, "f32": self.f32_per_second}
        if kind not in peaks:
            raise ValueError(f"kind must be int8 or f32, got {kind!r}")
        return peaks[kind]

    def limit(self, intensity: float, kind: str = "int8") -> float:
        """Return the largest possible operations per second at `intensity` operations per byte."""
        return min(self.peak(kind), intensity * self.bytes_per_second)

    def ridge(self, kind: str = "int8") -> float:
        """Return the intensity, in operations per byte, at which the two lines meet."""
        return self.peak(kind) / self.bytes_per_second


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured operation of a model.

    Attributes:
        operation: name of the kernel.
        label: name of the weight, or of the result if there is no weight.
        type: quantization of the weight; "" without a weight.
        nanoseconds: time of one run, with waiting.
        bytes: bytes of weights read; without weights, bytes of everything read and written.
        operations: multiplications and additions with weights; without weights, a rough number of operations.
        waiting: the part of `nanoseconds` in which a thread was idle, on average.
    """

    operation: str
    label: str
    type: str
    nanoseconds: float
    bytes: int
    operations: int
    waiting: float = 0.0

    def __post_init__(self) -> None:
        for name in ("nanoseconds", "bytes", "operations"):
            check_positive(f"{self.label}: {name}", getattr(self, name))

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.operations / self.bytes

    @property
    def ops_per_second(self) -> float:
        return self.operations * 1e9 / self.nanoseconds

    @property
    def bytes_per_second(self) -> float:
        return self.bytes * 1e9 / self.nanoseconds

    def as_record(self) -> dict[str, Any]:
        """Return the fields and the figures derived from them, as JSON values."""
        return {
            **asdict(self),
            "intensity": self.intensity,
            "ops_per_second": self.ops_per_second,
            "bytes_per_second": self.bytes_per_second,
        }


def measure_roof(n_threads: int | None = None, repeat: int = 5) -> Roof:
    """Measure the speed of memory and of arithmetic on this machine.

    Args:
        n_threads: number of threads; None for as many as a model would use by default.
        repeat: number of runs.

    Raises:
        KernelError: kernels can't be compiled or loaded here.
    """
    n_threads = n_threads or usable_threads()
    return Roof(
        n_threads=n_threads,
        bytes_per_second=ReadBandwidth(n_threads).measure(repeat),
        f32_per_second=PeakArithmetic("f32", n_threads).measure(repeat),
        int8_per_second=PeakArithmetic("int8", n_threads).measure(repeat),
    )


def roofline_points(model: Model, n_tokens: int = 1, depth: int = 0, repeat: int = 5) -> list[Point]:
    """Time a step of `model` and return a point for each operation of its plan.

    Args:
        model: a model that runs on the planned executor.
        n_tokens: tokens of the step: 1 for decode, more for prefill.
        depth: tokens in the cache before the step.
        repeat: number of runs; each operation's median counts.

    Raises:
        LlmliteError: the model runs on another executor, which has no operations to time.
    """
    executor = model.executor
    if not isinstance(executor, PlannedExecutor):
        raise LlmliteError(f"the {executor.name} executor has no profile: load with executor='planned'")
    rows = executor.profile(n_tokens=n_tokens, depth=depth, repeat=repeat)
    points = []
    for op, row in zip(executor.plan(n_tokens, 1, np.float16).ops, rows, strict=True):
        if not row["operations"]:
            n_bytes, n_operations = _without_weights(op, n_tokens, depth, model)
            row |= {
                "type": "",
                "bytes": n_bytes,
                "operations": n_operations,
                "label": row["label"] or op.name,
            }
        points.append(Point(**row | {"nanoseconds": max(row["nanoseconds"], 1.0)}))
    return points


def _without_weights(op: Op, n_tokens: int, depth: int, model: Model) -> tuple[int, int]:
    """Return the bytes moved by an operation without weights, and its rough number of operations."""

    def numbers(buffers: Iterable[Buffer]) -> list[tuple[int, int]]:
        kept = [b for b in buffers if b.width and b.name not in ("cache", "scratch")]
        return [(b.width * (n_tokens if b.rows == N_TOKENS else 1), b.itemsize) for b in kept]

    moved = numbers((*op.reads, *op.writes))
    n_bytes = sum(n * size for n, size in moved)
    if op.name.startswith("attention"):
        pairs = sum(depth + t + 1 for t in range(n_tokens))  # a token attends to itself and to all before it
        mixer = model.config.attention
        cache = 2 * (mixer.k_width + mixer.v_width) * (depth + n_tokens)  # float16 keys and values
        return n_bytes + cache, 4 * model.config.n_embd_q * pairs
    written = sum(n for n, _ in numbers(op.writes)) or sum(n for n, _ in moved)  # it writes only to the cache
    return max(n_bytes, 1), max(PER_NUMBER.get(op.name, 1) * written, 1)


@dataclass(kw_only=True)
class Roofline(Saved):
    """A roof and the points below it, measured on one machine.

    Attributes:
        model: name of the model.
        roof: the machine's limits.
        points: the operations of each step, by the step's name, such as "decode" or "prefill 256".
    """

    KIND: ClassVar[str] = "roofline"
    SAMPLE: ClassVar[str] = "samples/roofline.json"

    model: str
    roof: Roof
    points: dict[str, list[Point]] = field(default_factory=dict)

    def records(self) -> list[dict[str, Any]]:
        """Return one JSON object per point, with its step, for pandas.DataFrame."""
        return [{"step": step, **p.as_record()} for step, points in self.points.items() for p in points]

    @classmethod
    def _from_object(cls, found: Mapping[str, Any]) -> Self:
        points = {step: [Point(**p) for p in rows] for step, rows in found["points"].items()}
        return cls(
            environment=dict(found["environment"]),
            model=str(found["model"]),
            roof=Roof(**found["roof"]),
            points=points,
        )


def measure_roofline(model: Model, name: str, prefill: Iterable[int] = (64, 256)) -> Roofline:
    """Measure the roof and the steps of a model: one of decode, and one of prefill for each length.

    Args:
        model: a model that runs on the planned executor.
        name: name of the model in the result.
        prefill: numbers of tokens of the prefill steps.

    Raises:
        KernelError: kernels can't be compiled or loaded here.
        LlmliteError: the model runs on another executor.
    """
    points = {"decode": roofline_points(model)}
    points |= {f"prefill {n}": roofline_points(model, n_tokens=n) for n in prefill}
    return Roofline(environment=environment.record(), model=name, roof=measure_roof(), points=points)
