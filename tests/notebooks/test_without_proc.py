"""Every lesson runs to its end where there is no /proc: every system but Linux."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest

import llmlite as ll

jupytext = pytest.importorskip("jupytext")
pytest.importorskip("nbclient")

from tools import lessons  # noqa: E402 (needs the two above)


@pytest.mark.slow
def test_lesson_08_shows_the_shipped_timeline_without_proc(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ll.bench.memory, "of", lambda pid: None)
    (source,) = lessons.sources(["08"])
    (code,) = [c.source for c in lessons.load(source).cells if "timeline.record(" in c.source]
    found: dict[str, object] = {"ll": ll, "MODEL": "tales"}
    exec(code, found)
    assert found["shown"] == found["shipped"] and "from another machine" in capsys.readouterr().out


# Python runs this when a process starts: in the lesson's kernel, and in the workers that a lesson starts
HIDING = """
import builtins, io, os, sys

def hidden(path):
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    return isinstance(path, (str, os.PathLike)) and (os.fspath(path) + "/").startswith("/proc/")

def without_proc(function):
    def call(path=".", *args, **more):
        if hidden(path):
            raise FileNotFoundError(2, "No such file or directory", path)
        return function(path, *args, **more)
    return call

builtins.open = io.open = without_proc(open)
for name in ("open", "listdir", "scandir", "stat", "lstat", "readlink"):
    setattr(os, name, without_proc(getattr(os, name)))
sys.modules["psutil"] = None  # here it would read /proc
"""
PROOF = """
import os
for path in ("/proc/self/status", "/proc/meminfo", "/proc"):
    assert not os.path.exists(path), path
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [path.stem.partition("_")[0] for path in lessons.sources()])
def test_a_lesson_runs_to_its_end_without_proc(
    number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(HIDING)
    more = filter(None, [os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "start"), *more]))
    (source,) = lessons.sources([f"{number}_"])
    notebook = lessons.instructor(lessons.load(source))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(PROOF))
    lessons.execute(notebook, tmp_path)  # raises if a cell ends in an error
    said = [o.get("text", "") for c in notebook.cells if "check" in lessons.tags(c) for o in c.outputs]
    lines = [line for line in "".join(said).splitlines() if line.startswith(("✓", "✗"))]
    assert lines and all(line.startswith("✓") for line in lines), lines
