"""Two runs compared: what a CI is told, on runs made up so that the right answer is known."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from llmlite.bench import diff
from llmlite.bench.samples import Comparison, Measurement
from llmlite.cli import main
from llmlite.errors import LlmliteError


def run(speed: float = 1.0, *, machine: float = 1.0, blocks: int = 9, noise: float = 0.005, seed: int = 0):
    """A run whose llmlite is `speed` times as fast as usual, on a machine `machine` times as fast."""
    random = np.random.default_rng(seed)
    shared = {"run_id": f"r{seed}", "env_hash": "e", "model_type": "Q4_0"}
    found = Comparison(environment={"run_id": f"r{seed}", "env_hash": "e"})
    for backend, usual in (("torch-f32", 1.0), ("llmlite", 3.0)):
        found.agreement.append({"backend": backend, "model_type": "Q4_0", "agrees": True, "reason": ""})
        rate = usual * machine * (speed if backend == "llmlite" else 1.0)
        for block in range(blocks):
            for phase, lengths in (("prefill", {"n_prompt": 64}), ("decode", {"n_gen": 16})):
                ns = round(1e8 / rate * (1 + noise * random.standard_normal()))
                found.measurements.append(
                    Measurement(
                        backend=backend, phase=phase, samples_ns=(ns,), block=block, **shared, **lengths
                    )
                )
    return found


def verdicts(found: diff.Diff) -> dict[str, str]:
    return {row.kind: row.verdict for row in found.rows if row.entry.startswith("llmlite")}


def test_the_same_speed_on_a_slower_machine_is_no_change() -> None:
    found = diff.compare(run(), run(machine=0.5, seed=1))
    assert verdicts(found) == {"agreement": "agrees", "prefill": "about equal", "decode": "about equal"}
    assert found.exit_code == diff.OK and found.base == "PyTorch float32 Q4_0"


def test_a_tenth_slower_is_seen() -> None:
    found = diff.compare(run(), run(0.9, seed=1))
    assert verdicts(found)["decode"] == "slower" and found.exit_code == diff.SLOWER
    row = next(row for row in found.rows if row.kind == "decode")
    assert row.ratio == pytest.approx(0.9, rel=0.02) and row.low < 0.9 < row.high < 0.97


def test_noise_cries_no_wolf() -> None:
    codes = [diff.compare(run(noise=0.2, seed=s), run(noise=0.2, seed=s + 100)).exit_code for s in range(10)]
    assert codes == [diff.OK] * 10


def test_a_faster_one_passes() -> None:
    found = diff.compare(run(), run(1.2, seed=1))
    assert verdicts(found)["decode"] == "faster" and found.exit_code == diff.OK


def test_too_few_blocks_cannot_tell_however_slow() -> None:
    found = diff.compare(run(), run(0.5, blocks=4, seed=1))
    assert verdicts(found)["decode"] == "can't tell" and found.exit_code == diff.OK


def test_a_wrong_answer_weighs_more_than_a_fast_one() -> None:
    after = run(1.5, seed=1)
    after.agreement[1] |= {"agrees": False, "reason": "KL 0.4 nats"}
    found = diff.compare(run(), after)
    assert found.exit_code == diff.WRONG and "KL 0.4 nats" in found.text()


def test_what_left_the_run_is_missing_not_passed() -> None:
    after = run(seed=1)
    after.agreement.pop()
    after.measurements = [m for m in after.measurements if m.backend != "llmlite"]
    after.skipped.append({"backend": "llmlite", "model_type": "Q4_0", "reason": "out of memory"})
    found = diff.compare(run(), after)
    assert found.exit_code == diff.WRONG and "missing; out of memory" in found.text()


def test_what_failed_while_it_was_timed_is_missing_not_passed() -> None:
    """Its results were checked before, so that its agreement alone says nothing."""
    after = run(seed=1)
    after.measurements = [m for m in after.measurements if m.backend != "llmlite"]
    after.skipped.append({"backend": "llmlite", "model_type": "Q4_0", "reason": "ended with code -11"})
    found = diff.compare(run(), after)
    assert verdicts(found) == {"agreement": "agrees", "prefill": "missing", "decode": "missing"}
    assert found.exit_code == diff.WRONG and "missing; ended with code -11" in found.text()
    before = diff.compare(after, run(seed=1))  # timed now, and not before
    assert verdicts(before)["decode"] == "can't tell" and before.exit_code == diff.OK


def test_what_was_wrong_before_is_not_held_against_the_change() -> None:
    runs = run(), run(seed=1)
    for each in runs:
        each.agreement[1] |= {"agrees": False, "reason": "KL 0.4 nats"}
    assert diff.compare(*runs).exit_code == diff.OK


def test_runs_without_anything_in_common_are_refused() -> None:
    other = run()
    other.measurements, other.agreement = [], []
    with pytest.raises(LlmliteError, match="nothing in common|no backend and quantization in common"):
        diff.compare(run(), other)
    with pytest.raises(LlmliteError, match="relative to openvino, which both runs must have timed"):
        diff.compare(run(), run(), base="openvino")


def test_junit_and_markdown_say_what_the_text_says() -> None:
    found = diff.compare(run(), run(0.9, seed=1))
    suite = ElementTree.fromstring(found.junit())
    assert int(suite.get("tests", 0)) == len(found.rows) == len(suite)
    assert int(suite.get("failures", 0)) == len(suite.findall("testcase/failure")) == 2
    assert found.markdown().count("**slower**") == 2


def test_every_exit_code_is_explained_in_the_page() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "ci-performance.md").read_text(encoding="utf-8")
    for code, meaning in diff.EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in page


def test_the_command_writes_both_files_and_returns_the_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = run().save(tmp_path / "a.jsonl"), run(0.8, seed=1).save(tmp_path / "b.jsonl")
    files = ["--junit", str(tmp_path / "d.xml"), "--markdown", str(tmp_path / "d.md")]
    assert main(["bench", "diff", str(before), str(after), *files]) == diff.SLOWER
    assert "slower" in capsys.readouterr().out
    assert ElementTree.parse(tmp_path / "d.xml").getroot().tag == "testsuite"
    assert "| entry |" in (tmp_path / "d.md").read_text(encoding="utf-8")
    (tmp_path / "c.jsonl").write_text("not JSON")
    assert main(["bench", "diff", str(before), str(tmp_path / "c.jsonl")]) == diff.UNUSABLE
    assert main(["bench", "diff", str(before), str(tmp_path / "nothing.jsonl")]) == diff.UNUSABLE
