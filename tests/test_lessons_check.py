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
        (lambda: ... + 1, 1, "nothing yet"),
        (lambda: 1 / 0, 1, "stopped with ZeroDivisionError: division by zero"),
        (4, 4.5, "expected 4.5, got 4"),
        ("q4", "Q4", "expected 'Q4', got 'q4'"),
        (1, True, "expected True, got 1"),
        (np.zeros(3), np.zeros(4), "expected the shape (4,), got (3,)"),
        (np.array([1, 2, np.nan]), np.array([1, 2, 3.0]), "1 of 3 numbers differ; the first at 2"),
        ("text", 4.5, "expected 4.5, got 'text'"),
        ({"a": 1}, {"b": 1}, "expected {'b': 1}"),
        ({"a": 1}, {"a": 2}, "a: expected 2, got 1"),
        (["a"], ["a", "b"], "expected ['a', 'b']"),
    ],
)
def test_wrong_answers_say_what_was_expected_and_help(got: Any, expected: Any, said: str) -> None:
    found = verdict("it", got, expected, hint="think again")
    assert not found.right
    assert said in str(found) and str(found).endswith("Hint: think again")


def test_numbers_of_an_array_are_held_to_its_largest() -> None:
    assert verdict("it", [1e-9, 1.0], [0.0, 1.0], hint="h").right
    assert not verdict("it", [1e-3, 1.0], [0.0, 1.0], hint="h").right


def test_check_prints_and_never_raises(capsys: pytest.CaptureFixture[str]) -> None:
    lessons.check("it", lambda: Path("no such file").read_text(), 1, hint="h")
    lessons.check("it", np.ones(200), "long", hint="h")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.startswith("✗ it: ") and len(line) < 300 for line in lines)
