"""The times of the lessons in notebooks/README.md: each has one, none is too long, one command takes them."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("jupytext")
pytest.importorskip("nbclient")

from tools import lesson_times, lessons

README = lesson_times.README.read_text(encoding="utf-8")


def test_every_lesson_has_its_time_and_none_is_over_the_limit() -> None:
    (found,) = lesson_times.TABLE.findall(README)
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines())
    numbers, _, seconds = rows
    assert numbers == [path.stem.partition("_")[0] for path in lessons.sources()]
    assert all(0 < float(each) <= lesson_times.LIMIT for each in seconds)


def test_new_times_replace_the_table_and_nothing_else() -> None:
    times = {path.stem.partition("_")[0]: 1.25 + i for i, path in enumerate(lessons.sources())}
    after = lesson_times.replaced(README, times)
    assert lesson_times.table(times) in after
    assert lesson_times.TABLE.sub("", after) == lesson_times.TABLE.sub("", README)
    assert lesson_times.replaced(after, times) == after


def test_a_page_without_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="one table of times"):
        lesson_times.replaced("# The lessons\n", {"00": 1.0})


def test_a_lesson_that_does_not_exist_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["lesson_times.py", "77"])
    with pytest.raises(SystemExit) as ended:
        lesson_times.main()
    assert ended.value.code == 2 and "no lesson '77'" in capsys.readouterr().err


def test_the_command_that_takes_them_is_named_beside_them() -> None:
    assert re.search(r"tools/lesson_times\.py --write", README)
