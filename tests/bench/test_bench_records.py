"""A damaged results file: one sentence with the line and the field, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmlite import cli
from llmlite.bench import records
from llmlite.bench.samples import Comparison
from llmlite.errors import LlmliteError, ResultsError
from tests.fuzz.fuzz_results import run
from tests.support.synthetic import synthetic_comparison

GONE = object()


def lines() -> list[dict[str, Any]]:
    comparison = synthetic_comparison()
    comparison.skipped.append({"backend": "llamacpp", "reason": "not installed"})
    comparison.notes.append("a note")
    return comparison.records()


def written(folder: Path, records: list[Any]) -> Path:
    path = folder / "results.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("measurement", "samples_ns", None),
        ("measurement", "samples_ns", 5),
        ("measurement", "samples_ns", []),
        ("measurement", "samples_ns", ["a"]),
        ("measurement", "samples_ns", [0]),
        ("measurement", "samples_ns", [True]),
        ("measurement", "samples_ns", [10**400]),
        ("measurement", "samples_ns", GONE),
        ("measurement", "steps_ns", {}),
        ("measurement", "backend", 5),
        ("measurement", "backend", "$x^{"),
        ("measurement", "backend", "\x1b[2J"),
        ("measurement", "model_type", ["F16"]),
        ("measurement", "phase", None),
        ("measurement", "block", "1"),
        ("measurement", "block", -2),
        ("measurement", "n_gen", -1),
        ("measurement", "n_gen", 1.5),
        ("measurement", "n_prompt", None),
        ("measurement", "n_threads", "2"),
        ("measurement", "flagged", 1),
        ("measurement", "run_id", GONE),
        ("agreement", "agrees", GONE),
        ("agreement", "agrees", "yes"),
        ("agreement", "kl", "0"),
        ("agreement", "kl", None),
        ("agreement", "top1", 2),
        ("agreement", "top1", GONE),
        ("agreement", "max_abs_diff", [1]),
        ("agreement", "reason", 5),
        ("memory", "stage", GONE),
        ("memory", "private_bytes", "1"),
        ("memory", "peak_bytes", -1),
        ("model", "model_type", GONE),
        ("model", "model_size", "big"),
        ("skipped", "reason", GONE),
        ("skipped", "backend", {}),
        ("note", "text", GONE),
        ("note", "text", 7),
        ("measurement", "joules", -1.0),
        ("measurement", "joules", "5 J"),
        ("environment", "cpu_info", 7),
        ("environment", "n_threads", "two"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(tmp_path: Path, kind: str, field: str, value: Any) -> None:
    records = lines()
    number = next(i for i, record in enumerate(records) if record["kind"] == kind)
    if value is GONE:
        del records[number][field]
    else:
        records[number][field] = value
    path = written(tmp_path, records)
    with pytest.raises(ResultsError) as caught:
        Comparison.load(path)
    assert str(caught.value).startswith(f"{path}, line {number + 1}: {kind}: {field}: expected ")
    assert isinstance(caught.value, LlmliteError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "no environment record"),
        (b"\n\n", "no environment record"),
        (b"[]\n", "line 1: expected an object, got list"),
        (b"{}\n", "line 1: kind: expected one of environment"),
        (b'{"kind": []}\n', "line 1: kind: expected one of environment"),
        (b'{"kind": "other"}\n', "line 1: kind: expected one of environment"),
        (b'\n{"kind"', "line 2: not JSON"),
        (b"[" * 100_000, "line 1: lists or objects nested too deep"),
        (b'{"kind": "environment", "x": NaN}', "line 1: NaN is not a JSON number"),
        (b'{"kind": "environment", "x": 1e999}', "line 1: 1e999 is not a finite number"),
        (b'{"kind": "environment", "x": ' + b"9" * 5000 + b"}", "line 1: "),
        (b'{"kind": "environment"}\n{"kind": "note", "text": "\xff"}', "line 2: not UTF-8"),
        (b"\x00\x01\x02", "line 1: not JSON"),
    ],
)
def test_a_file_of_another_kind_is_one_sentence_and_exit_code_2(
    tmp_path: Path, text: bytes, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(text)
    assert cli.main(["compare", "--from", str(path), "-o", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and str(path) in message and expected in message
    assert not (tmp_path / "out").exists()


def test_a_text_may_hold_any_line_separator_of_unicode(tmp_path: Path) -> None:
    comparison = synthetic_comparison()
    comparison.notes.append("one\u2028two\x85three")
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in comparison.records()), "utf-8")
    assert Comparison.load(path).notes == comparison.notes


def test_more_entries_than_a_figure_can_show_are_refused(tmp_path: Path) -> None:
    records = lines()
    one = next(record for record in records if record["kind"] == "measurement")
    records += [{**one, "backend": f"b{i}"} for i in range(300)]
    with pytest.raises(ResultsError, match="at most 200 pairs"):
        Comparison.load(written(tmp_path, records))


def test_damaged_files_give_tables_or_one_sentence(tmp_path: Path) -> None:
    found = run(1500, 3, tmp_path)
    assert found["read"] > 200 and found["refused"] > 500


def test_a_backend_that_was_asked_for_and_did_not_run_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = synthetic_comparison_without_llamacpp(tmp_path)
    arguments = ["compare", "--from", str(path), "-o", str(tmp_path / "out")]
    assert cli.main(arguments) == 0
    assert cli.main([*arguments, "--backends", "llmlite,llamacpp"]) == 1
    assert "--backends: llamacpp did not run" in capsys.readouterr().err


def synthetic_comparison_without_llamacpp(folder: Path) -> Path:
    comparison = synthetic_comparison()
    comparison.skipped.append({"backend": "llamacpp", "reason": "not installed"})
    return comparison.save(folder / "results.jsonl")


def test_a_backend_that_tells_tokens_only_has_no_logits_to_compare() -> None:
    record = {"kind": "agreement", "backend": "openvino", "model_type": "Q4_0", "agrees": True}
    records.check({**record, "same_file_top1": 0.9, "top1": 0.8}, "here")
    with pytest.raises(ResultsError, match="top1"):
        records.check({**record, "same_file_top1": 0.9}, "here")


def test_how_a_backend_ran_is_checked() -> None:
    record = {"kind": "backend", "backend": "llamacpp", "model_type": "Q4_0", "isa": "AVX2", "type_k": "f32"}
    records.check(record, "here")
    with pytest.raises(ResultsError, match="own_quantization"):
        records.check({**record, "own_quantization": "yes"}, "here")
