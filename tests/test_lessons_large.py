"""Large type for a projector: the page's sizes and the figures' letters grow, and shrink again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmlite import lessons, plots
from llmlite.lessons import large


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    yield
    plots.set_type_size(1.0)


def test_figures_get_larger_letters_and_the_usual_ones_again() -> None:
    usual = dict(plots.FONT)
    lessons.large_type()
    assert all(plots.FONT[name] > size for name, size in usual.items())
    lessons.large_type(False)
    assert usual == plots.FONT


def test_the_style_sets_every_size_of_the_page() -> None:
    text = large.style(2.0)
    assert "--jp-code-font-size:26px" in text and text.count("px!important") == len(large.SIZES)


@pytest.mark.parametrize(
    ("value", "somebody", "grows"), [("1", True, True), ("0", True, False), ("1", False, False)]
)
def test_the_switch_counts_only_if_somebody_has_the_notebook_open(
    value: str, somebody: bool, grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(large.SWITCH, value)
    monkeypatch.setattr(large.progress, "somebody_clicks", lambda: somebody)
    before = plots.FONT["tick"]
    lessons.begin("04")
    assert (plots.FONT["tick"] > before) is grows


def test_a_size_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0.5 and 3"):
        plots.set_type_size(10)
