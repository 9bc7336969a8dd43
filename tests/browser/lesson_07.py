"""Lesson 07: the kernel ladder by keyboard, the roofline by pointer and by keyboard."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Locator, Page

from tests.browser.lab import changes, explorer, picture, words


def operate(page: Page, out: Path) -> None:
    _ladder(page, explorer(page, 0), out)
    _roofline(page, explorer(page, 1), out)


def _ladder(page: Page, found: Locator, out: Path) -> None:
    drawing = found.locator("svg[role=img]")
    bars = drawing.get_attribute("aria-label") or ""
    found.get_by_role("slider").first.focus()
    for rung in (2, 3, 4):
        said = changes(found, lambda: page.keyboard.press("ArrowRight"))
        assert f"Rung {rung}" in said and "times the rung below" in said, said
    assert len(drawing.get_attribute("aria-label") or "") > len(bars), "no bar was added"
    picture(page, out / "ladder.png")
    said = changes(found, lambda: found.get_by_role("button", name="Q8_0").click())
    assert "Q8_0" in (drawing.get_attribute("aria-label") or "")
    assert "Rung 4" in said, said


def _roofline(page: Page, found: Locator, out: Path) -> None:
    picture(page, out / "roofline.png")
    assert "bound by memory" in words(found).inner_text()
    said = changes(found, lambda: found.get_by_role("button", name="prefill 256").click())
    assert "prefill 256" in said, said
    button = found.get_by_role("button", name="ffn_up")
    button.focus()
    said = changes(found, lambda: page.keyboard.press("Space"))
    assert "ffn_up" in said, said
    found.get_by_role("slider").focus()
    said = changes(found, lambda: page.keyboard.press("ArrowRight"))
    assert "blk.1.ffn_up.weight" in said, said
    picture(page, out / "roofline-prefill.png")
    said = changes(found, lambda: found.get_by_role("button", name="tales F16").click())
    assert "F16" in said, said
    picture(page, out / "roofline-tales.png")
