"""The widgets in a real browser: a short round in `make test-all`; `make browser-test` is the whole one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Lessons with unlike widgets: buttons and a grid, sliders, text fields.
SHORT_ROUND = ("01", "02", "04")
INSTALL = ("apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium")

pytestmark = [pytest.mark.slow]


def find_browser() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def install_browser() -> str:
    """Install Chromium where the system allows it; return why not, or ""."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return "no Chromium, and installing it takes apt-get as root"
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (("apt-get", "update", "-q"), INSTALL):
        try:
            done = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=240)
        except subprocess.TimeoutExpired:
            return f"no Chromium; `{' '.join(command)}` took longer than 4 minutes"
        if done.returncode and command is INSTALL:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return f"no Chromium; apt-get couldn't install it: {last}"
    return "" if find_browser() else "no Chromium, though apt-get installed it"


@pytest.fixture(scope="module")
def browser() -> str:
    if not find_browser():
        problem = install_browser()
        if problem:
            pytest.skip(problem)
    return find_browser()


def test_widgets_answer_in_a_real_browser(browser: str, tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    pytest.importorskip("jupyterlab")
    command = [sys.executable, "tests/browser/round.py", "--out", str(tmp_path), "--theme", "light"]
    command += ["--browser", browser, *SHORT_ROUND]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count("widgets answered") == len(SHORT_ROUND), done.stdout
