"""A learner's progress: a small JSON file beside the lessons, and the reports made from it.

`check`, `hint` and `predict` write it; nothing is sent anywhere. Learners can give their files to a teacher,
who reads them with `llmlite lab --summary FOLDER`. tools/lessons.py makes `lessons.json`, the list of
exercises and predictions.

    {"format": 1, "learner": "", "lessons": {"04": {
        "exercises": {"1": {"shares": {"right": true, "tries": 2, "kind": ""}}},
        "hints": {"1": 2},
        "predictions": {"Where will it look?": {"choice": "here", "answer": "there", "right": false}}}}}
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from llmlite import resources
from llmlite.errors import LlmliteError
from llmlite.system import files

FILE = "llmlite-progress.json"
CATALOG = "lessons.json"
FORMAT = 1
MAX_BYTES = 2_000_000  # of the largest file that is read; a whole course writes some tens of thousands
BAR = (
    '<div role="img" aria-label="{done} of {all}" style="width:10em;height:.8em;'
    'border:1px solid currentColor;border-radius:.4em;overflow:hidden">'
    '<div style="width:{percent:.0f}%;height:100%;background:#0072b2">'
    "</div></div>"
)
_running: dict[str, str] = {"lesson": ""}


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """The exercises and predictions of a lesson.

    Attributes:
        number: the lesson's number, such as "04".
        title: the title of the notebook.
        file: the name of the notebook's file.
        minutes: how long the lesson takes, according to its text.
        exercises: number of the exercise -> its hints, the plainest last.
        predictions: question -> "answer" and "reveal", as `predict` takes them; empty if the notebook
            computes them.
    """

    number: str
    title: str
    file: str
    minutes: int
    exercises: Mapping[str, tuple[str, ...]]
    predictions: Mapping[str, Mapping[str, Any]]


@dataclass
class LearnerProgress:
    """The content of one learner's progress file.

    Attributes:
        learner: the name that the learner gave; "" if none.
        lessons: number of the lesson -> "exercises", "hints" and "predictions", as in the file.
    """

    learner: str = ""
    lessons: dict[str, dict[str, Any]] = field(default_factory=dict)

    def solved(self, number: str) -> set[str]:
        """Return the numbers of the exercises in lesson `number` whose checks are all right."""
        done = self.lessons.get(number, {}).get("exercises", {})
        return {name for name, checks in done.items() if checks and all(c["right"] for c in checks.values())}

    def predicted(self, number: str) -> dict[str, dict[str, Any]]:
        """Return the predictions made in lesson `number`: question -> "choice", "answer" and "right".

        "right" is None if the lesson couldn't know the answer.
        """
        found: dict[str, dict[str, Any]] = self.lessons.get(number, {}).get("predictions", {})
        return found


# --- the running lesson, and whether somebody watches -------------------------------------------


def begin(lesson: str) -> None:
    """Record which lesson this kernel runs, by its number, such as "04"."""
    _running["lesson"] = str(lesson)


def running() -> str:
    """Return the number of the lesson that this kernel runs, or ""."""
    return _running["lesson"]


def somebody_clicks() -> bool:
    """Return whether somebody has this kernel's notebook open, in JupyterLab, VS Code or Colab.

    `jupyter execute`, nbval and nbclient start kernels without any of these marks.
    """
    main = vars(sys.modules["__main__"]) if "__main__" in sys.modules else {}
    return bool(
        os.environ.get("JPY_SESSION_NAME")  # jupyter_server sets it for each notebook's kernel
        or "__vsc_ipynb_file__" in main
        or "google.colab" in sys.modules
    )


# --- the file -----------------------------------------------------------------------------------


def path() -> Path | None:
    """Return the path of this kernel's progress file.

    It is the file that LLMLITE_PROGRESS names, else FILE in the present folder. It is None, and nothing is
    recorded, if LLMLITE_PROGRESS isn't set and nobody has the notebook open.
    """
    named = os.environ.get("LLMLITE_PROGRESS")
    if named:
        return Path(named)
    return Path.cwd() / FILE if somebody_clicks() else None


def load(file: Path) -> LearnerProgress:
    """Return the content of a progress file.

    Raises:
        OSError: the file can't be read.
        LlmliteError: it isn't a progress file, or it has another format.
    """
    if file.stat().st_size > MAX_BYTES:
        raise LlmliteError(f"{file}: too large for a progress file, which has at most {MAX_BYTES} bytes")
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["format"] != FORMAT:
            raise LlmliteError(f"{file}: format {stored['format']!r}; this llmlite reads format {FORMAT}")
        return LearnerProgress(_text(stored["learner"]), _checked(stored["lessons"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LlmliteError(f"{file}: not a progress file of these lessons ({error!r})") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is needed, not {value!r:.40}")
    return value


def _checked(lessons: Any) -> dict[str, dict[str, Any]]:
    """Return the known fields of a file's "lessons", with their types checked.

    Raises:
        KeyError: a field is missing.
        TypeError, ValueError, AttributeError: a field has another type.
    """
    found: dict[str, dict[str, Any]] = {}
    for number, done in lessons.items():
        kept: dict[str, Any] = {"exercises": {}, "hints": {}, "predictions": {}}
        for exercise, checks in done.get("exercises", {}).items():
            kept["exercises"][exercise] = {
                _text(name): {
                    "right": bool(c["right"]), "tries": int(c["tries"]), "kind": _text(c.get("kind", ""))
                }
                for name, c in checks.items()
            }  # fmt: skip
        kept["hints"] = {name: int(n) for name, n in done.get("hints", {}).items()}
        for question, made in done.get("predictions", {}).items():
            right = None if made["right"] is None else bool(made["right"])
            kept["predictions"][question] = {
                "choice": _text(made["choice"]), "answer": _text(made.get("answer", "")), "right": right
            }  # fmt: skip
        found[number] = kept
    return found


def _changing(change: Any) -> None:
    """Read the file, apply `change`, and write it. A file that can't be read or written stays as it is."""
    file = path()
    if file is None:
        return
    try:
        progress = load(file) if file.exists() else LearnerProgress()
        change(progress)
        stored = {"format": FORMAT, "learner": progress.learner, "lessons": progress.lessons}
        files.write_text(file, json.dumps(stored, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    except (OSError, LlmliteError):
        return  # a lesson must go on even if its progress can't be recorded


def _of(progress: LearnerProgress, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = progress.lessons.setdefault(running(), {}).setdefault(kind, {})
    return found


def record_check(exercise: str, name: str, right: bool, kind: str) -> None:
    """Record the result of a check. After a right answer the record no longer changes.

    Args:
        exercise: the number of the exercise; with "" nothing is recorded.
        name: the name of the answer.
        right: whether the answer is right.
        kind: in which way the answer is wrong; "" if it is right.
    """

    def change(progress: LearnerProgress) -> None:
        checks = _of(progress, "exercises").setdefault(exercise, {})
        before = checks.get(name, {"right": False, "tries": 0})
        if not before["right"]:
            checks[name] = {"right": right, "tries": before["tries"] + 1, "kind": kind}

    if running() and exercise:
        _changing(change)


def record_hint(exercise: str, step: int) -> None:
    """Record that hint number `step` of an exercise was shown. Only the largest number is kept."""

    def change(progress: LearnerProgress) -> None:
        hints = _of(progress, "hints")
        hints[exercise] = max(step, hints.get(exercise, 0))

    if running():
        _changing(change)


def record_prediction(question: str, choice: str, answer: str, right: bool | None) -> None:
    """Record a prediction. If the question has one already, the first one stays.

    Args:
        question: the text of the question.
        choice: the choice that was clicked.
        answer: the right choice; "" if it isn't known.
        right: whether the choice is right; None if the answer isn't known.
    """

    def change(progress: LearnerProgress) -> None:
        made = {"choice": choice, "answer": answer, "right": right}
        _of(progress, "predictions").setdefault(question, made)

    if running():
        _changing(change)


def sign(name: str) -> None:
    """Write a name into the progress file, for a teacher who collects the files. By default there is none."""
    _changing(lambda progress: setattr(progress, "learner", str(name)[:80]))


# --- the list of exercises and predictions ------------------------------------------------------


@cache
def catalog() -> dict[str, Lesson]:
    """Return all lessons by number, in order.

    Raises:
        LlmliteError, OSError: the list isn't part of this installation.
    """
    file = resources.notebooks_path() / CATALOG
    stored = json.loads(file.read_text(encoding="utf-8"))
    return {
        number: Lesson(
            number=number, title=one["title"], file=one["file"], minutes=one["minutes"],
            exercises={name: tuple(hints) for name, hints in one["exercises"].items()},
            predictions=one["predictions"],
        )
        for number, one in sorted(stored.items())
    }  # fmt: skip


# --- the pages in the index and after the last lesson -------------------------------------------


class Page:
    """A part of a page as HTML, and the same content as plain text."""

    def __init__(self, html: str, text: str) -> None:
        self._html, self._text = html, text

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._text


def here() -> LearnerProgress:
    """Return the progress from this kernel's file; an empty one if the file is missing or can't be read."""
    file = path() or Path.cwd() / FILE
    try:
        return load(file)
    except (OSError, LlmliteError):
        return LearnerProgress()


def bar(progress: LearnerProgress | None = None) -> Page:
    """Return a table with a progress bar for each lesson; by default for the progress that `here` returns."""
    progress = here() if progress is None else progress
    rows, lines = [], []
    for lesson in catalog().values():
        solved = len(progress.solved(lesson.number) & set(lesson.exercises))
        predicted = len(set(progress.predicted(lesson.number)) & set(lesson.predictions))
        total = len(lesson.exercises) + len(lesson.predictions)
        percent = 100 * (solved + predicted) / max(1, total)
        words = f"{solved} of {len(lesson.exercises)} exercises, "
        words += f"{predicted} of {len(lesson.predictions)} predictions"
        drawn = BAR.format(done=solved + predicted, all=total, percent=percent)
        link = f'<a href="{escape(lesson.file)}">{lesson.number} · {escape(lesson.title)}</a>'
        cells = "".join(f'<td style="text-align:left">{cell}</td>' for cell in (link, drawn, words))
        rows.append(f"<tr>{cells}</tr>")
        lines.append(f"{lesson.number} {percent:3.0f} %  {words}  {lesson.title}")
    return Page(f"<table>{''.join(rows)}</table>", "\n".join(lines))


def completion(progress: LearnerProgress | None = None) -> Page:
    """Return the last page: open exercises and wrong predictions; by default for the progress of `here`."""
    progress = here() if progress is None else progress
    open_, surprises, n_right, n_made = [], [], 0, 0
    for lesson in catalog().values():
        missing = sorted(set(lesson.exercises) - progress.solved(lesson.number), key=_natural)
        if missing:
            open_.append(f"{lesson.number} {lesson.title}: exercise {', '.join(missing)}")
        for question, made in progress.predicted(lesson.number).items():
            n_made += made["right"] is not None
            n_right += made["right"] is True
            if made["right"] is False:
                surprises.append(
                    f"{lesson.number}: {question} You said {made['choice']}; it is {made['answer']}."
                )
    total = sum(len(lesson.exercises) for lesson in catalog().values())
    done = sum(len(progress.solved(n) & set(lesson.exercises)) for n, lesson in catalog().items())
    heading = "All exercises are solved." if done == total else f"{done} of {total} exercises are solved."
    parts = [(heading, open_ and [f"Still open: {line}" for line in open_])]
    parts.append((f"{n_right} of {n_made} predictions came true.", surprises))
    if surprises:
        parts.append(("What surprised you is what you learned here. Read these again in a week.", []))
    html = ""
    for said, items in parts:
        listed = "".join(f"<li>{escape(item)}</li>" for item in items)
        html += f"<p><b>{escape(said)}</b></p>" + (f"<ul>{listed}</ul>" if listed else "")
    text = "\n".join(line for said, items in parts for line in [said, *(f"  {item}" for item in items)])
    return Page(html, text)


def _natural(name: str) -> tuple[int, str]:
    return (int(name) if name.isdigit() else 10**6, name)


# --- for a teacher ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Missed:
    """A question that at least one learner predicted wrongly.

    Attributes:
        lesson: the number of the lesson.
        question: the text of the question.
        wrong: number of wrong predictions.
        made: number of all predictions.
        favourite: the wrong choice that was made most often.
    """

    lesson: str
    question: str
    wrong: int
    made: int
    favourite: str


def collect(folder: Path) -> tuple[dict[str, LearnerProgress], list[str]]:
    """Read all progress files in a folder and its subfolders.

    A learner's name is the one in the file. If it has none, the name of the folder is used for a file named
    FILE, and the name of the file for others.

    Returns:
        Learner's name -> progress, and an error message for each file that can't be used.
    """
    found: dict[str, LearnerProgress] = {}
    problems = []
    for file in sorted(folder.rglob("*.json")):
        if file.name == CATALOG or (file.name.startswith(".") and file.name != FILE):
            continue
        try:
            progress = load(file)
        except (OSError, LlmliteError) as error:
            problems.append(str(error))
            continue
        alone = file.name == FILE
        name = progress.learner or (file.parent.resolve().name if alone else file.stem)
        while name in found:
            name += "'"
        found[name] = progress
    return found, problems


def table(learners: Mapping[str, LearnerProgress]) -> list[list[str]]:
    """Return a table of solved exercises ("2/3"): a row of headings, then a row per lesson."""
    rows = [["lesson", *learners]]
    for number, lesson in catalog().items():
        counts = [len(p.solved(number) & set(lesson.exercises)) for p in learners.values()]
        rows.append([number, *(f"{n}/{len(lesson.exercises)}" for n in counts)])
    return rows


def missed(learners: Iterable[LearnerProgress]) -> list[Missed]:
    """Return the questions with wrong predictions, those with the largest share of wrong ones first."""
    made: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for progress in learners:
        for number in progress.lessons:
            for question, one in progress.predicted(number).items():
                if one["right"] is not None:
                    made.setdefault((number, question), []).append(one)
    found = []
    for (number, question), ones in made.items():
        wrong = [one["choice"] for one in ones if not one["right"]]
        if wrong:
            favourite = max(sorted(set(wrong)), key=wrong.count)
            found.append(
                Missed(
                    lesson=number, question=question, wrong=len(wrong), made=len(ones), favourite=favourite
                )
            )
    return sorted(found, key=lambda m: (-m.wrong / m.made, -m.wrong, m.lesson, m.question))


def points(learners: Mapping[str, LearnerProgress]) -> str:
    """Return the solved exercises as CSV with nbgrader's column names, one row per lesson and learner."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["assignment", "student_id", "raw_score", "score", "max_score"])
    for number, lesson in catalog().items():
        for name, progress in learners.items():
            n = len(progress.solved(number) & set(lesson.exercises))
            # a spreadsheet takes a text that begins with one of these for a formula
            safe = f"'{name}" if name[:1] in "=+-@\t\r" else name
            writer.writerow([Path(lesson.file).stem, safe, n, n, len(lesson.exercises)])
    return out.getvalue()
