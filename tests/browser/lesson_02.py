"""Lesson 02: bits of a Q4_0 and of a Q4_K block, flipped by pointer and by keyboard; one bit of the model."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.lab import changes, explorer, picture, words


def operate(page: Page, out: Path) -> None:
    legacy = explorer(page, 0)
    legacy.get_by_role("button", name="qs", exact=True).click()
    bits = legacy.locator("button[title*='press to flip']:visible")
    expect(bits).to_have_count(8)
    said = changes(legacy, lambda: bits.last.click())
    assert "nibble, bit 0" in said and "1 of 32 weights moved" in said, said
    picture(page, out / "nibble.png")
    said = changes(legacy, legacy.get_by_role("button", name="Undo all flips").click)
    assert "No bit is flipped" in said, said
    changes(legacy, legacy.get_by_role("button", name="d", exact=True).click)
    expect(bits).to_have_count(16)
    bits.nth(1).focus()
    said = changes(legacy, lambda: page.keyboard.press("Space"))
    assert "exponent, bit 4" in said and "weights moved" in said, said
    picture(page, out / "exponent.png")

    model = explorer(page, 1)
    said = words(model).inner_text()
    assert "The tale is the same" in said, said
    said = changes(model, lambda: model.get_by_role("button", name="scale: highest exponent bit").click())
    assert "The tale is different" in said, said
    expect(model.locator("mark")).to_have_count(1)
    picture(page, out / "which_bit.png")

    k = explorer(page, 2)
    changes(k, k.get_by_role("button", name="scales", exact=True).click)
    bits = k.locator("button[title*='press to flip']:visible")
    expect(bits).to_have_count(8)
    said = changes(k, lambda: bits.last.click())
    assert "of 256 weights moved" in said, said
    picture(page, out / "scales.png")
