"""Lesson 05: the cache grid, by keyboard."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

from tests.browser.lab import changes, explorer, picture


def operate(page: Page, out: Path) -> None:
    grid = explorer(page)
    picture(page, out / "three.png")
    grid.locator(".noUi-handle").focus()
    said = changes(grid, lambda: page.keyboard.press("ArrowRight"))
    assert said.startswith("4 tokens read")
    said = changes(grid, lambda: page.keyboard.press("End"))
    grid.get_by_role("button", name="F32").focus()
    wide = changes(grid, lambda: page.keyboard.press("Space"))
    assert "F16" in said and "F32" in wide
    grid.scroll_into_view_if_needed()
    picture(page, out / "full.png")
    text = grid.locator("input[type=text]").first
    said = changes(grid, lambda: (text.fill("A fox"), text.press("Enter")))
    assert said.startswith("3 tokens read")
    picture(page, out / "other.png")
