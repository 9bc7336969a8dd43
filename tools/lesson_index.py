"""Make the files about all lessons: the index, the last page, and lessons.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat

from tools.lesson_sources import (
    IMPORT,
    METADATA,
    NOTEBOOKS,
    ROOT,
    About,
    about,
    load,
    sources,
    tags,
)

INDEX = "index.ipynb"
CATALOG = "lessons.json"
WELCOME = """# Lessons

*{n} lessons, about {time} in all. They build on each other: start with the first.*

A language model, taken apart. You look into its file, its weights, its attention and its memory; you write
small parts of the machine yourself, and you measure it, on this computer. You need to know
Python and what a matrix is, but nothing about language models. You need no network and no account.

Click a title to open the lesson. Run its cells from the top, each with Shift and Enter. Each open lesson
keeps a Python process running, which takes memory: when you leave a lesson, choose *Close and Shut Down
Notebook* in the menu *File*.

At *Predict first*, click before you run the next cell: the answer is shown after the click. An exercise has
hints, one at a time: `ll.lessons.hint(1)`. Your solutions and predictions are stored in
`llmlite-progress.json` in this folder, and are sent nowhere. Run the cell below to see how far you are. At
the end, open [the last page](completion.ipynb). The words that the lessons explain are in the
[glossary](glossary.ipynb).

All widgets also work by keyboard: Tab moves on, the space bar presses or ticks, and the arrow keys move a
slider. (Notebook 7 uses the arrow keys itself: there, Page Up and Page Down move a slider.)"""
SHOW = IMPORT + "\n\nll.lessons.progress.bar()"
COMPLETION = "completion.ipynb"
FAREWELL = """# The last page

Run the cell below. It shows which exercises you solved, which are open, and which predictions did not come
true: these are worth a second look."""
END_SHOW = IMPORT + "\n\nll.lessons.progress.completion()"
HAND_IN = """Does a teacher collect results? If you like, write your name into `llmlite-progress.json`. Then
hand in that file:

```python
ll.lessons.progress.sign("your name")
```"""
LESSON = """## [{number} · {title}]({file})

*{minutes} minutes.* Afterwards you can

{objectives}"""


def catalog(chosen: list[Path]) -> str:
    """Return lessons.json: each lesson's title, exercises with hints, and predictions with answers."""
    lessons = {}
    for source in chosen:
        said, exercises, predictions = about(source), {}, {}
        for cell in load(source).cells:
            found = cell.metadata.get("llmlite", {})
            if "exercise" in found:
                exercises[found["exercise"]] = found["hints"]
            predictions |= found.get("predictions", {})
        lessons[said.number] = {
            "title": said.title, "file": f"{said.name}.ipynb", "minutes": said.minutes,
            "exercises": exercises, "predictions": predictions,
        }  # fmt: skip
    return json.dumps(lessons, indent=1, ensure_ascii=False) + "\n"


def cells_of(notebook: Any) -> list[tuple[str, str, list[str]]]:
    """Return the kind, text and tags of each cell, which a copy must share with its source."""
    return [(cell.cell_type, cell.source, tags(cell)) for cell in notebook.cells]


def index(lessons: list[About]) -> Any:
    """Return a notebook of links to all lessons, each with its minutes and objectives."""
    minutes = sum(lesson.minutes for lesson in lessons)
    texts = [WELCOME.format(n=len(lessons), time=_duration(minutes))]
    for lesson in lessons:
        texts.append(
            LESSON.format(
                number=lesson.number,
                title=lesson.title,
                file=f"{lesson.name}.ipynb",
                minutes=lesson.minutes,
                objectives="\n".join(f"- {objective}" for objective in lesson.objectives),
            )
        )
    notebook = nbformat.v4.new_notebook(metadata=nbformat.from_dict(METADATA))
    notebook.cells = [nbformat.v4.new_markdown_cell(text, id=f"index-{i:02}") for i, text in enumerate(texts)]
    notebook.cells.insert(1, nbformat.v4.new_code_cell(SHOW, id="index-progress"))
    return notebook


def completion() -> Any:
    """Return the notebook of the last page."""
    notebook = nbformat.v4.new_notebook(metadata=nbformat.from_dict(METADATA))
    notebook.cells = [
        nbformat.v4.new_markdown_cell(FAREWELL, id="completion-0"),
        nbformat.v4.new_code_cell(END_SHOW, id="completion-1"),
        nbformat.v4.new_markdown_cell(HAND_IN, id="completion-2"),
    ]
    return notebook


def _duration(minutes: int) -> str:
    hours, rest = divmod(minutes, 60)
    words = [f"{hours} hour{'s' if hours > 1 else ''}"] * (hours > 0) + [f"{rest} minutes"] * (rest > 0)
    return " and ".join(words)


def stale_index() -> list[str]:
    """Return which of the index, last page and lessons.json don't match the sources."""
    problems = []
    for name, wanted in {
        INDEX: index([about(source) for source in sources()]),
        COMPLETION: completion(),
    }.items():
        path = NOTEBOOKS / name
        if not path.is_file() or cells_of(nbformat.read(path, as_version=4)) != cells_of(wanted):
            problems.append(f"{path.relative_to(ROOT)}: differs from the sources")
    path = NOTEBOOKS / CATALOG
    if not path.is_file() or path.read_text(encoding="utf-8") != catalog(sources()):
        problems.append(f"{path.relative_to(ROOT)}: differs from the sources")
    return problems
