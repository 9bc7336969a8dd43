"""Run commands and return their output."""

from __future__ import annotations

import pytest

from llmlite import cli


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail with code 2 and one line on stderr; return that line."""
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("llmlite: ")
    return captured.err


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must succeed; return what it printed."""
    assert cli.main(arguments) == 0
    return capsys.readouterr().out
