"""The learner's record: what is kept, when, who can read it, and that nobody waits for a click."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from llmlite import lessons
from llmlite.cli import main
from llmlite.errors import LlmliteError
from llmlite.lessons import progress


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A progress file that this process writes, as lesson 02."""
    file = tmp_path / "anna" / progress.FILE
    file.parent.mkdir()
    monkeypatch.setenv("LLMLITE_PROGRESS", str(file))
    monkeypatch.setitem(progress._running, "lesson", "02")
    return file


def test_a_check_is_kept_and_right_stays_right(record: Path) -> None:
    lessons.check("it", ..., 1, exercise=1)
    assert not record.exists(), "an untouched stub is no try"
    lessons.check("it", 2, 1, exercise=1)
    assert progress.load(record).solved("02") == set()
    lessons.check("it", 1, 1, exercise=1)
    lessons.check("it", 2, 1, exercise=1)
    assert progress.load(record).lessons["02"]["exercises"]["1"]["it"] == {
        "right": True,
        "tries": 2,
        "kind": "",
    }
    assert progress.load(record).solved("02") == {"1"}


def test_without_anybody_at_the_notebook_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LLMLITE_PROGRESS", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    lessons.check("it", 1, 1, exercise=1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("JPY_SESSION_NAME", "02.ipynb")
    assert progress.path() == tmp_path / progress.FILE


def test_hints_come_one_at_a_time_and_are_kept(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = progress.catalog()["02"].exercises["1"]
    for _ in range(len(steps) + 1):
        lessons.hint(1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[2] for line in lines] == [*steps, steps[-1]]
    assert progress.load(record).lessons["02"]["hints"] == {"1": len(steps)}
    lessons.hint(99)
    assert "there are: 1" in capsys.readouterr().out


def test_a_prediction_is_told_at_once_if_nobody_can_click(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("IPython")
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    drawn = []
    lessons.predict("Which?", ["a", "b"], "b", lambda: drawn.append(1))
    assert drawn == [1] and "It is: b." in capsys.readouterr().out


def test_a_prediction_reveals_in_the_callback_of_the_first_click(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widgets = pytest.importorskip("ipywidgets")
    import IPython.display

    shown, drawn = [], []
    monkeypatch.setenv("JPY_SESSION_NAME", "02.ipynb")
    monkeypatch.setattr(IPython.display, "display", lambda *a, **k: shown.append(a[0]))
    lessons.predict("Which?", ["a", "b"], lambda: "b", lambda: drawn.append(1))
    assert drawn == []
    first, second = [w for w in shown[0].children[1].children if isinstance(w, widgets.Button)]
    first.click()
    second.click()
    assert progress.load(record).predicted("02") == {"Which?": {"choice": "a", "answer": "b", "right": False}}
    assert "You said: a. It is: b." in shown[0].children[2].value and first.disabled and second.disabled


def test_answers_that_a_copy_does_not_show_come_from_the_list_of_lessons(
    record: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("IPython")
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    question, told = next(iter(progress.catalog()["02"].predictions.items()))
    lessons.predict(question, [told["answer"], "another"])
    assert f"It is: {told['answer']}." in capsys.readouterr().out
    lessons.predict("A question of nobody's?", ["a", "b"])
    assert "It is" not in capsys.readouterr().out


@pytest.mark.parametrize(("choices", "answer"), [(["a"], "a"), (["a", "a"], "a"), (["a", "b"], "c")])
def test_a_prediction_that_cannot_be_right_is_refused(choices: list[str], answer: str) -> None:
    with pytest.raises(ValueError, match="choice"):
        lessons.predict("Which?", choices, answer)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1, "learner": 3, "lessons": {}}',
        '{"format": 1, "learner": "", "lessons": {"02": {"exercises": [1]}}}',
        "[" * 9999,
    ],
)
def test_a_file_that_is_no_progress_is_refused_by_name_and_left_alone(record: Path, text: str) -> None:
    record.write_text(text)
    with pytest.raises(LlmliteError, match=progress.FILE):
        progress.load(record)
    lessons.check("it", 1, 1, exercise=1)
    assert record.read_text() == text


def test_a_teacher_sees_lesson_by_learner_and_the_most_missed_prediction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def learner(name: str, right: bool) -> None:
        (tmp_path / name).mkdir()
        made = {"Which?": {"choice": "a", "answer": "b", "right": right}}
        one = {"exercises": {"1": {"it": {"right": right, "tries": 1}}}, "predictions": made}
        text = json.dumps({"format": 1, "learner": "", "lessons": {"02": one}})
        (tmp_path / name / progress.FILE).write_text(text)

    learner("anna", True)
    learner("=ben", False)
    (tmp_path / "broken.json").write_text("{")
    assert main(["lab", "--summary", str(tmp_path), "--points", str(tmp_path / "points.csv")]) == 0
    out = capsys.readouterr().out
    assert "anna" in out and "=ben" in out and "1 of 2" in out and "Which?" in out and "broken.json" in out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "points.csv").read_text())))
    scores = {row["student_id"]: row["raw_score"] for row in rows if row["assignment"].startswith("02")}
    assert scores == {"anna": "1", "'=ben": "0"}


def test_bar_and_last_page_say_what_is_done_and_what_surprised(record: Path) -> None:
    lessons.check("it", 1, 1, exercise=1)
    progress.record_prediction("Which?", "a", "b", False)
    assert "1 of" in repr(progress.bar()) and "<table>" in progress.bar()._repr_html_()
    assert "You said a; it is b." in repr(progress.completion())
