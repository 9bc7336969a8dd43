"""docs/architectures.md has a row for every form that is tested, and every entry."""

from __future__ import annotations

from pathlib import Path

from llmlite.description.architectures import ARCHITECTURES
from tests.conformance.architecture_models import MODELS
from tests.conformance.encoder_models import ENCODERS

AGAIN = "run `python tools/architectures_table.py`, which writes the page again"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"


def test_the_page_has_every_form_and_every_entry() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for tiny in (*MODELS, *ENCODERS):
        assert f"| {tiny.name} | {tiny.model_class} |" in text, f"no row of {tiny.name}: {AGAIN}"
    for entry in ARCHITECTURES.values():
        assert f"| {entry.name} | {', '.join(entry.classes)} |" in text, f"no entry of {entry.name}: {AGAIN}"


def test_no_row_of_the_page_is_beyond_its_bound_without_a_reason() -> None:
    rows = [line.split("|")[1:-1] for line in PAGE.read_text(encoding="utf-8").splitlines() if "e-0" in line]
    assert len(rows) == len(MODELS) + len(ENCODERS), AGAIN
    for name, _, *numbers, reason in rows:
        ours, theirs = [float(n) for n in numbers[:2]], [float(n) for n in numbers[2:4]]
        assert max(ours) <= 1e-4, name
        assert max(theirs) <= 1e-3 or reason.strip(), name
