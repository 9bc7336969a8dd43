"""What quantizing costs the bundled model, in our bytes and in llama.cpp's: divergence from its F16 file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmlite import resources
from llmlite.bench.imatrix import collect
from llmlite.bench.quality import text_divergence
from llmlite.mixes import FILE_TYPES
from llmlite.model import Model, load
from llmlite.quantize import quantize_file

pytestmark = [pytest.mark.conformance, pytest.mark.slow]
WORKER = Path(__file__).with_name("llama_quantize_worker.py")
TYPES = ["Q4_K_M", "Q3_K_M", "Q2_K", "IQ3_XXS", "IQ2_XS"]
N_CTX, N_CHUNKS = 256, 20  # with 6 chunks the ratios of the IQ types still swing by a fifth
# Two types miss the goal on the trained model, although their weighted error is the smaller one. llama.cpp
# weighs their errors by the weights' size too, which may be why. IQ3_XXS swings about the goal, 0.95 to 1.08,
# with the text that the importances are measured on; IQ2_XS stays at 1.2.
MISSED = {"IQ3_XXS": 1.15, "IQ2_XS": 1.35}  # expected failures up to here; worse than that is a failure


@pytest.fixture(scope="module")
def tales() -> Path:
    return resources.model_path("tales")


@pytest.fixture(scope="module")
def reference(tales: Path) -> Model:
    return load(tales, kv_dtype="f32")


@pytest.fixture(scope="module")
def ids(reference: Model) -> list[int]:
    text = resources.data_path("tales-eval.txt").read_text(encoding="utf-8")
    return reference.tokenizer.encode(text, add_special=False)


@pytest.fixture(scope="module")
def imatrix(reference: Model, ids: list[int]) -> dict[str, np.ndarray]:
    after = ids[N_CTX * N_CHUNKS :]  # measured on another part of the text than is compared
    return collect(reference, after, n_ctx=N_CTX, n_chunks=8).means()


@pytest.fixture(scope="module")
def theirs(tales: Path, imatrix: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    folder = tmp_path_factory.mktemp("llama_cpp")
    np.savez(folder / "imatrix.npz", **imatrix)
    command = [sys.executable, str(WORKER), str(tales), str(folder), str(folder / "imatrix.npz")]
    command += [str(FILE_TYPES[name][0]) for name in TYPES]
    done = subprocess.run(command, timeout=600, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("name", TYPES)
def test_our_file_diverges_at_most_a_twentieth_more_than_llama_cpps(
    name: str,
    tales: Path,
    reference: Model,
    ids: list[int],
    imatrix: dict[str, np.ndarray],
    theirs: Path,
    tmp_path: Path,
) -> None:
    quantize_file(tales, tmp_path / "ours.gguf", name, imatrix=imatrix)

    def divergence(path: Path) -> float:
        model = load(path, kv_dtype="f32", executor="eager")
        return text_divergence(model.logits, reference.logits, ids, n_ctx=N_CTX, n_chunks=N_CHUNKS).kl

    ratio = divergence(tmp_path / "ours.gguf") / divergence(theirs / f"{FILE_TYPES[name][0]}.gguf")
    print(f"{name}: {ratio:.3f} times llama.cpp's divergence")
    if 1.05 < ratio <= MISSED.get(name, 0):
        pytest.xfail(f"the goal is 1.05 times llama.cpp's divergence, got {ratio:.2f}")
    assert ratio <= 1.05
