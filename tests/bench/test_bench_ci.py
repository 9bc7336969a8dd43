"""The peers that CI has must really run: a comparison that lost one of them would pass unseen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmlite.bench.backends import BACKENDS
from llmlite.bench.samples import Comparison
from llmlite.cli import main

NEEDED = (
    *("llmlite", "xllamacpp", "transformers"),
    *("torch-f32", "torch-bf16", "torch-compile", "torch-int8", "torch-int4"),
)

pytestmark = [pytest.mark.slow, pytest.mark.conformance]


def test_every_peer_that_ci_installs_runs_and_agrees(tmp_path: Path) -> None:
    arguments = ["compare", "tales", "--types", "Q8_0", "--backends", ",".join(NEEDED), "--threads", "1"]
    arguments += ["--prompts", "16", "--depths", "8", "--gen", "8", "--blocks", "1", "--time", "600"]
    code = main([*arguments, "-o", str(tmp_path)])
    found = Comparison.load(tmp_path / "comparison.jsonl")
    assert not found.skipped, json.dumps(found.skipped)
    assert {m.backend for m in found.measurements if m.phase == "decode"} == set(NEEDED)
    assert all(record["agrees"] for record in found.agreement), found.agreement
    assert code == 0


def test_a_missing_peer_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = BACKENDS["xllamacpp"]
    monkeypatch.setattr(type(lost), "unavailable", lambda info: "lost" if info is lost else "")
    arguments = ["compare", "tales", "--types", "Q8_0", "--backends", "llmlite,xllamacpp", "--threads", "1"]
    arguments += ["--prompts", "16", "--depths", "8", "--gen", "8", "--blocks", "1"]
    assert main([*arguments, "-o", str(tmp_path)]) == 1
    assert "xllamacpp did not run" in capsys.readouterr().err
