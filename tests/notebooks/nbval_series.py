"""Teach nbval to compare plotted data: `pytest -p tests.notebooks.nbval_series --nbval ...`.

nbval compares text exactly and pictures not at all. Where an output carries its data as
application/vnd.llmlite.series+json (llmlite.plots.bundle), only that is compared: labels exactly, numbers
within the `rtol` that the reference states. The picture, its HTML and its words follow from the data.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest

MIME = "application/vnd.llmlite.series+json"
WIDGET = "application/vnd.jupyter.widget-view+json"


def split(outputs: Iterable[Any]) -> tuple[list[Any], list[Mapping[str, Any]]]:
    """Return the outputs without widgets and without the pictures that carry data, and the data.

    Stored copies hold no widgets (tools/lessons.py): their static views are compared instead.
    """
    plain, series = [], []
    for output in outputs:
        data = output.get("data") or {}
        if WIDGET in data:
            continue
        if MIME in data:
            series.append(data[MIME])
        else:
            plain.append(output)
    return plain, series


def difference(reference: Mapping[str, Any], got: Mapping[str, Any]) -> str:
    """Return what is wrong with a figure's data, or "" where it is the same within the reference's rtol."""
    if dict(got["labels"]) != dict(reference["labels"]):
        return f"labels: expected {dict(reference['labels'])}, got {dict(got['labels'])}"
    if sorted(got["y"]) != sorted(reference["y"]):  # a notebook file keeps keys sorted
        return f"series: expected {sorted(reference['y'])}, got {sorted(got['y'])}"
    rtol = reference.get("rtol", 1e-5)
    columns = {"x": (reference["x"], got["x"])} | {
        k: (reference["y"][k], got["y"][k]) for k in reference["y"]
    }
    for name, (expected, found) in columns.items():
        try:
            if any(isinstance(value, str) for value in expected):
                assert list(expected) == list(found), f"expected {list(expected)}, got {list(found)}"
            else:
                np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-12)
        except AssertionError as error:
            return f"{name}: {error}"
    return ""


def compare(original: Any, self: Any, test: Any, ref: Any, skip_compare: Any = None) -> bool:
    """Stand in for IPyNbCell.compare_outputs: figures by their data, the rest as nbval does."""
    test, found = split(test)
    ref, expected = split(ref)
    problems = [difference(r, t) for r, t in zip(expected, found)]
    if len(found) != len(expected):
        problems.insert(0, f"figures: expected {len(expected)}, got {len(found)}")
    problems = [problem for problem in problems if problem]
    if problems:
        self.comparison_traceback = problems
        return False
    return original(self, test, ref, skip_compare)


def pytest_configure(config: pytest.Config) -> None:
    """Wrap nbval's comparison, once."""
    from nbval.plugin import IPyNbCell

    if getattr(IPyNbCell.compare_outputs, "knows_series", False):
        return
    original = IPyNbCell.compare_outputs

    @functools.wraps(original)
    def compare_outputs(self: Any, test: Any, ref: Any, skip_compare: Any = None) -> bool:
        return compare(original, self, test, ref, skip_compare)

    compare_outputs.knows_series = True  # type: ignore[attr-defined]
    IPyNbCell.compare_outputs = compare_outputs
