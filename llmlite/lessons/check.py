"""Check a learner's answer: one line says that it is right, or in which way it is wrong.

The line never contains the expected value.

A check never raises, so "run all cells" reaches the end of a lesson whose exercises are still open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from traceback import walk_tb
from typing import Any

import numpy as np

from llmlite.lessons import progress
from llmlite.terminal import say

RIGHT, WRONG = "✓", "✗"
OPEN = "nothing yet"
NEAR = 0.02  # relative: an answer this close was probably rounded before the last step
WHOLE = 0.01  # largest difference from a whole number, for answers that were calculated with fractions


@dataclass(frozen=True)
class Verdict:
    """The result of a check; `str()` gives the line that is printed.

    Attributes:
        name: the name of the answer.
        right: whether the answer is the expected one.
        reason: why the answer is wrong; "" if it is right.
        exercise: the number of the exercise, for its hints; "" if the check belongs to no exercise.
        hint: a hint that is shown if the check belongs to no exercise.
    """

    name: str
    right: bool
    reason: str
    exercise: str = ""
    hint: str = ""

    def __str__(self) -> str:
        if self.right:
            return f"{RIGHT} {self.name}"
        if self.exercise:
            return f"{WRONG} {self.name}: {self.reason}. Stuck? ll.lessons.hint({self.exercise})"
        return f"{WRONG} {self.name}: {self.reason}." + (f" Hint: {self.hint}" if self.hint else "")


def check(
    name: str,
    got: Any,
    expected: Any,
    *,
    hint: str | tuple[str, ...] = "",
    exercise: int | str = "",
    rtol: float = 1e-5,
) -> None:
    """Print whether an answer is right, and record the result in the progress file.

    Args:
        name: the name of the answer.
        got: the answer, or a function without arguments that returns it. If the function raises an
            exception, the printed line says which.
        expected: the right answer: a number, a text, a bool, an array, or a sequence or mapping of these.
        hint: in a lesson's source, one hint or several, the vaguest first. tools/lessons.py moves them to
            lessons.json and writes the exercise's number in their place.
        exercise: the number of the exercise.
        rtol: the largest allowed difference, as a share of the expected number. In an array, as a share of
            the largest expected number. If whole numbers are expected, the answer must be these.
    """
    found = verdict(name, got, expected, hint=hint, exercise=exercise, rtol=rtol)
    say(found)
    if found.reason != OPEN:
        progress.record_check(found.exercise, name, found.right, found.reason)


def verdict(
    name: str,
    got: Any,
    expected: Any,
    *,
    hint: str | tuple[str, ...] = "",
    exercise: int | str = "",
    rtol: float = 1e-5,
) -> Verdict:
    """Return the result that `check` prints. The arguments are those of `check`."""
    number, first = str(exercise), hint if isinstance(hint, str) else next(iter(hint), "")
    if callable(got):
        try:
            got = got()
        except NotImplementedError:
            return Verdict(name, False, OPEN, number, first)
        except Exception as error:  # a learner's code may raise anything
            reason = OPEN if _used_a_stub(error) else _failure(error)
            return Verdict(name, False, reason, number, first)
    if got is NotImplemented or _is_open(got):
        return Verdict(name, False, OPEN, number, first)
    reason = difference(got, expected, rtol)
    return Verdict(name, not reason, reason, number, first)


def _is_open(got: Any) -> bool:
    """Return whether an answer is still the stub: None or `...`, or a tuple, list or dict of nothing else."""
    if got is None or got is ... or got is NotImplemented:
        return True
    if isinstance(got, np.ndarray) and got.dtype == object:
        got = got.ravel().tolist()
    if isinstance(got, Mapping):
        got = list(got.values())
    return isinstance(got, (tuple, list)) and len(got) > 0 and all(_is_open(v) for v in got)


def _used_a_stub(error: Exception) -> bool:
    """Return whether the failing code reads a name that is still `...`, in the notebook's own code."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)][1:]  # without the frame that caught it
    for frame in frames:
        if frame.f_globals is not frames[0].f_globals:  # code of a library
            continue
        read = [frame.f_globals.get(name) for name in frame.f_code.co_names]
        if any(value is ... for value in [*frame.f_locals.values(), *read]):
            return True
    return False


def _failure(error: Exception) -> str:
    text = str(error).splitlines()
    stub = text and ("ellipsis" in text[0] or "NoneType" in text[0])
    if isinstance(error, (TypeError, AttributeError)) and stub:
        return OPEN  # the stub's `...` was used in a calculation
    return f"your code stopped with {type(error).__name__}" + (f": {text[0]}" if text else "")


def difference(got: Any, expected: Any, rtol: float) -> str:
    """Return in which way an answer is wrong, or "" if it is right.

    The text never contains the expected value. The arguments are those of `check`.
    """
    if isinstance(expected, (bool, np.bool_)):
        if not isinstance(got, (bool, np.bool_)):
            return f"True or False is needed, yours is {_kind(got)}"
        return "" if got == expected else "the other way round"
    if isinstance(expected, (str, bytes)):
        return _difference_of_texts(got, expected)
    if isinstance(expected, Mapping):
        return _difference_of_mappings(got, expected, rtol)
    wanted = np.asarray(expected) if not _is_ragged(expected) else np.asarray(["ragged"])
    if wanted.dtype.kind not in "biufc":
        return _difference_of_lists(got, list(expected), rtol)
    return _difference_of_numbers(got, wanted, rtol)


def _is_ragged(value: Any) -> bool:
    try:
        np.asarray(value)
    except ValueError:
        return True
    return False


def _kind(value: Any) -> str:
    """Describe a value in words."""
    if isinstance(value, (bool, np.bool_)):
        return "True or False"
    if isinstance(value, (int, float, complex, np.number)):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, bytes):
        return "bytes"
    if isinstance(value, np.ndarray):
        return f"an array of {value.ndim} dimensions"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"of type {type(value).__name__}"


def _difference_of_texts(got: Any, expected: str | bytes) -> str:
    if type(got) is not type(expected):
        wanted = "a text" if isinstance(expected, str) else "bytes"
        return f"{wanted} is needed, yours is {_kind(got)}".replace("bytes is", "bytes are")
    if got == expected:
        return ""
    if isinstance(got, str) and isinstance(expected, str):
        if got.strip().lower() == expected.strip().lower():
            return "the right text, but for capitals or spaces"
        if len(got) != len(expected) and (expected.startswith(got) or got.startswith(expected)):
            return "too short" if len(got) < len(expected) else "right at first, then too long"
    return "another text is expected"


def _difference_of_mappings(got: Any, expected: Mapping[Any, Any], rtol: float) -> str:
    if not isinstance(got, Mapping):
        return f"a dictionary is needed, yours is {_kind(got)}"
    if set(got) != set(expected):
        missing, extra = len(set(expected) - set(got)), len(set(got) - set(expected))
        return f"the keys differ: {missing} missing, {extra} too many"
    found = ((key, difference(got[key], value, rtol)) for key, value in expected.items())
    return next((f"{key}: {reason}" for key, reason in found if reason), "")


def _difference_of_lists(got: Any, expected: list[Any], rtol: float) -> str:
    try:
        found = list(got)
    except TypeError:
        return f"a list of {len(expected)} is needed, yours is {_kind(got)}"
    if isinstance(got, str) or len(found) != len(expected):
        return f"{len(expected)} entries are needed, yours is {_kind(got)}"
    wrong = [i for i, (one, wanted) in enumerate(zip(found, expected)) if difference(one, wanted, rtol)]
    if not wrong:
        return ""
    if all(_is_open(found[i]) for i in wrong):
        return f"{len(wrong)} of {len(expected)} are still open"
    return f"{len(wrong)} of {len(expected)} differ, the first is number {wrong[0] + 1}"


def _difference_of_numbers(got: Any, wanted: np.ndarray, rtol: float) -> str:
    needed = (
        "a number"
        if not wanted.ndim
        else f"{wanted.ndim} dimension{'s' if wanted.ndim > 1 else ''} of numbers"
    )
    if isinstance(got, (str, bytes)):
        return f"{needed} is needed, yours is {_kind(got)}"
    try:
        found = np.asarray(got, dtype=np.result_type(wanted.dtype, np.float64))
    except (TypeError, ValueError):
        return f"{needed} is needed, yours is {_kind(got)}"
    if found.shape != wanted.shape:
        return _difference_of_shapes(found, wanted)
    is_whole = wanted.dtype.kind in "biu"  # a count or a place of bytes, which is right or wrong
    wanted = wanted.astype(np.float64) if wanted.dtype.kind in "biuf" else wanted
    if found.dtype.kind == "c" and wanted.dtype.kind != "c":
        found = found.real
    scale = np.max(np.abs(wanted), initial=0.0)
    allowed = min(rtol * scale, WHOLE) if is_whole else rtol * scale
    off = ~(np.abs(found - wanted) <= allowed)  # written so that nan counts as a difference
    if not off.any():
        return ""
    if not np.isfinite(found).all():
        return "it holds nan or infinity: something was divided by 0, or exp overflowed"
    return _pattern(found, wanted, off, float(scale), rtol)


def _difference_of_shapes(found: np.ndarray, wanted: np.ndarray) -> str:
    if not wanted.ndim:
        return f"one number is needed, yours has the shape {found.shape}"
    if found.ndim != wanted.ndim:
        return f"the shape is off: {wanted.ndim} dimensions are needed, yours has {found.ndim}"
    if found.shape == wanted.shape[::-1]:
        return "the shape is off: rows and columns have changed places"
    axes = [str(i) for i in range(wanted.ndim) if found.shape[i] != wanted.shape[i]]
    return f"the shape {found.shape} is off in dimension {', '.join(axes)}"


def _pattern(found: np.ndarray, wanted: np.ndarray, off: np.ndarray, scale: float, rtol: float) -> str:
    """Return in which way numbers of the right shape are wrong."""
    close = rtol * max(scale, 1e-300)
    if np.all(np.abs(found + wanted) <= close):
        return "right but for the sign"
    if np.all(np.abs(found - wanted) <= NEAR * scale):
        return "close, but not equal: was something rounded, or left out?"
    if not wanted.ndim:
        return "too large" if float(np.real(found)) > float(np.real(wanted)) else "too small"
    if np.all(np.abs(np.sort(found, axis=None) - np.sort(wanted, axis=None)) <= close):
        return "the right numbers in another order"
    if wanted.ndim == 2 and wanted.shape[0] == wanted.shape[1] and np.all(np.abs(found.T - wanted) <= close):
        return "rows and columns have changed places"
    factor = float(np.vdot(wanted, found).real / max(np.vdot(wanted, wanted).real, 1e-300))
    if abs(factor) > 1e-9 and np.all(
        np.abs(found - factor * wanted) <= rtol * max(scale * abs(factor), scale)
    ):
        return "all of them are off by the same factor"
    first = tuple(int(i) for i in np.argwhere(off)[0])
    place = first[0] if len(first) == 1 else first
    return f"{int(off.sum())} of {off.size} numbers differ, the first at {place}"
