"""The rules for the lines of a results file, so that tables and figures can rely on them.

A results file can come from anyone. It may have been sent by mail, edited, or cut off by a full disk. So each
record is checked field by field when it is read. Unknown fields are kept unchecked, because a newer llmlite
may write more of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from llmlite.errors import ResultsError

LARGEST = 2**62  # of nanoseconds, bytes and tokens: far more than any machine has, but sums stay finite
SHORTEST = 1e-3  # nanoseconds; with less time, a speed would overflow
MAX_ENTRIES = 200  # pairs of a backend and a type: a figure has a row for each
NAME = re.compile(r"[\w .:+()/,-]{1,100}")  # no "$": figures would read it as mathematics
MISSING = object()

Check = Callable[[Any], bool]
FieldRule = tuple[str, bool, Check]  # a description of the value, whether it is required, the check


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _is_share(value: Any) -> bool:
    return _is_number(value) and value <= 1


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _is_block(value: Any) -> bool:
    return value == -1 or _is_whole(value)


def _is_nanoseconds(value: Any) -> bool:
    return isinstance(value, list) and all(_is_number(item) and item >= SHORTEST for item in value)


def _is_samples(value: Any) -> bool:
    return _is_nanoseconds(value) and bool(value)


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


NUMBER = f"a number from 0 to {LARGEST}"
WHOLE = f"a whole number from 0 to {LARGEST}"
TEXT = "a string"
NAMED = "a short name of letters, digits and .:+()/,-"

ENTRY: dict[str, FieldRule] = {
    "backend": (NAMED, True, _is_name),
    "model_type": (NAMED, True, _is_name),
}
FIELDS: dict[str, dict[str, FieldRule]] = {
    "environment": {
        "run_id": (TEXT, False, _or_none(_is_text)),
        "env_hash": (TEXT, False, _or_none(_is_text)),
        "cpu_info": (TEXT, False, _or_none(_is_text)),
        "n_threads": (WHOLE, False, _or_none(_is_whole)),
    },
    "model": {
        "model_type": (NAMED, True, _is_name),
        "model_size": (WHOLE, True, _is_whole),
    },
    "agreement": {
        **ENTRY,
        "own_quantization": ("true or false", False, lambda value: isinstance(value, bool)),
        "agrees": ("true or false", True, lambda value: isinstance(value, bool)),
        "reason": (TEXT, False, _is_text),
        "max_abs_diff": (NUMBER, False, _is_number),
        "same_file_kl": (NUMBER, False, _is_number),
        "kl": (NUMBER, False, _is_number),
        "perplexity": (NUMBER, False, _is_number),
        "same_file_top1": ("a number from 0 to 1", False, _is_share),
        "top1": ("a number from 0 to 1", False, _is_share),
        "n_exact": (WHOLE, False, _is_whole),
        "n_asked": (WHOLE, False, _is_whole),
    },
    "backend": {
        **ENTRY,
        **dict.fromkeys(("version", "isa", "wait_policy", "note"), (TEXT, False, _is_text)),
        "type_k": (NAMED, False, _is_name),
        "n_threads": (WHOLE, False, _or_none(_is_whole)),
        "own_quantization": ("true or false", False, lambda value: isinstance(value, bool)),
        **dict.fromkeys(("n_packages", "installed_bytes"), (WHOLE, False, _is_whole)),
        "install_seconds": (NUMBER, False, _is_number),
        "compiled": ("true or false", False, lambda value: isinstance(value, bool)),
    },
    "memory": {
        **ENTRY,
        "stage": (NAMED, True, _is_name),
        **{
            name: (f"{WHOLE}, or null", False, _or_none(_is_whole))
            for name in ("private_bytes", "file_bytes", "resident_bytes", "peak_bytes", "file_share_bytes")
        },
        "memory_note": (TEXT, False, _is_text),
    },
    "skipped": {
        "backend": (NAMED, True, _is_name),
        "model_type": (NAMED, False, _is_name),
        "reason": (TEXT, True, _is_text),
    },
    "note": {"text": (TEXT, True, _is_text)},
    "measurement": {
        **ENTRY,
        "run_id": (TEXT, True, _is_text),
        "env_hash": (TEXT, True, _is_text),
        "phase": (NAMED, True, _is_name),
        "samples_ns": ("a list of positive nanoseconds, at least one", True, _is_samples),
        "steps_ns": ("a list of positive nanoseconds", False, _is_nanoseconds),
        "block": ("a whole number of at least -1", False, _is_block),
        "n_prompt": (WHOLE, False, _is_whole),
        "n_gen": (WHOLE, False, _is_whole),
        "n_depth": (WHOLE, False, _is_whole),
        "n_threads": (WHOLE, False, _is_whole),
        "type_k": (NAMED, False, _is_name),
        "flagged": ("true or false", False, lambda value: isinstance(value, bool)),
        "joules": (f"{NUMBER}, or null", False, _or_none(_is_number)),
    },
}
# A record of agreement has all fields of a group or none. For a library that returns only tokens, it has the
# second group.
TOGETHER = (("kl", "max_abs_diff"), ("same_file_top1", "top1"))


def check(record: Mapping[str, Any], place: str) -> None:
    """Check one record of a comparison.

    Args:
        record: the record to check.
        place: origin of the record for error messages, such as "results.jsonl, line 7".

    Raises:
        ResultsError: a field is invalid. The message names the place, the field, the expected value and the
            actual one.
    """
    kind = record.get("kind", MISSING)
    if not isinstance(kind, str) or kind not in FIELDS:
        raise _wrong(place, "kind", f"one of {', '.join(FIELDS)}", kind)
    for name, (expected, needed, is_right) in FIELDS[kind].items():
        value = record.get(name, MISSING)
        if value is MISSING and not needed:
            continue
        if value is MISSING or not is_right(value):
            raise _wrong(place, f"{kind}: {name}", expected, value)
    if kind == "agreement":
        for group in TOGETHER:
            missing = [name for name in group if name not in record]
            if missing and len(missing) < len(group):
                expected = "a number, because the other fields of its group have one"
                raise _wrong(place, f"{kind}: {missing[0]}", expected, MISSING)
        if not record["agrees"] and "reason" not in record:
            raise _wrong(place, f"{kind}: reason", "the reason why it doesn't agree", MISSING)


def _wrong(place: str, field: str, expected: str, got: object) -> ResultsError:
    shown = "nothing" if got is MISSING else f"{_short(got)}"
    return ResultsError(f"{place}: {field}: expected {expected}, got {shown}")


def _short(value: object) -> str:
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int):  # Python refuses to print an integer of thousands of digits
        return str(value) if abs(value) < 10**40 else "a very large number"
    return f"{value!r:.80}"


def check_size(entries: int, place: str) -> None:
    """Refuse a comparison with more entries than a table or figure can show.

    Args:
        entries: number of entries.
        place: origin of the comparison for error messages.

    Raises:
        ResultsError: there are more than MAX_ENTRIES.
    """
    if entries > MAX_ENTRIES:
        raise _wrong(place, "backend and model_type", f"at most {MAX_ENTRIES} pairs", entries)


def parse(line: str, place: str) -> dict[str, Any]:
    """Read one line as a JSON object.

    Args:
        line: the line.
        place: origin of the line for error messages.

    Raises:
        ResultsError: the line is invalid; the message names the place and the fault.
    """
    try:
        record = json.loads(line, parse_float=_finite, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ResultsError(f"{place}: not JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise ResultsError(f"{place}: lists or objects nested too deep") from None
    except ValueError as error:
        raise ResultsError(f"{place}: {error}") from None
    if not isinstance(record, dict):
        raise ResultsError(f"{place}: expected an object, got {type(record).__name__}")
    return record


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def read_text(path: Path) -> str:
    """Return the text of a results file.

    Raises:
        ResultsError: the file isn't UTF-8; the message names the line.
        OSError: the file can't be read.
    """
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ResultsError(f"{path}, line {line}: not UTF-8 (byte {error.start} of the file)") from None
