"""Make the two copies of each lesson from its one source, running every cell.

    python tools/lessons.py                 all of notebooks/source/
    python tools/lessons.py 02 05           those whose names begin so
    python tools/lessons.py --check         say whether the copies fit their sources; run nothing
    python tools/lessons.py --index         write index, last page and lessons.json; run nothing

A source is a Python file in jupytext's percent format: it can be read, compared in git and linted,
and holds no output. Made from it:

- notebooks/instructor/NAME.ipynb: solutions, notes for the instructor, every output. nbval compares them.
- notebooks/NAME.ipynb, the learner's: stubs instead of solutions, no notes, no outputs.
- notebooks/index.ipynb, of all lessons: titles, minutes, what one can do afterwards, how far one is.
- notebooks/completion.ipynb, to run at the end; notebooks/lessons.json, exercises with hints, predictions.

In a source, `ll.lessons.check(…, hint="…")` or `hint=("vague", "plainer")` holds the hints. In the copies the
exercise's number takes their place, and `ll.lessons.hint(NUMBER)` shows them, the `# solution:` line last.
The first cell with code, `import llmlite as ll`, gets `ll.lessons.begin("NN")` in the copies.
`ll.lessons.predict(question, choices, answer, reveal)` stays as it is; its question is a plain string.
The first use of each word under "**Words.**" becomes a link to the glossary.

Copies are never edited by hand. What changes from run to run for no reason (timestamps, cell ids, the
interpreter's exact version) is left out, so that a difference in git is a difference in a result.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.words import link_first_uses

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
EXERCISE = re.compile(r"\*\*Exercise (?P<number>\d+)\.\*\*")
IMPORT = "import llmlite as ll"
ASSIGNMENT = re.compile(r"^(?P<name>[A-Za-z_][\w, ]*?) = ")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "file_extension": ".py"},
}


class LessonError(Exception):
    """A source that can't be made into a lesson: what, where, what to write instead."""


def tags(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])


def copy_name(source: Path) -> str:
    """Return the name of a lesson's copies, without ending: "NUMBER_name", as the source is called."""
    return source.stem


def sources(names: list[str] | None = None) -> list[Path]:
    """Return the sources whose copies' names begin with one of `names`, in order; all for none.

    Raises:
        LessonError: a name fits no source.
    """
    found = sorted(SOURCES.glob("*_*.py"), key=copy_name)
    for name in names or ():
        if not any(copy_name(path).startswith(name) for path in found):
            raise LessonError(f"no lesson {name!r}; there are: {', '.join(map(copy_name, found))}")
    return [path for path in found if not names or copy_name(path).startswith(tuple(names))]


def load(source: Path) -> Any:
    """Return a source as a notebook without outputs, cell ids counted."""
    notebook = jupytext.read(source, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{copy_name(source).partition('_')[0]}-{number:03d}"
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
    _number_exercises(notebook)
    return notebook


# --- hints and predictions --------------------------------------------------------------------


def _number_exercises(notebook: Any) -> None:
    """Note in each exercise and each check its number, as the text before it says, and move hints there."""
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
            about_exercise = cell.metadata["llmlite"]  # the notebook keeps a copy: what is changed below
        elif "check" in tags(cell):
            cell.source, given = numbered(cell.source, number)
            if about_exercise is not None:  # the solution's own line stays the last
                about_exercise["hints"] = list(dict.fromkeys([*given, *about_exercise["hints"]]))


def numbered(source: str, exercise: str) -> tuple[str, list[str]]:
    """Return a check's code with `exercise=NUMBER` in place of each `hint=…`, and the hints that were there.

    Raises:
        LessonError: a check without a hint, or whose hint isn't a plain string or a tuple of them.
    """
    raw, edits, hints = source.encode(), [], []
    starts = [0]
    for line in raw.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    for call in _calls(source, "check"):
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


def _calls(source: str, name: str) -> list[ast.Call]:
    """Return the calls of ll.lessons.NAME in a piece of code, in order."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    found = [node for node in found if ast.unparse(node.func) == f"ll.lessons.{name}"]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def catalog(chosen: list[Path]) -> str:
    """Return lessons.json: of each lesson its title, its exercises with their hints, its predictions.

    Raises:
        LessonError: a prediction whose question isn't a plain string.
    """
    lessons = {}
    for source in chosen:
        said, exercises, predictions = about(source), {}, []
        for cell in load(source).cells:
            found = cell.metadata.get("llmlite", {})
            if found:
                exercises[found["exercise"]] = found["hints"]
            for call in _calls(cell.source, "predict") if cell.cell_type == "code" else ():
                if not (call.args and isinstance(call.args[0], ast.Constant)):
                    raise LessonError(f"a prediction's question is a plain string:\n{cell.source}")
                predictions.append(call.args[0].value)
        lessons[said.number] = {
            "title": said.title, "file": f"{said.name}.ipynb", "minutes": said.minutes,
            "exercises": exercises, "predictions": predictions,
        }  # fmt: skip
    return json.dumps(lessons, indent=1, ensure_ascii=False) + "\n"


# --- exercises --------------------------------------------------------------------------------


def solved(text: str) -> str:
    """Return an exercise as the instructor sees it: the solution's line stays, the other markers go."""
    return "\n".join(line for line in text.split("\n") if not STUB.match(line) and not END.match(line))


def stubbed(text: str, exercise: str = "1") -> str:
    """Return an exercise as the learner gets it: what to fill in, and how to get a hint.

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
        out += _stub(lines[i + 1 : end], begin["indent"], exercise)
        i, found = end + 1, True
    if not found:
        raise LessonError(
            f"an exercise needs '# solution: HINT' ... '# end' around what is left out:\n{text}"
        )
    return "\n".join(out)


def _stub(solution: list[str], indent: str, exercise: str) -> list[str]:
    given = [match for line in solution if (match := STUB.match(line))]
    turn = f"# your turn; stuck? ll.lessons.hint({exercise})"
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
    made = _begun(notebook)
    for cell in made.cells:
        if "exercise" in tags(cell):
            cell.source = solved(cell.source)
        cell.metadata.pop("llmlite", None)
    return made


def _begun(notebook: Any) -> Any:
    """Return a copy whose first code says which lesson it is, with links to the glossary."""
    made = copy.deepcopy(notebook)
    link_first_uses(made)
    code = (cell for cell in made.cells if cell.cell_type == "code")
    first = next((cell for cell in code if cell.source.split("\n")[0] == IMPORT), None)
    if first is not None:
        rest = first.source[len(IMPORT) :]
        number = made.cells[0].id.partition("-")[0]
        first.source = f'{IMPORT}\nll.lessons.begin("{number}"){rest}'
    return made


def learner(notebook: Any) -> Any:
    """Return the learner's copy of a source: no solutions, no hints, no notes, no outputs."""
    made = _begun(notebook)
    for cell in made.cells:
        if "exercise" in tags(cell):
            cell.source = stubbed(cell.source, cell.metadata["llmlite"]["exercise"])
        cell.metadata.pop("llmlite", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
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
    write(done, INSTRUCTOR / f"{copy_name(source)}.ipynb")
    write(learner(notebook), NOTEBOOKS / f"{copy_name(source)}.ipynb")
    return seconds


def stale(source: Path) -> list[str]:
    """Return which copies don't hold what their source says (outputs aside), each with the reason."""
    notebook, problems = load(source), []
    wanted = {INSTRUCTOR: instructor(notebook), NOTEBOOKS: learner(notebook)}
    for folder, expected in wanted.items():
        path = folder / f"{copy_name(source)}.ipynb"
        if not path.is_file():
            problems.append(f"{path.relative_to(ROOT)}: missing")
            continue
        found = nbformat.read(path, as_version=4)
        if _text(found) != _text(expected) or (folder == NOTEBOOKS and any(map(_outputs, found.cells))):
            problems.append(f"{path.relative_to(ROOT)}: differs from {source.relative_to(ROOT)}")
    return problems


def _outputs(cell: Any) -> bool:
    return bool(cell.get("outputs"))


def _text(notebook: Any) -> list[tuple[str, str, list[str]]]:
    return [(cell.cell_type, cell.source, tags(cell)) for cell in notebook.cells]


# --- the index --------------------------------------------------------------------------------

INDEX = "index.ipynb"
CATALOG = "lessons.json"
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
        name=copy_name(source),
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
    """Return which of index, last page and list of exercises don't fit the sources."""
    problems = []
    for name, wanted in {
        INDEX: index([about(source) for source in sources()]),
        COMPLETION: completion(),
    }.items():
        path = NOTEBOOKS / name
        if not path.is_file() or _text(nbformat.read(path, as_version=4)) != _text(wanted):
            problems.append(f"{path.relative_to(ROOT)}: differs from the sources")
    path = NOTEBOOKS / CATALOG
    if not path.is_file() or path.read_text(encoding="utf-8") != catalog(sources()):
        problems.append(f"{path.relative_to(ROOT)}: differs from the sources")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginnings of lessons' names")
    parser.add_argument("--check", action="store_true", help="compare copies with sources, run nothing")
    parser.add_argument(
        "--index", action="store_true", help="write index, last page, lessons.json; run nothing"
    )
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
    (NOTEBOOKS / CATALOG).write_text(
        catalog(sources()), encoding="utf-8"
    )  # the lessons read it when they run
    for source in [] if index_only else chosen:
        print(f"{copy_name(source)}: {make(source):.1f} s", flush=True)
    write(index([about(source) for source in sources()]), NOTEBOOKS / INDEX)
    write(completion(), NOTEBOOKS / COMPLETION)
    return 0


if __name__ == "__main__":
    sys.exit(main())
