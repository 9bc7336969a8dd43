"""The attention map and the sentence eraser, without a browser."""

from __future__ import annotations

import pytest

pytest.importorskip("ipywidgets")

import llmlite as ll
from llmlite import plots, widgets


@pytest.fixture(scope="module")
def model() -> ll.Model:
    return ll.load("tales")


def test_a_head_that_copies_looks_behind_the_earlier_occurrence(model: ll.Model) -> None:
    explorer = widgets.attention_map(model, "Miro, Talan, Besik, Miro, Talan,")
    explorer.layer.value, explorer.head.value = 3, 3
    found = explorer.found
    (best, share), *_ = found.top(3, 3, len(found.ids) - 1, 1)
    besik = "".join(found.texts).index("␣Besik"[:3])
    assert sum(len(text) for text in found.texts[:best]) == besik and share > 0.5
    assert f"({share:.0%})" in explorer.words.value


def test_every_control_changes_what_is_said(model: ll.Model) -> None:
    explorer = widgets.attention_map(model, "Once upon a time there was a fox")
    said = {explorer.words.value}
    explorer.layer.value = 0
    said.add(explorer.words.value)
    explorer.head.value = "mean"
    said.add(explorer.words.value)
    explorer.query.value = 2
    said.add(explorer.words.value)
    explorer.text.value = "The cat"
    said.add(explorer.words.value)
    assert len(said) == 5
    assert explorer.picture.labels["title"] == "layer 0, mean of the heads"


def test_a_text_that_is_too_long_is_said_and_the_map_stays(model: ll.Model) -> None:
    explorer = widgets.attention_map(model, "The cat")
    before = explorer.found
    explorer.text.value = "The cat " * 2000
    assert "be read" in explorer.words.value and explorer.found is before


def test_text_is_escaped(model: ll.Model) -> None:
    explorer = widgets.attention_map(model, "<b>bold</b>")
    assert "<b>" not in explorer.view.value


def test_erasing_the_source_changes_the_answer_and_erasing_another_does_not(model: ll.Model) -> None:
    explorer = widgets.erase_sentence(model, 2)
    for tale in (0, 1):
        explorer.tale.value = tale
        question = explorer.question
        assert explorer.erased.value == -1 and question.answer in explorer.view.value
        explorer.erased.value = question.source
        assert "is different (it was" in explorer.words.value
        assert "line-through" in explorer.view.value
        explorer.erased.value = question.other
        assert "the same as before" in explorer.words.value


def test_without_a_kernel_pictures_stay(model: ll.Model) -> None:
    for explorer in (widgets.attention_map(model, "The cat"), widgets.erase_sentence(model, 1)):
        data = explorer.static_bundle()
        assert plots.MIME in data and "<img" in data["text/html"]
