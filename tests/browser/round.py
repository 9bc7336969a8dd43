"""Open every lesson in JupyterLab in a real browser, run it, operate its widgets, take pictures to look at.

    python tests/browser/round.py --out SCREENSHOTS [--theme light --theme dark] [--browser PATH] [NAME ...]

Needs playwright (pip) and a Chromium. For each lesson: all cells run, no error in the cells or in the page's
console, `lesson_NN.operate` moves each widget and asserts what changed on the page, no widget is higher than
a projector shows or hides a part of itself, and the static views stay when the kernel is gone. The rest is
for eyes. LLMLITE_LARGE=1 does the same in large type.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.browser.lab import (
    FLAGS,
    ROOT,
    THEMES,
    Errors,
    cut,
    jupyterlab,
    open_notebook,
    picture,
    run_all,
    to_top,
    without_a_kernel,
)

HIGHEST = 560  # pixels of a widget, in a window of 1280 x 720
HERE = Path(__file__).resolve().parent


def moves(number: str) -> Any:
    """Return the module that operates a lesson's widgets."""
    path = HERE / f"lesson_{number}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def heights(page: Any) -> list[int]:
    """Return the height of each widget of the page, in pixels."""
    script = "found => found.map(each => Math.round(each.getBoundingClientRect().height))"
    return page.locator(".llmlite-explorer").evaluate_all(script)


def visit(browser: Any, server: Any, notebook: Path, out: Path) -> float:
    """Open one lesson, run it, operate it; return the seconds it took."""
    begin = time.monotonic()
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    errors = Errors(page)
    out.mkdir(parents=True, exist_ok=True)
    try:
        open_notebook(page, server.address(notebook.name))
        run_all(page)
        to_top(page)
        picture(page, out / "top.png")
        moves(notebook.stem.partition("_")[0]).operate(page, out)
        too_high = [height for height in heights(page) if height > HIGHEST]
        hidden = cut(page)
        without_a_kernel(page, out / "no-kernel.png")
    except Exception:
        page.screenshot(path=out / "failed.png")
        raise
    finally:
        page.close()
    assert not errors.found, f"{notebook.stem}: the console says {errors.found}"
    assert not too_high, f"{notebook.stem}: widgets of {too_high} pixels; a projector shows {HIGHEST}"
    assert not hidden, f"{notebook.stem}: nobody can see {hidden}"
    return time.monotonic() - begin


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginnings of lessons' names; all for none")
    parser.add_argument("--out", type=Path, required=True, help="folder for the screenshots")
    parser.add_argument("--browser", default=shutil.which("chromium"))
    parser.add_argument("--theme", action="append", choices=sorted(THEMES))
    options = parser.parse_args()
    lessons = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    lessons = [p for p in lessons if not options.names or p.stem.startswith(tuple(options.names))]
    failed = 0
    for theme in options.theme or sorted(THEMES, reverse=True):
        with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
            folder = Path(place) / "lessons"
            folder.mkdir()
            for lesson in lessons:
                shutil.copy(lesson, folder)
            browser = playwright.chromium.launch(
                executable_path=options.browser, args=FLAGS, ignore_default_args=["--hide-scrollbars"]
            )
            with jupyterlab(folder, theme) as server:
                for lesson in lessons:
                    try:
                        seconds = visit(
                            browser, server, lesson, options.out / f"{lesson.stem.partition('_')[0]}-{theme}"
                        )
                        print(f"{lesson.stem}, {theme}: ran, widgets answered, {seconds:.0f} s", flush=True)
                    except Exception as error:
                        failed += 1
                        print(f"{lesson.stem}, {theme}: FAILED: {error}", flush=True)
            browser.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
