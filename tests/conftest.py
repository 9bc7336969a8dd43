"""What every test may lean on: the optional vocabularies, and a summary that names each skip."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Before NumPy is imported. Matrices are small here, and tests run in several processes, whose BLAS threads
# would wait for each other, busily: a test of attention took 2.6 s of CPU time with two, 0.3 s with one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """Let Ctrl-C reach the processes that tests start.

    Tests that a script starts in the background, such as a CI's, inherit an ignored SIGINT.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def vocabs() -> Path:
    """The folder of tokenizer-only GGUF files with `.inp` and `.out` vectors; skips where it is absent."""
    folder = ROOT.parent / "shared" / "data" / "vocabs"
    if not folder.is_dir():
        pytest.skip("the optional folder ../shared/data/vocabs (tokenizer vectors) is not here")
    return folder


@pytest.fixture(scope="session")
def tales() -> Path:
    """The bundled model's file, from a checkout or from the installed package."""
    from llmlite import resources

    return resources.model_path("tales")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List each test that was skipped, or failed as expected, with its reason: unread, it is a hole."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section(f"skipped, by name: {len(skipped)}")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")
    missed = terminalreporter.stats.get("xfailed", [])
    if missed:
        terminalreporter.section(f"goals missed, by name: {len(missed)}")
    for report in missed:
        terminalreporter.line(f"{report.nodeid}: {report.wasxfail.removeprefix('reason: ')}")
