"""The page of a comparison: whole in one file, fetching nothing, readable without the pictures."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from llmlite.bench.samples import Comparison
from llmlite.cli import main
from llmlite.plots import page
from tests.support.synthetic import synthetic_comparison


class Parsed(HTMLParser):
    """Counts elements, keeps ids and everything that an attribute refers to."""

    VOID = frozenset("meta br img link input hr path use rect line circle".split())

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.counts: dict[str, int] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "xlink:href", "src"):
                self.targets.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def text() -> str:
    return page.comparison_page(synthetic_comparison())


def test_the_page_is_well_formed_and_no_two_pictures_share_an_id(text: str) -> None:
    parsed = Parsed(text)
    assert parsed.open == [] and parsed.counts["svg"] >= 3 and parsed.counts["table"] >= 4
    assert len(parsed.ids) == len(set(parsed.ids))
    inner = [target[1:] for target in parsed.targets if target.startswith("#")]
    assert set(inner) <= set(parsed.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(parsed.ids)


def test_the_page_fetches_nothing(text: str) -> None:
    assert page.FETCHES.search(text) is None
    parsed = Parsed(text)
    assert all(target.startswith(("#", "data:")) for target in parsed.targets)


@pytest.mark.parametrize(
    "bad",
    [
        '<img src="https://a/b.png">',
        '<script src="x.js"></script>',
        "<link rel=stylesheet href=x.css>",
        "a { background: url(//a/b) }",
    ],
)
def test_the_check_would_see_a_fetch(bad: str) -> None:
    assert page.FETCHES.search(bad)


def test_the_samples_inside_are_the_comparison(text: str) -> None:
    encoded = re.search(r"data:application/jsonl;base64,([^\"]+)", text)
    assert encoded
    lines = base64.b64decode(encoded[1]).decode().splitlines()
    assert Comparison.from_records(map(json.loads, lines)) == synthetic_comparison()


def test_every_picture_has_its_words(text: str) -> None:
    assert text.count("<svg ") == text.count('role="img" aria-label="') == text.count("In words and numbers")


def test_words_are_aligned_to_the_left_and_numbers_to_the_right(text: str) -> None:
    assert '<th scope="col" class="prose">agrees</th>' in text
    assert '<td class="prose">yes</td>' in text
    assert '<th scope="col">threads</th>' in text and "<td>2/2</td>" in text


def test_what_a_file_says_cannot_break_the_page() -> None:
    found = synthetic_comparison()
    found.notes.append("</li><script>alert(1)</script>")
    found.models[0]["model_filename"] = "<b>.gguf"
    written = page.comparison_page(found)
    assert "<script" not in written and "<b>.gguf" not in written
    assert Parsed(written).open == []


def test_an_empty_comparison_has_no_page() -> None:
    with pytest.raises(ValueError, match="nothing in this comparison was measured"):
        page.comparison_page(Comparison(environment={}))


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    samples = synthetic_comparison().save(tmp_path / "c.jsonl")
    target = tmp_path / "new" / "report.html"
    options = ["compare", "--from", str(samples), "-o", str(tmp_path), "--report", str(target)]
    assert main(options) == 0
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")
