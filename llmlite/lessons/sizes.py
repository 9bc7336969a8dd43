"""The time of one token for models of several sizes: where overhead ends and the memory wall begins.

`tools/samples.py` measures the shipped figures on one machine, for the models in its list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from llmlite import resources
from llmlite.bench.backends import BACKENDS
from llmlite.bench.environment import place
from llmlite.bench.samples import Comparison
from llmlite.bench.summary import summarize

FILE = "samples/sizes.json"
BACKEND_NAMES = ("llmlite", "torch-f32")
TYPE_NAMES = ("Q8_0", "Q4_0")
UNPACKED = 4  # bytes of a weight in PyTorch's float32


@dataclass(frozen=True, kw_only=True)
class Row:
    """The figures of one backend with one model.

    Attributes:
        model: the name of the model.
        n_weights: number of the model's weights.
        backend: the name of the backend, a key of BACKENDS.
        type: the type of the model's file.
        step_bytes: bytes of the weights that one token needs, as the backend stores them in memory.
        seconds: time of one token in decode, the median over blocks.
        low: the lower quartile of that time.
        high: the upper quartile of that time.
        private_bytes: private memory of the backend's process, in bytes.
    """

    model: str
    n_weights: int
    backend: str
    type: str
    step_bytes: int
    seconds: float
    low: float
    high: float
    private_bytes: int

    @property
    def title(self) -> str:
        """The backend with the type of its weights in memory: "llmlite Q4_0", "PyTorch float32"."""
        return f"llmlite {self.type}" if self.backend == "llmlite" else BACKENDS[self.backend].title


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The figures for models of several sizes.

    Attributes:
        machine: the machine on which they were measured, and the date.
        quiet: whether nothing else ran on the machine. If not, the figures are provisional.
        bytes_per_second: the bandwidth of the machine's memory.
        rows: the rows, the smallest model first.
    """

    machine: str
    quiet: bool
    bytes_per_second: float
    rows: tuple[Row, ...]

    def find(self, model: str, title: str) -> Row:
        """Return the row of a model and a backend's title.

        Raises:
            KeyError: there is no such row.
        """
        for row in self.rows:
            if (row.model, row.title) == (model, title):
                return row
        raise KeyError(f"{model}, {title}")

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(row.model for row in self.rows))


@cache
def shipped() -> Sizes:
    """Return the figures that are shipped with llmlite.

    Raises:
        LlmliteError: the file is missing.
    """
    stored: dict[str, Any] = json.loads(resources.data_path(FILE).read_text(encoding="utf-8"))
    return Sizes(**stored | {"rows": tuple(Row(**row) for row in stored["rows"])})


def rows(found: Comparison, model: str) -> list[Row]:
    """Return rows for the backends of BACKEND_NAMES in a comparison, to show beside the shipped ones.

    Args:
        found: a comparison for one model.
        model: the name of the model.
    """
    files: Mapping[str, Any] = {each["model_type"]: each for each in found.models}
    private = {(s.backend, s.model_type): s.value for s in summarize(found, "private")}
    made = []
    for s in summarize(found, "decode"):
        if s.backend not in BACKEND_NAMES:
            continue
        n_weights = int(files[s.model_type]["model_n_params"])
        held = int(files[s.model_type]["model_size"]) if s.backend == "llmlite" else UNPACKED * n_weights
        made.append(
            Row(
                model=model, n_weights=n_weights, backend=s.backend, type=s.model_type, step_bytes=held,
                seconds=1 / s.value, low=1 / s.high, high=1 / s.low,
                private_bytes=int(private.get((s.backend, s.model_type), 0.0) * 1e6),
            )
        )  # fmt: skip
    return made


def measured(found: Mapping[str, Comparison], bytes_per_second: float, *, quiet: bool) -> Sizes:
    """Build the figures from one comparison for each model.

    Args:
        found: model name -> comparison, the smallest model first.
        bytes_per_second: the bandwidth of the machine's memory.
        quiet: whether nothing else ran on the machine.
    """
    kept = [
        row
        for model, comparison in found.items()
        for row in rows(comparison, model)
        if row.backend != "llmlite" or row.type in TYPE_NAMES
    ]
    last = [*found.values()][-1]
    return Sizes(
        machine=place(last.environment), quiet=quiet, bytes_per_second=bytes_per_second, rows=tuple(kept)
    )


def above_the_wall(sweep: Sizes) -> list[tuple[str, float, float, float, float]]:
    """Compare each row's time with the time that memory alone needs for the row's weights.

    Returns:
        For each row: its name, the megabytes of its weights, its milliseconds, the milliseconds that memory
        alone needs, and the ratio of the two times.
    """
    made = []
    for row in sweep.rows:
        wall = row.step_bytes / sweep.bytes_per_second
        made.append(
            (
                f"{row.model}, {row.title}",
                row.step_bytes / 1e6,
                1e3 * row.seconds,
                1e3 * wall,
                row.seconds / wall,
            )
        )
    return made


def titles(found: Iterable[Row]) -> list[str]:
    """Return the titles of rows in order, each once."""
    return list(dict.fromkeys(row.title for row in found))
