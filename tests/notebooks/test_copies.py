"""The copies of each lesson fit its source; a learner's gives no solution away, and helps."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")
pytest.importorskip("nbclient")

from llmlite.lessons import progress  # noqa: E402
from tools import calls, lessons  # noqa: E402 (needs the two above)

EVERY = lessons.sources()


@pytest.fixture(params=EVERY, ids=lambda path: path.stem)
def source(request: pytest.FixtureRequest) -> Path:
    return request.param


def verdicts(notebook: object) -> list[str]:
    """Return every line that a check printed."""
    text = [
        output.get("text", "")
        for cell in notebook.cells
        if "check" in lessons.tags(cell)
        for output in cell.outputs
    ]
    return [line for line in "".join(text).splitlines() if line.startswith(("✓", "✗"))]


def test_the_copies_hold_what_the_source_says(source: Path) -> None:
    assert lessons.stale(source) == []


def test_the_index_lists_every_lesson() -> None:
    assert lessons.stale_index() == [], "make it with: python tools/lessons.py --index"
    text = "".join(cell.source for cell in lessons.index([lessons.about(path) for path in EVERY]).cells)
    for path in EVERY:
        assert f"({lessons.copy_name(path)}.ipynb)" in text


def test_every_check_passes_with_the_solutions(source: Path) -> None:
    copy = lessons.nbformat.read(lessons.INSTRUCTOR / f"{lessons.copy_name(source)}.ipynb", as_version=4)
    lines = verdicts(copy)
    assert lines and all(line.startswith("✓") for line in lines), lines


def test_a_check_follows_every_exercise(source: Path) -> None:
    kinds = [tag for cell in lessons.load(source).cells for tag in lessons.tags(cell)]
    kinds = [tag for tag in kinds if tag in ("exercise", "check")]
    assert "exercise" in kinds
    assert "exercise exercise" not in " ".join(kinds), "each exercise needs its own check after it"
    assert kinds[-1] == "check"


def test_the_learners_copy_gives_no_solution_and_no_notes_away(source: Path) -> None:
    notebook = lessons.load(source)
    solved, open_ = lessons.instructor(notebook), lessons.learner(notebook)
    assert any("instructor" in lessons.tags(cell) for cell in solved.cells), "no note for the instructor"
    assert not any("instructor" in lessons.tags(cell) for cell in open_.cells)
    for cell in open_.cells:
        if "exercise" in lessons.tags(cell):
            assert "your turn" in cell.source and "# solution" not in cell.source
            compile(cell.source, source.stem, "exec")
        assert "hint=" not in cell.source, "hints are asked for, never in a copy"


def test_every_prediction_is_clicked_and_its_answer_is_in_no_code(source: Path) -> None:
    for cell in lessons.learner(lessons.load(source)).cells:
        assert "**Predict first.**" not in cell.source, "ask with ll.lessons.predict"
        for call in calls.calls(cell.source, "predict") if cell.cell_type == "code" else ():
            literal = [arg for arg in call.args[2:] if isinstance(arg, ast.Constant)]
            assert len(literal) < 2, cell.source  # a computed answer may have a plain reveal


def test_every_prediction_gets_an_answer(source: Path) -> None:
    """Two of lesson 08 had none. It is computed by the cell's own code, or kept in lessons.json."""
    kept = progress.catalog()[source.stem.partition("_")[0]].predictions
    asked = 0
    for cell in lessons.learner(lessons.load(source)).cells:
        for call in calls.calls(cell.source, "predict") if cell.cell_type == "code" else ():
            asked += 1
            computed = len(call.args) > 2 or any(isinstance(arg, ast.Starred) for arg in call.args)
            told = kept.get(ast.literal_eval(call.args[0]), {})
            assert computed or (told.get("reveal") or "").strip(), ast.unparse(call)
    assert asked == len(kept)


def test_divergence_comes_after_logits_in_the_order_of_the_lessons() -> None:
    text = "\n".join(
        cell.source for path in EVERY for cell in lessons.learner(lessons.load(path)).cells
        if cell.cell_type == "markdown"
    )  # fmt: skip
    assert 0 < text.index("logits") < text.index("KL divergence")


def test_the_learners_copy_carries_no_outputs(source: Path) -> None:
    copy = lessons.nbformat.read(lessons.NOTEBOOKS / f"{lessons.copy_name(source)}.ipynb", as_version=4)
    for cell in copy.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, cell.source
            hidden = cell.metadata.get("jupyter", {}).get("source_hidden", False)
            assert hidden == ("check" in lessons.tags(cell)), "a check's code knows the answer"


def test_no_line_of_code_is_wider_than_a_projector_shows(source: Path) -> None:
    for cell in lessons.learner(lessons.load(source)).cells:
        if cell.cell_type == "code" and "check" not in lessons.tags(cell):
            assert max(map(len, cell.source.split("\n"))) <= 105, cell.source


@pytest.mark.slow
def test_every_check_fails_on_the_stubs_and_gives_a_hint(source: Path, tmp_path: Path) -> None:
    notebook = lessons.learner(lessons.load(source))
    lessons.execute(notebook, tmp_path)  # raises where a stub stops the notebook
    lines = verdicts(notebook)
    assert lines and all(
        line.startswith("✗") and "nothing yet. Stuck? ll.lessons.hint(" in line for line in lines
    ), lines
