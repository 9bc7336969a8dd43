"""Old and new in turns: options, ratios and verdicts from samples, and what can't be measured."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace as Row
from typing import Any

import pytest

from llmlite.errors import LlmliteError
from tests.support.tiny_models import tiny_model

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


FAILED = {"kind": "failed", "key": ["tales", "IQ2_S", "host", 1], "reason": "old: NumPy multiplies IQ2_S"}


@pytest.fixture(scope="module")
def tool() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import old_new

        return old_new
    finally:
        sys.path.remove(str(BENCHMARKS))


def block(number: int, old: float, new: float, *, song: int = 100, **key: Any) -> dict[str, Any]:
    """One block: 64 tokens in `old` and `new` milliseconds by the wall, ten times as much CPU time."""

    def side(milliseconds: float) -> dict[str, list[int]]:
        wall = round(milliseconds * 1e6)
        return {"samples_ns": [wall, wall, 9 * wall], "cpu_ns": [10 * wall]}

    return {
        "kind": "block", "model": "tales", "type": "Q4_0", "cpu": "host", "threads": 1, "block": number,
        "turns": {"prefill 64": {"old": side(old), "new": side(new)}}, "n_tokens": {"prefill 64": 64},
        "canary_ns": [100, song], **key,
    }  # fmt: skip


def cells(text: str, *first: str) -> list[str]:
    (found,) = [line for line in text.splitlines() if line.startswith(f"| {' | '.join(first)} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_a_ratio_above_one_says_that_new_is_faster(tool: Any) -> None:
    blocks = [block(i, 2.0, 1.0) for i in range(5)]
    text = tool.table(blocks, "wall")
    assert cells(text, "tales", "Q4_0", "host", "1", "prefill 64")[5:] == [
        "3.2e+04", "6.4e+04", "2.000", "2.00 to 2.00", "faster", "5 of 5",
    ]  # fmt: skip
    assert "in 1 rows: 1 faster" in text
    assert cells(tool.table(blocks, "cpu"), "tales")[5:7] == ["3200", "6400"]


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([(1.0, 1.1)] * 5, "slower"),
        ([(1.0, 1.01)] * 5, "about equal"),
        ([(1.0, 0.9), (1.0, 1.1)] * 4, "can't tell"),
        ([(1.0, 0.5)] * 4, "can't tell"),  # too few blocks for any verdict
    ],
)
def test_a_verdict_follows_the_interval_over_blocks(
    tool: Any, pairs: list[tuple[float, float]], verdict: str
) -> None:
    text = tool.table([block(i, *pair) for i, pair in enumerate(pairs)], "wall")
    row = cells(text, "tales")
    assert row[9] == verdict
    assert (row[8] == "–") == (len(pairs) < 5)


def test_ratios_are_within_a_block_so_a_slow_minute_cancels(tool: Any) -> None:
    slow = [block(i, 10.0 * (i + 1), 5.0 * (i + 1)) for i in range(5)]
    assert cells(tool.table(slow, "wall"), "tales")[7:9] == ["2.000", "2.00 to 2.00"]


def test_disturbed_blocks_are_dropped_and_counted(tool: Any) -> None:
    blocks = [block(i, 2.0, 1.0) for i in range(5)] + [block(5, 1.0, 9.0, song=120)]
    assert cells(tool.table(blocks, "wall"), "tales")[7:] == [
        "2.000", "2.00 to 2.00", "faster", "5 of 6",
    ]  # fmt: skip
    others = [block(i, 1.0, 1.0, model="other") for i in range(5)]  # they make the usual canary
    text = tool.table([*others, *(block(i, 2.0, 1.0, song=120) for i in range(5))], "wall")
    assert cells(text, "tales")[7] == "2.000†" and "every block of this row was disturbed" in text


def test_a_block_counts_if_none_of_its_songs_is_slow(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    songs = iter([100, 100, 100, 104, 106, 90])
    monkeypatch.setattr(tool, "Canary", lambda: Row(sing=lambda: next(songs)))
    monkeypatch.setattr(tool, "SETTLE", 0)
    watch = tool.Watch()
    taken = [watch.sing() for _ in range(6)]
    assert [watch.is_usual(taken[i : i + 2]) for i in (0, 2, 4)] == [True, True, False]


def test_what_a_side_cannot_do_is_listed_with_the_reason(tool: Any) -> None:
    text = tool.table([block(0, 1.0, 1.0), FAILED], "wall")
    assert "- tales, IQ2_S, host, 1: old: NumPy multiplies IQ2_S" in text


def test_lists_of_options_are_parsed_and_checked(tool: Any, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--old", "HEAD", "--folder", "f"]
    options = tool.parse([*given, "--threads", "1, 2,1", "--cpus", "host,v3", "--tests", "prefill 64"])
    assert options.threads == (1, 2) and options.cpus == ("host", "v3") and options.tests == ("prefill 64",)
    assert options.types == tool.KERNEL_TYPES and options.models == ("tales",) and options.rounds == 7
    quick = tool.parse([*given, "--quick"])
    assert quick.types == tool.QUICK and quick.rounds == 5
    for wrong, message in (
        (["--cpus", "v9"], "--cpus: expected host, v3, v3+vnni; got 'v9'"),
        (["--tests", "prefill 7"], "got 'prefill 7'"),
        (["--threads", "1,x"], "--threads: expected numbers"),
        (["--models", ","], "--models: expected names"),
        (["--minutes", "nan"], "above 0"),
        (["--old", "--output"], ""),
    ):
        with pytest.raises(SystemExit):
            tool.parse([*given, *wrong])
        assert message in capsys.readouterr().err


def test_a_report_reads_the_samples_again(
    tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, out = tmp_path / "samples.jsonl", tmp_path / "table.md"
    lines = [json.dumps(block(i, 2.0, 1.0)) for i in range(5)]
    samples.write_text("\n".join([*lines, lines[0][:40]]))  # a kill cut the last line short
    assert tool.main(["--report", str(samples), "-o", str(out)]) == 0
    assert cells(out.read_text(), "tales")[7] == "2.000"
    samples.write_text(json.dumps(FAILED) + "\n")
    assert tool.main(["--report", str(samples)]) == 1, "no row was measured"
    samples.write_text("[]")
    assert tool.main(["--report", str(samples)]) == 2 and "old_new.py: " in capsys.readouterr().err


def test_a_type_that_most_rows_cannot_have_is_refused(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [Row(target=Row(name="Q5_0"), n_bytes=7), Row(target=Row(name="Q4_K"), n_bytes=3)]
    monkeypatch.setattr(tool, "plan", lambda *_, **__: kinds)
    with pytest.raises(LlmliteError, match="most rows aren't whole blocks of Q4_K, and would be Q5_0"):
        tool.require_majority(Path("x"), "Q4_K_M", "Q4_K")
    tool.require_majority(Path("x"), "Q5_0", "Q5_0")


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_an_older_commits_files_are_there_for_as_long_as_needed(tool: Any, tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    git("init", "--quiet")
    for text in ("first", "second"):
        for folder in ("llmlite", "data"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / "a.txt").write_text(text)
        git("add", ".")
        git("commit", "--quiet", "-m", text)
    with tool.older(tmp_path, "HEAD~1") as (folder, name):
        assert (folder / "llmlite/a.txt").read_text() == "first" and "(" in name
    assert not folder.exists() and (tmp_path / "llmlite/a.txt").read_text() == "second"
    assert not tool.described(tmp_path).endswith("with changes")
    (tmp_path / "llmlite/a.txt").write_text("third")
    assert tool.described(tmp_path).endswith("with changes")
    with (
        pytest.raises(LlmliteError, match="git log: .*no-such-commit"),
        tool.older(tmp_path, "no-such-commit"),
    ):
        pass


def test_a_side_takes_turns_and_keeps_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import old_new_worker

    path = tiny_model().write(tmp_path / "tiny.gguf")
    sides: list[Any] = []
    found = old_new_worker.answer({"do": "load", "path": str(path), "n_threads": 1, "longest": 64}, sides)
    assert found["ok"], found
    turn = {"do": "turn", "n_prompt": 0, "n_gen": 2, "n_depth": 8, "nanoseconds": 1}
    found = old_new_worker.answer(turn, sides)
    assert found["ok"] and len(found["samples_ns"]) == len(found["cpu_ns"]) == 1
    assert len(sides[0].caches[8].ids) == 8
    missing = {"do": "load", "path": str(tmp_path / "no.gguf"), "n_threads": 1, "longest": 64}
    assert not old_new_worker.answer(missing, sides)["ok"]
