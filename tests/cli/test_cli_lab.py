"""The commands doctor and lab."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmlite import cli
from llmlite.cli import lab
from tests.support.cli import failing, output


def test_doctor_finds_nothing_wrong_here(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "doctor")
    for topic in ("processor", "CPU features", "threads", "memory", "numpy", "cache folder", "bundled data"):
        assert topic in text
    findings = json.loads(output(capsys, "doctor", "--json"))
    assert all(finding["ok"] for finding in findings)


def test_doctor_says_what_to_do_about_damaged_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmlite import resources

    monkeypatch.setattr(resources, "damaged_data", lambda: ["tales-f16.gguf: its bytes differ"])
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "wrong  bundled data" in text
    assert "pip install --force-reinstall" in text


@pytest.fixture
def lessons(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    (source / "__pycache__").mkdir()
    (source / "one.ipynb").write_text("one")
    (source / "images" / "a.svg").write_text("a")
    (source / "__pycache__" / "x.pyc").write_text("x")
    return source


def test_lab_copies_whats_new_and_never_overwrites_a_changed_lesson(lessons: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert lab.copy_lessons(lessons, folder) == (2, [])
    assert not (folder / "__pycache__").exists()
    assert lab.copy_lessons(lessons, folder) == (0, []), "the second time there is nothing to do"
    (lessons / "one.ipynb").write_text("one, improved")
    assert lab.copy_lessons(lessons, folder) == (1, []), "an unchanged copy follows the new version"
    (folder / "one.ipynb").write_text("my own work")
    (lessons / "one.ipynb").write_text("one, improved again")
    assert lab.copy_lessons(lessons, folder) == (0, ["one.ipynb"])
    assert (folder / "one.ipynb").read_text() == "my own work"
    assert lab.copy_lessons(lessons, folder) == (0, ["one.ipynb"]), "and it stays so"


def test_lab_copies_no_sources_and_for_instructors_their_own_copies(lessons: Path, tmp_path: Path) -> None:
    for name in ("source/one.py", "instructor/one.ipynb", "index.ipynb"):
        (lessons / name).parent.mkdir(exist_ok=True)
        (lessons / name).write_text(name)
    learner, instructor = tmp_path / "mine", tmp_path / "theirs"
    assert lab.copy_lessons(lessons, learner) == (3, [])
    assert lab.copy_lessons(lessons, instructor, instructor=True) == (3, [])
    assert lab.copy_lessons(lessons, instructor, instructor=True) == (0, [])
    assert {p.name for p in learner.rglob("*.*")} >= {"one.ipynb", "index.ipynb", "a.svg"}
    assert not (learner / "source").exists() and not (instructor / "instructor").exists()
    assert (learner / "one.ipynb").read_text() == "one"
    assert (instructor / "one.ipynb").read_text() == "instructor/one.ipynb"


def test_lab_opens_at_the_index(tmp_path: Path) -> None:
    assert not any("default_url" in part for part in lab.command(tmp_path, browser=True))
    (tmp_path / "index.ipynb").write_text("")
    assert any(part.endswith("/lab/tree/index.ipynb") for part in lab.command(tmp_path, browser=False))


@pytest.mark.parametrize("user", [0, 1000])
def test_lab_runs_as_root_and_passes_options_on(
    user: int, monkeypatch: pytest.MonkeyPatch, lessons: Path, tmp_path: Path
) -> None:
    pytest.importorskip("jupyterlab")
    started: list[list[str]] = []

    def open_lab(folder: Path, *, browser: bool, more: list[str]) -> int:
        started.append(lab.command(folder, browser=browser, more=more))
        return 0

    monkeypatch.setattr(lab, "open_lab", open_lab)
    monkeypatch.setattr(lab.resources, "notebooks_path", lambda: lessons)
    monkeypatch.setattr(lab.os, "geteuid", lambda: user, raising=False)
    given = ["--no-browser", "--port", "9999", "--ip", "0.0.0.0", "--", "--LabApp.collaborative=True"]
    assert cli.main(["lab", str(tmp_path / "mine"), *given]) == 0
    (command,) = started
    assert ("--allow-root" in command) == (user == 0)
    assert {"--no-browser", "--port=9999", "--ip=0.0.0.0", "--LabApp.collaborative=True"} <= set(command)


def test_a_wrong_option_of_lab_shows_the_usage_of_lab(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["lab", "--nonsense"])
    assert "usage: llmlite lab " in capsys.readouterr().err


def test_jupyterlab_asks_the_network_for_nothing() -> None:
    lab_app = pytest.importorskip("jupyterlab.labapp").LabApp(argv=[])
    lab_app.parse_command_line(list(lab.QUIET))
    assert lab_app.news_url is None
    assert lab_app.check_for_updates_class.__name__ == "NeverCheckForUpdate"


def test_lab_without_jupyterlab_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lessons: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(lab.resources, "notebooks_path", lambda: lessons)
    monkeypatch.setattr(lab.importlib.util, "find_spec", lambda name: None)
    assert "llmlite-kit[lab]" in failing(capsys, "lab", str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "one.ipynb").exists()
