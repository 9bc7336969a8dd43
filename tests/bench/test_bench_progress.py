"""The bar of a comparison: full at the end, red and not full after an error."""

from __future__ import annotations

from typing import Any

import pytest

from llmlite.bench.progress import ProgressBar

pytest.importorskip("ipywidgets")


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The bars that are made, each as a notebook has it: tqdm's widget."""
    import tqdm.auto
    from tqdm.notebook import tqdm as in_page

    made: list[Any] = []

    def make(**options: Any) -> Any:
        made.append(in_page(**options))
        return made[-1]

    monkeypatch.setattr(tqdm.auto, "tqdm", make)
    return made


def drawn(bar: Any) -> Any:
    return bar.container.children[1]


def work(expected: int, done: int, *, fails: bool = False) -> None:
    with ProgressBar(10, True) as advance:
        advance("start")
        advance.expect(expected, 5.0)
        for _ in range(done):
            advance("block")
        if fails:
            raise RuntimeError("the machine went away")


@pytest.mark.parametrize(("expected", "done"), [(20, 20), (20, 3), (3, 20)])
def test_a_bar_ends_full_however_many_steps_there_were(bars: list[Any], expected: int, done: int) -> None:
    work(expected, done)
    (bar,) = bars
    assert drawn(bar).value == drawn(bar).max == done + 1
    assert drawn(bar).bar_style == "success" and "100%" in bar.container.children[0].value
    assert "left" not in bar.container.children[2].value, "a finished bar promises no further time"


def test_in_the_middle_the_drawn_bar_has_the_share_that_is_done(bars: list[Any]) -> None:
    with ProgressBar(10, True) as advance:
        advance.expect(4, 5.0)
        advance("block")
        (bar,) = bars
        bar.refresh()
        assert drawn(bar).value / drawn(bar).max == 0.25


@pytest.mark.parametrize(("expected", "done"), [(20, 3), (3, 20)])
def test_after_an_error_the_bar_is_closed_in_red_and_not_full(
    bars: list[Any], expected: int, done: int
) -> None:
    with pytest.raises(RuntimeError, match="went away"):
        work(expected, done, fails=True)
    (bar,) = bars
    assert drawn(bar).bar_style == "danger" and drawn(bar).value < drawn(bar).max
    assert "stopped" in bar.container.children[0].value


def test_nothing_is_shown_if_nothing_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(2, False) as advance:
        advance.expect(1, 0.0)
        advance("block")
    assert capsys.readouterr() == ("", "")
