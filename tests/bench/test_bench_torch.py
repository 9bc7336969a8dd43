"""PyTorch's side of the comparison must be right, or the comparison is worth nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

import llmlite as ll
from llmlite.bench.backends import torch_eager
from llmlite.errors import UnsupportedError
from tests.support.tiny_models import SMALL_MODELS, tiny_model

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


def test_an_architecture_it_does_not_run_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model("qwen2").write(tmp_path / "m.gguf")
    monkeypatch.setattr(torch_eager, "ARCHITECTURES", ("llama",))
    with pytest.raises(UnsupportedError, match="PyTorch's side of the comparison runs llama, not qwen2"):
        backend(path)


# --- packed matrices and compilation ----------------------------------------------------------


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_1"])
def test_int4_keeps_the_files_own_codes(type_name: str, tmp_path: Path) -> None:
    path = tiny_model("llama", n_embd=64, n_ff=128).write(tmp_path / "m.gguf", type_name)
    made = backend(path, "int4")
    reference = backend(path, "float32").logits(IDS)
    assert made.about()["own_quantization"] is False and made.about()["type_k"] == "bf16"
    assert np.abs(made.logits(IDS) - reference).max() < 0.1 * np.abs(reference).max()


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_1"])
def test_a_packed_matrix_is_the_files_but_for_bfloat16_scales(type_name: str) -> None:
    from llmlite.bench.backends.torch_linear import Int4
    from llmlite.quants.tensor import QuantTensor

    random = np.random.default_rng(0)
    tensor = QuantTensor.quantize(random.normal(size=(32, 96)).astype(np.float32), type_name, "w")
    x = torch.eye(96, dtype=torch.bfloat16)
    unpacked = Int4(tensor, None)(x).float().numpy().T  # (N, K)
    expected = np.asarray(tensor.dequantize())
    np.testing.assert_allclose(unpacked, expected, atol=2**-7 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_weights_of_its_own_are_said_to_be(kind: str, tmp_path: Path) -> None:
    path = tiny_model("llama", n_embd=64, n_ff=128).write(tmp_path / "m.gguf")
    made, exact = backend(path, kind), backend(path)
    assert made.about()["own_quantization"] is True and exact.about()["own_quantization"] is False
    near, reference = made.logits(IDS), exact.logits(IDS)
    assert 0 < np.abs(near - reference).max() < 0.6 * np.abs(reference).max()


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_packed_stepping_gives_the_tokens_that_reading_gives(kind: str, tmp_path: Path) -> None:
    path = tiny_model("qwen2", n_embd=64, n_ff=128, tied=True).write(tmp_path / "m.gguf")
    stepped = backend(path, kind)
    logits = stepped.logits(IDS)
    stepped.prefill(IDS[:-1])
    with torch.inference_mode():
        last = stepped._run([IDS[-1]], len(IDS) - 1, last_only=True).float().numpy()[0]
    np.testing.assert_allclose(last, logits[-1], atol=0.1 * np.abs(logits).max())


COMPILED = """
import sys
import numpy as np
from llmlite.bench.backends import torch_eager
from tests.bench.test_bench_torch import IDS, backend

path = sys.argv[1]
made, plain = torch_eager.make(dtype="float32", compiled=True), backend(path)
made.load(path, n_ctx=32, n_threads=1)
assert made.compile([5]) and not backend(path).compile([5])
np.testing.assert_allclose(made.logits(IDS), plain.logits(IDS), atol=1e-4)
token, same = made.prefill(IDS), plain.prefill(IDS)
for _ in range(5):
    assert token == same
    token, same = made.step(token), plain.step(same)
"""


@pytest.mark.slow
def test_a_compiled_model_computes_the_same_at_every_length(tmp_path: Path) -> None:
    """In a process of its own, as in a comparison: torch.compile minds what a process has compiled before."""
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    path = tiny_model("llama").write(tmp_path / "m.gguf")
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, str(path)], cwd=root, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
