"""A finished comparison: its samples, and its display."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from llmlite import resources
from llmlite.bench.measurements import Measurement, Samples, interquartile_range, read_jsonl, write_jsonl
from llmlite.bench.report import html, tables

__all__ = ["Comparison", "Measurement", "Samples", "interquartile_range", "read_jsonl", "write_jsonl"]

SAMPLES = {"tales": "samples/comparison-two-cores.jsonl", "smollm2": "samples/comparison-smollm2.jsonl"}


@dataclass(kw_only=True, repr=False)
class Comparison(Samples):
    """The result of `compare`; `print(comparison)` shows tables, and a notebook shows them as HTML."""

    @classmethod
    def sample(cls, model: str = "tales") -> Self:
        """Return a comparison that is included in llmlite.

        Its `environment` describes the machine on which it was measured.

        Args:
            model: the model that was compared, "tales" or "smollm2".

        Raises:
            LlmliteError: the installation has no samples.
            ValueError: there is no sample of `model`.
        """
        if model not in SAMPLES:
            raise ValueError(f"there are shipped comparisons of {' and '.join(SAMPLES)}, not of {model!r}")
        return cls.load(resources.data_path(SAMPLES[model]))

    def __repr__(self) -> str:
        names = ", ".join(f"{backend} {model_type}" for backend, model_type in self.entries())
        return f"Comparison({names}; {len(self.measurements)} measurements; print it for its tables)"

    def __str__(self) -> str:
        return tables(self)

    def _repr_html_(self) -> str:
        return html(self)
