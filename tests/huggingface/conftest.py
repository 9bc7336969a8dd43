"""A folder that is right, for tests to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.huggingface_folders import write_folder
from tests.support.tiny_models import tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", tiny_model())
