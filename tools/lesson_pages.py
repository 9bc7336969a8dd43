"""The pages beside the lessons: their index, and the last page. tools/lessons.py writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nbformat

IMPORT = "import llmlite as ll"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "file_extension": ".py"},
}
INDEX = "index.ipynb"
WELCOME = """# Lessons

*{n} lessons, about {time} in all. They build on each other: start with the first.*

A language model, taken apart. You look into its file, its weights, its attention and its memory; you write
small parts of the machine yourself, and you measure it, on this computer. You need Python and what a matrix
is; nothing of language models. No network, no account.

Click a title to open the lesson. Run its cells from the top, each with Shift and Enter. Each open lesson
keeps a Python running, which holds memory: when you leave a lesson, choose *Close and Shut Down Notebook* in
the menu *File*.

Where it says *Predict first*, click before you run on: the answer is drawn after the click. An exercise has
hints, one at a time: `ll.lessons.hint(1)`. What you solve and predict is kept in `llmlite-progress.json` in
this folder, and goes nowhere. Run the cell below to see how far you are; at the end open
[the last page](completion.ipynb). The words that the lessons explain are in the [glossary](glossary.ipynb).

Everything that moves works by keyboard, too: Tab moves on, the space bar presses or ticks, the arrow keys
move a slider. (Notebook 7 takes the arrow keys for itself: there it is Page Up and Page Down.)"""
SHOW = IMPORT + "\n\nll.lessons.progress.bar()"
COMPLETION = "completion.ipynb"
FAREWELL = """# The last page

Run the cell below. It shows what you solved, what is open, and which predictions did not come true: these are
worth a second look."""
END_SHOW = IMPORT + "\n\nll.lessons.progress.completion()"
HAND_IN = """Does a teacher collect results? Write your name into the file, if you like, and hand in
`llmlite-progress.json`:

```python
ll.lessons.progress.sign("your name")
```"""
LESSON = """## [{number} · {title}]({file})

*{minutes} minutes.* Afterwards you can

{objectives}"""


@dataclass(frozen=True, kw_only=True)
class About:
    """What a lesson says of itself. name: its file's, without the ending. objectives: Markdown, one each."""

    name: str
    title: str
    minutes: int
    objectives: tuple[str, ...]

    @property
    def number(self) -> str:
        return self.name.partition("_")[0]


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
