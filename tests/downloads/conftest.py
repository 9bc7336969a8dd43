"""A cache of a test's own, and a tiny model as a package."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmlite.catalog import PACKAGED, Packaged
from tests.support.fake_packages import row, write_wheel
from tests.support.tiny_models import tiny_model


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache folder of our own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LLMLITE_CACHE", str(folder))
    return folder


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that pip takes its wheels from, and from nowhere else."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def model_bytes(tmp_path: Path) -> bytes:
    """A tiny model in Q4_1."""
    return tiny_model().write(tmp_path / "source.gguf", "Q4_1").read_bytes()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, shelf: Path, model_bytes: bytes) -> Packaged:
    """The tiny model as a package on the shelf and in the table, under the name "tiny"."""
    wheel = write_wheel(shelf, "tiny-model", {"tiny_model/m.gguf": model_bytes})
    members = [("tiny_model/m.gguf", "tiny.gguf"), ("tiny_model-1.0.dist-info/LICENSE", "LICENSE")]
    model = row([wheel], [members], model_bytes)
    monkeypatch.setitem(PACKAGED, "tiny", model)
    return model
