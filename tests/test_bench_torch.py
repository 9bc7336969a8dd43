"""PyTorch's side of the comparison must be right, or the comparison is worth nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import llmlite as ll
from llmlite.bench.backends import torch_eager
from tests.tiny_models import SMALL_MODELS, tiny_model

IDS = [1, 5, 9, 3, 7, 7, 2, 30, 12, 4, 8]


MORE = {
    "qwen3": lambda: tiny_model("qwen3"),
    "gpt2": lambda: tiny_model("gpt2", n_head_kv=4, tied=True),
    "qwen3moe": lambda: tiny_model("qwen3moe", n_expert=6),
    "llama with experts": lambda: tiny_model("llama", n_expert=4),
}
MODELS = SMALL_MODELS | MORE


@pytest.fixture(params=MODELS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return MODELS[request.param]().write(
        tmp_path / "m.gguf", "Q8_0" if request.param == "quantized" else "F32"
    )


def backend(path: Path, dtype: str = "float32") -> torch_eager.TorchBackend:
    made = torch_eager.make(dtype=dtype)
    made.load(str(path), n_ctx=32, n_threads=1)
    return made


def test_its_logits_are_llmlites(path: Path) -> None:
    ours = ll.load(path, kv_dtype="f32", executor="eager").logits(IDS)
    np.testing.assert_allclose(backend(path).logits(IDS), ours, atol=1e-4)


def test_stepping_gives_the_tokens_that_reading_gives(path: Path) -> None:
    stepped = backend(path)
    token = stepped.prefill(IDS)
    ids = list(IDS)
    for _ in range(5):
        ids.append(token)
        token = stepped.step(token)
        assert token == backend(path).prefill(ids)


def test_bfloat16_is_near_float32_and_not_equal(path: Path) -> None:
    exact, rounded = backend(path).logits(IDS), backend(path, "bfloat16").logits(IDS)
    assert 0 < np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()


def test_it_says_when_bfloat16_is_emulated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_eager, "has_bf16", lambda: False)
    assert "emulated" in backend(path, "bfloat16").about()["note"]
    assert backend(path).about()["note"] == ""


def test_another_file_replaces_the_one_before(path: Path, tmp_path: Path) -> None:
    other = tiny_model("llama", seed=5).write(tmp_path / "other.gguf")
    both = backend(path)
    both.prefill(IDS)
    both.load(str(other), n_ctx=32, n_threads=1)
    np.testing.assert_array_equal(both.logits(IDS), backend(other).logits(IDS))
