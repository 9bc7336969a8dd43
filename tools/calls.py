"""Take hints and answers out of the calls of `ll.lessons` in a lesson's source, for lessons.json."""

from __future__ import annotations

import ast
from typing import Any


class LessonError(Exception):
    """Report a source that can't become a lesson: the fault, its place, and the right form."""


def numbered(source: str, exercise: str) -> tuple[str, list[str]]:
    """Return a check's code with `exercise=NUMBER` instead of each `hint=…`, and the removed hints.

    Raises:
        LessonError: a check has no hint, or its hint isn't a plain string or a tuple of plain strings.
    """
    raw, edits, hints = source.encode(), [], []
    starts = [0]
    for line in raw.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    for call in calls(source, "check"):
        keyword = next((k for k in call.keywords if k.arg == "hint"), None)
        if keyword is None:
            raise LessonError(f"ll.lessons.check needs hint=…:\n{source}")
        try:
            given = ast.literal_eval(keyword.value)
        except ValueError:
            raise LessonError(f"write the hint as a plain string in the call:\n{source}") from None
        hints += [given] if isinstance(given, str) else list(given)
        begin = starts[keyword.lineno - 1] + keyword.col_offset
        end = starts[keyword.value.end_lineno - 1] + keyword.value.end_col_offset
        edits.append((begin, end))
    for begin, end in sorted(edits, reverse=True):
        raw = raw[:begin] + f"exercise={exercise}".encode() + raw[end:]
    return raw.decode(), list(dict.fromkeys(hints))


def asked(source: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return a cell's code without the answers of its predictions, and question -> answer and reveal.

    An answer or a reveal that isn't a literal stays in the code, because the cell computes it.

    Raises:
        LessonError: the question of a prediction isn't a plain string.
    """
    raw, told = source.encode(), {}
    starts = [0]
    for line in raw.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    for call in reversed(calls(source, "predict")):
        if not (call.args and isinstance(call.args[0], ast.Constant)):
            raise LessonError(f"a prediction's question is a plain string:\n{source}")
        question, given = call.args[0].value, call.args[2:4]
        try:
            answer, reveal = ([ast.literal_eval(each) for each in given] + [None, None])[:2]
        except ValueError:
            told[question] = {}
            continue
        told[question] = {"answer": answer, "reveal": reveal}
        if given:
            choices, last = call.args[1], given[-1]
            begin = starts[choices.end_lineno - 1] + choices.end_col_offset
            raw = raw[:begin] + raw[starts[last.end_lineno - 1] + last.end_col_offset :]
    return raw.decode(), dict(reversed(told.items()))


def calls(source: str, name: str) -> list[ast.Call]:
    """Return the calls of `ll.lessons.NAME` in a piece of code, in order."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    found = [node for node in found if ast.unparse(node.func) == f"ll.lessons.{name}"]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))
