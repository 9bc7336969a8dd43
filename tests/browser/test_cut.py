"""The round's look for parts of a widget that nobody can see: it finds them, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("playwright")
pytest.importorskip("ipywidgets")

from playwright.sync_api import sync_playwright

from llmlite.widgets.base import HIGHEST, STYLE
from tests.browser.lab import FLAGS, cut

pytestmark = [pytest.mark.slow]

# What ipywidgets makes of an Explorer: a column of controls, a view, words.
PAGE = """{style}<style>.llmlite-explorer {{ display: flex; flex-direction: column; }}</style>
<div class="llmlite-explorer">
  <div class="llmlite-controls"><button style="height:40px">Draw</button></div>
  <div class="view">{view}</div>
  <div class="llmlite-words"><p role="status">Nothing is cut.</p></div>
</div>"""
TALL = '<div style="height:{height}px">a tale</div>'


@pytest.fixture(scope="module")
def page(browser: str) -> Iterator[Any]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        yield chromium.new_page(viewport={"width": 1280, "height": 720})
        chromium.close()


def show(page: Any, view: str) -> None:
    page.set_content(PAGE.format(style=STYLE, view=view))


@pytest.mark.parametrize("height", [100, 3 * HIGHEST])
def test_what_fits_or_scrolls_is_not_cut(page: Any, height: int) -> None:
    show(page, TALL.format(height=height))
    assert cut(page) == []
    assert page.locator(".llmlite-explorer").bounding_box()["height"] <= HIGHEST


@pytest.mark.parametrize("hides", ["overflow:hidden", "overflow:clip"])
def test_a_part_that_hides_what_does_not_fit_is_named(page: Any, hides: str) -> None:
    show(page, f'<div class="tales" style="height:90px;{hides}">{TALL.format(height=200)}</div>')
    (said,) = cut(page)
    assert "110 pixels" in said and "div.tales" in said and "a tale" in said


def test_a_line_that_is_too_long_for_its_box_is_named(page: Any) -> None:
    show(page, '<div style="width:50px;overflow:hidden;white-space:nowrap">a label of many words</div>')
    (said,) = cut(page)
    assert "pixels beside" in said and "a label of many words" in said


@pytest.mark.parametrize(("title", "n_named"), [("title='a label of many words'", 0), ("", 1)])
def test_a_shortened_text_needs_a_tooltip(page: Any, title: str, n_named: int) -> None:
    style = "width:50px;overflow:hidden;white-space:nowrap;text-overflow:ellipsis"
    show(page, f'<div style="{style}" {title}>a label of many words</div>')
    assert len(cut(page)) == n_named


def test_a_widget_that_cannot_be_scrolled_is_named(page: Any) -> None:
    show(page, TALL.format(height=3 * HIGHEST))
    page.add_style_tag(content=".llmlite-explorer { overflow: hidden !important; }")
    assert any("div.llmlite-explorer are cut" in said for said in cut(page))


def test_what_stays_under_the_words_is_named(page: Any) -> None:
    show(page, TALL.format(height=100) + "<style>.view { margin-bottom: -60px; }</style>")
    (said,) = cut(page)
    assert said == "widget 0: 60 pixels stay under its words"


def test_a_shadow_says_that_there_is_more_below_and_only_then(page: Any) -> None:
    above_words = """() => {
      const words = document.querySelector(".llmlite-words").getBoundingClientRect();
      return [words.left + 200, words.top - 1]; }"""

    def darkness() -> int:
        from io import BytesIO

        from PIL import Image

        x, y = page.evaluate(above_words)
        clip = {"x": x, "y": y, "width": 20, "height": 1}
        darkest, _ = Image.open(BytesIO(page.screenshot(clip=clip))).convert("L").getextrema()
        return 255 - darkest

    show(page, f'<div style="height:{3 * HIGHEST}px"></div>')
    assert darkness() > 20
    page.locator(".llmlite-explorer").evaluate("each => { each.scrollTop = 300; }")
    assert darkness() > 20
    page.locator(".llmlite-explorer").evaluate("each => { each.scrollTop = each.scrollHeight; }")
    assert darkness() == 0
    show(page, '<div style="height:100px"></div>')
    assert darkness() == 0


@pytest.mark.parametrize(("size", "height"), [("13px", 339), ("17px", 271), ("40px", 240)])
def test_a_picture_leaves_room_for_controls_in_larger_type(page: Any, size: str, height: int) -> None:
    drawing = '<svg viewBox="0 0 100 100" style="max-width:100%;height:auto;width:900px"></svg>'
    show(page, f"<style>:root {{ --jp-widgets-font-size: {size}; }}</style>{drawing}")
    assert round(page.locator("svg").bounding_box()["height"]) == height
