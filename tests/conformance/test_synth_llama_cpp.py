"""Synthetic models of real shapes: both programs load the file and mean the same by it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from llmlite.description.architectures import ARCHITECTURES
from llmlite.synth import SHAPES, synthesize
from tests.support.llama_cpp import log_softmax, random_ids, run_llama_cpp

pytestmark = pytest.mark.conformance
MEANT_OTHERWISE = {"bitnet-2b"}  # llama.cpp takes SiLU for the squared ReLU: docs/architectures.md
ENCODERS = [name for name, shape in SHAPES.items() if not ARCHITECTURES[shape.architecture].causal]
EMBED = """
import json, sys
import llama_cpp
model = llama_cpp.Llama(sys.argv[1], n_ctx=64, embedding=True, verbose=False)
print(json.dumps(model.embed(json.loads(sys.argv[2]), normalize=True)))
"""


@pytest.mark.parametrize("shape", ["gpt2", "qwen3-0.6b", "qwen3-30b-a3b-4-layers"])
def test_llama_cpp_agrees_on_a_synthetic_model(shape: str, tmp_path: Path) -> None:
    """As for quantized tiny models: we diverge from our own float32 no more than llama.cpp does."""
    path, ids = tmp_path / "synthetic.gguf", random_ids(16)
    synthesize(path, shape, "Q4_0")
    exact = log_softmax(ll.load(path, n_ctx=32, kv_dtype="f32", executor="eager").logits(ids))
    planned = log_softmax(ll.load(path, n_ctx=32, kv_dtype="f32", executor="planned").logits(ids))
    theirs = log_softmax(run_llama_cpp(path, ids, tmp_path)["logits"])
    kl_planned, kl_theirs = ((np.exp(exact) * (exact - q)).sum(-1).mean() for q in (planned, theirs))
    print(f"{shape}: divergence {kl_planned:.1e}, llama.cpp's {kl_theirs:.1e}")
    assert kl_planned < max(1.3 * kl_theirs, 1e-4)
    path.unlink()


@pytest.mark.parametrize("shape", [name for name in SHAPES if name not in ENCODERS])
def test_llama_cpp_loads_a_few_layers_of_every_shape(
    shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and names are those that llama.cpp asks for; what it makes of them is near what we do.

    The bound is loose: llama.cpp rounds activations to bytes, and where that moves the choice of an expert,
    the logits of noise move by a tenth.
    """
    # llama.cpp needs a layer with attention; lfm2 lists them for its sixteen
    n_layer = {"qwen3.5-0.8b": 4, "lfm2-350m": 16, "gemma4-e2b": 10}.get(shape, 2)
    few = {"n_layer": n_layer, "n_vocab": 1000, "n_expert": min(SHAPES[shape].n_expert, 8)}
    few["more"] = {
        key: value[-n_layer:] if isinstance(value, list) and len(value) > 4 else value
        for key, value in SHAPES[shape].more.items()
    }
    if shape == "gemma4-e2b":
        few["more"]["attention.shared_kv_layers"] = 5
    monkeypatch.setitem(SHAPES, shape, dataclasses.replace(SHAPES[shape], **few))
    path, ids = tmp_path / "synthetic.gguf", random_ids(16)
    synthesize(path, shape, "Q8_0")
    ours = ll.load(path, n_ctx=32, kv_dtype="f32", executor="eager").logits(ids)
    theirs = run_llama_cpp(path, ids, tmp_path)["logits"]
    off = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f"{shape}: off by {off:.1e} of the largest logit")
    assert off < 0.2 or shape in MEANT_OTHERWISE
    path.unlink()


@pytest.mark.parametrize("shape", ENCODERS)
def test_llama_cpp_embeds_with_a_few_layers_of_every_encoder(
    shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llama_cpp")
    # llama.cpp aborts if every layer has a window: the first without one is the sixth there
    n_layer = {"embeddinggemma-300m": 6}.get(shape, 2)
    few = dataclasses.replace(SHAPES[shape], n_layer=n_layer, n_vocab=1000)
    monkeypatch.setitem(SHAPES, shape, few)
    path, texts = tmp_path / "synthetic.gguf", ["the fox ran", "a hen slept in the barn"]
    synthesize(path, shape, "Q8_0")
    ours = ll.load(path, executor="eager").embed(texts)
    done = subprocess.run(
        [sys.executable, "-c", EMBED, str(path), json.dumps(texts)],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = np.array(json.loads(done.stdout.strip().splitlines()[-1]))
    cosines = (ours * theirs).sum(axis=1)
    print(f"{shape}: cosines {cosines}")
    assert cosines.min() > 0.98
