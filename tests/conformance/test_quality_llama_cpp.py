"""What quantizing costs the bundled model, in our bytes and in llama.cpp's: divergence from its F16 file."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llmlite import resources
from llmlite.bench.imatrix import collect
from llmlite.bench.quality import text_divergence
from llmlite.model import Model, load
from llmlite.quantize import quantize_file
from llmlite.quantize.mixes import FILE_TYPES
from tests.conformance.imatrix_table import remembered

pytestmark = [pytest.mark.conformance, pytest.mark.slow]
WORKER = Path(__file__).with_name("llama_quantize_worker.py")
Logits = Callable[[list[int]], np.ndarray]
TYPES = ["Q4_K_M", "Q3_K_M", "Q2_K", "IQ3_XXS", "IQ2_M", "IQ2_XS", "IQ2_XXS"]
N_CTX, N_CHUNKS = 256, 20
# Which weight is rounded which way is chance, and moves a file's divergence by some per cent either way. So
# importances are measured on several parts of the text, and the files made with each are taken together.
N_CALIBRATIONS, CALIBRATION_CHUNKS = 3, 8
MOST = 1.05


@pytest.fixture(scope="module")
def tales() -> Path:
    return resources.model_path("tales")


@pytest.fixture(scope="module")
def reference(tales: Path) -> Model:
    return load(tales, kv_dtype="f32", executor="eager")


@pytest.fixture(scope="module")
def ids(reference: Model) -> list[int]:
    text = resources.data_path("tales-eval.txt").read_text(encoding="utf-8")
    return reference.tokenizer.encode(text, add_special=False)


@pytest.fixture(scope="module")
def wanted(reference: Model) -> Logits:
    return remembered(reference)


@pytest.fixture(scope="module")
def imatrices(reference: Model, ids: list[int]) -> list[dict[str, np.ndarray]]:
    """Measured on parts of the text that lie apart from each other and from what is compared."""
    rest = ids[N_CTX * N_CHUNKS :]
    apart = len(rest) // N_CALIBRATIONS
    assert apart >= N_CTX * CALIBRATION_CHUNKS
    parts = [rest[i * apart : (i + 1) * apart] for i in range(N_CALIBRATIONS)]
    return [collect(reference, part, n_ctx=N_CTX, n_chunks=CALIBRATION_CHUNKS).means() for part in parts]


@pytest.fixture(scope="module")
def theirs(
    tales: Path, imatrices: list[dict[str, np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """A folder of llama.cpp's files for each importance matrix."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    folders = []
    for imatrix in imatrices:
        folder = tmp_path_factory.mktemp("llama_cpp")
        np.savez(folder / "imatrix.npz", **imatrix)
        command = [sys.executable, str(WORKER), str(tales), str(folder), str(folder / "imatrix.npz")]
        command += [str(FILE_TYPES[name][0]) for name in TYPES]
        done = subprocess.run(command, timeout=600, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        folders.append(folder)
    return folders


@pytest.mark.parametrize("name", TYPES)
def test_our_files_diverge_at_most_a_twentieth_more_than_llama_cpps(
    name: str,
    tales: Path,
    ids: list[int],
    wanted: Logits,
    imatrices: list[dict[str, np.ndarray]],
    theirs: list[Path],
    tmp_path: Path,
) -> None:
    def divergence(path: Path) -> float:
        model = load(path, kv_dtype="f32", executor="eager")
        return text_divergence(model.logits, wanted, ids, n_ctx=N_CTX, n_chunks=N_CHUNKS).kl

    ratios = []
    for imatrix, folder in zip(imatrices, theirs):
        quantize_file(tales, tmp_path / "ours.gguf", name, imatrix=imatrix)
        ratios.append(divergence(tmp_path / "ours.gguf") / divergence(folder / f"{FILE_TYPES[name][0]}.gguf"))
    mean = math.prod(ratios) ** (1 / len(ratios))
    each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"{name}: {mean:.3f} times llama.cpp's divergence ({each})")
    assert mean <= MOST
