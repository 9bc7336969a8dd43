"""Hints for exercises, one at a time: the first says where to look, the last gives away nearly everything.

They are written in a lesson's source and stored in `lessons.json`, so that no copy of a lesson shows them.
"""

from __future__ import annotations

from llmlite.lessons import progress
from llmlite.terminal import say

_shown: dict[tuple[str, str], int] = {}


def hint(exercise: int | str, step: int | None = None) -> None:
    """Print a hint for an exercise of the running lesson.

    Args:
        exercise: the number of the exercise.
        step: the number of the hint, from 1. By default, the hint after the last one that was shown.
    """
    say(_text(str(exercise), step))


def _text(exercise: str, step: int | None) -> str:
    lesson = progress.catalog().get(progress.running())
    if lesson is None:
        return "Run the first cell of the lesson, then ask again: it says which lesson this is."
    steps = lesson.exercises.get(exercise)
    if steps is None:
        return f"There is no exercise {exercise} here; there are: {', '.join(lesson.exercises)}."
    key = (lesson.number, exercise)
    wanted = _shown.get(key, 0) + 1 if step is None else int(step)
    if not 1 <= wanted <= len(steps):
        wanted = len(steps) if wanted > len(steps) else 1
    _shown[key] = wanted
    progress.record_hint(exercise, wanted)
    return f"Hint {wanted} of {len(steps)} for exercise {exercise}: {steps[wanted - 1]}"
