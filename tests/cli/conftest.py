"""Commands run without the variable that shows tracebacks."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMLITE_DEBUG", raising=False)
