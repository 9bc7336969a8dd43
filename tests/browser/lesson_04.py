"""Lesson 04: the attention map and the sentence eraser, by keyboard and pointer."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

from tests.browser.lab import changes, explorer, picture


def operate(page: Page, out: Path) -> None:
    attention_map = explorer(page, 0)
    picture(page, out / "map.png")
    layers = attention_map.locator(".widget-toggle-buttons").nth(0)
    layers.get_by_role("button", name="3", exact=True).focus()
    assert "layer 3" in changes(attention_map, lambda: page.keyboard.press("Space"))
    heads = attention_map.locator(".widget-toggle-buttons").nth(1)
    said = changes(attention_map, lambda: heads.get_by_role("button", name="3", exact=True).click())
    assert "head 3 of layer 3" in said
    picture(page, out / "copying-head.png")
    attention_map.locator(".noUi-handle").focus()
    changes(attention_map, lambda: page.keyboard.press("ArrowLeft"))
    text = attention_map.locator("input[type=text]").first
    said = changes(attention_map, lambda: (text.fill("The fox and the fox"), text.press("Enter")))
    assert "fox" in said
    eraser = explorer(page, 1)
    picture(page, out / "tale.png")
    before = eraser.locator("p b").locator("xpath=..").inner_text()
    shown = eraser.locator("ol li")
    # the sentence with the strongest colour is where the answer comes from
    strongest = shown.evaluate_all(
        "items => items.map(e => parseFloat(getComputedStyle(e).backgroundColor.split(',')[3] || '1'))"
        ".reduce((best, a, i, all) => a > all[best] ? i : best, 0)"
    )
    choices = eraser.locator(".widget-toggle-buttons").nth(1)
    said = changes(eraser, lambda: choices.get_by_role("button", name=str(strongest + 1), exact=True).click())
    assert "is different (it was" in said, (before, said)
    eraser.scroll_into_view_if_needed()
    picture(page, out / "erased.png")
