"""The server's chat page in a real browser: by keyboard alone, dark and light, without another host."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import sync_playwright

from tests.browser.lab import FLAGS
from tests.support.server import Server

pytestmark = [pytest.mark.slow]
ANSWERED = "article.assistant:last-of-type small"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("uvicorn", reason="the extra serve isn't installed")
    running = Server()
    yield running
    running.end()


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: str, server: Server) -> Iterator[Any]:
    """The page, opened. `page.asked` has the addresses it asked, `page.errors` its program's errors."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        found = opened.new_page(color_scheme=request.param)
        found.asked, found.errors = [], []
        found.on("request", lambda asked: found.asked.append(asked.url))
        found.on("pageerror", lambda error: found.errors.append(str(error)))
        found.goto(server.url)
        yield found
        opened.close()


def answer_of(server: Server, text: str) -> str:
    messages = [{"role": "user", "content": text}]
    body = {"model": "tales", "messages": messages, "temperature": 0, "max_tokens": 24}
    request = urllib.request.Request(
        server.url + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


def test_a_conversation_by_keyboard(page: Any, server: Server) -> None:
    page.focus("summary")
    page.keyboard.press("Enter")  # the settings open
    page.fill("#temperature", "0")
    page.fill("#max", "24")
    page.focus("#text")
    page.keyboard.type("Tell me of the fox.")
    page.keyboard.press("Enter")
    page.wait_for_function("s => document.querySelector(s)?.textContent.includes('tokens in')", arg=ANSWERED)
    shown = page.locator("article.assistant").evaluate("box => box.firstChild.textContent")
    assert shown == answer_of(server, "Tell me of the fox.") != ""
    assert page.evaluate("document.activeElement.id") == "text", "the next message can be typed at once"
    page.keyboard.press("Alt+n")
    assert page.locator("article").count() == 0
    assert all(address.startswith(server.url) for address in page.asked)
    assert page.errors == []


def test_the_theme_is_the_readers(page: Any) -> None:
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    red = page.evaluate("parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert (red < 64) == dark
