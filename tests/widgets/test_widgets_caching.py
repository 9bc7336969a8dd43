"""The cache grid, without a browser."""

from __future__ import annotations

import pytest

pytest.importorskip("ipywidgets")

import llmlite as ll
from llmlite import plots, widgets


@pytest.fixture()
def grid() -> widgets.Explorer:
    return widgets.cache_grid(ll.load("tales"), "Once upon a time there lived a fox")


def test_a_token_more_is_a_column_more(grid: widgets.Explorer) -> None:
    grid.step.value = 4
    four = grid.n_bytes
    grid.step.value = 5
    assert grid.n_bytes * 4 == four * 5
    assert f"{grid.n_bytes} bytes" in grid.words.value and "50 of" in grid.picture.alt
    grid.step.value = 0
    assert grid.n_bytes == 0 and "0 tokens read:" in grid.words.value


def test_wider_numbers_take_twice_as_much(grid: widgets.Explorer) -> None:
    grid.step.value = 3
    half = grid.n_bytes
    grid.kind.value = "F32"
    assert grid.n_bytes == 2 * half and "F32" in grid.words.value


def test_another_text_fills_it_anew_and_a_long_one_is_cut(grid: widgets.Explorer) -> None:
    grid.text.value = "a b c " * 200
    assert len(grid.filling.ids) == grid.step.max == 32


def test_an_empty_text_is_no_error(grid: widgets.Explorer) -> None:
    grid.text.value = ""
    assert grid.words.value


def test_without_a_kernel_the_full_cache_stays(grid: widgets.Explorer) -> None:
    assert plots.MIME in grid.static_bundle()
