"""llama.cpp's own programs beside ours: llama-perplexity, llama-imatrix, llama-quantize.

They come with no package: `make peers` builds them, LLAMA_CPP_BIN says where they are.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llmlite.quantize import read_imatrix
from tests.conformance import programs_table as peers

pytestmark = [pytest.mark.conformance, pytest.mark.slow]


@pytest.fixture(scope="module")
def programs() -> Path:
    folder = peers.found()
    if folder is None:
        pytest.skip(
            "llama.cpp's programs are not here: make peers builds them, LLAMA_CPP_BIN names their folder"
        )
    return folder


@pytest.fixture(scope="module")
def matrices(programs: Path, tales: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return peers.measure_matrices(programs, tales, tmp_path_factory.mktemp("imatrix"))


def test_perplexity_and_divergence_are_those_of_llama_perplexity(
    programs: Path, tales: Path, tmp_path: Path
) -> None:
    for row in peers.qualities(programs, tales, tmp_path):
        print(row)
        ours, theirs, error = row.perplexity
        assert abs(ours - theirs) < (0.02 if row.file_type == "F16" else 0.25) * error, row
        for measured in (row.kl, row.top1, row.delta_p_rms):
            if measured is not None:
                ours, theirs, error = measured
                assert abs(ours - theirs) < error, row


def test_the_importance_matrix_is_that_of_llama_imatrix(matrices: tuple[Path, Path]) -> None:
    found = peers.compare_matrices(*matrices)
    print(found)
    assert len(found.common) == 35
    assert found.only_theirs == set()
    # the output is a product too; llama-imatrix leaves it out unless told otherwise
    assert found.only_ours == {"token_embd.weight.in_sum2", "token_embd.weight.counts"}
    assert found.same_shapes and found.same_counts
    assert found.largest_difference < 2e-3


def test_each_program_quantizes_with_the_others_importance_matrix(
    programs: Path, tales: Path, tmp_path: Path, matrices: tuple[Path, Path]
) -> None:
    ours, theirs = matrices
    assert len(read_imatrix(theirs)) == 35
    log = peers.run(programs / "llama-quantize", "--imatrix", ours, tales, tmp_path / "x.gguf", "IQ2_XS", 1)
    assert "loaded 36 importance matrix entries" in log
    for file_type in ("Q4_K_M", "Q4_0"):
        types, share = peers.same_blocks(
            *peers.quantize_by_both(programs, tales, tmp_path, file_type, theirs)
        )
        print(f"{file_type}: {100 * share:.2f} % of the bytes are equal")
        assert types
        assert share > 0.95
