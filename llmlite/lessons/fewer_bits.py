"""One model at fewer and fewer bits: its weights in memory, its speed, and the tale it tells.

Every matrix is quantized to the same type in memory; the model's file isn't changed. Besides the live runs
there is a shipped sample, which `sample` returns. tools/samples.py measured it on one machine, with PyTorch.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

from llmlite import gguf, resources
from llmlite.bench.backends import BACKENDS
from llmlite.bench.environment import place
from llmlite.bench.samples import Comparison
from llmlite.bench.summary import summarize
from llmlite.lessons.flip import n_same
from llmlite.lessons.real import all_in
from llmlite.lessons.type_sweep import shipped
from llmlite.model import Model
from llmlite.quants import by_name

FILE = "samples/half_the_bits.json"
LADDER = ("F32", "F16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K")
PROMPT = "Once there was Munofix, a tailor. Munofix and Nerafin the miller lived by the sea. "
PROMPT += "It was a warm evening."
N_TOKENS = 48
REPEATS = 3
OTHERS = {"torch-f32": ("F32", 4), "torch-bf16": ("BF16", 2)}  # backend -> type and bytes of a weight


@dataclass(frozen=True, kw_only=True)
class Told:
    """A tale that the model wrote at one rung of the ladder, always with the likeliest token.

    Attributes:
        type: the type of all matrices.
        n_bytes: bytes of all tensors.
        ids: the token ids of the tale, without the prompt.
        text: the text of the tale, without the prompt.
        tokens_per_second: tokens of the tale per second of the fastest run. The time includes the prefill.
        n_same: how many tokens at the beginning are the same as those of the float32 model.
    """

    type: str
    n_bytes: int
    ids: tuple[int, ...]
    text: str
    tokens_per_second: float
    n_same: int

    @property
    def bits_per_weight(self) -> float:
        return by_name(self.type).bits_per_weight


@dataclass(frozen=True, kw_only=True)
class BackendFigures:
    """One row of the shipped sample: the figures of a backend with every matrix in one type.

    Attributes:
        backend: the title of the backend, such as "llmlite" or "PyTorch float32".
        type: the type of the matrices, as the backend stores them in memory.
        weight_bytes: bytes of the tensors, as the backend stores them in memory.
        private_bytes: private memory of the backend's process, in bytes.
        tokens_per_second: decode speed, the median over blocks.
        tale: the text of the tale; "" if the sample doesn't have it.
    """

    backend: str
    type: str
    weight_bytes: int
    private_bytes: int
    tokens_per_second: float
    tale: str = ""


@dataclass(frozen=True, kw_only=True)
class ShippedFigures:
    """The measurements that are shipped with llmlite.

    Attributes:
        machine: the machine on which they were taken, and the date.
        rows: the rows of llmlite, then those of other backends.
    """

    machine: str
    rows: tuple[BackendFigures, ...]

    def llmlite(self, type_name: str) -> BackendFigures:
        """Return llmlite's row for a type.

        Raises:
            KeyError: the sample has no such row.
        """
        for row in self.rows:
            if (row.backend, row.type) == ("llmlite", type_name):
                return row
        raise KeyError(type_name)

    @property
    def others(self) -> tuple[BackendFigures, ...]:
        return tuple(row for row in self.rows if row.backend != "llmlite")


@cache
def sample() -> ShippedFigures:
    """Return the shipped measurements.

    Raises:
        LlmliteError: the file is missing.
    """
    stored: dict[str, Any] = json.loads(resources.data_path(FILE).read_text(encoding="utf-8"))
    return ShippedFigures(
        machine=stored["machine"], rows=tuple(BackendFigures(**row) for row in stored["rows"])
    )


def measured(found: Comparison, ladder: TypeLadder) -> ShippedFigures:
    """Build the sample from a comparison of all rungs, and from the tale of each rung.

    Args:
        found: the comparison, which has measured every rung of LADDER and the backends of OTHERS.
        ladder: the model at every rung, for sizes and tales.

    Raises:
        KeyError: the comparison lacks a rung or a backend.
    """
    speeds = {(s.backend, s.model_type): s.value for s in summarize(found, "decode")}
    memory = {(s.backend, s.model_type): s.value for s in summarize(found, "private")}

    def row(entry: tuple[str, str], held: str, n_bytes: int, tale: str = "") -> BackendFigures:
        return BackendFigures(
            backend=BACKENDS[entry[0]].title,
            type=held,
            weight_bytes=n_bytes,
            private_bytes=int(memory[entry] * 1e6),
            tokens_per_second=round(speeds[entry]),
            tale=tale,
        )

    rows = []
    for name in LADDER:
        told = ladder.told(name)
        rows.append(row(("llmlite", name), name, told.n_bytes, told.text))
    n_weights = sum(tensor.n_elements for tensor in ladder.source.tensors.values())
    rows += [row((backend, "F16"), held, n_weights * size) for backend, (held, size) in OTHERS.items()]
    return ShippedFigures(machine=place(found.environment), rows=tuple(rows))


class TypeLadder:
    """The bundled model at every rung of LADDER; each rung is made when it is first needed.

    Attributes:
        source: the model's file.
        prompt: the text that every tale continues.
        n_tokens: the largest number of tokens in a tale.
    """

    def __init__(self, *, prompt: str = PROMPT, n_tokens: int = N_TOKENS) -> None:
        self.source = gguf.read(resources.model_path("tales"))
        self.prompt, self.n_tokens = prompt, n_tokens
        self._told: dict[str, Told] = {}

    def file(self, type_name: str) -> gguf.GGUFFile:
        """Return the model's file with every matrix in one type.

        Raises:
            UnsupportedError: llmlite can't quantize to this type.
        """
        return all_in(self.source, type_name)

    def told(self, type_name: str) -> Told:
        """Return the tale of one rung. It is written at the first call and kept."""
        if type_name not in self._told:
            self._told[type_name] = self._tell(type_name)
        return self._told[type_name]

    def _tell(self, type_name: str) -> Told:
        file = self.file(type_name)
        model = Model(file)
        prompt = model.tokenizer.encode(self.prompt)
        best, ids = float("inf"), []
        for _ in range(REPEATS):
            model.cache.truncate(0)  # or the prompt would be read only once
            begin = time.perf_counter()
            generation = model.stream(prompt, max_tokens=self.n_tokens, temperature=0)
            text = "".join(generation)
            best = min(best, time.perf_counter() - begin)
            ids = model.tokenizer.encode(text, add_special=False)
        exact = ids if type_name == LADDER[0] else self.told(LADDER[0]).ids
        return Told(
            type=type_name,
            n_bytes=sum(tensor.n_bytes for tensor in file.tensors.values()),
            ids=tuple(ids),
            text=text,
            tokens_per_second=len(ids) / best,
            n_same=n_same(exact, ids),
        )


def divergence(type_name: str) -> float:
    """Return a type's mean KL divergence from float32 in the shipped sweep, in nats.

    Raises:
        KeyError: the sweep has no such type.
    """
    return shipped().find(type_name).kl
