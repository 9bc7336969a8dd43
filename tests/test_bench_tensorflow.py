"""TensorFlow's side of the comparison: llmlite's logits, at once and step by step, eager and as a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import llmlite as ll
from llmlite.bench.backends import tensorflow_forward
from tests.tiny_models import tiny_model

IDS = [1, 5, 9, 3, 7, 7, 2, 30, 12, 4, 8]


@pytest.fixture(params=["llama", "qwen2", "llama with rope factors", "one head each", "quantized"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made = {
        "llama": lambda: tiny_model("llama", tied=True),
        "qwen2": lambda: tiny_model("qwen2"),
        "llama with rope factors": lambda: tiny_model("llama", rope_freqs=True),
        "one head each": lambda: tiny_model("llama", n_head_kv=4),
        "quantized": lambda: tiny_model("llama"),
    }[request.param]()
    return made.write(tmp_path / "m.gguf", "Q8_0" if request.param == "quantized" else "F32")


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
