"""What every lesson owes its reader, checked without running it; `make test` also runs them under nbval."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted((ROOT / "notebooks" / "instructor").glob("*.ipynb"))
LINES = 10
FUNCTION_LINES = 5
# Folders of whoever made the outputs; a lesson's own text may speak of /proc and the like.
MACHINE_PATH = re.compile(r"(?<![\w.])/(home|root|Users|work|tmp)/[\w.-]+|[A-Z]:\\\\Users")


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def tags(cell: dict[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_is_a_lesson() -> None:
    assert LESSONS


def test_it_was_run_from_the_top_in_one_go(lesson: Path) -> None:
    counts = [cell["execution_count"] for cell in cells(lesson, "code")]
    assert counts == list(range(1, len(counts) + 1))


def test_no_cell_ended_in_an_error(lesson: Path) -> None:
    for cell in cells(lesson, "code"):
        assert all(output["output_type"] != "error" for output in cell["outputs"]), source(cell)


def test_the_first_code_is_the_import(lesson: Path) -> None:
    first = source(cells(lesson, "code")[0]).splitlines()
    number = lesson.stem.partition("_")[0]
    assert first[:2] == ["import llmlite as ll", f'll.lessons.begin("{number}")']


def test_cells_are_short_and_define_little(lesson: Path) -> None:
    for cell in cells(lesson, "code"):
        text = source(cell)
        assert "sys.path" not in text
        if "exercise" in tags(cell):
            continue
        assert len(text.splitlines()) <= LINES, text
        for node in ast.walk(ast.parse(text)):
            assert not isinstance(node, ast.ClassDef), text
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES, text


def test_no_output_names_a_folder_of_the_machine_it_was_made_on(lesson: Path) -> None:
    for cell in cells(lesson, "code"):
        found = MACHINE_PATH.search(json.dumps(cell["outputs"]))
        assert not found, (found and found[0], source(cell))


def test_every_picture_has_a_description_and_its_data(lesson: Path) -> None:
    for cell in cells(lesson, "code"):
        for output in cell["outputs"]:
            data = output.get("data", {})
            assert "image/png" not in data, "show pictures with ll.plots.show: it adds description and data"
            html = "".join(data.get("text/html", ""))
            for tag in re.findall(r"<img [^>]{0,2000}", html):
                assert re.search(r'alt="[^"]{20,}', tag), source(cell)


def test_a_clock_is_never_compared(lesson: Path) -> None:
    for cell in cells(lesson, "code"):
        if re.search(r"perf_counter\(|compare\.run|compare_dashboard", source(cell)):
            assert "nbval-ignore-output" in tags(cell), source(cell)


def test_it_says_what_is_learned_asks_to_predict_and_recaps(lesson: Path) -> None:
    text = "\n".join(map(source, cells(lesson, "markdown")))
    for owed in ("Afterwards you can", "Exercise", "Time to here", "## Recap", "**Words.**"):
        assert owed in text, owed
    assert "ll.lessons.predict(" in "\n".join(map(source, cells(lesson, "code")))
