"""The lessons that take MODEL run to their end on SmolLM2, too, and all their checks pass."""

from __future__ import annotations

import os

import pytest

jupytext = pytest.importorskip("jupytext")
pytest.importorskip("nbclient")

from tests.support.pulling import real_model  # noqa: E402
from tools import lessons  # noqa: E402 (needs the two above)

TAKING_A_MODEL = ("01", "03", "03b", "04", "05", "06", "07", "08")


def test_every_lesson_that_takes_a_model_is_tried() -> None:
    taking = [
        lessons.copy_name(source).partition("_")[0]
        for source in lessons.sources()
        if any(cell.source.startswith("MODEL = ") for cell in lessons.load(source).cells)
    ]
    assert tuple(taking) == TAKING_A_MODEL


@pytest.mark.slow
@pytest.mark.parametrize("number", TAKING_A_MODEL)
def test_a_lesson_runs_to_its_end_on_smollm2(number: str, tmp_path: object) -> None:
    path = real_model("smollm2")
    (source,) = lessons.sources([f"{number}_"])
    notebook = lessons.instructor(lessons.load(source))
    (cell,) = [cell for cell in notebook.cells if cell.source.startswith("MODEL = ")]
    rest = cell.source.partition("\n")[2]
    name = "smollm2" if number in ("01", "08") else os.fspath(path)  # a path takes no type after a colon
    cell.source = f"MODEL = {name!r}\n{rest}"
    lessons.execute(notebook, tmp_path)  # raises if a cell ends in an error
    said = [o.get("text", "") for c in notebook.cells if "check" in lessons.tags(c) for o in c.outputs]
    lines = [line for line in "".join(said).splitlines() if line.startswith(("✓", "✗"))]
    assert lines and all(line.startswith("✓") for line in lines), lines
