"""JupyterLab in a real browser: serve the lessons, open one, run all its cells, look."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import ConsoleMessage, Locator, Page, expect

ROOT = Path(__file__).resolve().parents[2]
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
RUN_SECONDS = 400
PROMPTS = "Array.from(document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')).map(e => e.textContent)"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-device-scale-factor=1"]
WORDS = "[role=status][aria-live=polite]"
# What JupyterLab itself writes as an error, with any notebook: not a lesson's doing.
NOISE = ("favicon", "Failed to load resource", "WebSocket", "workspaces", "ResizeObserver", "translation")
NOISE += ("widget model not found",)  # a saved page without its kernel: what the static views are for


# For each widget of the page: the parts that nobody can see, however they scroll. A text that ends in "…" and
# has its whole in a tooltip is no such part, nor are up to four pixels of a line's own leading.
CUT = """widgets => widgets.flatMap((widget, number) => {
  const said = [], say = text => said.push(`widget ${number}: ${text}`);
  for (const each of [widget, ...widget.querySelectorAll("*")]) {
    if (each.closest("svg, .noUi-target") || !each.clientHeight) continue;
    const look = getComputedStyle(each), name = [each.tagName.toLowerCase(), ...each.classList].join(".");
    const below = each.scrollHeight - each.clientHeight, right = each.scrollWidth - each.clientWidth;
    const text = each.textContent.trim().slice(0, 40);
    if (below > 4 && /hidden|clip/.test(look.overflowY)) say(`${below} pixels of ${name} are cut: ${text}`);
    if (look.textOverflow === "ellipsis" && each.title) continue;
    if (right > 1 && /hidden|clip/.test(look.overflowX)) say(`${right} pixels beside ${name}, cut: ${text}`);
  }
  const words = widget.querySelector(":scope > .llmlite-words"), view = words && words.previousElementSibling;
  if (!view) return said;
  const held = each => {  // by a part that scrolls or clips for itself
    for (let box = each.parentElement; box !== widget; box = box.parentElement)
      if (getComputedStyle(box).overflowY !== "visible") return true;
    return false;
  };
  const rects = () => [view, ...view.querySelectorAll("*")]
    .filter(each => !each.closest("svg *") && !held(each))
    .map(each => each.getBoundingClientRect()).filter(rect => rect.height && rect.width);
  widget.scrollTop = widget.scrollHeight;
  const hidden = Math.max(...rects().map(rect => rect.bottom)) - words.getBoundingClientRect().top;
  if (hidden > 1) say(`${Math.round(hidden)} pixels stay under its words`);
  widget.scrollTop = 0;
  const controls = widget.querySelector(":scope > .llmlite-controls");
  const above = controls.getBoundingClientRect().bottom - Math.min(...rects().map(rect => rect.top));
  if (above > 1 && view !== controls) say(`${Math.round(above)} pixels stay under its controls`);
  return said;
})"""


@dataclass(frozen=True)
class Server:
    """A running JupyterLab: its port and token."""

    port: int
    token: str

    def address(self, name: str) -> str:
        """Return where a notebook of the folder opens, with a fresh workspace."""
        return f"http://127.0.0.1:{self.port}/lab/tree/{quote(name)}?token={self.token}&reset"


@contextmanager
def jupyterlab(folder: Path, theme: str) -> Iterator[Server]:
    """Serve `folder` in JupyterLab with nothing of the user's settings."""
    settings = folder.parent / "settings"
    themes = settings / "@jupyterlab" / "apputils-extension"
    themes.mkdir(parents=True)
    (themes / "themes.jupyterlab-settings").write_text(json.dumps({"theme": THEMES[theme]}))
    (themes / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    tracker = settings / "@jupyterlab" / "notebook-extension"
    tracker.mkdir(parents=True)
    whole = {"windowingMode": "none"}  # every cell is in the page, seen or not
    (tracker / "tracker.jupyterlab-settings").write_text(json.dumps(whole))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(port, secrets.token_hex(16))
    environment = {
        **os.environ,
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder.parent / "workspaces"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [f"--IdentityProvider.token={server.token}", f"--ServerApp.root_dir={folder}"]
    with (folder.parent / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/status?token={server.token}", process)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(120):
        if process.poll() is not None:
            raise RuntimeError(f"JupyterLab ended with code {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError("JupyterLab did not answer within a minute")


class Errors:
    """What the page's console said of errors, JupyterLab's own noise left out."""

    def __init__(self, page: Page) -> None:
        self.found: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._keep(f"page error: {error}"))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._keep(message.text)

    def _keep(self, text: str) -> None:
        if not any(noise in text for noise in NOISE):
            self.found.append(text[:500])


def open_notebook(page: Page, address: str) -> None:
    """Open a notebook and wait for its cells and its kernel."""
    page.goto(address, timeout=120_000)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_timeout(1500)
    # asked to run before the kernel is there, JupyterLab would run nothing
    page.get_by_text("| Idle").first.wait_for(timeout=120_000)


def run_all(page: Page) -> None:
    """Run every cell; fail with the first cell's text that didn't finish."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.wait_for_function(f"() => {PROMPTS}.some(text => text.includes('*'))", timeout=60_000)
    page.wait_for_function(f"() => !{PROMPTS}.some(text => text.includes('*'))", timeout=RUN_SECONDS * 1000)
    page.get_by_text("| Idle").first.wait_for(timeout=RUN_SECONDS * 1000)  # folded checks have no prompt
    numbers = page.evaluate(f"() => {PROMPTS}.map(text => Number(text.replace(/[^0-9]/g, '')))")
    n_cells = page.locator(".jp-CodeCell").count()
    assert numbers[0] > 0 and numbers == sorted(set(numbers)), f"not every cell ran: {numbers}"
    assert numbers[-1] <= n_cells and len(numbers) > n_cells / 2, f"not every cell ran: {numbers}"
    errors = page.locator("[data-mime-type='application/vnd.jupyter.error']")
    assert errors.count() == 0, errors.first.inner_text()
    pink = page.locator("[data-mime-type='application/vnd.jupyter.stderr']")
    assert pink.count() == 0, f"on standard error: {pink.first.inner_text()}"


def explorer(page: Page, number: int = 0) -> Locator:
    """Return the page's widget with this number, from 0, scrolled into sight."""
    found = page.locator(".llmlite-explorer").nth(number)
    found.scroll_into_view_if_needed(timeout=60_000)
    return found


def cut(page: Page) -> list[str]:
    """Return what of the page's widgets can't be seen even by scrolling; empty if all is well."""
    return page.locator(".llmlite-explorer").evaluate_all(CUT)


def words(found: Locator) -> Locator:
    """Return the line of words under a widget."""
    return found.locator(WORDS).last


def changes(found: Locator, move: object) -> str:
    """Call `move()` and return the widget's words once they have changed; fail where they don't."""
    line = words(found)
    before = line.inner_text()
    move()  # type: ignore[operator]
    expect(line).not_to_have_text(before, timeout=15_000)
    return line.inner_text()


def picture(page: Page, path: Path) -> None:
    """Take a screenshot, a moment after the last change."""
    page.wait_for_timeout(700)
    page.screenshot(path=path)


def to_top(page: Page) -> None:
    page.locator(".jp-WindowedPanel-outer").first.hover()
    page.mouse.wheel(0, -100_000)
    page.wait_for_timeout(500)


def without_a_kernel(page: Page, out: Path) -> None:
    """Save, end the kernel, open the page again: pictures and tables must still be there."""
    page.get_by_role("button", name="Save and create checkpoint").first.click()  # keys might go to a widget
    page.wait_for_timeout(2000)
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_text("Shut Down All Kernels", exact=False).first.click()
    page.locator(".jp-Dialog .jp-mod-accept, .jp-Dialog .jp-mod-warn").first.click()
    page.wait_for_timeout(1500)
    page.reload()
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_timeout(2500)
    folded = page.locator("details.llmlite-static")
    for i in range(folded.count()):
        folded.nth(i).locator("summary").first.click()
        seen = folded.nth(i).locator("img:visible, table:visible, svg:visible")
        expect(seen.first).to_be_visible()
    if folded.count():
        folded.first.scroll_into_view_if_needed()
    picture(page, out)
