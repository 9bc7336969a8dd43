"""Lesson 08: the comparison dashboard, by keyboard alone."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

from tests.browser.lab import changes, explorer, picture, words


def operate(page: Page, out: Path) -> None:
    figure = page.locator(".jp-OutputArea figure img").first
    assert figure.get_attribute("alt"), "the figure has no description"
    dashboard = explorer(page)
    picture(page, out / "dashboard.png")
    dashboard.locator(".widget-toggle-button").first.focus()
    while page.evaluate("() => document.activeElement.textContent") != "private memory":
        page.keyboard.press("Tab")
    said = changes(dashboard, lambda: page.keyboard.press("Space"))
    assert "private memory" in said
    picture(page, out / "private.png")
    bars = words(dashboard).inner_text().count(",")
    while page.evaluate("() => document.activeElement.type") != "checkbox":
        page.keyboard.press("Tab")
    said = changes(dashboard, lambda: page.keyboard.press("Space"))  # the first backend goes
    assert said.count(",") < bars, "unticking a backend changed nothing"
    picture(page, out / "unticked.png")
    changes(dashboard, lambda: page.keyboard.press("Space"))
