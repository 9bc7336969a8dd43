"""Lesson 03b: the diagram of a token's way by keyboard."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

from tests.browser.lab import changes, explorer, picture


def operate(page: Page, out: Path) -> None:
    found = explorer(page, 0)
    picture(page, out / "widget.png")
    found.get_by_role("slider").first.focus()
    said = changes(found, lambda: page.keyboard.press("ArrowRight"))
    assert "Step 1 of 12" in said, said
    picture(page, out / "widget-moved.png")
