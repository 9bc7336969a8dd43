"""Lesson 01: the byte map, by pointer and by keyboard."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.lab import changes, explorer, picture


def operate(page: Page, out: Path) -> None:
    byte_map = explorer(page)
    cells = byte_map.locator(".llmlite-bytes button")
    expect(cells).to_have_count(128)
    said = changes(byte_map, lambda: cells.nth(9).click())
    assert "n_tensors, bytes 8 to 15" in said
    expect(byte_map.locator(".llmlite-mine")).to_have_count(8)
    picture(page, out / "byte.png")
    byte_map.get_by_role("button", name="next field").focus()
    said = changes(byte_map, lambda: page.keyboard.press("Space"))
    assert "n_kv" in said
    byte_map.get_by_role("button", name="tensor list", exact=True).focus()
    said = changes(byte_map, lambda: page.keyboard.press("Space"))
    assert "token_embd.weight: name: length" in said
    field = byte_map.locator("input[type=number]")
    said = changes(byte_map, lambda: (field.fill("104"), field.press("Enter")))
    assert "general.name" in said and "tales" in said
    picture(page, out / "field.png")
