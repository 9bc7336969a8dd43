"""Open the lesson in JupyterLab in a real browser, run it, move the widget, and take pictures to look at.

    python tests/browser/smoke.py --out SCREENSHOTS [--browser /usr/bin/chromium] [--theme light --theme dark]

Needs playwright (pip) and a Chromium. Checks that every cell runs without an error, that choosing a metric
and ticking a box by keyboard redraw the figure, and that the figures stay when the kernel is gone. The rest
is for eyes.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = "08_measure_it_honestly.ipynb"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
RUN_SECONDS = 400
PROMPTS = "Array.from(document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')).map(e => e.textContent)"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-device-scale-factor=1"]


@contextmanager
def jupyterlab(folder: Path, theme: str) -> Iterator[str]:
    """Serve `folder` in JupyterLab with nothing of the user's settings; yield the address with its token."""
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
    token = secrets.token_hex(16)
    environment = {
        **os.environ,
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder.parent / "workspaces"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    with (folder.parent / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server)
        yield f"http://127.0.0.1:{port}/lab/tree/{NOTEBOOK}?token={token}&reset"
    finally:
        server.terminate()
        server.wait(timeout=20)


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(120):
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended with code {server.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError("JupyterLab did not answer within a minute")


def run_all(page: Page) -> None:
    """Run every cell; fail with the first cell's text that didn't finish."""
    page.get_by_text("| Idle").wait_for(
        timeout=120_000
    )  # asked before the kernel is there, nothing would run
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.wait_for_function(f"() => {PROMPTS}.some(text => text.includes('*'))", timeout=60_000)
    page.wait_for_function(f"() => !{PROMPTS}.some(text => text.includes('*'))", timeout=RUN_SECONDS * 1000)
    numbers = page.evaluate(f"() => {PROMPTS}.map(text => text.replace(/[^0-9]/g, ''))")
    assert numbers == [str(i + 1) for i in range(len(numbers))], f"not every cell ran: {numbers}"
    errors = page.locator("[data-mime-type='application/vnd.jupyter.error']")
    assert errors.count() == 0, errors.first.inner_text()


def show(page: Page, selector: str) -> None:
    """Scroll the notebook until something is in sight."""
    page.locator(selector).first.scroll_into_view_if_needed(timeout=60_000)
    page.wait_for_timeout(800)


def to_top(page: Page) -> None:
    page.locator(".jp-WindowedPanel-outer").first.hover()
    page.mouse.wheel(0, -100_000)
    page.wait_for_timeout(500)


def look(page: Page, out: Path, theme: str) -> None:
    """Run the lesson, work the dashboard by keyboard, and take pictures on the way."""
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_timeout(2500)
    run_all(page)
    to_top(page)
    page.screenshot(path=out / f"{theme}-1-top.png")
    show(page, ".jp-OutputArea figure img")
    page.screenshot(path=out / f"{theme}-2-figure.png")
    assert page.locator(".jp-OutputArea figure img").first.get_attribute("alt"), (
        "the figure has no description"
    )
    show(page, "[role=status][aria-live=polite]")
    work_the_dashboard(page, out, theme)
    without_a_kernel(page, out, theme)


def work_the_dashboard(page: Page, out: Path, theme: str) -> None:
    """Press a metric's button and untick a backend, by keyboard alone."""
    words = page.locator("[role=status][aria-live=polite]")
    words.scroll_into_view_if_needed()
    before = words.inner_text()
    page.screenshot(path=out / f"{theme}-3-dashboard.png")
    page.locator(".widget-toggle-button").first.focus()
    while page.evaluate("() => document.activeElement.textContent") != "private memory":
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(words).to_contain_text("private memory", timeout=10_000)
    assert words.inner_text() != before
    page.wait_for_timeout(700)
    page.screenshot(path=out / f"{theme}-4-private.png")
    bars = words.inner_text().count(",")
    while page.evaluate("() => document.activeElement.type") != "checkbox":
        page.keyboard.press("Tab")
    page.keyboard.press("Space")  # the first backend goes
    page.wait_for_timeout(2000)
    assert words.inner_text().count(",") < bars, "unticking a backend changed nothing"
    page.screenshot(path=out / f"{theme}-5-unticked.png")
    page.keyboard.press("Space")


def without_a_kernel(page: Page, out: Path, theme: str) -> None:
    """Save, end the kernel, open the page again: the figures must still be there."""
    page.keyboard.press("Escape")
    page.keyboard.press("Control+s")
    page.wait_for_timeout(3000)
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_text("Shut Down All Kernels", exact=False).first.click()
    page.locator(".jp-Dialog .jp-mod-accept, .jp-Dialog .jp-mod-warn").first.click()
    page.wait_for_timeout(2000)
    page.reload()
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_timeout(3000)
    show(page, ".jp-OutputArea figure img")
    page.screenshot(path=out / f"{theme}-6-no-kernel.png")
    page.get_by_text("The whole comparison as a picture").click()
    show(page, "details figure img")
    page.screenshot(path=out / f"{theme}-7-no-kernel-dashboard.png")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the screenshots")
    parser.add_argument("--browser", default=shutil.which("chromium"))
    parser.add_argument("--theme", action="append", choices=sorted(THEMES))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for theme in options.theme or sorted(THEMES, reverse=True):
        with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
            folder = Path(place) / "lessons"
            folder.mkdir()
            shutil.copy(ROOT / "notebooks" / NOTEBOOK, folder)
            browser = playwright.chromium.launch(executable_path=options.browser, args=FLAGS)
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            with jupyterlab(folder, theme) as address:
                page.goto(address, timeout=120_000)
                try:
                    look(page, options.out, theme)
                except Exception:
                    page.screenshot(path=options.out / f"{theme}-failed.png")
                    raise
            browser.close()
        print(f"{theme}: all cells ran, the dashboard answered the keyboard; look at {theme}-*.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
