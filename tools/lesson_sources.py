"""Read a lesson's source, a Python file in jupytext's percent format, as a notebook without outputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat

from tools.calls import LessonError, asked, numbered

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
SOURCES = NOTEBOOKS / "source"
SOLUTION = re.compile(r"^(?P<indent> *)# solution: (?P<hint>.*)$")
TITLE = re.compile(r"^# (?P<title>.+)$", re.M)
MINUTES = re.compile(r"^\*About (?P<minutes>\d+) minutes\.", re.M)
OBJECTIVES = re.compile(r"^\*\*Afterwards you can\*\*$(?P<list>.*?)(?=^$(?!\n- )|\Z)", re.M | re.S)
EXERCISE = re.compile(r"\*\*Exercise (?P<number>\d+)\.\*\*")
IMPORT = "import llmlite as ll"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "file_extension": ".py"},
}


def tags(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])


def copy_name(source: Path) -> str:
    """Return the name of a lesson's copies without suffix, "NUMBER_name", the same as its source's."""
    return source.stem


def sources(names: list[str] | None = None) -> list[Path]:
    """Return the sources whose copies' names begin with one of `names`, in order; all if there are none.

    Raises:
        LessonError: a name matches no source.
    """
    found = sorted(SOURCES.glob("*_*.py"), key=copy_name)
    for name in names or ():
        if not any(copy_name(path).startswith(name) for path in found):
            raise LessonError(f"no lesson {name!r}; there are: {', '.join(map(copy_name, found))}")
    return [path for path in found if not names or copy_name(path).startswith(tuple(names))]


def load(source: Path) -> Any:
    """Return a source as a notebook without outputs, with counted cell ids."""
    notebook = jupytext.read(source, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{copy_name(source).partition('_')[0]}-{number:03d}"
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
    _number_exercises(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code" and "ll.lessons.predict(" in cell.source:
            cell.source, told = asked(cell.source)
            cell.metadata["llmlite"] = {"predictions": told}
    return notebook


def _number_exercises(notebook: Any) -> None:
    """Number each exercise and check after the text before it, and store the hints with the exercise."""
    number, last, about_exercise = "", "", None
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for found in EXERCISE.finditer(cell.source):
                number = found["number"]
        elif "exercise" in tags(cell):
            if number == last:
                raise LessonError(f"no '**Exercise N.**' in the text before this exercise:\n{cell.source}")
            last = number
            plain = [m["hint"] for line in cell.source.split("\n") if (m := SOLUTION.match(line))]
            cell.metadata["llmlite"] = {"exercise": number, "hints": plain}
            about_exercise = cell.metadata["llmlite"]  # the notebook's own copy, to change below
        elif "check" in tags(cell):
            cell.source, given = numbered(cell.source, number)
            if about_exercise is not None:  # the hint in the solution's line stays last
                about_exercise["hints"] = list(dict.fromkeys([*given, *about_exercise["hints"]]))


@dataclass(frozen=True, kw_only=True)
class About:
    """Hold the facts about a lesson.

    Attributes:
        name: the name of its file, without the suffix.
        title: the title.
        minutes: its length, as its first cell states it.
        objectives: Markdown text of each objective.
    """

    name: str
    title: str
    minutes: int
    objectives: tuple[str, ...]

    @property
    def number(self) -> str:
        return self.name.partition("_")[0]


def about(source: Path) -> About:
    """Return the facts in the first cell of a source: title, minutes, objectives.

    Raises:
        LessonError: a fact is missing; the error names it.
    """
    text = load(source).cells[0].source
    found = {"# Title": TITLE.search(text), "*About N minutes. ...*": MINUTES.search(text)}
    found["**Afterwards you can** and a list"] = listed = OBJECTIVES.search(text)
    missing = [wanted for wanted, match in found.items() if not match]
    items = re.split(r"^- ", listed["list"], flags=re.M)[1:] if listed else []
    if missing or not items:
        raise LessonError(f"{source.name}: its first cell has no {' and no '.join(missing) or 'objective'}")
    return About(
        name=copy_name(source),
        title=TITLE.search(text)["title"],
        minutes=int(MINUTES.search(text)["minutes"]),
        objectives=tuple(" ".join(item.split()) for item in items),
    )
