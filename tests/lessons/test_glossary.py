"""The glossary page: every word that a lesson explains is on it, and the page is the one the sources give."""

from __future__ import annotations

import re

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupytext")
pytest.importorskip("nbclient")

from tools import glossary  # noqa: E402 (needs the three above)
from tools import words as words_of  # noqa: E402
from tools.lesson_sources import load, sources  # noqa: E402
from tools.lessons import learner  # noqa: E402


def test_every_word_that_a_lesson_explains_is_an_entry() -> None:
    found = glossary.entries()
    for source in sources():
        text = load(source).cells[-1].source
        words = words_of.WORDS.search(text)["text"]
        n = len(re.findall(r"\*:\s", words))  # a line may end after the colon
        mine = [word for word, said in found.items() if glossary.copy_name(source) in dict(said)]
        assert n and len(mine) == n, (source.name, n, mine)


def test_the_page_is_the_one_that_the_sources_give() -> None:
    wanted = [cell.source for cell in glossary.page(glossary.entries()).cells]
    stored = nbformat.read(glossary.PAGE, as_version=4)
    assert [cell.source for cell in stored.cells] == wanted, "make it with: python tools/glossary.py"


def test_a_first_use_is_found_once_and_not_in_a_heading() -> None:
    (source,) = [path for path in sources() if "attention_by_hand" in path.name]
    uses = glossary.first_uses(source, ["attention", "softmax"])
    assert [word for word, _, _ in uses] == ["attention", "softmax"]
    assert not any(line.startswith("#") for _, _, line in uses)


def test_the_first_use_of_a_word_is_a_link_and_not_in_code_headings_or_other_links() -> None:
    text = "# A token\n\n`token` and [token](x.md), then a **token**.\n\n**Words.** *token*: a piece."
    assert words_of.linked(text, "token") == text.replace("**token**", "**[token](glossary.ipynb#token)**")
    assert words_of.linked("```\ntoken\n```\n    token", "token") == "```\ntoken\n```\n    token"
    assert words_of.linked("a sub-token", "token") == "a sub-token"
    assert words_of.linked("its tokens", "token") == "its [tokens](glossary.ipynb#token)"
    place = "glossary.ipynb#top-k,-top-p"
    assert words_of.linked("by top-p", "top-k, top-p") == f"by [top-p]({place})"


def test_words_of_other_lessons_are_links_too_but_everyday_words_are_not() -> None:
    cell = nbformat.v4.new_markdown_cell("Logits in this state.\n\n**Words.** *nat*: a unit.")
    words_of.link_first_uses(notebook := nbformat.v4.new_notebook(cells=[cell]), ["logits", "state"])
    assert notebook.cells[0].source.startswith("[Logits](glossary.ipynb#logits) in this state.")


def test_every_lesson_links_to_entries_of_the_glossary_only() -> None:
    places = {glossary.anchor(word) for word in glossary.entries()}
    for source in sources():
        text = "\n".join(cell.source for cell in learner(load(source)).cells)
        links = re.findall(r"\]\((glossary\.ipynb#[^)]*)\)", text)
        assert links and len(links) == len(set(links)) and set(links) <= places, source.name
