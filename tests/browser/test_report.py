"""The page of `compare --report` in a real browser: it asks nobody, says no error, and labels don't touch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import sync_playwright

from llmlite.cli import main

ROOT = Path(__file__).resolve().parents[2]
MEASURED = {
    "engines": ROOT / "docs/measurements/smollm2/comparison.jsonl",
    "frameworks": ROOT / "docs/measurements/smollm2/frameworks/comparison.jsonl",
    "sample": ROOT / "data/samples/comparison-two-cores.jsonl",
}
SIZE = {"width": 1280, "height": 720}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
# Pairs of texts of one picture whose boxes share more than a pixel both ways; texts outside of their picture.
TOUCHING = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')].map(e => [e.textContent, e.getBoundingClientRect()]);
  return texts.flatMap(([a, p], i) => texts.slice(i + 1).filter(([, q]) =>
    Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1 &&
    Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 1).map(([b]) => a + ' | ' + b));
})"""
CUT_OFF = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const whole = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(e => {
    const box = e.getBoundingClientRect();
    return box.left < whole.left - 1 || box.right > whole.right + 1 ||
      box.top < whole.top - 1 || box.bottom > whole.bottom + 1;
  }).map(e => e.textContent);
})"""
# Contrast of every text with the page, as WCAG defines it; the least of all.
CONTRAST = """() => {
  const light = colour => {
    const parts = colour.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const back = light(getComputedStyle(document.body).backgroundColor);
  const ratio = front => (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
  const texts = [...document.querySelectorAll('svg text')].map(e => getComputedStyle(e).fill);
  const words = [...document.querySelectorAll('h1, p, th, td, caption, li, a, figcaption')]
    .map(e => getComputedStyle(e).color);
  return [texts.length, Math.min(...[...texts, ...words].map(c => ratio(light(c))))];
}"""

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def chromium(browser: str) -> Iterator[Any]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        yield started
        started.close()


class Visit:
    """One page, opened without a network: what it asked for, and what its console said."""

    def __init__(self, chromium: Any, path: Path, theme: str) -> None:
        self.context = chromium.new_context(viewport=SIZE, color_scheme=theme, offline=True)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(path.as_uri())
        self.page.wait_for_load_state("load")
        self.page.wait_for_timeout(200)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", MEASURED)
def test_the_page_asks_nobody_and_every_label_can_be_read(
    chromium: Any, name: str, theme: str, tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    assert main(["compare", "--from", str(MEASURED[name]), "-o", str(tmp_path), "--report", str(report)]) == 0
    with Visit(chromium, report, theme) as visit:
        page = visit.page
        n_pictures = page.locator("figure svg").count()
        assert n_pictures >= 6
        assert page.evaluate(TOUCHING) == []
        assert page.evaluate(CUT_OFF) == []
        n_texts, contrast = page.evaluate(CONTRAST)
        assert n_texts > 50 and contrast >= 4.5
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 28)"}[theme]
        for picture in page.locator("figure svg").all():
            box = picture.bounding_box()
            assert box["width"] <= SIZE["width"] and box["height"] <= SIZE["height"]
        for fold in page.locator("summary").all():
            fold.click()
        assert page.locator("figure details table:visible").count() == n_pictures
        # nothing is wider than the window: no reader has to scroll sideways
        assert page.evaluate("document.documentElement.scrollWidth") == SIZE["width"]
        assert visit.requests == [report.as_uri()]
        assert visit.said == []


def test_the_checks_see_what_they_look_for(chromium: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><html><body style='background:#fff;color:#eee'><p>pale</p>"
        "<svg width='100' height='40'><text x='5' y='20'>one</text><text x='9' y='20'>two</text>"
        "<text x='80' y='20'>leaves it</text></svg><img src='http://127.0.0.1:9/x.png'>"
        "<script>console.error('wrong'); nothing()</script></body></html>"
    )
    with Visit(chromium, path, "light") as visit:
        assert visit.page.evaluate(TOUCHING) == ["one | two"]
        assert visit.page.evaluate(CUT_OFF) == ["leaves it"]
        assert visit.page.evaluate(CONTRAST)[1] < 1.3
        assert visit.requests == [path.as_uri(), "http://127.0.0.1:9/x.png"]
        assert any("wrong" in said for said in visit.said) and any("nothing" in said for said in visit.said)
