"""Check a learner's answer: one line that says right, or what was expected, what came, and a hint.

A check never raises: "run all cells" goes to the end of a lesson whose exercises are still open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmlite.terminal import say

RIGHT, WRONG = "✓", "✗"
SHOWN = 120  # characters of a value


@dataclass(frozen=True)
class Verdict:
    """What a check found; prints as one line.

    Args:
        name: of the exercise. right: the answer is the expected one. reason: why not; "" where it is right.
        hint: shown while it isn't right.
    """

    name: str
    right: bool
    reason: str
    hint: str

    def __str__(self) -> str:
        if self.right:
            return f"{RIGHT} {self.name}"
        return f"{WRONG} {self.name}: {self.reason}. Hint: {self.hint}"


def check(name: str, got: Any, expected: Any, *, hint: str, rtol: float = 1e-5) -> None:
    """Print whether an answer is right.

    Args:
        name: what is checked. got: the answer, or a function of no argument that gives it: what it raises is
            reported. expected: a number, text, bool, array, sequence or mapping of these.
        hint: what to think about while it isn't right.
        rtol: how far numbers may differ, relative to the expected; relative to the largest in an array.
    """
    say(verdict(name, got, expected, hint=hint, rtol=rtol))


def verdict(name: str, got: Any, expected: Any, *, hint: str, rtol: float = 1e-5) -> Verdict:
    """Return what `check` prints."""
    if callable(got):
        try:
            got = got()
        except Exception as error:  # whatever a learner's code does
            return Verdict(name, False, _failure(error, got), hint)
    if _is_open(got):
        return Verdict(name, False, "nothing yet", hint)
    reason = difference(got, expected, rtol)
    return Verdict(name, not reason, reason, hint)


def _is_open(got: Any) -> bool:
    """Return whether an answer is still the stub: None or `...`, also inside a short tuple or list."""
    if got is None or got is ...:
        return True
    return isinstance(got, (tuple, list)) and 0 < len(got) <= 16 and all(v is None or v is ... for v in got)


def _failure(error: Exception, function: Callable[[], Any]) -> str:
    text = str(error).splitlines()
    if isinstance(error, TypeError) and text and ("ellipsis" in text[0] or "NoneType" in text[0]):
        return "nothing yet"  # the stub's `...` was used in a calculation
    return f"your code stopped with {type(error).__name__}" + (f": {text[0]}" if text else "")


def difference(got: Any, expected: Any, rtol: float) -> str:
    """Return what is wrong with an answer, or ""."""
    if isinstance(expected, (str, bytes, bool, np.bool_)):
        return "" if type(got) in (type(expected), np.bool_) and got == expected else _expected(expected, got)
    if isinstance(expected, Mapping):
        if not isinstance(got, Mapping) or set(got) != set(expected):
            return _expected(expected, got)
        found = ((key, difference(got[key], value, rtol)) for key, value in expected.items())
        return next((f"{key}: {reason}" for key, reason in found if reason), "")
    return _difference_of_numbers(got, expected, rtol)


def _difference_of_numbers(got: Any, expected: Any, rtol: float) -> str:
    try:
        wanted = np.asarray(expected)
        if wanted.dtype.kind not in "biufc":  # a sequence of texts, or a ragged one
            return "" if list(got) == list(expected) else _expected(expected, got)
        found = np.asarray(got, dtype=np.result_type(wanted.dtype, np.float64))
    except (TypeError, ValueError):
        return _expected(expected, got)
    if found.shape != wanted.shape:
        return (
            f"expected the shape {wanted.shape}, got {found.shape}"
            if wanted.ndim
            else _expected(expected, got)
        )
    wanted = wanted.astype(np.float64) if wanted.dtype.kind in "biuf" else wanted
    scale = np.max(np.abs(wanted), initial=0.0)
    off = ~(np.abs(found - wanted) <= rtol * scale)  # also for nan
    if not off.any():
        return ""
    if not wanted.ndim:
        return _expected(expected, got)
    first = tuple(int(i) for i in np.argwhere(off)[0])
    place = first[0] if len(first) == 1 else first
    return (
        f"{off.sum()} of {off.size} numbers differ; the first at {place}: "
        f"expected {wanted[first]:.6g}, got {found[first]:.6g}"
    )


def _expected(expected: Any, got: Any) -> str:
    return f"expected {_shown(expected)}, got {_shown(got)}"


def _shown(value: Any) -> str:
    text = " ".join(repr(value.item() if isinstance(value, np.generic) else value).split())
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
