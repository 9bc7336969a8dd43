"""Run every cell of each lesson, and make its two copies from its source.

    python tools/lessons.py                 all lessons of notebooks/source/
    python tools/lessons.py 02 05           only lessons with these prefixes
    python tools/lessons.py --check         check that the copies match their sources; run nothing
    python tools/lessons.py --index         write the index, last page and lessons.json; run nothing

A source is a Python file in jupytext's percent format. It can be read, compared in git and linted, and holds
no output. These files are made:

- notebooks/instructor/NAME.ipynb: solutions, notes for the instructor, every output (nbval compares them).
- notebooks/NAME.ipynb, the learner's: stubs instead of solutions, no notes, no outputs.
- notebooks/index.ipynb: the titles, minutes and objectives of all lessons, and the learner's progress.
- notebooks/completion.ipynb: the last page, to run at the end.
- notebooks/lessons.json: exercises with hints, and predictions.

In a source, `ll.lessons.check(…, hint="…")` or `hint=("vague", "plainer")` holds the hints. In the copies,
the exercise's number replaces them, and `ll.lessons.hint(NUMBER)` shows them, with the `# solution:` line
last. The first cell with code, `import llmlite as ll`, gets `ll.lessons.begin("NN")` in the copies. The
question of `ll.lessons.predict(question, choices, answer, reveal)` must be a plain string. If answer and
reveal are plain strings too, they move to lessons.json, so that no copy shows them. A text cell with the tag
"answer" is folded in the learner's copy. The first use of each word of the glossary becomes a link to it.

Never edit a copy by hand. Details that change in every run (timestamps, cell ids, the interpreter's exact
version) are left out, so that a difference in git is a difference in a result.
"""

from __future__ import annotations

import argparse
import copy
import functools
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.calls import LessonError
from tools.lesson_index import (
    CATALOG,
    COMPLETION,
    INDEX,
    catalog,
    cells_of,
    completion,
    index,
    stale_index,
)
from tools.lesson_sources import (
    IMPORT,
    METADATA,
    NOTEBOOKS,
    ROOT,
    SOLUTION,
    about,
    copy_name,
    load,
    sources,
    tags,
)
from tools.words import explained, link_first_uses

INSTRUCTOR = NOTEBOOKS / "instructor"
CELL_SECONDS = 120
WIDGET = "application/vnd.jupyter.widget-view+json"
STUB = re.compile(r"^(?P<indent> *)# stub: ?(?P<code>.*)$")
END = re.compile(r"^ *# end$")
FOLD = "<details>\n<summary>The answer (predict first, then open)</summary>\n\n{text}\n\n</details>"
CHECKS = "# run this cell: it checks exercise {exercise}"
ASSIGNMENT = re.compile(r"^(?P<name>[A-Za-z_][\w, ]*?) = ")


# --- exercises --------------------------------------------------------------------------------


def solved(text: str) -> str:
    """Return an exercise for the instructor: keep the `# solution:` line, remove the other markers."""
    return "\n".join(line for line in text.split("\n") if not STUB.match(line) and not END.match(line))


def stubbed(text: str, exercise: str = "1") -> str:
    """Return an exercise for the learner: gaps to fill in, and the call that gives a hint.

    Raises:
        LessonError: the cell has no `# solution: HINT` … `# end`, or one without its end.
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
            f"an exercise needs '# solution: HINT' ... '# end' around the lines to leave out:\n{text}"
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


@functools.cache
def glossary_words() -> tuple[str, ...]:
    """Return every word that a lesson explains."""
    found = (word for source in sources() for word, _ in explained(jupytext.read(source, fmt="py:percent")))
    return tuple(dict.fromkeys(found))


def instructor(notebook: Any) -> Any:
    """Return the instructor's copy of a source, without outputs."""
    made = _begun(notebook)
    for cell in made.cells:
        if "exercise" in tags(cell):
            cell.source = solved(cell.source)
        cell.metadata.pop("llmlite", None)
    return made


def _begun(notebook: Any) -> Any:
    """Return a copy with links to the glossary, and with the lesson's number in its first code cell."""
    made = copy.deepcopy(notebook)
    link_first_uses(made, glossary_words())
    code = (cell for cell in made.cells if cell.cell_type == "code")
    first = next((cell for cell in code if cell.source.split("\n")[0] == IMPORT), None)
    if first is not None:
        rest = first.source[len(IMPORT) :]
        number = made.cells[0].id.partition("-")[0]
        first.source = f'{IMPORT}\nll.lessons.begin("{number}"){rest}'
    return made


def learner(notebook: Any) -> Any:
    """Return the learner's copy of a source: without solutions, hints, notes and outputs, answers folded."""
    made, exercise = _begun(notebook), ""
    for cell in made.cells:
        if "exercise" in tags(cell):
            exercise = cell.metadata["llmlite"]["exercise"]
            cell.source = stubbed(cell.source, exercise)
        cell.metadata.pop("llmlite", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if "check" in tags(cell):
                cell.metadata["jupyter"] = {"source_hidden": True}  # fold it: its code has the answer
                cell.source = (
                    f"{CHECKS.format(exercise=exercise)}\n{cell.source}"  # the line that stays visible
                )
        elif "answer" in tags(cell):
            cell.source = FOLD.format(text=cell.source)
    made.cells = [cell for cell in made.cells if "instructor" not in tags(cell)]
    return made


def execute(notebook: Any, folder: Path) -> float:
    """Run all cells in a fresh kernel, in place; return the seconds of the run."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)  # so that the kernel imports this checkout
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
    """Return an output to store, with a widget's static view unfolded: a stored copy shows nothing else."""
    html = output.get("data", {}).get("text/html", "")
    if html.startswith('<details class="llmlite-static">'):
        output["data"]["text/html"] = html.replace("<details class", "<details open class", 1)
    return output


def write(notebook: Any, path: Path) -> None:
    """Write a notebook under a temporary name and rename it, so that a failed run keeps the old copy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".ipynb.part")
    nbformat.write(notebook, temporary)
    temporary.replace(path)


def make(source: Path) -> float:
    """Run one lesson and write its copies; return the seconds the run took."""
    notebook = load(source)
    learner(notebook)  # find a bad exercise before spending minutes on the run
    done = instructor(notebook)
    seconds = execute(done, NOTEBOOKS)
    write(done, INSTRUCTOR / f"{copy_name(source)}.ipynb")
    write(learner(notebook), NOTEBOOKS / f"{copy_name(source)}.ipynb")
    return seconds


def stale(source: Path) -> list[str]:
    """Return the copies that don't match their source (outputs aside), each with the reason."""
    notebook, problems = load(source), []
    wanted = {INSTRUCTOR: instructor(notebook), NOTEBOOKS: learner(notebook)}
    for folder, expected in wanted.items():
        path = folder / f"{copy_name(source)}.ipynb"
        if not path.is_file():
            problems.append(f"{path.relative_to(ROOT)}: missing")
            continue
        found = nbformat.read(path, as_version=4)
        if cells_of(found) != cells_of(expected) or (folder == NOTEBOOKS and any(map(_outputs, found.cells))):
            problems.append(f"{path.relative_to(ROOT)}: differs from {source.relative_to(ROOT)}")
    return problems


def _outputs(cell: Any) -> bool:
    return bool(cell.get("outputs"))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginnings of lessons' names")
    parser.add_argument("--check", action="store_true", help="compare copies with sources; run nothing")
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
        print("\n".join(problems) or f"{len(chosen)} lessons: the copies match their sources")
        return 1 if problems else 0
    (NOTEBOOKS / CATALOG).write_text(
        catalog(sources()), encoding="utf-8"
    )  # because the lessons read it when they run
    for source in [] if index_only else chosen:
        print(f"{copy_name(source)}: {make(source):.1f} s", flush=True)
    write(index([about(source) for source in sources()]), NOTEBOOKS / INDEX)
    write(completion(), NOTEBOOKS / COMPLETION)
    return 0


if __name__ == "__main__":
    sys.exit(main())
