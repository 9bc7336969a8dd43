"""Let nbval compare a notebook's results: `pytest -p llmlite.nbval --nbval FOLDER`.

nbval compares text exactly and pictures not at all. With this plugin:

- An output with data as application/vnd.llmlite.series+json (`llmlite.plots.series(figure)`, and all figures
  of llmlite) is compared by this data: labels exactly, numbers within the `rtol` of the reference. The
  picture, its HTML and its description follow from the data.
- In a cell with the tag "rtol=1e-6", numbers with a fraction or an exponent that are printed may differ by
  this much. All other text, and every integer, must be the same.
- Progress on standard error (tqdm's bars) is ignored. Anything else there is compared.

docs/notebook-tests.md shows a notebook that uses all three.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest

MIME = "application/vnd.llmlite.series+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
TAG = re.compile(r"rtol=(.+)")
# A decimal number with a fraction or an exponent; "nan" and "inf" as NumPy prints them.
NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:\d+\.\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|\d+e[-+]?\d+|nan|inf)(?!\w)", re.I
)
PROGRESS = re.compile(r"\d+%\|| \[[\d:]+[<,]|\d(it|B|s)/(s|it)\b|^\s*$")
TEXTS = ("text/plain", "text/html", "text/markdown", "text/latex")


def split(outputs: Iterable[Any]) -> tuple[list[Any], list[Mapping[str, Any]]]:
    """Return the outputs without widgets and without pictures that have data; and these data.

    Stored copies of lessons have no widgets (tools/lessons.py). Their static views are compared instead.
    """
    plain, series = [], []
    for output in outputs:
        data = output.get("data") or {}
        if WIDGET in data or is_progress(output):
            continue
        if MIME in data:
            series.append(data[MIME])
        else:
            plain.append(output)
    return plain, series


def is_progress(output: Mapping[str, Any]) -> bool:
    """Return whether an output is nothing but progress bars on standard error."""
    if output.get("output_type") != "stream" or output.get("name") != "stderr":
        return False
    return all(PROGRESS.search(line) for line in re.split(r"[\r\n]", output.get("text", "")))


def rtol_of(tags: Iterable[str]) -> float | None:
    """Return the tolerance of a cell with the tag "rtol=…"; None if it has none.

    Raises:
        ValueError: the tag has no number from 0 to 1.
    """
    for tag in tags:
        match = TAG.fullmatch(tag)
        if match:
            try:
                rtol = float(match[1])
            except ValueError:
                rtol = math.nan
            if not 0 <= rtol < 1:
                raise ValueError(f"the tag {tag!r}: expected rtol= and a number from 0 to 1, as rtol=1e-6")
            return rtol
    return None


def close(expected: str, got: str, rtol: float) -> bool:
    """Return whether two texts are the same, except for fractions within `rtol` and spaces between words."""
    if [" ".join(part.split()) for part in NUMBER.split(expected)] != [
        " ".join(part.split()) for part in NUMBER.split(got)
    ]:
        return False
    pairs = zip(NUMBER.findall(expected), NUMBER.findall(got))
    return all(_near(float(a), float(b), rtol) for a, b in pairs)


def _near(a: float, b: float, rtol: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= rtol * abs(a)


def forgive(reference: list[Any], outputs: list[Any], rtol: float) -> list[Any]:
    """Return the outputs, in which each text that is `close` to the reference's is replaced by it."""
    forgiven = []
    for i, output in enumerate(outputs):
        other = reference[i] if i < len(reference) else {}
        changed = dict(output)
        if "text" in output and "text" in other and close(other["text"], output["text"], rtol):
            changed["text"] = other["text"]
        data, wanted = output.get("data") or {}, other.get("data") or {}
        same = {
            kind: wanted[kind]
            for kind in TEXTS
            if kind in data and kind in wanted and close(wanted[kind], data[kind], rtol)
        }
        if same:
            changed["data"] = {**data, **same}
        forgiven.append(type(output)(changed))
    return forgiven


def difference(reference: Mapping[str, Any], got: Mapping[str, Any]) -> str:
    """Return a description of the difference of a figure's data; "" if it is within the reference's rtol."""
    if dict(got["labels"]) != dict(reference["labels"]):
        return f"labels: expected {dict(reference['labels'])}, got {dict(got['labels'])}"
    if sorted(got["y"]) != sorted(reference["y"]):  # keys are sorted in a notebook file
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
    """Compare outputs instead of IPyNbCell.compare_outputs: figures by their data, the rest as nbval does."""
    test, found = split(test)
    ref, expected = split(ref)
    problems = [difference(r, t) for r, t in zip(expected, found)]
    if len(found) != len(expected):
        problems.insert(0, f"figures: expected {len(expected)}, got {len(found)}")
    problems = [problem for problem in problems if problem]
    if problems:
        self.comparison_traceback = problems
        return False
    rtol = rtol_of((self.cell.get("metadata") or {}).get("tags", ()))
    if rtol is not None:
        test = forgive(ref, test, rtol)
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
