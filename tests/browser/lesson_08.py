"""Lesson 08: the comparison dashboard by keyboard alone, the memory timeline, the slider down to 2 bits."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

from tests.browser.lab import changes, explorer, picture, words


def operate(page: Page, out: Path) -> None:
    figure = page.locator(".jp-OutputArea figure img").first
    assert figure.get_attribute("alt"), "the figure has no description"
    dashboard = explorer(page, 0)
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

    assert "packed int4" in explorer(page, 1).inner_text()
    picture(page, out / "smollm2.png")
    assert "TensorFlow" in explorer(page, 2).inner_text()

    timeline = explorer(page, 3)
    timeline.locator(".noUi-handle").focus()
    said = changes(timeline, lambda: page.keyboard.press("Home"))
    assert "start: " in said
    timeline = explorer(page, 4)  # llmlite, llama.cpp, PyTorch on another machine
    buttons = timeline.locator(".widget-toggle-button")
    said = changes(timeline, lambda: buttons.nth(1).click())
    assert "MB private" in said
    picture(page, out / "timeline.png")

    bits = explorer(page, 5)
    picture(page, out / "bits.png")
    bits.locator(".noUi-handle").focus()
    changes(bits, lambda: page.keyboard.press("End"))
    picture(page, out / "two-bits.png")
