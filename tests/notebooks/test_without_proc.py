"""Lesson 08 goes on where the memory of another process can't be read: every system but Linux."""

from __future__ import annotations

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
