"""Samples, statistics, tables, memory and environment, on numbers known beforehand."""

from __future__ import annotations

import gc
import json
import math
import mmap
import os
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from llmlite.bench import environment, memory, quality, report, samples, summary
from llmlite.bench.samples import Comparison, Measurement
from tests.support.synthetic import synthetic_comparison

LLAMA_BENCH = {
    "n_prompt",
    "n_gen",
    "n_depth",
    "n_threads",
    "samples_ns",
    "samples_ts",
    "avg_ns",
    "avg_ts",
    "stddev_ns",
    "type_k",
    "model_type",
}
OURS = {"run_id", "block", "backend", "phase", "env_hash"}


def measurement(*nanoseconds: int, **fields: object) -> Measurement:
    given = {
        "run_id": "r",
        "env_hash": "h",
        "backend": "llmlite",
        "model_type": "F16",
        "phase": "decode",
        "n_gen": 4,
    }
    return Measurement(samples_ns=nanoseconds, **{**given, **fields})  # type: ignore[arg-type]


def test_the_tables_as_markdown_have_the_cells_of_the_text_and_the_first_line_tells_the_canary() -> None:
    found = synthetic_comparison()
    found.environment |= {"canary_ns": [100.0, 103.0], "model": "tales"}
    text = report.markdown(found)
    assert "canary's slowest block 3% slower than its fastest" in text.splitlines()[0]
    for _, headings, rows in report.all_tables(found):
        for cells in [headings, *rows] if rows else []:
            assert "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" in text
    widths = {line.count(" | ") for line in text.splitlines() if line.startswith("| :--")}
    assert widths == {len(headings) - 1 for _, headings, rows in report.all_tables(found) if rows}
    assert report.titled(found).startswith("tales in ")


def test_a_record_has_llama_bench_names_and_ours() -> None:
    record = measurement(100, 200).as_record()
    assert record.keys() >= LLAMA_BENCH | OURS
    assert record["avg_ns"] == 150 and record["samples_ts"] == [4e9 / 100, 4e9 / 200]


def test_tokens_per_second_is_of_the_median_sample() -> None:
    assert measurement(1_000_000, 2_000_000, 9_000_000).tokens_per_second == 4 / 2e-3


def test_a_measurement_whose_middle_half_spans_a_tenth_is_noisy() -> None:
    assert not measurement(100, 101, 102, 103).is_noisy
    assert measurement(100, 120, 140, 160).is_noisy


@pytest.mark.parametrize("bad", [(), (0,), (5, -1)])
def test_a_measurement_without_positive_samples_is_refused(bad: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="positive nanoseconds"):
        measurement(*bad)


def test_a_comparison_survives_the_way_through_a_file(tmp_path: Path) -> None:
    before = synthetic_comparison()
    after = Comparison.load(before.save(tmp_path / "deep" / "c.jsonl"))
    assert after == before
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["c.jsonl"]


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"kind": "environment"}\n{"kind":\n')
    with pytest.raises(ValueError, match=r"c\.jsonl, line 2: not JSON"):
        samples.read_jsonl(path)


def test_lines_of_another_program_are_refused() -> None:
    with pytest.raises(ValueError, match="no environment record"):
        Comparison.from_records([{"kind": "measurement", **measurement(5).as_record()}])


# --- statistics -------------------------------------------------------------------------------


def test_the_summary_is_the_median_over_blocks() -> None:
    found = {(s.backend, s.model_type): s for s in summary.summarize(synthetic_comparison(), "decode")}
    values = [1e9 / ns for ns in (2.0e6, 2.1e6, 2.0e6, 2.2e6, 2.0e6, 2.1e6)]
    assert found["llmlite", "F16"].value == pytest.approx(median(values))
    assert found["llmlite", "F16"].low <= found["llmlite", "F16"].value <= found["llmlite", "F16"].high


@pytest.mark.parametrize("metric", summary.METRICS)
def test_every_metric_finds_its_numbers(metric: str) -> None:
    found = summary.summarize(synthetic_comparison(), metric)
    assert len(found) == 3 and all(s.value > 0 for s in found)


def test_reading_takes_the_length_that_was_asked_for() -> None:
    comparison = synthetic_comparison()
    short, long_ = summary.METRICS["prefill64"], summary.METRICS["prefill"]
    assert {m.n_prompt for m in summary.selected(comparison, short, "llmlite", "F16")} == {64}
    assert {m.n_prompt for m in summary.selected(comparison, long_, "llmlite", "F16")} == {256}


def test_flagged_blocks_are_left_out() -> None:
    comparison = synthetic_comparison()
    slow = measurement(10**12, block=7, n_depth=64, n_gen=10, flagged=True)
    before = summary.summarize(comparison, "decode")
    comparison.measurements.append(slow)
    assert summary.summarize(comparison, "decode") == before


def test_the_ratio_is_the_median_of_the_ratios_within_blocks() -> None:
    found = summary.ratio(synthetic_comparison(), "decode", ("llmlite", "Q4_0"), ("torch-f32", "F16"))
    assert found is not None and found.n_blocks == 6
    assert found.value == pytest.approx(4.0, rel=0.03)
    assert found.low <= found.value <= found.high and found.verdict == "faster"


def test_a_ratio_needs_blocks_that_have_both() -> None:
    assert summary.ratio(synthetic_comparison(), "decode", ("llmlite", "F16"), ("llamacpp", "F16")) is None


@pytest.mark.parametrize(
    ("low", "high", "n_blocks", "expected"),
    [
        (1.031, 1.2, 5, "faster"),
        (1.03, 1.2, 5, "can't tell"),  # must clear the margin, not touch it
        (0.5, 0.969, 9, "slower"),
        (0.98, 1.02, 5, "about equal"),
        (0.9, 1.1, 50, "can't tell"),
        (2.0, 3.0, 4, "can't tell"),  # too few blocks
    ],
)
def test_a_difference_is_called_only_when_the_interval_clears_three_percent(
    low: float, high: float, n_blocks: int, expected: str
) -> None:
    assert summary.verdict(low, high, n_blocks) == expected


def test_the_bootstrap_interval_covers_the_median_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    inside = 0
    for trial in range(100):
        low, high = summary.bootstrap_interval(random.normal(1.0, 0.1, 12), seed=trial)
        inside += low <= 1.0 <= high
    assert inside >= 88  # 95 % nominal; 88 of 100 is three standard errors below


def test_the_bootstrap_is_repeatable() -> None:
    values = [1.0, 1.2, 1.1, 0.9, 1.05]
    assert summary.bootstrap_interval(values) == summary.bootstrap_interval(values)


def test_a_canary_further_than_five_percent_from_the_median_flags_its_block() -> None:
    assert summary.drifted([100, 104, 96, 106, 94, 100]) == [False, False, False, True, True, False]
    assert summary.drifted([]) == []


# --- tables -----------------------------------------------------------------------------------


def test_the_tables_name_every_entry_every_skip_and_every_note() -> None:
    text = str(synthetic_comparison())
    for words in (
        "llmlite Q4_0",
        "PyTorch float32 F16",
        "pip install 'llmlite-kit[torch]'",
        "made up",
        "the base",
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= 170


def test_what_disagrees_is_in_the_table_with_its_reason_and_without_a_speed() -> None:
    comparison = synthetic_comparison()
    comparison.agreement.append(
        {"backend": "llamacpp", "model_type": "F16", "agrees": False, "reason": "KL 3 nats"}
    )
    assert "NO, not timed: KL 3 nats" in report.tables(comparison)
    assert all(row[0] != "llama.cpp F16" for row in report.speed_table(comparison)[2])


def test_html_tables_have_headings_for_rows_and_columns() -> None:
    html = synthetic_comparison()._repr_html_()
    assert 'scope="col"' in html and 'scope="row"' in html and "<caption>" in html


# --- memory and environment -------------------------------------------------------------------


def test_private_memory_grows_by_what_is_allocated() -> None:
    before = memory.now()
    if before.private is None:
        pytest.skip(f"no private memory here: {before.note}")
    if not hasattr(mmap, "MAP_PRIVATE"):
        pytest.skip("no private mapping here")
    n_bytes = 40 * 10**6  # mapped anew: an array could get memory that another test gave back to the heap
    with mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        block.write(b"x" * n_bytes)
        grown = memory.now().private - before.private
    assert 0.9 * n_bytes <= grown <= 1.5 * n_bytes


def test_a_mapped_file_counts_as_file_backed_not_as_private(tmp_path: Path) -> None:
    path = tmp_path / "mapped"
    path.write_bytes(b"x" * 30_000_000)
    before = memory.now()
    if before.file_backed is None or before.private is None:
        pytest.skip(f"this system doesn't tell: {before.note}")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[::4096]) > 0
        after = memory.now()
    if after.file_backed == before.file_backed:
        pytest.skip("the file system doesn't count its pages as file-backed")
    assert after.file_backed - before.file_backed >= 29_000_000
    assert after.private - before.private < 5_000_000


def test_the_peak_starts_anew_after_a_reset() -> None:
    if not memory.reset_peak():
        pytest.skip("this system can't reset the peak")
    with mmap.mmap(-1, 60 * 10**6) as big:  # pages of its own: the allocator could keep those of an array
        big.write(bytes([1]) * len(big))
        high = memory.now().peak
    gc.collect()
    memory.reset_peak()
    assert memory.now().peak < high - 40 * 10**6


def test_where_the_kinds_cannot_be_told_apart_the_note_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resource")
    found = memory._posix()
    assert found.private is None and found.file_backed is None and found.peak > 0
    assert "doesn't separate" in found.note
    assert found.as_record().keys() == memory.now().as_record().keys()


def test_kernels_without_a_split_fall_back_to_status(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/self/status": "VmHWM:  90 kB\nVmRSS:  80 kB\nRssAnon:  50 kB\nRssFile:  30 kB\n",
        "/proc/self/smaps_rollup": "",
    }
    monkeypatch.setattr(memory, "system_file", files.__getitem__)
    found = memory._linux()
    assert (found.private, found.file_backed, found.peak) == (50 * 1024, 30 * 1024, 90 * 1024)
    assert found.file_share is None and "isn't known" in found.note


def test_the_environment_hash_ignores_the_hour_and_the_load() -> None:
    first, second = environment.record("one"), environment.record("two")
    assert first["env_hash"] == second["env_hash"] and first["run_id"] != second["run_id"]
    assert json.loads(json.dumps(first)) == first
    assert first["n_cpu_allowed"] >= 1


def test_psutil_tells_what_it_can_and_says_what_it_cannot() -> None:
    pytest.importorskip("psutil")
    found = memory._psutil(os.getpid())
    assert found and found.resident and found.resident > 10**7 and found.file_backed is None
    assert found.private and found.private < found.resident and "file-backed pages" in found.note
    assert memory._psutil(2**22 + 1) is None  # no such process: Linux counts no further


def test_without_psutil_another_system_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.of(os.getpid()) is None


# --- quality ----------------------------------------------------------------------------------


def test_perplexity_of_a_uniform_guess_is_the_vocabulary_size() -> None:
    found = quality.perplexity(lambda ids: np.zeros((len(ids), 50)), list(range(40)), n_ctx=8)
    assert found.value == pytest.approx(50) and found.n_tokens == 5 * 3


def test_perplexity_scores_the_second_half_of_each_chunk_and_replaces_its_first_token() -> None:
    read: list[list[int]] = []

    def sees_the_next(ids: list[int]) -> np.ndarray:
        read.append(ids)
        logits = np.zeros((len(ids), 100))
        for i in range(4, 7):  # of a chunk of eight: positions 4, 5, 6 predict 5, 6, 7
            logits[i, ids[i + 1]] = 1000.0
        return logits

    found = quality.perplexity(sees_the_next, list(range(20)), n_ctx=8, bos_id=99)
    assert found.value == pytest.approx(1.0) and found.n_tokens == 6  # two chunks; four tokens left over
    assert [ids[0] for ids in read] == [99, 99] and read[1][1:] == list(range(9, 16))


def test_kl_divergence_has_its_textbook_value() -> None:
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    found = quality.divergence(np.log(q)[None], np.log(p)[None])
    assert found.kl == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2))
    assert found.top1 == 0.0 and found.n_tokens == 1
    assert found.delta_p_rms is None
    found = quality.divergence(np.log([q, p]), np.log([p, p]), targets=[0, 1])
    assert found.delta_p_rms == pytest.approx(0.25 / math.sqrt(2))  # 0.25 less, and the same
    assert (found.kl_max, found.kl_50) == pytest.approx((0.25 * math.log(2), 0.125 * math.log(2)))


def test_equal_logits_do_not_diverge_even_when_shifted() -> None:
    logits = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)
    found = quality.divergence(logits + 3, logits)
    assert found.kl == pytest.approx(0, abs=1e-9) and found.top1 == 1.0
    assert found.max_abs_diff == pytest.approx(3, rel=1e-5)


def test_huge_logits_do_not_overflow() -> None:
    assert np.isfinite(quality.log_softmax(np.array([1e30, -1e30, 0.0]))).all()


def test_a_text_shorter_than_a_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer than one chunk"):
        quality.perplexity(lambda ids: np.zeros((len(ids), 5)), [1, 2, 3], n_ctx=8)


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected the reference's shape \(2, 3\)"):
        quality.divergence(np.zeros((2, 4)), np.zeros((2, 3)))


def test_the_comparison_that_is_shipped_has_the_slow_backends_and_all_of_them_agree() -> None:
    shipped = Comparison.sample()
    backends = {backend for backend, _ in shipped.entries()}
    assert {"llmlite", "torch-bf16", "torch-f32", "tensorflow", "tensorflow-eager", "llamacpp"} <= backends
    assert all(record["agrees"] for record in shipped.agreement)
    assert {"prefill", "decode"} <= {m.phase for m in shipped.measurements}
    assert shipped.environment["cpu_info"] and "Shipped with llmlite" in shipped.notes[-1]
    assert "/" not in "".join(str(model["model_filename"]) for model in shipped.models)


def test_energy_is_of_the_emptiest_cache_and_a_column_only_if_it_was_measured() -> None:
    found = synthetic_comparison()
    [row] = [s for s in summary.summarize(found, "energy") if (s.backend, s.model_type) == ("llmlite", "F16")]
    assert row.value == pytest.approx(2.05e6 * 2e-8)
    assert "J/token" in str(found)
    found.measurements = [replace(m, joules=None) for m in found.measurements]
    assert summary.summarize(found, "energy") == [] and "J/token" not in str(found)


def test_how_a_backend_was_installed_is_in_the_table_as_far_as_it_is_known() -> None:
    found = synthetic_comparison()
    found.backends = [
        {"backend": "llmlite", "model_type": "F16", "type_k": "f32", "isa": "avx2"},
        {"backend": "torch-f32", "model_type": "F16", "installed_bytes": 741 * 10**6, "n_packages": 10}
        | {"install_seconds": 70.4, "compiled": False},
    ]
    assert "741 MB, 10 packages, 70 s, no compiler" in str(found)
    found.backends.pop()
    assert "installation" not in str(found)


def test_the_rows_of_every_table_are_in_one_order() -> None:
    found = synthetic_comparison()
    found.measurements.reverse()  # as random turns leave them
    found.measurements += [replace(m, n_depth=0) for m in found.measurements if m.phase == "decode"]
    labels = [row[0] for row in report.depth_table(found)[2]]
    assert labels == [row[0] for row in report.speed_table(found)[2]] and len(labels) == 3


@pytest.mark.parametrize(
    ("kept", "columns"),
    [((64, 256), ["prefill 64", "prefill 256"]), ((64,), ["prefill 64"]), ((256,), ["prefill 256"])],
)
def test_a_prompt_that_was_not_read_has_no_column(kept: tuple[int, ...], columns: list[str]) -> None:
    found = synthetic_comparison()
    found.measurements = [m for m in found.measurements if m.phase != "prefill" or m.n_prompt in kept]
    _, headings, rows = report.speed_table(found)
    assert [name for name in headings if name.startswith("prefill")] == columns
    assert all(len(row) == len(headings) and "-" not in row for row in rows)
