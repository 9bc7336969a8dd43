"""Checks of exercises: right is right, and everything else is said so that a learner can go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmlite import lessons
from llmlite.lessons.check import verdict


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (4.5, 4.5),
        (lambda: 4.5000001, 4.5),
        (np.float32(4.5), 4.5),
        ((7, 10), (7, 10)),
        (np.arange(6.0).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
        ("Q4_0", "Q4_0"),
        (np.bool_(True), True),
        (["a", "b"], ("a", "b")),
        ({"a": 1.0}, {"a": 1}),
        (b"GGUF", b"GGUF"),
        (0, 0),
        (1_790_016.0000001, 1_790_016),
    ],
)
def test_right_answers_are_right(got: Any, expected: Any) -> None:
    found = verdict("it", got, expected, hint="think")
    assert found.right and str(found) == "✓ it"


@pytest.mark.parametrize(
    ("got", "expected", "said"),
    [
        (..., 1, "nothing yet"),
        (None, 1, "nothing yet"),
        (lambda: None, 1, "nothing yet"),
        ([None, None], [1, 2], "nothing yet"),
        ([None] * 40, np.zeros((40, 64)), "nothing yet"),
        ({"a": ...}, {"a": 1}, "nothing yet"),
        (NotImplemented, 1, "nothing yet"),
        (lambda: ... + 1, 1, "nothing yet"),
        (lambda: None.shape, 1, "nothing yet"),
        (lambda: 1 / 0, 1, "stopped with ZeroDivisionError: division by zero"),
        (4, 4.5, "too small"),
        (4.48, 4.5, "close, but not equal"),
        (1_790_004, 1_790_016, "close, but not equal"),  # an offset that wasn't rounded up to a multiple
        ([1_790_016, 7], [1_790_016, 8], "close, but not equal"),
        (-4.5, 4.5, "right but for the sign"),
        (9, 4.5, "too large"),
        ("q4", "Q4", "but for capitals"),
        ("Q4", "Q4_0", "too short"),
        (b"GG", "GG", "a text is needed, yours is bytes"),
        (1, True, "True or False is needed, yours is a number"),
        (False, True, "the other way round"),
        (np.zeros(3), np.zeros(4), "the shape (3,) is off in dimension 0"),
        (np.zeros((2, 3)), np.zeros((3, 2)), "rows and columns have changed places"),
        (np.array([[1, 2], [3, 4]]), np.array([[1, 3], [2, 4]]), "in another order"),
        (np.zeros(3), np.zeros((3, 3)), "2 dimensions are needed, yours has 1"),
        (np.array([1, 2, np.nan]), np.array([1, 2, 3.0]), "it holds nan or infinity"),
        (np.array([2.0, 4.0]), np.array([1.0, 2.0]), "off by the same factor"),
        ([3.0, 1.0, 2.0], [1.0, 2.0, 3.0], "the right numbers in another order"),
        (np.array([1, 2, 9]), np.array([1, 2, 3.0]), "1 of 3 numbers differ, the first at 2"),
        ("text", 4.5, "a number is needed, yours is a text"),
        ({"a": 1}, {"b": 1}, "the keys differ: 1 missing, 1 too many"),
        ({"a": 1}, {"a": 2}, "a: too small"),
        (["a"], ["a", "b"], "2 entries are needed, yours is a list of 1"),
        (["a", None], ["a", "b"], "1 of 2 are still open"),
        ([b"GGUF", 3], [b"GGUF", 2], "1 of 2 differ, the first is number 2"),
    ],
)
def test_wrong_answers_say_what_kind_of_wrong_and_where_the_hints_are(
    got: Any, expected: Any, said: str
) -> None:
    found = verdict("it", got, expected, exercise=2)
    assert not found.right
    assert said in str(found) and str(found).endswith("Stuck? ll.lessons.hint(2)")
    assert str(verdict("it", got, expected, hint="think again")).endswith("Hint: think again")


@pytest.mark.parametrize("expected", [4.517, 73, "e3b0c442", [4.517, 8.25], {"a": 4.517}, b"GGUF3"])
def test_the_expected_value_is_never_said(expected: Any) -> None:
    for got in (1, "x", [1.0, 2.0], {"a": 1}, {"b": 2}, b"x", np.zeros((2, 2)), object(), [9.034, 16.5]):
        text = str(verdict("it", got, expected, exercise=1))
        for secret in ("4.5", "73", "e3b0", "8.25", "GGUF"):
            assert secret not in text


def open_slice() -> Any:
    where = ...
    return [1, 2, 3][where:]


def open_parts() -> Any:
    second = ...
    return np.concatenate([np.ones(4), second])


def closed_parts() -> Any:
    return np.concatenate([np.ones(4), np.float32(1)])


def test_a_stub_used_in_a_calculation_is_nothing_yet_but_the_same_error_without_one_is_said() -> None:
    assert verdict("x", open_slice, 1).reason == verdict("x", open_parts, 1).reason == "nothing yet"
    assert verdict("x", closed_parts, 1).reason.startswith("your code stopped with ValueError")


def test_numbers_of_an_array_are_held_to_its_largest() -> None:
    assert verdict("it", [1e-9, 1.0], [0.0, 1.0], hint="h").right
    assert not verdict("it", [1e-3, 1.0], [0.0, 1.0], hint="h").right


def test_check_prints_and_never_raises(capsys: pytest.CaptureFixture[str]) -> None:
    lessons.check("it", lambda: Path("no such file").read_text(), 1, hint="h")
    lessons.check("it", np.ones(200), "long", hint="h")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.startswith("✗ it: ") and len(line) < 300 for line in lines)
    assert "your code stopped with FileNotFoundError" in lines[0] and "array" in lines[1]
