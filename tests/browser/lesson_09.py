"""Lesson 09: the loss curve that was drawn while the cell ran, and its words."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.lab import explorer, picture, words


def operate(page: Page, out: Path) -> None:
    curve = explorer(page)
    drawing = curve.locator("svg[role=img]")
    expect(drawing).to_be_visible()
    assert drawing.get_attribute("aria-label"), "the curve has no description"
    assert "80" in words(curve).inner_text(), words(curve).inner_text()
    picture(page, out / "curve.png")
