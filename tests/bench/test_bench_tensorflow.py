"""TensorFlow's side of the comparison: llmlite's logits, at once and step by step, eager and as a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import llmlite as ll
from llmlite.bench.backends import tensorflow_forward
from llmlite.errors import UnsupportedError
from tests.support.tiny_models import SMALL_MODELS, tiny_model

IDS = [1, 5, 9, 3, 7, 7, 2, 30, 12, 4, 8]


@pytest.fixture(params=SMALL_MODELS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return SMALL_MODELS[request.param]().write(
        tmp_path / "m.gguf", "Q8_0" if request.param == "quantized" else "F32"
    )


def backend(path: Path, graph: bool) -> tensorflow_forward.TensorFlowBackend:
    made = tensorflow_forward.make(graph=graph)
    made.load(str(path), n_ctx=32, n_threads=1)
    return made


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_its_logits_are_llmlites(path: Path, graph: bool) -> None:
    ours = ll.load(path, kv_dtype="f32", executor="eager").logits(IDS)
    np.testing.assert_allclose(backend(path, graph).logits(IDS), ours, atol=1e-4)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_stepping_gives_the_tokens_that_reading_gives(path: Path, graph: bool) -> None:
    stepped, reading = backend(path, graph), backend(path, graph)
    token = stepped.prefill(IDS)
    ids = list(IDS)
    for _ in range(5):
        ids.append(token)
        token = stepped.step(token)
        assert token == reading.prefill(ids)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3", "qwen3moe"])
def test_what_it_does_not_run_is_refused_by_name(architecture: str, tmp_path: Path) -> None:
    made = tiny_model(architecture, n_expert=4 if architecture == "qwen3moe" else 0)
    with pytest.raises(UnsupportedError, match=f"not {architecture}"):
        backend(made.write(tmp_path / "m.gguf"), graph=False)
