"""Lesson 10: a prediction is asked again, and answered by keyboard before its answer is shown."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.lab import picture


def operate(page: Page, out: Path) -> None:
    claim = "Everything stays on the machine"
    cell = page.locator(".jp-CodeCell").filter(has_text=claim).first
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    asked = cell.locator(".llmlite-prediction")
    expect(asked.get_by_role("button")).to_have_count(4, timeout=30_000)
    assert "It is: " not in cell.inner_text(), "the answer is there before the click"
    picture(page, out / "asked.png")
    asked.get_by_role("button", name="not measured").focus()
    page.keyboard.press("Space")
    said = asked.locator("[role=status]")
    expect(said).to_contain_text("You said: not measured.", timeout=15_000)
    picture(page, out / "answered.png")
    # the editor of a text cell holds the words too, hidden
    page.locator(".jp-RenderedMarkdown:visible", has_text="Here are all of them").scroll_into_view_if_needed()
    picture(page, out / "table.png")
