"""Lesson 03: the slider down to 2 bits by keyboard, the type picker's buttons, boxes and budget."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.lab import changes, explorer, picture, words

RUNGS_BELOW_16_BITS = 6


def operate(page: Page, out: Path) -> None:
    half = explorer(page, 0)
    assert "token for token" in words(half).inner_text()
    picture(page, out / "half_16_bits.png")
    handle = half.locator("[role=slider], .noUi-handle").first
    handle.focus()
    for _ in range(RUNGS_BELOW_16_BITS):
        said = changes(half, lambda: page.keyboard.press("ArrowRight"))
    assert "Q2_K" in said and "differs from its first token" in said, said
    expect(half.locator("mark")).to_have_count(1)
    assert "PyTorch float32" in half.inner_text(), "the sample has no PyTorch"
    picture(page, out / "half_2_bits.png")

    picker = explorer(page, 1)
    said = changes(picker, lambda: picker.get_by_role("button", name="RMS error").click())
    assert "RMS" in said, said
    picture(page, out / "picker_rms.png")
    changes(picker, lambda: picker.get_by_role("button", name="KL divergence").click())
    changes(picker, lambda: picker.get_by_role("button", name="both", exact=True).click())
    picture(page, out / "picker_both.png")
    changes(picker, lambda: picker.get_by_role("button", name="mixes").click())
    said = changes(picker, lambda: picker.get_by_label("IQ", exact=True).uncheck())
    assert "IQ" not in said.split("On the front")[1], said
    budget = picker.locator("[role=slider], .noUi-handle").first
    budget.focus()
    said = changes(picker, lambda: page.keyboard.press("ArrowLeft"))
    assert "Within 4.75 bits" in said, said
    picture(page, out / "picker_budget.png")
