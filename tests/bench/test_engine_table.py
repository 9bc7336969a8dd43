"""The engine's table: which blocks count, what the figures are, what happens to rows that fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

FIRST = "decode, Q4_0, over llama.cpp"
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def table() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import engine_table

        return engine_table
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def engine() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import engine

        return engine
    finally:
        sys.path.remove(str(BENCHMARKS))


def timings(*seconds: float) -> dict[str, Any]:
    return {"samples_ns": [int(s * 1e9) for s in seconds], "cpu_ns": [int(2e9 * s) for s in seconds]}


def block(
    number: int,
    ours: float = 1.0,
    theirs: float = 2.0,
    canary: tuple = (100, 100, 100),
    phase: str = "decode",
) -> dict:
    """512 tokens read, or 32 written, in `ours` and `theirs` seconds, in two turns each."""
    return {
        "row": "Q4_0", "kind": "block", "block": number, "phase": phase, "canary_ns": list(canary),
        "bytes": 10**9, "n_prompt": 512, "n_gen": 32, "peer": "llamacpp",
        "order": ["llamacpp", "llmlite"] * 2, "bandwidth": [90e9, 24e9, 40e9, 56e9, 8e9],
        "llmlite": timings(ours, ours), "llamacpp": timings(theirs, theirs),
    }  # fmt: skip


def line(text: str, title: str) -> list[str]:
    (found,) = [row for row in text.splitlines() if row.startswith(f"| {title} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_a_ratio_is_the_median_of_those_within_blocks(table: Any) -> None:
    text = table.tables([block(0), block(1, 1, 3), block(2, 10, 40)])
    _, measured, spread, must, aim, verdict, samples = line(text, FIRST)
    assert (measured, spread, verdict, samples) == ("3.00", "2.00 to 4.00", "aim", "3 of 3")
    assert (must, aim) == ("≥ 1", "≥ 1.4")


def test_the_share_of_bandwidth_is_of_the_readings_before_and_after_the_turn(table: Any) -> None:
    assert line(table.tables([block(0)]), "share of read bandwidth in decode, Q4_0")[1] == "1.00"
    assert line(table.tables([block(0, 2)]), "share of read bandwidth in decode, Q4_0")[5] == "**missed**"


@pytest.mark.parametrize("songs", [(100, 106, 100), (106, 100, 100), (100, 100, 200)])
def test_a_slow_canary_anywhere_in_a_block_drops_it(table: Any, songs: tuple) -> None:
    text = table.tables([block(0), block(1), block(2, 1, 100, songs)])
    assert line(text, FIRST)[1::5] == ["2.00", "2 of 3"]


def environment() -> list[dict[str, Any]]:
    facts: dict[str, Any] = {"cpu_info": "a CPU", "python": "CPython 3.12", "packages": {}}
    facts["test_time"] = "2026-01-01T00:00:00Z"
    return [{"kind": "environment", "environment": facts, "threads": 2, "cpu": "generic"}]


def test_a_canary_that_is_faster_than_usual_drops_nothing(table: Any) -> None:
    assert line(table.tables([block(0), block(1), block(2, canary=(50, 50, 50))]), FIRST)[6] == "3 of 3"


def test_a_row_whose_blocks_are_all_flagged_shows_them_with_a_mark(table: Any) -> None:
    quiet = {**block(0), "row": "Q8_0"}
    text = table.tables([quiet, {**quiet, "block": 1}, block(0, canary=(100, 300, 100))])
    assert line(text, FIRST)[1] == f"2.00{table.MARK}" and "every block of this row was flagged" in text
    assert line(text, "decode, Q8_0, over llama.cpp")[1] == "2.00"


def test_depth_is_judged_by_what_the_bytes_allow(table: Any) -> None:
    sample = {"bytes": 900, "kv_bytes": 100, "shallow": timings(0.9), "deep": timings(1.0)}
    assert table.depth_share(sample) == pytest.approx(1.0)


def test_rows_that_failed_are_named_and_the_others_stand(table: Any) -> None:
    failed = {"row": "torch", "kind": "failed", "reason": "BackendError: gone"}
    text = table.tables([*environment(), block(0), failed])
    assert "- torch: BackendError: gone" in text and "0 of 1 blocks were flagged" in text
    assert line(text, "prefill 512, Q4_0, over PyTorch bfloat16")[1] == "not measured"


def test_small_is_good_for_memory_and_time(table: Any) -> None:
    samples = [
        {"row": "memory", "kind": "memory", "private_bytes": 150_000_000},
        {"row": "first use", "kind": "seconds", "seconds": 41.0, "progress": True},
        {"row": "import", "kind": "import", "bare": 0.02, "import": 0.03, "third_party": []},
    ]
    text = table.tables(samples)
    memory = line(text, "private memory after position 2047, n_ctx 2048, Q4_0")
    assert (memory[1], memory[5]) == ("150 MB", "must")
    assert line(text, "first use ever (no kernels yet), Q4_K_M")[5] == "**missed**"
    assert line(text, "`import llmlite` over a bare interpreter")[1] == "0.010 s"
    assert "no third-party module" in text and "reports that it compiles" in text


def test_rates_stand_by_the_wall_and_by_cpu_time(table: Any) -> None:
    text = table.tables([block(0, phase="prefill"), block(0), block(1, canary=(100, 200, 100))])
    assert line(text, "Q4_0, llamacpp")[1:6] == ["256", "16", "128", "8", "1 of 1, 1 of 2"]


def test_prefill_and_decode_are_judged_by_their_own_blocks(table: Any) -> None:
    text = table.tables([block(0, 1, 4, phase="prefill"), block(0, 1, 2)])
    assert line(text, "prefill 512, Q4_0, over llama.cpp")[1] == "4.00"
    assert line(text, FIRST)[1] == "2.00"


def test_a_file_cut_off_by_a_kill_is_read_up_to_there(table: Any, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(block(0)) + "\n" + json.dumps(block(1))[:50], encoding="utf-8")
    assert len(table.read(path)) == 1
    path.write_text('{"cut\n' + json.dumps(block(0)), encoding="utf-8")
    with pytest.raises(ValueError, match="line 1"):
        table.read(path)


def test_the_report_goes_between_the_marks_of_a_document(
    table: Any, engine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, document = tmp_path / "samples.jsonl", tmp_path / "engine.md"
    samples.write_text(json.dumps(block(0)) + "\n", encoding="utf-8")
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", encoding="utf-8")
    assert engine.main(["--report", str(samples), "--docs", str(document)]) == 0
    text = document.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text and FIRST in text
    assert FIRST in capsys.readouterr().out
    document.write_text("no marks\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no <!-- figures"):
        table.write_into(document, "text")


def test_the_engines_document_has_the_marks(table: Any) -> None:
    text = (BENCHMARKS.parent / "docs" / "engine.md").read_text(encoding="utf-8")
    assert text.count(table.BEGIN) == text.count(table.END) == 1


def test_a_failing_row_leaves_the_others_their_turn(
    engine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(bench: Any, row: str) -> None:
        raise RuntimeError("on purpose")

    def work(bench: Any, row: str) -> None:
        bench.write({"row": row, "kind": "memory", "private_bytes": 1})

    monkeypatch.setattr(engine, "ROWS", {"a": (1, fail), "memory": (1, work)})

    class Bench:
        written: list[dict[str, Any]] = []  # noqa: RUF012
        deadline = 0.0
        write = written.append

    engine.run(Bench, ["a", "memory"], engine.time.monotonic() + 60)
    assert [s["kind"] for s in Bench.written] == ["failed", "memory"]
    assert Bench.written[0]["reason"] == "RuntimeError: on purpose"
    engine.run(Bench, ["memory"], engine.time.monotonic())
    assert Bench.written[-1]["reason"] == "not measured: no time was left"


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"name": "another file"}', "3"])
def test_another_file_is_no_samples(table: Any, engine: Any, tmp_path: Path, text: str, capsys: Any) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(text)
    assert engine.main(["--report", str(path)]) == 2
    assert "not the samples" in capsys.readouterr().err
