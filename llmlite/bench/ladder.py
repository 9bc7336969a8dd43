"""From NumPy to the memory wall: one product four ways, and every operation of a model's plan on a roofline.

    ladder = measure(("Q4_0",), shape=(4096, 2048))      # the same product by NumPy, loops, vectors, threads
    machine = measure_machine()                          # what memory and arithmetic give at most
    roofline = profile(model, n_tokens=1)                # where each operation of a step stands below that

Times are kept as raw samples; every rung's answer is compared with float64 before it is timed.

Source: Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model".
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from llmlite.engine.alone import MatVec, peak, quantize_activations
from llmlite.engine.bandwidth import ReadBandwidth
from llmlite.engine.cpu import usable_threads
from llmlite.engine.eager import Eager
from llmlite.engine.families import FAMILIES
from llmlite.engine.plan import Plan
from llmlite.engine.planned import PlannedExecutor
from llmlite.engine.recorder import N_TOKENS, Op
from llmlite.errors import UnsupportedError
from llmlite.model import Model
from llmlite.quants import by_name
from llmlite.tensor import QuantTensor

RUNGS = ("NumPy", "compiled loops", "vectors", "vectors and threads")
SAME = 1e-5  # how far a rung may be from float64, relative to the largest result
CACHE_BYTES, CACHE_PASSES = 4 << 20, 16  # a model the size of `tales` stays in the caches
# Operations per number written, where there are no weights; a mere copy counts as one, to have a place.
PER_NUMBER = {"rms_norm": 4, "add": 1, "add_bias": 1, "silu_mul": 5, "rope": 3, "quantize": 3}


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One way to compute a matrix times a vector, timed.

    Attributes:
        name: one of RUNGS. type: of the weights. n_rows, n_columns: of the matrix.
        n_bytes: of its weights. n_operations: multiplications and additions.
        difference: the farthest result from float64's, relative to the largest.
        seconds: of each run.
    """

    name: str
    type: str
    n_rows: int
    n_columns: int
    n_threads: int
    n_bytes: int
    difference: float
    seconds: tuple[float, ...]

    @property
    def n_operations(self) -> int:
        """A multiplication and an addition per weight."""
        return 2 * self.n_rows * self.n_columns

    @property
    def bytes_per_second(self) -> float:
        """Weights read per second, in the median run."""
        return self.n_bytes / median(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a machine gives at most.

    Attributes:
        words: which machine, in general words. n_threads: that took part.
        memory, cache: bytes per second read from memory, and from 4 MB that stay in the caches.
        int8, f32: operations per second of the kernels' arithmetic, without memory.
    """

    words: str
    n_threads: int
    memory: float
    cache: float
    int8: float
    f32: float

    def arithmetic(self, type_name: str) -> float:
        """Operations per second at most for weights of a type: quantized ones are multiplied as bytes."""
        return self.int8 if is_integer(type_name) else self.f32


@dataclass(frozen=True, kw_only=True)
class Point:
    """One operation of a plan, timed in its place.

    Attributes:
        kind: "ffn_up", "attention", "rms_norm", … label: weight or result. type: of the weights, or "".
        seconds: median. n_bytes: weights, activations, keys and values read and written.
        n_operations: multiplications and additions.
    """

    kind: str
    label: str
    type: str
    seconds: float
    n_bytes: int
    n_operations: int

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.n_operations / self.n_bytes

    @property
    def speed(self) -> float:
        """Operations per second."""
        return self.n_operations / self.seconds

    def roof(self, machine: Machine) -> float:
        """Operations per second at most, where weights come from memory."""
        return min(machine.arithmetic(self.type), self.intensity * machine.memory)

    def bound(self, machine: Machine) -> str:
        """What limits it: "memory", "arithmetic", or "overhead" where both would allow five times more."""
        reached = self.speed / min(machine.arithmetic(self.type), self.intensity * machine.cache)
        if reached < 0.2 and self.speed < self.roof(machine):
            return "overhead"
        return "memory" if self.intensity * machine.memory < machine.arithmetic(self.type) else "arithmetic"


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Every operation of one step of a model.

    Attributes:
        model: its name. type: of most of its weights. n_tokens: of the step: 1 when decoding.
    """

    machine: Machine
    model: str
    type: str
    n_tokens: int
    points: tuple[Point, ...]

    @property
    def step(self) -> str:
        return "decode" if self.n_tokens == 1 else "prefill"

    @property
    def seconds(self) -> float:
        """Of all operations together."""
        return sum(point.seconds for point in self.points)


def is_integer(type_name: str) -> bool:
    """Return whether kernels multiply this type's weights as bytes."""
    family = FAMILIES.get(by_name(type_name).id) if type_name else None
    return bool(family and family.sub)


# --- the ladder -------------------------------------------------------------------------------


def example(
    type_name: str, shape: tuple[int, int] = (4096, 2048), seed: int = 0
) -> tuple[QuantTensor, np.ndarray]:
    """Return a random quantized matrix and a vector, rounded as activations are: every rung gets the same.

    Returns:
        The matrix; float32 (columns,).
    """
    random_numbers = np.random.default_rng(seed)
    few = random_numbers.standard_normal((min(shape[0], 512), shape[1]), dtype=np.float32)
    blocks = QuantTensor.quantize(few, type_name).blocks
    repeated = np.tile(blocks, (-(-shape[0] // len(few)), 1))[: len(blocks) * shape[0] // len(few)]
    w = QuantTensor("example", by_name(type_name), shape, repeated)
    q, scales, _ = quantize_activations(random_numbers.standard_normal(shape[1], dtype=np.float32))
    return w, (q.reshape(-1, 32) * scales[:, None]).reshape(-1)


def product(rung: str, w: QuantTensor, x: np.ndarray) -> Callable[[], np.ndarray]:
    """Return the function of a rung: it computes W · x, float32 (rows,).

    Raises:
        ValueError: no such rung. UnsupportedError: a type that the rung has no kernel for.
    """
    if rung not in RUNGS:
        raise ValueError(f"no rung {rung!r}; there are: {', '.join(RUNGS)}")
    if rung == "NumPy":
        return lambda: Eager(0, 0).matmul(w, x[None])[0]
    n_threads = usable_threads() if rung == "vectors and threads" else 1
    return MatVec(w, x, loops=rung == "compiled loops", n_threads=n_threads)


def measure(
    types: Sequence[str] = ("Q4_0", "Q8_0"),
    *,
    shape: tuple[int, int] = (4096, 2048),
    rungs: Sequence[str] = RUNGS,
    rounds: int = 7,
    seed: int = 0,
) -> list[Rung]:
    """Compare every rung's answer with float64, then time all of them in turns, in random order.

    Raises:
        AssertionError: a rung gives another answer. ValueError, UnsupportedError: as `product`.
    """
    shuffled = random.Random(seed)
    found = []
    for type_name in types:
        w, x = example(type_name, shape, seed)
        functions = {rung: product(rung, w, x) for rung in rungs}
        differences = {rung: difference(function(), w, x) for rung, function in functions.items()}
        for rung, far in differences.items():
            assert far < SAME, f"{rung}, {type_name}: {far:.1e} from float64; it isn't timed"
        seconds: dict[str, list[float]] = {rung: [] for rung in rungs}
        for _ in range(rounds):
            for rung in shuffled.sample(list(rungs), len(rungs)):
                begin = perf_counter()
                functions[rung]()
                seconds[rung].append(perf_counter() - begin)
        found += [
            Rung(
                name=rung,
                type=type_name,
                n_rows=shape[0],
                n_columns=shape[1],
                n_threads=usable_threads() if rung == RUNGS[-1] else 1,
                n_bytes=w.n_bytes,
                difference=differences[rung],
                seconds=tuple(seconds[rung]),
            )
            for rung in rungs
        ]
    return found


def difference(got: np.ndarray, w: QuantTensor, x: np.ndarray) -> float:
    """Return how far a product is from float64's at most, relative to the largest result."""
    exact = np.concatenate(
        [
            w.dequantize(slice(start, start + 1024)).astype(np.float64) @ x
            for start in range(0, w.shape[0], 1024)
        ]
    )
    return float(np.abs(got - exact).max() / np.abs(exact).max())


# --- the roofline -----------------------------------------------------------------------------


def measure_machine(words: str = "this machine", *, n_threads: int | None = None, repeat: int = 9) -> Machine:
    """Measure what memory, caches and arithmetic give at most; takes about a second."""
    n_threads = n_threads or usable_threads()
    cached = ReadBandwidth(n_threads, CACHE_BYTES, passes=CACHE_PASSES)
    return Machine(
        words=words,
        n_threads=n_threads,
        memory=ReadBandwidth(n_threads).measure(repeat),
        cache=cached.measure(repeat),
        int8=peak("int8", n_threads),
        f32=peak("f32", n_threads),
    )


def profile(
    model: Model,
    *,
    n_tokens: int = 1,
    depth: int = 0,
    repeat: int = 9,
    machine: Machine | None = None,
    name: str = "",
) -> Roofline:
    """Time every operation of a step of a model's plan, and count its bytes and operations.

    Args:
        n_tokens: 1 for decoding, more for reading a prompt. depth: tokens the cache holds before.
        machine: measured before; by default measured now. name: for the figure.

    Raises:
        UnsupportedError: the model has no planned executor.
    """
    executor = model.executor
    if not isinstance(executor, PlannedExecutor):
        raise UnsupportedError(f"{executor!r} has no plan to look at; load the model with executor='planned'")
    rows = executor.profile(n_tokens=n_tokens, depth=depth, repeat=repeat)
    plan: Plan = executor.plan(n_tokens, 1, np.float16)
    points = []
    for op, row in zip(plan.ops, rows, strict=True):
        n_bytes, n_operations = _cost(op, n_tokens, depth, model)
        points.append(
            Point(
                kind=_kind(op),
                label=row["label"] or op.name,
                type=op.type if op.work else "",
                seconds=max(row["nanoseconds"], 1) * 1e-9,
                n_bytes=n_bytes,
                n_operations=n_operations,
            )
        )
    types = [op.type for op in plan.ops if op.work]
    return Roofline(
        machine=machine or measure_machine(),
        model=name or os.path.basename(model.gguf.path),
        type=max(set(types), key=types.count),
        n_tokens=n_tokens,
        points=tuple(points),
    )


def _cost(op: Op, n_tokens: int, depth: int, model: Model) -> tuple[int, int]:
    """Return the bytes that an operation reads and writes, and its multiplications and additions."""
    n = n_tokens if op.writes[0].rows == N_TOKENS else 1
    moved = [b for b in (*op.reads, *op.writes) if b.width and b.name not in ("cache", "scratch")]
    n_bytes = op.bytes_read + sum(
        b.width * b.itemsize * (n_tokens if b.rows == N_TOKENS else 1) for b in moved
    )
    if op.work:
        return n_bytes, op.work * n
    kind, written = _kind(op), sum(b.width for b in op.writes if b in moved) * n
    if kind == "attention":
        config = model.config
        pairs = sum(depth + t + 1 for t in range(n_tokens))  # each token looks at itself and all before
        n_bytes += 2 * 2 * config.n_embd_kv * (depth + n_tokens)  # float16 keys and values
        return n_bytes, 4 * config.n_embd_q * pairs
    written = written or sum(b.width for b in moved) * n  # what goes into the cache
    return max(n_bytes, 1), max(PER_NUMBER.get(kind, 1) * written, 1)


def _kind(op: Op) -> str:
    if op.work:
        part = op.label.split(".")[-2]
        return "output" if part == "token_embd" else part
    known = ("embed", "attention", "store")
    return next((kind for kind in known if op.name.startswith(kind)), op.name)


def least_seconds(n_bytes: float, machine: Machine) -> float:
    """Return the shortest time in which a step can read its weights from memory."""
    return n_bytes / machine.memory


# --- files ------------------------------------------------------------------------------------


def save(path: str | os.PathLike[str], machine: Machine, rungs: Iterable[Rung]) -> Path:
    """Write a ladder and the machine it was climbed on as JSON."""
    data = {"machine": asdict(machine), "rungs": [asdict(rung) for rung in rungs]}
    return _write(path, data)


def load(path: str | os.PathLike[str]) -> tuple[Machine, list[Rung]]:
    """Read what `save` wrote.

    Raises:
        OSError: the file can't be read. ValueError: it isn't a ladder.
    """
    data = _read(path, "rungs")
    rungs = [Rung(**{**rung, "seconds": tuple(rung["seconds"])}) for rung in data["rungs"]]
    return Machine(**data["machine"]), rungs


def save_rooflines(path: str | os.PathLike[str], rooflines: Sequence[Roofline]) -> Path:
    """Write rooflines of one machine as JSON, points as rows to keep it small."""
    data = {
        "machine": asdict(rooflines[0].machine),
        "columns": list(Point.__dataclass_fields__),
        "rooflines": [
            {
                "model": r.model,
                "type": r.type,
                "n_tokens": r.n_tokens,
                "points": [list(asdict(p).values()) for p in r.points],
            }
            for r in rooflines
        ],
    }
    return _write(path, data)


def load_rooflines(path: str | os.PathLike[str]) -> list[Roofline]:
    """Read what `save_rooflines` wrote.

    Raises:
        OSError: the file can't be read. ValueError: it holds no rooflines.
    """
    data = _read(path, "rooflines")
    machine, columns = Machine(**data["machine"]), data["columns"]
    return [
        Roofline(
            machine=machine,
            points=tuple(Point(**dict(zip(columns, row, strict=True))) for row in r["points"]),
            **{key: r[key] for key in ("model", "type", "n_tokens")},
        )
        for r in data["rooflines"]
    ]


def _write(path: str | os.PathLike[str], data: dict[str, Any]) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, allow_nan=False).replace("], [", "],\n[") + "\n", encoding="utf-8")
    return path


def _read(path: str | os.PathLike[str], key: str) -> dict[str, Any]:
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(data, dict) or key not in data or "machine" not in data:
        raise ValueError(f"{path}: expected a JSON object with 'machine' and '{key}'")
    return data
