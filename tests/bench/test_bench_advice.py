"""Advice is arithmetic: given a machine's numbers, every figure can be reckoned by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmlite.bench import advice
from llmlite.cli import main
from llmlite.errors import LlmliteError

GB = 1e9


def machine(available: int | None = 10**10) -> advice.Machine:
    return advice.Machine(available=available, overhead=1e-5, bandwidth=lambda n_bytes, _: 10 * GB)


MODEL = advice.ModelProperties(
    name="m", n_params=10**9, n_read=8 * 10**8, n_matrices=100, n_layer=10, n_kv=2 * 10 * 512
)


def test_memory_and_speed_are_what_the_formula_says() -> None:
    [found] = advice.advise(MODEL, machine(), n_ctx=1000, types=("Q8_0",), losses=[("Q8_0", 0.5)])
    assert found.bits == 8.5 and found.kl == 0.5
    assert found.memory == pytest.approx(1.0625e9 + 2 * 2 * 10 * 512 * 1000 + advice.PROCESS_BYTES)
    assert 1 / found.tokens_per_second == pytest.approx(0.8e9 * 8.5 / 8 / 1e10 + 100 * 1e-5)
    assert "= 86.00 ms" in found.arithmetic[-1]


def test_the_best_quality_that_fits_and_is_fast_enough_is_chosen() -> None:
    found = advice.advise(MODEL, machine(available=2 * 10**9))
    by_type = {each.type: each for each in found}
    assert not by_type["F16"].fits and by_type["Q8_0"].fits
    assert advice.best(found, 5) == by_type["Q8_0"]
    assert advice.best(found, 13) == by_type["Q6_K"]
    assert advice.best(found, 10**6) == by_type["Q2_K"]
    assert advice.best(advice.advise(MODEL, machine(available=10**8)), 5) is None


def test_where_memory_is_unknown_nothing_is_ruled_out() -> None:
    found = advice.advise(MODEL, machine(available=None))
    assert {each.fits for each in found} == {None} and advice.best(found, 0) == found[0]


def test_a_file_tells_its_weights_and_a_size_says_what_is_assumed() -> None:
    tales, size = advice.describe("tales"), advice.describe("1.1B")
    assert tales.n_matrices == 36 and size.n_matrices == 7 * size.n_layer + 1
    assert tales.n_params > 4e6 and tales.n_layer > 0 and tales.n_kv > 0 and not tales.note
    assert size.n_params == 1_100_000_000 and "assumed" in size.note
    for wrong in ("nothing.gguf", "0B", "7X"):
        with pytest.raises((LlmliteError, OSError)):
            advice.describe(wrong)
    with pytest.raises(LlmliteError, match="no such file.* write a size as 350M or 1.1B"):
        advice.describe("7X")


def test_a_prediction_off_by_more_than_a_quarter_does_not_hold() -> None:
    def predicted(speed: float) -> advice.Checked:
        half = 0.5 / speed  # seconds: one half is reading, the other the matrices' overhead
        return advice.Checked(
            model="m",
            n_bytes=half * 100 * GB,
            bandwidth=100 * GB,
            n_matrices=5,
            overhead=half / 5,
            measured=100,
        )

    assert predicted(124).predicted == pytest.approx(124)
    assert predicted(124).holds and not predicted(126).holds and not predicted(74).holds


def test_shipped_predictions_follow_from_the_stored_figures_and_hold_for_models_of_three_sizes() -> None:
    found = advice.Checks.sample().checks
    assert {each.model.partition(":")[0] for each in found} == {"tales", "smollm2", "large"}
    for each in found:
        reading = each.n_bytes / each.bandwidth
        seconds = reading + each.n_matrices * each.overhead
        assert each.predicted == pytest.approx(1 / seconds)
        assert 1 / 1.25 < each.predicted / each.measured < 1.25, (
            f"{each.model}: predicted {each.predicted:.0f} tokens/s, measured {each.measured:.0f}"
        )


def test_checks_are_the_same_after_saving(tmp_path: Path) -> None:
    one = advice.Checked(model="m", n_bytes=1e6, n_matrices=3, bandwidth=GB, overhead=1e-5, measured=100.0)
    found = advice.Checks(environment={"cpu_info": "x"}, checks=[one])
    assert advice.Checks.load(found.save(tmp_path / "advice.json")) == found


def test_the_command_shows_the_arithmetic(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(advice, "measure_machine", machine)
    assert main(["advise", "tales"]) == 0
    out = capsys.readouterr().out
    assert "advice: F16" in out and "read at 10.0 GB/s" in out
    assert main(["advise", "7B", "--json", "--speed", "3"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["advice"] == "Q3_K" and record["types"][3]["kl"] > 0


def test_a_file_that_is_quantized_already_is_said_to_be() -> None:
    note = advice.describe("tales:Q4_0").note
    assert note.startswith("the file already has 4.") and note.endswith("more bits can't restore quality")


@pytest.mark.parametrize("speed, expected", [("0", "Q4_1"), ("1e9", "Q2_K")])
def test_a_quantized_file_is_never_advised_more_bits_than_it_has(
    speed: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(advice, "measure_machine", machine)
    assert main(["advise", "tales:Q4_1", "--speed", speed]) == 0
    out = capsys.readouterr().out
    assert f"advice: {expected}, " in out
    assert ("the file as it is" in out) == (expected == "Q4_1")
    assert ("make it from the unquantized model" in out) == (expected != "Q4_1")
