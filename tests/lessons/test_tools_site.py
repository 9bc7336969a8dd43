"""The rendered lessons load nothing from elsewhere, and no link leads nowhere."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupytext")
pytest.importorskip("nbconvert")

from tools import lessons, render_site  # noqa: E402 (needs the three above)

PLAIN = ("index", "completion", "glossary")  # pages that are no lesson
LOADS = {"src", "srcset", "data", "poster", "background", "action", "manifest"}  # attributes that fetch
FETCHED_BY_CSS = re.compile(r"url\((?!['\"]?(data:|#))|@import", re.I)


class Page(HTMLParser):
    """What a page loads and links to, its anchors, and images without words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.wordless = 0
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.anchors.add(found.get("id", ""))
        self.loads += [value for name, value in found.items() if name in LOADS]
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif "href" in found or "xlink:href" in found:  # link, base, image and use of SVG
            self.loads.append(found.get("href") or found["xlink:href"])
        self.wordless += tag == "img" and len(found.get("alt", "")) < 20
        assert not FETCHED_BY_CSS.search(found.get("style", ""))


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], dict[str, Page]]:
    """Render the learner's or (True) the instructor's pages, once for all tests: it takes seconds."""

    @functools.cache
    def rendered(instructor: bool) -> dict[str, Page]:
        folder = tmp_path_factory.mktemp("site")
        written = render_site.render(folder, instructor=instructor)
        assert sorted(written) == sorted(folder.iterdir())
        return {path.name: Page(path) for path in written if path.suffix == ".html"}

    return rendered


@pytest.fixture(params=[False, True], ids=["learner", "instructor"])
def site(request: pytest.FixtureRequest, sites: Callable[[bool], dict[str, Page]]) -> dict[str, Page]:
    return sites(request.param)


def test_there_is_a_page_for_every_lesson_and_an_index_of_them(site: dict[str, Page]) -> None:
    names = {lessons.copy_name(path): path for path in lessons.sources()}
    besides = {"index.html", "completion.html", "glossary.html"}
    assert set(site) == {*besides, *(f"{name}.html" for name in names)}
    assert besides - {"index.html"} <= set(site["index.html"].links)
    for name, source in names.items():
        assert f"{name}.html" in site["index.html"].links
        about = lessons.about(source)
        assert f"{about.minutes} minutes" in site["index.html"].text


def test_nothing_is_loaded_but_the_style_sheet_beside_the_page(site: dict[str, Page]) -> None:
    for name, page in site.items():
        loads = [load[:60] for load in page.loads if not load.startswith(("data:", "#"))]
        assert loads == [render_site.STYLE], name
        assert not page.tags & {"script", "iframe", "object", "embed", "base", "form"}, name
        assert not FETCHED_BY_CSS.search("".join(re.findall(r"<style.*?</style>", page.text, re.S))), name


def test_the_style_sheet_loads_nothing_and_knows_dark_pages() -> None:
    text = render_site.CSS + render_site.highlighting()
    assert "http" not in text and not FETCHED_BY_CSS.search(text)
    assert text.count("prefers-color-scheme: dark") == 2


def test_every_link_leads_somewhere(site: dict[str, Page]) -> None:
    for name, page in site.items():
        for link in page.links:
            if re.match(r"https?://", link):
                continue  # a link in the text, that a reader may follow
            target, _, place = unquote(link).partition("#")
            assert target == "" or target in site, f"{name} links to {link}"
            assert not place or place in site[target or name].anchors, f"{name} links to {link}"


def test_lessons_are_linked_one_after_the_other(site: dict[str, Page]) -> None:
    names = [f"{lessons.copy_name(path)}.html" for path in lessons.sources()]
    for before, after in pairwise(names):
        assert re.search(rf'rel="next" href="{after}"', site[before].text)
        assert re.search(rf'rel="prev" href="{before}"', site[after].text)


def test_every_image_keeps_its_words(site: dict[str, Page]) -> None:
    assert any("img" in page.tags for page in site.values())
    assert not [name for name, page in site.items() if page.wordless]


def test_every_page_has_its_title_language_and_widgets_static_views(site: dict[str, Page]) -> None:
    for name, page in site.items():
        assert '<html lang="en">' in page.text and re.search(r"<title>.{5,}</title>", page.text), name
        for tag in re.findall(r'<details [^>]*class="llmlite-static"[^>]*>', page.text):
            assert re.search(r"\bopen\b", tag), f"{name}: a widget's static view is folded away"
    assert 'class="llmlite-static"' in site["01_anatomy_of_a_gguf_file.html"].text


def test_only_the_instructors_pages_hold_solutions(sites: Callable[[bool], dict[str, Page]]) -> None:
    learner, instructor = sites(False), sites(True)
    for name in learner:
        assert "celltag_instructor" not in learner[name].text
        assert name.removesuffix(".html") in PLAIN or "celltag_instructor" in instructor[name].text


def test_a_learners_page_shows_what_the_run_gave_but_not_of_exercises_and_checks() -> None:
    for name, (_title, notebook) in render_site.pages(False).items():
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        mine = [cell for cell in code if {"exercise", "check"} & set(lessons.tags(cell))]
        assert not any(cell.outputs for cell in mine), name
        assert name in PLAIN or any(cell.outputs for cell in code), name


def test_the_answer_to_a_prediction_is_folded_away(sites: Callable[[bool], dict[str, Page]]) -> None:
    page = sites(False)["10_which_tool.html"].text
    outside = re.sub(r'<details class="answer">.*?</details>', "", page, flags=re.S)
    assert "It is: holds." in page and "It is: holds." not in outside
    assert "A quantized model runs on ordinary hardware, without a GPU.</p>" in outside


def test_copies_that_do_not_fit_together_are_refused() -> None:
    name = lessons.copy_name(lessons.sources()[0])
    learner = nbformat.read(lessons.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    executed = nbformat.read(lessons.INSTRUCTOR / f"{name}.ipynb", as_version=4)
    code = [cell for cell in executed.cells if cell.cell_type == "code" and not lessons.tags(cell)]
    code[1].source += "\n1 + 1"
    with pytest.raises(lessons.LessonError, match=f"cell {code[1].id} differs"):
        render_site.unsolved(learner, executed)
