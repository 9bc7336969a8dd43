"""Advice on the type of a model that fits this machine: memory, speed and quality, with the arithmetic shown.

To generate a token, the engine reads every weight once, matrix by matrix. That takes

    bytes of the weights read / bandwidth + matrices · overhead of a matrix

Bandwidth is measured over as many bytes as the weights have, because small models stay in the caches. It is
measured with the kernel that decodes weights of that type, because the kernel's arithmetic limits the speed
if memory is fast. The overhead is the rest of a matrix's time: its share of the small operations around it,
and the wait for other threads. It is measured with the bundled model, which stays in the caches. Quality
comes from the sweep of types on the bundled model; another model may lose more or less.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any, ClassVar, Self

from llmlite import gguf, resources
from llmlite.bench import environment
from llmlite.bench.saved import Saved
from llmlite.description.config import ModelConfig
from llmlite.errors import LlmliteError
from llmlite.quants import by_name

TYPES = ("F16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0", "Q3_K", "Q2_K")  # from the best to the smallest
PER_LAYER = 7  # matrices in a layer like Llama's
MEASURED_BYTES = 512 * 2**20  # read from memory to measure bandwidth; more bytes give the same result
SHARE = 0.8  # of the available memory; the rest is for other programs
PROCESS_BYTES = (
    60e6  # Python, kernels and activations: the memory of a process in addition to weights and cache
)
UNROUNDED = 16  # a file with at least this many bits per weight isn't quantized
CALIBRATION = ("tales:F16", "tales:Q8_0", "tales:Q4_0")  # their mean is the overhead of a matrix
ROUNDS, READS, STEPS = 15, 3, 8  # of a measurement; the median of the best round counts
N_CTX = 512  # positions while steps are timed
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([MB])", re.IGNORECASE)
UNITS = {"M": 1e6, "B": 1e9}
TOLERANCE = 0.25  # how far a prediction may be from a measurement


@dataclass(frozen=True, kw_only=True)
class ModelProperties:
    """The properties of a model that advice depends on.

    Attributes:
        name: name of the file, or the size as it was written.
        n_params: number of weights.
        n_read: number of weights read for one token. A token reads only one row of an embedding that isn't
            also the output matrix.
        n_matrices: number of matrices that hold these weights.
        n_layer: number of layers.
        n_kv: numbers in the cache for one position; 0 if unknown.
        note: the assumptions made.
        type: the type of most weights of a quantized file. Types with more bits regain no quality. None for a
            size, and for a file that isn't quantized.
    """

    name: str
    n_params: int
    n_read: int
    n_matrices: int
    n_layer: int
    n_kv: int
    note: str = ""
    type: str | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The measured limits of this machine.

    Attributes:
        available: bytes of memory that programs can still use; None if the system doesn't report it.
        overhead: seconds that a matrix takes in addition to reading its weights.
        bandwidth: function of a number of bytes and a type. It returns the bytes per second at which that
            many bytes of weights are read again and again.
    """

    available: int | None
    overhead: float
    bandwidth: Callable[[float, str], float]


@dataclass(frozen=True, kw_only=True)
class TypeAdvice:
    """One type of a model on this machine; `arithmetic` shows how the numbers were calculated.

    Attributes:
        type: quantization of the weights.
        bits: bits per weight.
        n_bytes: bytes of all weights.
        memory: bytes that the process needs with a full cache.
        fits: whether this much memory is available; None if unknown.
        tokens_per_second: predicted speed of decode.
        kl: divergence of the bundled model in this type from float32, in nats; None if it wasn't measured.
        arithmetic: lines that show the calculation.
    """

    type: str
    bits: float
    n_bytes: float
    memory: float
    fits: bool | None
    tokens_per_second: float
    kl: float | None
    arithmetic: tuple[str, ...]

    def as_record(self) -> dict[str, Any]:
        return {**asdict(self), "arithmetic": list(self.arithmetic)}


def describe(text: str) -> ModelProperties:
    """Return the properties of a model: a file, a name that `llmlite.load` takes, or a size such as "1.1B".

    Raises:
        LlmliteError: `text` is none of these.
    """
    size = SIZE.fullmatch(text.strip())
    if size and not Path(text).exists():
        return _of_size(text, round(float(size[1]) * UNITS[size[2].upper()]))
    try:
        path = resources.model_path(text)
    except LlmliteError as error:
        raise LlmliteError(f"{error}; write a size as 350M or 1.1B") from error
    return _of_file(Path(path))


def _of_size(text: str, n_params: int) -> ModelProperties:
    """Return the assumed properties of a model of which only the number of weights is known."""
    if n_params < 1:
        raise LlmliteError(f"{text}: expected a size above zero, such as 1.1B")
    n_layer = max(4, round(3.2 * (n_params / 1e6) ** 0.27))
    note = f"a size gives only the number of weights; about {n_layer} layers are assumed"
    return ModelProperties(
        name=text,
        n_params=n_params,
        n_read=n_params,
        n_matrices=PER_LAYER * n_layer + 1,
        n_layer=n_layer,
        n_kv=0,
        note=note,
    )


def _of_file(path: Path) -> ModelProperties:
    """Return the properties of the model in a file."""
    with gguf.read(path) as file:
        config = ModelConfig.from_metadata(file.metadata, file.tensors)
        n_params = sum(tensor.n_elements for tensor in file.tensors.values())
        unread = file.tensors["token_embd.weight"].n_elements if "output.weight" in file.tensors else 0
        n_matrices = sum(len(tensor.shape) > 1 for tensor in file.tensors.values()) - bool(unread)
        weights = [tensor for tensor in file.tensors.values() if len(tensor.shape) > 1]
        bits = 8 * sum(tensor.n_bytes for tensor in weights) / sum(tensor.n_elements for tensor in weights)
    notes, quantized = [], bits < UNROUNDED
    if quantized:
        notes.append(f"the file already has {bits:.3g} bits per weight; more bits can't restore quality")
    if config.n_expert > 0:
        notes.append("a token needs only some of the experts, so decode is faster than predicted")
    return ModelProperties(
        name=path.name,
        n_params=n_params,
        n_read=n_params - unread,
        n_matrices=n_matrices,
        n_layer=config.n_layer,
        n_kv=sum(each.k_width + each.v_width for each in config.attentions if each.shared is None),
        note="; ".join(notes),
        type=_main_type(path) if quantized else None,
    )


def measure_machine() -> Machine:
    """Measure bandwidth and overhead on this machine; this takes a few seconds.

    Raises:
        KernelError: kernels can't be compiled or loaded here.
    """
    from llmlite.engine.bandwidth import ReadBandwidth

    known: dict[tuple[int, str], float] = {}

    def bandwidth(n_bytes: float, type_name: str) -> float:
        n = _measured_bytes(n_bytes), type_name
        if n not in known:
            reader = ReadBandwidth(n_bytes=n[0], mapped=True, weights=by_name(type_name))
            known[n] = reader.n_bytes / _best([_seconds_of(reader.seconds, READS) for _ in range(ROUNDS)])
        return known[n]

    overhead = mean(_overhead(model, bandwidth) for model in CALIBRATION)
    return Machine(available=environment.available_memory(), overhead=overhead, bandwidth=bandwidth)


def _overhead(model: str, bandwidth: Callable[[float, str], float]) -> float:
    """Return the seconds that a matrix takes in addition to reading; the model must fit in the caches."""
    n_matrices, n_bytes = describe(model).n_matrices, _weight_bytes(resources.model_path(model))
    steps = _Steps(model)
    best = _best([_seconds_of(steps, STEPS) for _ in range(ROUNDS)])
    return max(best - n_bytes / bandwidth(n_bytes, model.partition(":")[2]), 0.0) / n_matrices


def _measured_bytes(n_bytes: float) -> int:
    return int(min(max(n_bytes, 2**20), MEASURED_BYTES))


def _seconds_of(work: Callable[[], float], n: int) -> list[float]:
    return [work() for _ in range(n)]


def _best(rounds: Iterable[Sequence[float]]) -> float:
    """Return the smallest median of the rounds, so that rounds disturbed by other programs don't count."""
    return min(median(each) for each in rounds)


class _Steps:
    """Steps of decode: each call generates a token and returns its seconds; the cache never gets full."""

    def __init__(self, model: str) -> None:
        from llmlite.model import load

        self.model = load(model)
        self.n_ctx = min(N_CTX, self.model.n_ctx)
        self.model.logits([0, 1, 2, 3], last_only=True)
        self()  # the first call makes the plan

    def __call__(self) -> float:
        cache = self.model.cache
        if cache.position >= self.n_ctx - 1:
            cache.truncate(4)
        begin = time.perf_counter()
        self.model.executor([1], cache, n_outputs=1)
        return time.perf_counter() - begin


def _main_type(path: Path | str) -> str:
    """Return the name of the type that most bytes of a file's weights belong to."""
    found: Counter[str] = Counter()
    with gguf.read(path) as file:
        for tensor in file.tensors.values():
            found[tensor.type.name] += tensor.n_bytes
    return found.most_common(1)[0][0]


def _weight_bytes(path: Path | str) -> int:
    with gguf.read(path) as file:
        return sum(tensor.n_bytes for tensor in file.tensors.values())


def advise(
    model: ModelProperties,
    machine: Machine,
    *,
    n_ctx: int = 2048,
    losses: Iterable[tuple[str, float]] = (),
    types: Sequence[str] | None = None,
) -> list[TypeAdvice]:
    """Return one TypeAdvice for each type, in the order of `types`.

    Args:
        model: the model to run.
        machine: the measured limits of the machine.
        n_ctx: positions in the cache.
        losses: pairs (type, KL divergence in nats) from the sweep of types.
        types: names of types; by default TYPES and the type of a quantized file, from the most bits to the
            fewest.
    """
    kl = dict(losses)
    if types is None:
        own = (model.type,) if model.type and model.type not in TYPES else ()
        types = sorted((*TYPES, *own), key=_bits, reverse=True)  # types with equal bits stay in order
    return [_choice(model, machine, name, n_ctx, kl.get(name)) for name in types]


def _bits(name: str) -> float:
    """Return the bits per weight of a type."""
    found = by_name(name)
    return 8 * found.type_size / found.block_size


def _choice(model: ModelProperties, machine: Machine, name: str, n_ctx: int, kl: float | None) -> TypeAdvice:
    bits = _bits(name)
    n_bytes, n_read = model.n_params * bits / 8, model.n_read * bits / 8
    cache = 2 * model.n_kv * n_ctx  # float16
    memory = n_bytes + cache + PROCESS_BYTES
    rate = machine.bandwidth(n_read, name)
    seconds = n_read / rate + model.n_matrices * machine.overhead
    arithmetic = (
        f"weights: {model.n_params:,} x {bits:g} bits / 8 = {_mb(n_bytes)}",
        f"cache: 2 bytes x {model.n_kv:,} numbers x {n_ctx} positions = {_mb(cache)}"
        if model.n_kv
        else "cache: unknown, because only a size was given",
        f"memory: weights + cache + {_mb(PROCESS_BYTES)} for the process = {_mb(memory)}",
        f"a token: {_mb(n_read)} read at {rate / 1e9:.1f} GB/s + {model.n_matrices} matrices x "
        f"{machine.overhead * 1e6:.1f} us = {seconds * 1e3:.2f} ms",
    )
    return TypeAdvice(
        type=name,
        bits=bits,
        n_bytes=n_bytes,
        memory=memory,
        fits=None if machine.available is None else memory <= SHARE * machine.available,
        tokens_per_second=1 / seconds,
        kl=kl,
        arithmetic=arithmetic,
    )


def best(choices: Sequence[TypeAdvice], speed: float, own: str | None = None) -> TypeAdvice | None:
    """Return the first choice that fits and generates at least `speed` tokens per second.

    If none is that fast, return the fastest that fits. If none fits, return None.

    Args:
        choices: the result of `advise`, the best quality first.
        speed: tokens per second.
        own: the type of a quantized file; types with more bits are never chosen.
    """
    most = _bits(own) if own else float("inf")
    fitting = [each for each in choices if each.fits is not False and each.bits <= most]
    fast = [each for each in fitting if each.tokens_per_second >= speed]
    if fast:
        return fast[0]
    return max(fitting, key=lambda each: each.tokens_per_second, default=None)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A predicted speed and the measured one.

    Attributes:
        model: the model's file or name.
        n_bytes: bytes of the weights that a token reads.
        n_matrices: number of matrices that hold them.
        bandwidth: bytes per second while that many bytes are read.
        overhead: seconds that a matrix takes in addition to reading its weights.
        measured: tokens per second.
    """

    model: str
    n_bytes: float
    n_matrices: int
    bandwidth: float
    overhead: float
    measured: float

    @property
    def predicted(self) -> float:
        """Predicted tokens per second; a token takes bytes / bandwidth + matrices * overhead seconds."""
        return 1 / (self.n_bytes / self.bandwidth + self.n_matrices * self.overhead)

    @property
    def error(self) -> float:
        """Relative error: +0.1 if the prediction was ten percent too fast."""
        return self.predicted / self.measured - 1

    @property
    def holds(self) -> bool:
        return abs(self.error) <= TOLERANCE


@dataclass(kw_only=True)
class Checks(Saved):
    """Predicted and measured speeds of one machine, with all figures that the predictions are based on."""

    KIND: ClassVar[str] = "advice"
    SAMPLE: ClassVar[str] = "samples/advice.json"

    checks: list[Checked] = field(default_factory=list)

    @classmethod
    def _from_object(cls, found: Mapping[str, Any]) -> Self:
        return cls(environment=dict(found["environment"]), checks=[Checked(**c) for c in found["checks"]])


def check_predictions(
    models: Iterable[str], machine: Machine, *, names: Mapping[str, str] | None = None
) -> list[Checked]:
    """Predict the speed of files and measure it; bandwidth and steps are measured in turns.

    Args:
        models: files, or names that `llmlite.load` takes.
        machine: the measured limits of this machine.
        names: names of models in the result; other models get their file's name.

    Raises:
        LlmliteError: a model doesn't exist.
    """
    from llmlite.engine.bandwidth import ReadBandwidth

    out = []
    for name in models:
        model, path = describe(name), resources.model_path(name)
        n_bytes = _weight_bytes(path) * model.n_read / model.n_params
        size, weights = _measured_bytes(n_bytes), by_name(_main_type(path))
        reader, steps = ReadBandwidth(n_bytes=size, mapped=True, weights=weights), _Steps(str(path))
        turns = [(_seconds_of(reader.seconds, READS), _seconds_of(steps, STEPS)) for _ in range(ROUNDS)]
        out.append(
            Checked(
                model=(names or {}).get(name, model.name),
                n_bytes=n_bytes,
                n_matrices=model.n_matrices,
                bandwidth=reader.n_bytes / _best([reads for reads, _ in turns]),
                overhead=machine.overhead,
                measured=1 / _best([written for _, written in turns]),
            )
        )
        del reader, steps  # the next one needs the memory
    return out


def _mb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"
