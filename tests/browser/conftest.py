"""A Chromium for the tests that need one: found, or installed if the system allows it."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
INSTALL = ("apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium")


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


@pytest.fixture(scope="session")
def browser() -> str:
    """The path of a Chromium; without one the test is skipped, and the reason is named."""
    found = find_browser()
    if not found:
        problem = install_browser()
        if problem:
            pytest.skip(problem)
        found = find_browser()
    assert found
    return found
