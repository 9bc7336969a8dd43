"""tools/lessons.py: what a learner gets of an exercise."""

from __future__ import annotations

import pytest

pytest.importorskip("jupytext")
pytest.importorskip("nbclient")

from tools.lessons import LessonError, learner, load, solved, stubbed

FUNCTION = '''def nibbles(byte):
    """Return both."""
    # solution: mask, then shift
    low = byte & 15
    return low, byte >> 4
    # end'''
ASSIGNMENT = """# solution: 18 bytes
bits = 18 * 8 / 32
low, high = 1, 2
# end
unit = "bits\""""


def test_a_function_keeps_its_head_and_loses_its_body() -> None:
    assert stubbed(FUNCTION) == (
        'def nibbles(byte):\n    """Return both."""\n    ...  # your turn: mask, then shift'
    )


def test_an_assignment_keeps_its_names() -> None:
    assert stubbed(ASSIGNMENT) == ('bits = ...  # your turn: 18 bytes\nlow, high = ..., ...\nunit = "bits"')


def test_given_stub_lines_stand_for_the_solution_and_are_not_in_it() -> None:
    text = "# solution: which?\n# stub: picks = {'a': ...}\npicks = {'a': 1}\n# end"
    assert stubbed(text) == "# your turn: which?\npicks = {'a': ...}"
    assert solved(text) == "# solution: which?\npicks = {'a': 1}"


@pytest.mark.parametrize(
    ("text", "problem"), [("x = 1", "needs '# solution"), ("# solution: h\nx = 1", "has no '# end'")]
)
def test_a_bad_exercise_is_refused_with_what_to_write(text: str, problem: str) -> None:
    with pytest.raises(LessonError, match=problem):
        stubbed(text)


def test_notes_for_the_instructor_and_outputs_of_checks_stay_out_of_the_learners_copy(tmp_path) -> None:
    path = tmp_path / "00_x.py"
    path.write_text(
        '# %% tags=["instructor"] [markdown]\n# secret\n\n'
        '# %% [markdown] tags=["instructor"]\n# also secret\n\n'
        "# %%\nimport llmlite as ll\n"
    )
    cells = learner(load(path)).cells
    assert not any("also secret" in cell.source for cell in cells)
    assert cells[-1].source == "import llmlite as ll"
