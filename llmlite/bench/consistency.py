"""Check that samples from one machine agree: the same backend, model and type must have the same figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from llmlite.bench.backends import BACKENDS
from llmlite.bench.samples import Comparison
from llmlite.bench.summary import summarize

TOLERANCE = 1.25  # largest ratio of two figures, the larger over the smaller
UNITS = {"decode": "tokens/s", "memory": "MB private"}


@dataclass(frozen=True, kw_only=True)
class SampleFigure:
    """A number that a sample shows.

    Attributes:
        file: the sample's name.
        backend: a name of BACKENDS.
        model: the model that was run.
        type: type of its file; "" for a backend that unpacks all types to the same one.
        what: a key of UNITS.
        value: the number, in that unit.
    """

    file: str
    backend: str
    model: str
    type: str
    what: str
    value: float

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.backend, self.model, self.type, self.what

    def __str__(self) -> str:
        return f"{self.file} has {self.value:.4g} {UNITS[self.what]}"


def sample_figure(
    file: str, backend: str, model: str, type_name: str, what: str, value: float
) -> SampleFigure:
    """Return a SampleFigure; its type is "" if the backend unpacks all types to the same one."""
    kept = type_name if BACKENDS[backend].keeps_quantized else ""
    return SampleFigure(file=file, backend=backend, model=model, type=kept, what=what, value=value)


def of_comparison(file: str, model: str, found: Comparison) -> list[SampleFigure]:
    """Return the figures of a comparison: the speed of decode at the smallest depth, and memory."""
    return [
        sample_figure(file, s.backend, model, s.model_type, what, s.value)
        for what, metric in (("decode", "decode"), ("memory", "private"))
        for s in summarize(found, metric)
    ]


def disagreements(figures: Iterable[SampleFigure], tolerance: float = TOLERANCE) -> list[str]:
    """Return a sentence naming both files for each pair of figures that should be equal but aren't.

    Args:
        figures: the figures of all samples.
        tolerance: largest ratio of two figures that count as equal.
    """
    by_key: dict[tuple[str, str, str, str], list[SampleFigure]] = {}
    for each in figures:
        by_key.setdefault(each.key, []).append(each)
    said = []
    for (backend, model, type_name, _), same in by_key.items():
        for a, b in combinations(same, 2):
            low, high = sorted((a.value, b.value))
            if low <= 0 or high / low > tolerance:
                name = " ".join(part for part in (BACKENDS[backend].title, type_name, "on", model) if part)
                said.append(f"{name}: {a}, {b}")
    return said
