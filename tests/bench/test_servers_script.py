"""benchmarks/servers.py: its changes to copies of the package fit, and its tables name what they lack."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def servers() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import servers

        yield servers
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        sys.modules.pop("amx", None)


def test_tables_and_shapes_that_do_not_exist_are_refused_by_a_sentence(
    servers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["servers.py", str(tmp_path), "--tables", "2,9"])
    with pytest.raises(SystemExit) as ended:
        servers.main()
    assert ended.value.code == 2 and "--tables: expected some of 2,3,4" in capfd.readouterr().err
    with pytest.raises(SystemExit) as ended:
        servers.amx.model(tmp_path, "nosuch", "Q8_0")
    assert ended.value.code == 2 and "nosuch" in capfd.readouterr().err


def test_every_prefetch_changes_one_place_of_the_engine(servers: Any) -> None:
    changes = [change for several in servers.PREFETCHES.values() for change in several]
    for file, text, other in changes:
        assert (ROOT / "llmlite" / "engine" / file).read_text().count(text) == 1 and other != text
    assert len(changes) == 4 and not next(iter(servers.PREFETCHES.values()))  # the first is the code as it is


def test_a_share_of_the_time_ends_before_the_whole(servers: Any) -> None:
    clock = servers.Clock(time.monotonic() + 100, 100)
    assert 99 < clock.left() <= 100 and 39 < clock.left(0.4) <= 40
    assert servers.Clock(time.monotonic() - 1, 100).left() < 0


def test_a_command_that_fails_or_comes_too_late_is_named(
    servers: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    python = [sys.executable, "-c"]
    assert servers.output([*python, "print(7)"], 60) == "7\n"
    assert servers.output([*python, "raise SystemExit('no such thing')"], 60) == ""
    assert "left out: raise SystemExit('no such thing') …: no such thing" in capsys.readouterr().out
    assert servers.output([*python, "print(8)"], 1) == ""
    assert "not reached in time: print(8)" in capsys.readouterr().out
    assert servers.output([*python, "import time; time.sleep(60)"], 2) == ""
    assert "timed out after 2" in capsys.readouterr().out


def test_a_row_has_speeds_ratios_and_shares_of_the_same_turn(
    servers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(bytes(1000))

    def output(command: list[str], seconds: float) -> str:
        assert seconds > 0
        if "-c" in command:
            return json.dumps({"bandwidth": 40e3, "waiting": {"decode": 0.25, "prefill": 0.5}})
        n, ours = int(command[command.index("-t") + 1]), "llmlite" in command[command.index("-b") + 1]
        if not ours and n == 2:
            return ""  # llama.cpp failed
        speed = (10 * n if n == 1 else 15) if ours else 5
        rows = [(16, 100 * speed), (0, speed)]
        return json.dumps([{"n_prompt": p, "samples_ts": [s / 2, s]} for p, s in rows])

    monkeypatch.setattr(servers, "output", output)
    left = iter([60.0] * 8 + [0.0]).__next__
    servers.scaling(path, [1, 2, 4], argparse.Namespace(p=16, n=4), left)
    *_, one, two, four = capsys.readouterr().out.splitlines()
    # threads, GB/s, decode, over the peer, of the bandwidth, of ideal, waits, then the prompt's
    assert one.split() == "1 0.0 10.0 2.00 0.25 1.00 0.25 1000.0 2.00 1.00 0.50".split()
    assert two.split() == "2 0.0 15.0 – 0.38 0.75 0.25 1500.0 – 0.75 0.50".split()
    assert four == "  not reached in time: 4 threads"


def test_each_prefetch_is_measured_in_a_copy_of_its_own(
    servers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def decode(path: Path, folder: Path, n_threads: int, n_tokens: int, seconds: float) -> float:
        ahead = (folder / "llmlite" / "engine" / "kernels" / "quantized.py").read_text()
        emit = (folder / "llmlite" / "engine" / "emit.py").read_text()
        if n_tokens == 2 and "AHEAD = 1024" in ahead and "I32(2), I32(1))" in emit:
            return 0.0  # both changes: didn't compile
        return n_threads + 0.25 * ("AHEAD = 1024" in ahead) + 0.5 * ("I32(2), I32(1))" in emit)

    monkeypatch.setattr(servers, "decode", decode)
    servers.prefetches(tmp_path / "m-Q8_0.gguf", [1, 2, 4], 24, lambda: 60.0)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    names = list(servers.PREFETCHES)[:3]
    assert [" ".join(row[2:-1]) for row in rows] == names * 2
    assert [(row[0], float(row[-1])) for row in rows] == [
        (n, int(n) + more) for n in ("2", "4") for more in (0, 0.25, 0.5)
    ]


def test_prompts_are_compared_on_the_most_threads_first(
    servers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    speeds = {"llmlite, no AMX": 100.0, "PyTorch bfloat16": 50.0, "llama.cpp": None}
    monkeypatch.setattr(servers.amx, "turn", lambda path, name, p, n, seconds: speeds[name])
    left = iter([60.0] * 4 + [5.0]).__next__
    servers.prompts(tmp_path / "m.gguf", [1, 2, 4], 64, False, left)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "m, 64 tokens, 4 threads"
    assert "llmlite, no AMX is 2.00 times as fast" in lines[3] and "PyTorch" in lines[3]
    assert lines[4:] == ["  not reached in time: prompts on 1 threads"]
