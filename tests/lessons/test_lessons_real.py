"""A real model in a lesson: which one is taken, its matrices in another type, its perplexity."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from llmlite.errors import MissingFileError
from llmlite.lessons import real


def test_a_run_that_nobody_watches_takes_the_bundled_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(real.SWITCH, raising=False)
    monkeypatch.setattr(real.progress, "somebody_clicks", lambda: False)
    monkeypatch.setattr(real.catalog, "pulled_path", lambda *_: pytest.fail("nobody asked"))
    assert real.largest_here() == "tales"


def test_smollm2_is_taken_if_it_is_here_and_tales_if_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise MissingFileError(2, "not here", "smollm2")

    monkeypatch.delenv(real.SWITCH, raising=False)
    monkeypatch.setattr(real.progress, "somebody_clicks", lambda: True)
    monkeypatch.setattr(real.catalog, "pulled_path", lambda *_: "a path")
    assert real.largest_here() == "smollm2"
    monkeypatch.setattr(real.catalog, "pulled_path", missing)
    assert real.largest_here() == "tales"
    monkeypatch.setenv(real.SWITCH, "mine.gguf")
    assert real.largest_here() == "mine.gguf"


@pytest.mark.parametrize("name", ["tales", os.fspath(ll.model_path("tales"))], ids=["name", "path"])
def test_a_model_in_another_type_is_the_one_that_quantizing_makes(name: str, tmp_path: Path) -> None:
    made = real.in_type(name, "Q4_0")
    ll.quantize_file(ll.model_path("tales"), tmp_path / "pure.gguf", "Q4_0", pure=True)
    for tensor in ll.gguf.read(tmp_path / "pure.gguf").tensors.values():
        assert np.array_equal(made.gguf.tensors[tensor.name].dequantize(), tensor.dequantize()), tensor.name


def test_perplexity_and_divergence_grow_when_bits_go() -> None:
    exact, four = (real.in_type("tales", name) for name in ("F16", "Q4_0"))
    assert 1 < real.perplexity(exact, 512) < real.perplexity(four, 512)
    assert real.divergence(exact, exact, 512).kl < 1e-6 < real.divergence(four, exact, 512).kl
