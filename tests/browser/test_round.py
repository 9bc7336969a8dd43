"""The widgets in a real browser: a short round in `make test-all`; `make browser-test` is the whole one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Lessons with unlike widgets: buttons and a grid, sliders, text fields.
SHORT_ROUND = ("01", "02", "04")

pytestmark = [pytest.mark.slow]


def test_widgets_answer_in_a_real_browser(browser: str, tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    pytest.importorskip("jupyterlab")
    command = [sys.executable, "tests/browser/round.py", "--out", str(tmp_path), "--theme", "light"]
    command += ["--browser", browser, *SHORT_ROUND]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count("widgets answered") == len(SHORT_ROUND), done.stdout
