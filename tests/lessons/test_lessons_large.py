"""Large type for a projector: the page's sizes and the figures' letters grow, and shrink again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from llmlite import lessons, plots, widgets
from llmlite.lessons import large


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    yield
    plots.set_type_size(1.0)


def test_figures_get_larger_letters_and_the_usual_ones_again() -> None:
    usual = dict(plots.FONT)
    widgets.large_type()
    assert all(plots.FONT[name] > size for name, size in usual.items())
    widgets.large_type(False)
    assert usual == plots.FONT


def test_the_style_sets_every_size_of_the_page() -> None:
    text = large.style(2.0)
    assert "--jp-code-font-size:26px" in text and text.count("px!important") == len(large.SIZES)


@pytest.mark.parametrize(
    ("value", "somebody", "shown"), [("1", True, True), ("0", True, False), ("1", False, False)]
)
def test_the_switch_counts_only_if_somebody_has_the_notebook_open(
    value: str, somebody: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setenv(large.SWITCH, value)
    monkeypatch.setattr(large.progress, "somebody_clicks", lambda: somebody)
    monkeypatch.setattr(lessons, "show", asked.append)
    lessons.begin("04")
    assert asked == ([large.SCALE] if shown else [])


def test_figures_of_a_kernel_that_was_started_with_the_switch_are_large() -> None:
    code = "from llmlite import plots; print(plots.FONT['tick'] > plots.base.USUAL_FONT['tick'])"
    for value, wanted in (("1", "True"), ("0", "False")):
        environment = {**os.environ, large.SWITCH: value, "JPY_SESSION_NAME": "a notebook"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == wanted, done.stderr


def test_a_size_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0.5 and 3"):
        plots.set_type_size(10)
