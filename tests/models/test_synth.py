"""Synthetic models: the shapes of the real ones, in the types a quantizer would choose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmlite import synth
from llmlite.cli.synth import EXAMPLES
from llmlite.errors import UnsupportedError
from llmlite.model import load
from llmlite.synth import SHAPES, Shape, synthesize

SMALL = Shape(
    architecture="qwen2", n_layer=2, n_embd=256, n_head=4, n_head_kv=2, n_ff=512, n_vocab=1000, n_ctx=64,
    rope_base=1e4, is_tied=True,
)  # fmt: skip


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_K_M", "F16"])
def test_a_synthetic_model_loads_and_gives_finite_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type_name: str
) -> None:
    monkeypatch.setitem(SHAPES, "small", SMALL)
    path = tmp_path / "small.gguf"
    synthesize(path, "small", type_name)
    model = load(path, executor="eager")
    assert np.isfinite(model.logits(model.tokenizer.encode("the small one"))).all()
    types = {tensor.type.name for tensor in model.gguf.tensors.values() if len(tensor.shape) > 1}
    assert types == {"Q4_0": {"Q4_0", "Q6_K"}, "Q4_K_M": {"Q4_K", "Q6_K"}, "F16": {"F16"}}[type_name]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "small", SMALL)
    for name in ("a", "b"):
        synthesize(tmp_path / name, "small", "Q8_0", seed=3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_the_published_number_of_weights(name: str) -> None:
    published = {
        "llama-3.2-1b": 1.236e9,
        "tinyllama-1.1b": 1.1e9,
        "smollm2-135m": 134.5e6,
        "qwen2.5-0.5b": 494e6,
        "qwen3-0.6b": 596e6,
        "gpt2": 124.4e6,
        "gemma3-270m": 268.1e6,
        "gemma3-1b": 999.9e6,
        # counted by hand: two tables, a matrix beside them, queries and outputs of 28 and 7 layers, keys and
        # values of 12 and 3, networks of 15 and 20, and each layer's own input
        "gemma4-e2b": 262144 * (1536 + 35 * 256)
        + 35 * 256 * 1536
        + 2 * 1536 * 8 * (28 * 256 + 7 * 512)
        + 2 * 1536 * (12 * 256 + 3 * 512)
        + 3 * 1536 * (15 * 6144 + 20 * 12288)
        + 35 * 2 * 1536 * 256,
        "gemma2-2b": 2.614e9,
        "phi-2": 2.780e9,
        "phi-4-mini": 3.836e9,
        "smollm3-3b": 3.075e9,
        "granite-3.3-2b": 2.534e9,
        "granite-3.1-1b-a400m": 1.335e9,
        "olmo2-1b": 1.485e9,
        "starcoder2-3b": 3.030e9,
        "stablelm-3b": 2.795e9,
        "pythia-160m": 162.3e6,
        "exaone4-1.2b": 1.279e9,
        "command-r7b": 8.028e9,
        "bitnet-2b": 2.413e9,
        "qwen3.5-0.8b": 752.4e6,  # the text model alone
        "lfm2-350m": 354.5e6,
        "mamba2-130m": 128.9e6,
        "glm4-9b": 9.400e9,
        "falcon-7b": 7.217e9,
        "ministral-3-3b": 3.429e9,  # the text model alone
        "aya-23-8b": 8.028e9,
        "olmo3-7b": 7.298e9,
        "mamba-130m": 129.1e6,
        # encoders: files hold no pooler, a matrix and a bias of the width
        "all-minilm-l6": 22.713e6 - 384 * 385,
        "nomic-embed-137m": 136.7e6,
        "modernbert-149m": 149.0e6,
        "jina-v2-33m": 32.69e6 - 512 * 513,
        "embeddinggemma-300m": 302.9e6,
        # 15.706e9 for 27 layers, of which 419.4e6 are embeddings and output and 81.0e6 the first layer
        "deepseek-v2-lite-4-layers": (15.706e9 - 500.4e6) * 3 / 26 + 500.4e6,
        "gpt-oss-20b-4-layers": (20.915e9 - 1158.3e6) / 6 + 1158.3e6,  # published for 24 layers
        "qwen1.5-moe-a2.7b-4-layers": (14.316e9 - 622.3e6) / 6 + 622.3e6,  # for 24
        "olmoe-1b-7b-4-layers": (6.919e9 - 206.0e6) / 4 + 206.0e6,  # for 16
        # published for 48 layers: 30.53e9, of which 2 · 151936 · 2048 are embeddings and output
        "qwen3-30b-a3b-4-layers": (30.53e9 - 622.3e6) / 12 + 622.3e6,
    }
    n = sum(int(np.prod(shape)) for shape in synth._tensor_shapes(SHAPES[name]).values())
    assert n == pytest.approx(published[name], rel=2e-3)
    assert len(synth._tokenizer(SHAPES[name].n_vocab)["tokenizer.ggml.tokens"]) == SHAPES[name].n_vocab


def test_the_help_names_every_shape() -> None:
    listed = EXAMPLES.partition("shapes: ")[2].replace("\n", " ")
    assert all(f" {name}" in f" {listed}" for name in SHAPES)


def test_an_unknown_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="llama-3.2-1b"):
        synthesize(tmp_path / "x.gguf", "gpt-5", "Q4_0")
    assert not list(tmp_path.iterdir())
