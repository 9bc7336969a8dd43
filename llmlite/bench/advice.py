"""Which type of a model fits this machine: memory, speed and quality, with the arithmetic shown.

A token is written by reading every weight once, so it takes at least

    bytes of the weights read / bandwidth of memory + layers · overhead of a layer

Bandwidth is measured over as many bytes as the weights have, because small models stay in caches. Overhead
is measured with the bundled model: what its tokens take beyond reading. Quality comes from the sweep of types
on the bundled model; another model may lose more or less by the same type.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from llmlite import gguf, resources
from llmlite.bench import environment
from llmlite.description.config import ModelConfig
from llmlite.errors import LlmliteError
from llmlite.quants import by_name

TYPES = ("F16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0", "Q3_K", "Q2_K")  # from the best to the smallest
MEASURED_BYTES = 512 * 2**20  # of memory read to measure bandwidth; more gives the same
SHARE = 0.8  # of the memory available; the rest is for other programs
PROCESS_BYTES = 60e6  # Python, kernels and activations: what a process takes beside weights and cache
CALIBRATION = "tales:Q8_0"  # gives the overhead of a layer
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([MB])", re.IGNORECASE)
UNITS = {"M": 1e6, "B": 1e9}
TOLERANCE = 0.25  # how far a prediction may be from a measurement


@dataclass(frozen=True, kw_only=True)
class Model:
    """What advice depends on.

    Args:
        name: of the file or the size. n_params: weights. n_read: weights read for one token (of an embedding
            that isn't the output matrix too, a token reads one row only). n_layer: layers.
        n_kv: numbers in the cache for one position; 0 if unknown.
        note: what was assumed.
    """

    name: str
    n_params: int
    n_read: int
    n_layer: int
    n_kv: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was measured here.

    Args:
        available: bytes of memory that programs can still have; None if the system doesn't tell.
        layer_seconds: of a layer of one token, beyond reading its weights.
        bandwidth: bytes per second, for so many bytes read again and again.
    """

    available: int | None
    layer_seconds: float
    bandwidth: Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One type of a model on this machine; `arithmetic` shows how the numbers came about.

    Args:
        type: of the weights. bits: per weight. n_bytes: of all weights. memory: of the process with a full
            cache, bytes. fits: whether this much is available; None if unknown.
        tokens_per_second: predicted, writing.
        kl: divergence from float32 of the bundled model in this type, nats; None if it wasn't measured.
        arithmetic: lines.
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


def describe(text: str) -> Model:
    """Return what is known of a model: a file, a name that `llmlite.load` takes, or a size such as "1.1B".

    Raises:
        LlmliteError: it is neither.
    """
    size = SIZE.fullmatch(text.strip())
    if size and not Path(text).exists():
        n_params = round(float(size[1]) * UNITS[size[2].upper()])
        if n_params < 1:
            raise LlmliteError(f"{text}: expected a size above zero, such as 1.1B")
        n_layer = max(4, round(3.2 * (n_params / 1e6) ** 0.27))
        note = f"of a size only the number of weights is known; about {n_layer} layers are assumed"
        return Model(name=text, n_params=n_params, n_read=n_params, n_layer=n_layer, n_kv=0, note=note)
    path = resources.model_path(text)
    with gguf.read(path) as file:
        config = ModelConfig.from_metadata(file.metadata, file.tensors)
        n_params = sum(tensor.n_elements for tensor in file.tensors.values())
        unread = file.tensors["token_embd.weight"].n_elements if "output.weight" in file.tensors else 0
    experts = config.n_expert > 0
    return Model(
        name=Path(path).name,
        n_params=n_params,
        n_read=n_params - unread,
        n_layer=config.n_layer,
        n_kv=2 * config.n_layer * config.n_embd_kv,
        note="a mixture reads only some experts for a token: it is faster than predicted" if experts else "",
    )


def measure_machine() -> Machine:
    """Measure bandwidth and overhead here: some seconds.

    Raises:
        KernelError: kernels can't be compiled or loaded here.
    """
    from llmlite.engine.bandwidth import ReadBandwidth

    known: dict[int, float] = {}

    def bandwidth(n_bytes: float) -> float:
        n = int(min(max(n_bytes, 2**20), MEASURED_BYTES))
        if n not in known:
            known[n] = ReadBandwidth(n_bytes=n).measure(9)
        return known[n]

    calibration = describe(CALIBRATION)
    n_bytes = _weight_bytes(resources.model_path(CALIBRATION))
    seconds = measured_seconds(CALIBRATION)
    beyond = max(seconds - n_bytes / bandwidth(n_bytes), 0.0) / calibration.n_layer
    return Machine(available=environment.available_memory(), layer_seconds=beyond, bandwidth=bandwidth)


def measured_seconds(model: str, n_gen: int = 32, rounds: int = 5) -> float:
    """Return the seconds of one written token: the shortest round's median."""
    from llmlite.model import load

    opened = load(model, n_ctx=n_gen * (rounds + 1) + 8)
    opened.logits([0, 1, 2, 3], last_only=True)
    best = float("inf")
    for _ in range(rounds + 1):  # the first warms up, and can't be the shortest by much
        steps = []
        for _ in range(n_gen):
            begin = time.perf_counter()
            opened.executor([1], opened.cache, n_outputs=1)
            steps.append(time.perf_counter() - begin)
        best = min(best, median(steps))
    return best


def _weight_bytes(path: Path | str) -> int:
    with gguf.read(path) as file:
        return sum(tensor.n_bytes for tensor in file.tensors.values())


def advise(
    model: Model,
    machine: Machine,
    *,
    n_ctx: int = 2048,
    losses: Iterable[tuple[str, float]] = (),
    types: Sequence[str] = TYPES,
) -> list[Choice]:
    """Return one Choice for each type, the best quality first.

    Args:
        n_ctx: positions in the cache. losses: (type, KL divergence), as the sweep of types measured them.
    """
    kl = dict(losses)
    return [_choice(model, machine, name, n_ctx, kl.get(name)) for name in types]


def _choice(model: Model, machine: Machine, name: str, n_ctx: int, kl: float | None) -> Choice:
    found = by_name(name)
    bits = 8 * found.type_size / found.block_size
    n_bytes, n_read = model.n_params * bits / 8, model.n_read * bits / 8
    cache = 2 * model.n_kv * n_ctx  # float16
    memory = n_bytes + cache + PROCESS_BYTES
    rate = machine.bandwidth(n_read)
    seconds = n_read / rate + model.n_layer * machine.layer_seconds
    arithmetic = (
        f"weights: {model.n_params:,} x {bits:g} bits / 8 = {_mb(n_bytes)}",
        f"cache: 2 bytes x {model.n_kv:,} numbers x {n_ctx} positions = {_mb(cache)}"
        if model.n_kv
        else "cache: unknown for a size",
        f"memory: weights + cache + {_mb(PROCESS_BYTES)} for the process = {_mb(memory)}",
        f"a token: {_mb(n_read)} read at {rate / 1e9:.1f} GB/s + {model.n_layer} layers x "
        f"{machine.layer_seconds * 1e6:.1f} us = {seconds * 1e3:.2f} ms",
    )
    return Choice(
        type=name,
        bits=bits,
        n_bytes=n_bytes,
        memory=memory,
        fits=None if machine.available is None else memory <= SHARE * machine.available,
        tokens_per_second=1 / seconds,
        kl=kl,
        arithmetic=arithmetic,
    )


def best(choices: Sequence[Choice], speed: float) -> Choice | None:
    """Return the best quality that fits and writes at least `speed` tokens per second.

    If none is so fast, the fastest that fits; None if none fits.
    """
    fitting = [each for each in choices if each.fits is not False]
    fast = [each for each in fitting if each.tokens_per_second >= speed]
    if fast:
        return fast[0]
    return max(fitting, key=lambda each: each.tokens_per_second, default=None)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A prediction beside its measurement.

    Args:
        model: its file. n_bytes: of the weights that a token reads. bandwidth: bytes per second over so many.
        n_layer: layers. layer_seconds: of one, beyond reading. measured: tokens per second.
    """

    model: str
    n_bytes: float
    bandwidth: float
    n_layer: int
    layer_seconds: float
    measured: float

    @property
    def predicted(self) -> float:
        """Tokens per second: bytes / bandwidth + layers * overhead, as seconds of a token."""
        return 1 / (self.n_bytes / self.bandwidth + self.n_layer * self.layer_seconds)

    @property
    def error(self) -> float:
        """Relative: +0.1 if it was predicted ten percent too fast."""
        return self.predicted / self.measured - 1

    @property
    def holds(self) -> bool:
        return abs(self.error) <= TOLERANCE


def check(models: Iterable[str], machine: Machine) -> list[Checked]:
    """Predict the speed of files as they are, and measure it."""
    out = []
    for name in models:
        model = describe(name)
        path = resources.model_path(name)
        share = model.n_read / model.n_params
        n_bytes = _weight_bytes(path) * share
        out.append(
            Checked(
                model=model.name,
                n_bytes=n_bytes,
                bandwidth=machine.bandwidth(n_bytes),
                n_layer=model.n_layer,
                layer_seconds=machine.layer_seconds,
                measured=1 / measured_seconds(str(path)),
            )
        )
    return out


def _mb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"
