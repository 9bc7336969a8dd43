"""Make the two copies of each lesson from its one source, running every cell.

    python tools/lessons.py                 all of notebooks/source/
    python tools/lessons.py 02 05           those whose names begin so
    python tools/lessons.py --check         say whether the copies fit their sources; run nothing
    python tools/lessons.py --index         write the index only; run nothing

A source is a Python file in jupytext's percent format: it can be read, compared in git and linted,
and holds no output. Made from it:

- notebooks/instructor/NAME.ipynb: solutions, notes for the instructor, every output. nbval compares them.
- notebooks/NAME.ipynb, the learner's: stubs instead of solutions, no notes, outputs except of exercises.
- notebooks/index.ipynb, of all lessons: titles, minutes, what one can do afterwards.

Copies are never edited by hand. What changes from run to run for no reason (timestamps, cell ids, the
interpreter's exact version) is left out, so that a difference in git is a difference in a result.
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
SOURCES = NOTEBOOKS / "source"
INSTRUCTOR = NOTEBOOKS / "instructor"
CELL_SECONDS = 120
WIDGET = "application/vnd.jupyter.widget-view+json"
SOLUTION = re.compile(r"^(?P<indent> *)# solution: (?P<hint>.*)$")
STUB = re.compile(r"^(?P<indent> *)# stub: ?(?P<code>.*)$")
END = re.compile(r"^ *# end$")
TITLE = re.compile(r"^# (?P<title>.+)$", re.M)
MINUTES = re.compile(r"^\*About (?P<minutes>\d+) minutes\.", re.M)
OBJECTIVES = re.compile(r"^\*\*Afterwards you can\*\*$(?P<list>.*?)(?=^$(?!\n- )|\Z)", re.M | re.S)
ASSIGNMENT = re.compile(r"^(?P<name>[A-Za-z_][\w, ]*?) = ")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "file_extension": ".py"},
}


class LessonError(Exception):
    """A source that can't be made into a lesson: what, where, what to write instead."""


def tags(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])


def sources(names: list[str] | None = None) -> list[Path]:
    """Return the sources whose names begin with one of `names`, in order; all for none.

    Raises:
        LessonError: a name fits no source.
    """
    found = sorted(SOURCES.glob("[0-9]*.py"))
    for name in names or ():
        if not any(path.stem.startswith(name) for path in found):
            raise LessonError(f"no lesson {name!r}; there are: {', '.join(path.stem for path in found)}")
    return [path for path in found if not names or path.stem.startswith(tuple(names))]


def load(source: Path) -> Any:
    """Return a source as a notebook without outputs, cell ids counted."""
    notebook = jupytext.read(source, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{source.stem[:2]}-{number:03d}"
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
    return notebook


# --- exercises --------------------------------------------------------------------------------


def solved(text: str) -> str:
    """Return an exercise as the instructor sees it: the hint stays, the other markers go."""
    return "\n".join(line for line in text.split("\n") if not STUB.match(line) and not END.match(line))


def stubbed(text: str) -> str:
    """Return an exercise as the learner gets it.

    Raises:
        LessonError: no `# solution: HINT` … `# end` in the cell, or one without its end.
    """
    lines, out, found = text.split("\n"), [], False
    i = 0
    while i < len(lines):
        begin = SOLUTION.match(lines[i])
        if not begin:
            out.append(lines[i])
            i += 1
            continue
        end = next((j for j in range(i + 1, len(lines)) if END.match(lines[j])), None)
        if end is None:
            raise LessonError(f"'# solution: {begin['hint']}' has no '# end' after it:\n{text}")
        out += _stub(lines[i + 1 : end], begin["indent"], begin["hint"])
        i, found = end + 1, True
    if not found:
        raise LessonError(
            f"an exercise needs '# solution: HINT' ... '# end' around what is left out:\n{text}"
        )
    return "\n".join(out)


def _stub(solution: list[str], indent: str, hint: str) -> list[str]:
    given = [match for line in solution if (match := STUB.match(line))]
    turn = f"# your turn: {hint}"
    if given:
        return [f"{indent}{turn}", *(match["indent"] + match["code"] for match in given)]
    assigned = [match["name"] for line in solution if (match := ASSIGNMENT.match(line))]
    if indent or not assigned:
        return [f"{indent}...  {turn}"]
    names = [f"{name} = {', '.join(['...'] * len(name.split(',')))}" for name in dict.fromkeys(assigned)]
    return [f"{names[0]}  {turn}", *names[1:]]


# --- copies -----------------------------------------------------------------------------------


def instructor(notebook: Any) -> Any:
    """Return the instructor's copy of a source, without outputs."""
    made = copy.deepcopy(notebook)
    for cell in made.cells:
        if "exercise" in tags(cell):
            cell.source = solved(cell.source)
    return made


def learner(notebook: Any, executed: Any = None) -> Any:
    """Return the learner's copy of a source, with the outputs of the executed instructor's copy.

    Exercises and checks stay without output, and as if never run.
    """
    made = copy.deepcopy(notebook)
    for cell, done in zip(made.cells, (executed or notebook).cells, strict=True):
        if "exercise" in tags(cell):
            cell.source = stubbed(cell.source)
        elif cell.cell_type == "code" and "check" not in tags(cell):
            cell.outputs, cell.execution_count = copy.deepcopy(done.outputs), done.execution_count
    made.cells = [cell for cell in made.cells if "instructor" not in tags(cell)]
    return made


def execute(notebook: Any, folder: Path) -> float:
    """Run all cells in a fresh kernel, in place; return the seconds it took."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)  # the kernel imports this checkout
    begin = time.monotonic()
    NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    seconds = time.monotonic() - begin
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [
                _stored(output) for output in cell.outputs if WIDGET not in output.get("data", {})
            ]
    return seconds


def _stored(output: Any) -> Any:
    """Return an output as it is kept: a widget's static view unfolded, for nothing else will be seen."""
    html = output.get("data", {}).get("text/html", "")
    if html.startswith('<details class="llmlite-static">'):
        output["data"]["text/html"] = html.replace("<details class", "<details open class", 1)
    return output


def write(notebook: Any, path: Path) -> None:
    """Write a notebook to a temporary name and rename it: a failed run leaves the old copy alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".ipynb.part")
    nbformat.write(notebook, temporary)
    temporary.replace(path)


def make(source: Path) -> float:
    """Run one lesson and write its copies; return the seconds the run took."""
    notebook = load(source)
    learner(notebook)  # raises for a bad exercise before minutes are spent
    done = instructor(notebook)
    seconds = execute(done, NOTEBOOKS)
    write(done, INSTRUCTOR / f"{source.stem}.ipynb")
    write(learner(notebook, done), NOTEBOOKS / f"{source.stem}.ipynb")
    return seconds


def stale(source: Path) -> list[str]:
    """Return which copies don't hold what their source says (outputs aside), each with the reason."""
    notebook, problems = load(source), []
    wanted = {INSTRUCTOR: instructor(notebook), NOTEBOOKS: learner(notebook)}
    for folder, expected in wanted.items():
        path = folder / f"{source.stem}.ipynb"
        if not path.is_file():
            problems.append(f"{path.relative_to(ROOT)}: missing")
            continue
        found = nbformat.read(path, as_version=4)
        if _text(found) != _text(expected):
            problems.append(f"{path.relative_to(ROOT)}: differs from {source.relative_to(ROOT)}")
    return problems


def _text(notebook: Any) -> list[tuple[str, str, list[str]]]:
    return [(cell.cell_type, cell.source, tags(cell)) for cell in notebook.cells]


# --- the index --------------------------------------------------------------------------------

INDEX = "index.ipynb"
WELCOME = """# Lessons

*{n} lessons, about {time} in all. They build on each other: start with the first.*

A language model, taken apart. You look into its file, its weights, its attention and its memory; you write
small parts of the machine yourself, and you measure it, on this computer. You need Python and what a matrix
is; nothing of language models. No network, no account.

Click a title to open the lesson. Run its cells from the top, each with Shift and Enter. What you see before
that are the results of an earlier run.

Everything that moves works by keyboard, too: Tab moves on, the space bar presses or ticks, the arrow keys
move a slider. (Notebook 7 takes the arrow keys for itself: there it is Page Up and Page Down.)"""
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
        return self.name[:2]


def about(source: Path) -> About:
    """Return what the first cell of a source says: title, minutes, objectives.

    Raises:
        LessonError: naming what isn't there.
    """
    text = load(source).cells[0].source
    found = {"# Title": TITLE.search(text), "*About N minutes. ...*": MINUTES.search(text)}
    found["**Afterwards you can** and a list"] = listed = OBJECTIVES.search(text)
    missing = [wanted for wanted, match in found.items() if not match]
    items = re.split(r"^- ", listed["list"], flags=re.M)[1:] if listed else []
    if missing or not items:
        raise LessonError(f"{source.name}: its first cell has no {' and no '.join(missing) or 'objective'}")
    return About(
        name=source.stem,
        title=TITLE.search(text)["title"],
        minutes=int(MINUTES.search(text)["minutes"]),
        objectives=tuple(" ".join(item.split()) for item in items),
    )


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
    return notebook


def _duration(minutes: int) -> str:
    hours, rest = divmod(minutes, 60)
    words = [f"{hours} hour{'s' if hours > 1 else ''}"] * (hours > 0) + [f"{rest} minutes"] * (rest > 0)
    return " and ".join(words)


def stale_index() -> list[str]:
    """Return whether the index doesn't fit the sources: no line or one."""
    path = NOTEBOOKS / INDEX
    wanted = index([about(source) for source in sources()])
    if path.is_file() and _text(nbformat.read(path, as_version=4)) == _text(wanted):
        return []
    return [f"{path.relative_to(ROOT)}: differs from the sources"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginnings of lessons' names")
    parser.add_argument("--check", action="store_true", help="compare copies with sources, run nothing")
    parser.add_argument("--index", action="store_true", help="write the index, run nothing")
    options = parser.parse_args()
    try:
        return run(sources(options.names), check=options.check, index_only=options.index)
    except (LessonError, CellExecutionError, OSError, ValueError) as error:  # nbformat's are ValueErrors
        print(f"lessons: {error}", file=sys.stderr)
        return 2


def run(chosen: list[Path], *, check: bool, index_only: bool) -> int:
    if check:
        problems = [problem for source in chosen for problem in stale(source)] + stale_index()
        print("\n".join(problems) or f"{len(chosen)} lessons: the copies fit their sources")
        return 1 if problems else 0
    for source in [] if index_only else chosen:
        print(f"{source.stem}: {make(source):.1f} s", flush=True)
    write(index([about(source) for source in sources()]), NOTEBOOKS / INDEX)
    return 0


if __name__ == "__main__":
    sys.exit(main())
