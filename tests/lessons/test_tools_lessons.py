"""tools/lessons.py: what a learner gets of an exercise."""

from __future__ import annotations

import ast
import json

import pytest

pytest.importorskip("jupytext")
pytest.importorskip("nbclient")

from tools.calls import LessonError, numbered
from tools.lesson_index import catalog, index
from tools.lesson_sources import About, about, load
from tools.lessons import instructor, learner, solved, stubbed

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
        'def nibbles(byte):\n    """Return both."""\n    ...  # your turn; stuck? ll.lessons.hint(1)'
    )


def test_an_assignment_keeps_its_names() -> None:
    assert stubbed(ASSIGNMENT) == (
        'bits = ...  # your turn; stuck? ll.lessons.hint(1)\nlow, high = ..., ...\nunit = "bits"'
    )


def test_given_stub_lines_stand_for_the_solution_and_are_not_in_it() -> None:
    text = "# solution: which?\n# stub: picks = {'a': ...}\npicks = {'a': 1}\n# end"
    assert stubbed(text) == "# your turn; stuck? ll.lessons.hint(1)\npicks = {'a': ...}"
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
    assert cells[-1].source == 'import llmlite as ll\nll.lessons.begin("00")'


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


WHOLE = (
    HEAD
    + """
# **Exercise 1.** Add.

# %%
import llmlite as ll

# %%
ll.lessons.predict(
    "How many bits in a byte — ü?", ["4", "8"], "8",
    "A byte has eight of them.",
)
ll.lessons.predict("Which bit?", ["low", "high"], lambda: "low", "computed")

# %% [markdown] tags=["answer"]
# Eight, we see.

# %% tags=["exercise"]
# solution: it is 8
bits = 8
# end

# %% tags=["check"]
ll.lessons.check("ü bits", bits, 8, hint=("count", "count again"), rtol=0)
ll.lessons.check("more", bits, 8, hint="count")
"""
)


def test_hints_are_in_the_list_of_exercises_and_in_no_copy(tmp_path) -> None:
    path = tmp_path / "03_bits.py"
    path.write_text(WHOLE, encoding="utf-8")
    (found,) = json.loads(catalog([path])).values()
    assert found["exercises"] == {"1": ["count", "count again", "it is 8"]}
    assert found["predictions"] == {
        "How many bits in a byte — ü?": {"answer": "8", "reveal": "A byte has eight of them."},
        "Which bit?": {},
    }
    open_ = "\n".join(cell.source for cell in learner(load(path)).cells)
    assert 'check("ü bits", bits, 8, exercise=1, rtol=0)' in open_ and 'll.lessons.begin("03")' in open_
    for secret in ("count", "it is 8", "eight of them"):
        assert secret not in open_.partition("Exercise 1")[2]
    assert "bits = 8" in "\n".join(cell.source for cell in instructor(load(path)).cells)


def test_no_copy_shows_a_predictions_answer_and_the_text_after_it_is_folded(tmp_path) -> None:
    path = tmp_path / "03_bits.py"
    path.write_text(WHOLE, encoding="utf-8")
    notebook = load(path)
    for made in (learner(notebook), instructor(notebook)):
        (cell,) = [cell for cell in made.cells if "How many bits" in cell.source]
        asked_, computed = ast.parse(cell.source).body
        assert [ast.unparse(arg) for arg in asked_.value.args] == [
            "'How many bits in a byte — ü?'",
            "['4', '8']",
        ]
        assert len(computed.value.args) == 4, "what the cell computes stays in it"
    (folded,) = [cell.source for cell in learner(notebook).cells if "Eight, we see" in cell.source]
    assert folded.startswith("<details>\n<summary>") and folded.endswith("\n\nEight, we see.\n\n</details>")
    assert any(cell.source == "Eight, we see." for cell in instructor(notebook).cells)


@pytest.mark.parametrize("call", ["ll.lessons.check('a', 1, 1)", "ll.lessons.check('a', 1, 1, hint=h)"])
def test_a_check_without_a_plain_hint_is_refused(call: str) -> None:
    with pytest.raises(LessonError, match="hint"):
        numbered(call, "1")
