"""Render the lessons as web pages for a USB stick, which need no server, no network and no Python.

    python tools/render_site.py --out site                 the learner's copies
    python tools/render_site.py --out site --instructor    with solutions and notes

Each page has text, code, outputs and the static view of each widget. It loads one style sheet from its own
folder and nothing else. Start with index.html.

Learner copies hold no outputs. So a learner's page takes them from the instructor's copy, except the outputs
of exercises and checks. The answers to predictions are folded.
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import glossary
from tools.calls import LessonError
from tools.lesson_index import COMPLETION, INDEX, completion, index
from tools.lesson_sources import NOTEBOOKS, About, about, sources, tags
from tools.lessons import INSTRUCTOR

STYLE = "style.css"
LINK = re.compile(r'href="(?P<name>[^":#]+)\.ipynb(?P<place>#[^"]*)?"')
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="stylesheet" href="{style}">
</head>
<body>
<a class="skip" href="#lesson">Skip to the text</a>
<header>{navigation}{note}</header>
<main id="lesson">
{body}
</main>
<footer>{navigation}</footer>
</body>
</html>
"""
NOTE = (
    "<p class='note'>This page is for reading. To run the code and use the widgets, open the lesson with "
    "<code>llmlite lab</code>.</p>"
)
CSS = """
:root { --text: #1a1a1a; --page: #ffffff; --soft: #f4f4f2; --line: #c9c9c9; --link: #0b57a4;
  --mark: #b45f06; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ececec; --page: #16181c; --soft: #22252b; --line: #4a4e57; --link: #8ab8f0;
    --mark: #e6a23c; }
}
body { margin: 0 auto; max-width: 52rem; padding: 0 1rem 3rem; background: var(--page); color: var(--text);
  font: 1.06rem/1.6 system-ui, sans-serif; }
a { color: var(--link); }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 2rem; justify-content: space-between; padding: .8rem 0;
  border-bottom: 1px solid var(--line); }
footer nav { border: 0; border-top: 1px solid var(--line); margin-top: 3rem; }
.note { color: inherit; opacity: .8; font-size: .95rem; }
h1, h2, h3 { line-height: 1.25; margin: 2rem 0 .7rem; }
code, pre { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .93rem; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.45; }
.input_area { background: var(--soft); border: 1px solid var(--line); border-radius: 4px;
  padding: .6rem .8rem; margin: 1rem 0 .3rem; }
.celltag_exercise .input_area { border-left: 5px solid var(--mark); }
.celltag_instructor { border-left: 5px solid var(--mark); padding-left: 1rem; }
.output_area { padding: .2rem .8rem; overflow-x: auto; }
blockquote { margin: 1rem 0; padding: .1rem 1rem; border-left: 5px solid var(--link);
  background: var(--soft); }
figure { margin: 0; }
img, svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .93rem; margin: .6rem 0; }
caption { text-align: left; font-weight: bold; padding: .3rem 0; }
th, td { border: 1px solid var(--line); padding: .15rem .6rem; text-align: left; vertical-align: top; }
summary { cursor: pointer; }
.answer { border-left: 5px solid var(--link); padding: .2rem .8rem; }
"""
CHECKED = "# your answer is checked here"
ASKS = "ll.lessons.predict("
ANSWER = '<details class="answer"><summary>Answer</summary>{body}</details>'


HEADING = re.compile(r"<h([1-6])>([^<]*)</h\1>")


def pages(instructor: bool) -> dict[str, tuple[str, Any]]:
    """Return name -> (title, notebook) of all pages, in order; names have no suffix.

    The index comes first, then the lessons, the last page and the glossary.
    """
    lessons = [about(source) for source in sources()]
    found: dict[str, tuple[str, Any]] = {Path(INDEX).stem: ("Lessons", index(lessons))}
    for lesson in lessons:
        notebook = nbformat.read(INSTRUCTOR / f"{lesson.name}.ipynb", as_version=4)
        if not instructor:
            notebook = unsolved(nbformat.read(NOTEBOOKS / f"{lesson.name}.ipynb", as_version=4), notebook)
        found[lesson.name] = (_title(lesson), folded(notebook))
    found[Path(COMPLETION).stem] = ("The last page", completion())
    found[glossary.PAGE.stem] = ("Glossary", glossary.page(glossary.entries()))
    return found


def unsolved(learner: Any, executed: Any) -> Any:
    """Return a learner's copy with the instructor's outputs, except those of exercises and checks.

    Raises:
        LessonError: a cell differs between the copies.
    """
    ran = {cell.id: cell for cell in executed.cells}
    made = copy.deepcopy(learner)
    for cell in made.cells:
        if cell.cell_type != "code" or "exercise" in tags(cell):
            continue
        if "check" in tags(cell):
            cell.source = CHECKED
            continue
        if cell.id not in ran or ran[cell.id].source != cell.source:
            raise LessonError(
                f"cell {cell.id} differs in the instructor's copy; make both again: python tools/lessons.py"
            )
        cell.outputs = ran[cell.id].outputs
    return made


def folded(notebook: Any) -> Any:
    """Return a notebook in which each prediction shows its question and a folded answer."""
    made = copy.deepcopy(notebook)
    for cell in made.cells:
        if cell.cell_type != "code" or ASKS not in cell.source or len(cell.outputs) < 2:
            continue
        answer = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=cell.outputs[1:])])
        html = ANSWER.format(body=_body(answer, exclude_input=True))
        cell.outputs = [cell.outputs[0], nbformat.v4.new_output("display_data", {"text/html": html})]
    return made


def _title(lesson: About) -> str:
    return f"{lesson.number} · {lesson.title}"


def render(out: Path, *, instructor: bool = False) -> list[Path]:
    """Write all pages and their style sheet into a folder; return their paths.

    Raises:
        OSError: a lesson's copy is missing (make it with tools/lessons.py), or the folder can't be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = pages(instructor)
    style = out / STYLE
    style.write_text(CSS + highlighting(), encoding="utf-8")
    written = [style]
    for name, (title, notebook) in found.items():
        path = out / f"{name}.html"
        path.write_text(page(name, title, notebook, found), encoding="utf-8")
        written.append(path)
    return written


def page(name: str, title: str, notebook: Any, found: dict[str, tuple[str, Any]]) -> str:
    """Return one page: the notebook's cells, with links to its neighbours above and below."""
    body = LINK.sub(lambda m: f'href="{m["name"]}.html{m["place"] or ""}"', _body(notebook))
    first = next(iter(found))
    return PAGE.format(
        title=escape(title),
        style=STYLE,
        navigation=navigation(name, {key: value[0] for key, value in found.items()}),
        note="" if name == first else NOTE,
        body=body,
    )


def _body(notebook: Any, **options: bool) -> str:
    """Return a notebook's cells as the HTML of a page's body."""
    # "basic" gives the body only: the other templates load scripts and fonts from the network
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        **options,
    )
    return HEADING.sub(_with_anchor, str(exporter.from_notebook_node(notebook)[0]))


def _with_anchor(heading: re.Match[str]) -> str:
    """Give a heading the anchor that JupyterLab gives it: its words joined by hyphens."""
    return f'<h{heading[1]} id="{heading[2].replace(" ", "-")}">{heading[2]}</h{heading[1]}>'


def navigation(name: str, titles: dict[str, str]) -> str:
    """Return links to the previous page, the index and the next page."""
    names = list(titles)
    i = names.index(name)
    parts = []
    if i > 1:
        parts.append(_link(names[i - 1], f"← {titles[names[i - 1]]}", "prev"))
    if i > 0:
        parts.append(_link(names[0], "All lessons", "up"))
    if i + 1 < len(names):
        parts.append(_link(names[i + 1], f"{titles[names[i + 1]]} →", "next"))
    return f"<nav aria-label='Lessons'>{''.join(parts)}</nav>"


def _link(name: str, text: str, relation: str) -> str:
    return f'<a rel="{relation}" href="{name}.html">{escape(text)}</a>'


def highlighting() -> str:
    """Return the style sheet of code for light and dark pages."""
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    return (
        f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n.highlight {{ background: none; }}\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("site"), help="folder (default: %(default)s)")
    parser.add_argument("--instructor", action="store_true", help="with solutions and notes")
    options = parser.parse_args()
    try:
        written = render(options.out, instructor=options.instructor)
    except (OSError, ValueError, LessonError) as error:  # nbformat's and the decoder's are ValueErrors
        print(f"render_site: {error}", file=sys.stderr)
        return 2
    n_bytes = sum(path.stat().st_size for path in written)
    print(f"{options.out / 'index.html'}: {len(sources())} lessons, {n_bytes / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
