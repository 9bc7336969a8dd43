"""Lesson 06: the sampling explorer by keyboard, the logit lens by pointer and by keyboard."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.browser.lab import changes, explorer, picture, words


def operate(page: Page, out: Path) -> None:
    _sampling(page, explorer(page, 0), out)
    _lens(page, explorer(page, 1), out)


def _sampling(page: Page, found: Locator, out: Path) -> None:
    picture(page, out / "sampling.png")
    sliders = found.get_by_role("slider")
    expect(sliders).to_have_count(4)
    sliders.nth(1).focus()  # top-k
    said = changes(found, lambda: page.keyboard.press("Home"))
    assert "Cut: top-p" in said, f"top-k 0 is off: {said}"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(words(found)).to_contain_text("2 tokens are left", timeout=15_000)
    expect(found.locator("td", has_text="cut by top-k 2").first).to_be_visible()
    button = found.get_by_role("button", name="Draw 1000 times")
    button.focus()
    said = changes(found, lambda: page.keyboard.press("Space"))
    assert "In 1000 draws" in said, said
    picture(page, out / "sampling-drawn.png")
    said = changes(found, lambda: found.get_by_role("button", name="temperature first").click())
    assert "draws" not in said, "counts of other settings stayed"
    box = found.get_by_role("textbox", name="Prompt")
    box.fill("Once upon a time")
    changes(found, lambda: box.press("Enter"))
    expect(found.locator("td", has_text="there").first).to_be_visible()
    picture(page, out / "sampling-prompt.png")


def _lens(page: Page, found: Locator, out: Path) -> None:
    picture(page, out / "lens.png")
    cells = found.get_by_role("button")
    said = changes(found, lambda: cells.first.click())  # the last layer at the first position
    assert "After layer" in said, said
    rows = found.locator("table tr")
    expect(rows).to_have_count(5)
    before = rows.first.inner_text()
    sliders = found.get_by_role("slider")
    sliders.first.focus()
    said = changes(found, lambda: page.keyboard.press("Home"))
    assert "Straight from the embedding" in said, said
    expect(rows.first).not_to_have_text(before)
    sliders.nth(1).focus()
    changes(found, lambda: page.keyboard.press("ArrowRight"))
    picture(page, out / "lens-moved.png")
    box = found.get_by_role("textbox", name="Text")
    box.fill("The fox went to the")
    changes(found, lambda: box.press("Enter"))
    expect(found.get_by_text("␣fox").first).to_be_visible()
