"""tools/lessons.py: what a learner gets of an exercise."""

from __future__ import annotations

import pytest

pytest.importorskip("jupytext")
pytest.importorskip("nbclient")

from tools.lessons import About, LessonError, about, index, learner, load, solved, stubbed

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


HEAD = """# %% [markdown]
# # How bits add up
#
# *About 70 minutes. It is quick.*
#
# Some words.
#
# **Afterwards you can**
#
# - count them, also where the line
#   is long;
# - stop.
#
# More words - and a dash.
"""


def test_the_first_cell_says_title_minutes_and_objectives(tmp_path) -> None:
    path = tmp_path / "03_bits.py"
    path.write_text(HEAD)
    found = about(path)
    assert (found.number, found.title, found.minutes) == ("03", "How bits add up", 70)
    assert found.objectives == ("count them, also where the line is long;", "stop.")


@pytest.mark.parametrize("owed", ["# # How", "*About 70 minutes", "**Afterwards you can**"])
def test_a_first_cell_without_one_of_them_is_refused(tmp_path, owed: str) -> None:
    path = tmp_path / "03_bits.py"
    path.write_text(HEAD.replace(owed, "x"))
    with pytest.raises(LessonError, match=r"03_bits.py: its first cell has no"):
        about(path)


def test_the_index_links_every_lesson_and_adds_up_the_time() -> None:
    lessons = [
        About(name=f"0{i}_x", title=f"Title {i}", minutes=40, objectives=("do", "see")) for i in range(2)
    ]
    text = "\n".join(cell.source for cell in index(lessons).cells)
    assert "2 lessons, about 1 hour and 20 minutes" in text
    assert "[00 · Title 0](00_x.ipynb)" in text and "- do\n- see" in text
