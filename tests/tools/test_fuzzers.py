"""A few thousand inputs of each fuzzer: read, or refused in one sentence. The scripts do more."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.fuzz import fuzz_imatrix, fuzz_safetensors, fuzz_templates, fuzz_tokenizer_json, fuzzing
from tests.fuzz.fuzzing import FuzzFailureError

FUZZERS = {
    "safetensors": (fuzz_safetensors, 600, 5_000),
    "tokenizer.json": (fuzz_tokenizer_json, 400, 4_000),
    "imatrix": (fuzz_imatrix, 150, 2_000),
    "templates": (fuzz_templates, 300, 3_000),
}
each = pytest.mark.parametrize(("fuzzer", "few", "many"), FUZZERS.values(), ids=FUZZERS)


@each
def test_few_inputs_are_read_or_refused(fuzzer: ModuleType, few: int, many: int, tmp_path: Path) -> None:
    counts = fuzzing.run(fuzzer.inputs(few, 0), fuzzer.check, 0, tmp_path)
    assert counts.total() == few
    assert counts["refused"] > few / 20 and counts["read"] > few / 50  # both ways are tried


@pytest.mark.slow
@each
def test_many_inputs_are_read_or_refused(fuzzer: ModuleType, few: int, many: int, tmp_path: Path) -> None:
    assert fuzzing.run(fuzzer.inputs(many, 1), fuzzer.check, 1, tmp_path).total() == many


@each
def test_a_seed_gives_the_same_inputs(fuzzer: ModuleType, few: int, many: int) -> None:
    assert list(fuzzer.inputs(20, 5)) == list(fuzzer.inputs(20, 5)) != list(fuzzer.inputs(20, 6))


def test_anything_but_a_sentence_of_ours_is_a_failure(tmp_path: Path) -> None:
    def broken(data: bytes, folder: Path) -> str:
        return fuzzing.outcome(lambda: str([][int(data)]))

    with pytest.raises(FuzzFailureError, match="IndexError") as caught:
        fuzzing.run(iter([b"3"]), broken, 7, tmp_path)
    assert (tmp_path / "failure-7-0").read_bytes() == b"3"
    assert "input 0 of seed 7" in caught.value.__notes__[0]
