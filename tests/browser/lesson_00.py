"""Lesson 00: the panel of checks, by pointer and by keyboard."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.lab import changes, explorer, picture


def operate(page: Page, out: Path) -> None:
    panel = explorer(page)
    lines = panel.locator("table tr")
    everything = lines.count()
    said = changes(panel, lambda: panel.get_by_role("button", name="Check again").click())
    assert "Checked 2 times" in said and "0 wrong" in said
    picture(page, out / "panel.png")
    panel.get_by_role("button", name="open points").focus()
    page.keyboard.press("Space")
    expect(panel.get_by_role("button", name="open points")).to_have_class(re.compile("mod-active"))
    expect(panel.get_by_text("llmlite 0.")).to_have_count(0)
    assert lines.count() < everything
    picture(page, out / "what-can-be-done.png")
    panel.get_by_role("button", name="Check again").focus()
    assert "Checked 3 times" in changes(panel, lambda: page.keyboard.press("Space"))
