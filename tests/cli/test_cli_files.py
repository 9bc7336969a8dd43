"""The commands that make files of files: convert, split, merge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmlite import cli, gguf
from tests.support.legacy_builder import LegacyBuilder


def test_split_then_merge_gives_the_same_file(
    tmp_path: Path, tales: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["split", str(tales), str(tmp_path / "part"), "--max-size", "4M"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = lines[0].partition(":")[0]
    assert first.endswith(f"part-00001-of-{len(lines):05d}.gguf") and len(lines) > 1
    whole = tmp_path / "whole.gguf"
    assert cli.main(["merge", first, str(whole)]) == 0
    assert whole.read_bytes() == tales.read_bytes()
    assert cli.main(["merge", first, str(whole)]) == 2
    assert "--force" in capsys.readouterr().err
    assert cli.main(["show", first]) == 0


def test_convert_makes_a_gguf_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.bin", tmp_path / "new.gguf"
    old.write_bytes(LegacyBuilder(type_name="Q8_0").build())
    assert cli.main(["convert", str(old), str(new), "--context", "4096", "--eps", "1e-5"]) == 0
    assert gguf.read(new).metadata["llama.context_length"] == 4096
    assert capsys.readouterr().out.startswith(f"{new}: ")
    assert cli.main(["show", str(old)]) == 2
    assert "convert the file with llmlite convert" in capsys.readouterr().err


def test_show_check_finds_damaged_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.gguf"
    for value, code in ((1.0, 0), (float("nan"), 2)):
        gguf.write(path, {}, {"good": np.ones(40, np.float32), "w": np.full(40, value, np.float32)})
        assert cli.main(["show", str(path), "--check"]) == code
    captured = capsys.readouterr()
    assert "all weights of its 2 tensors are finite" in captured.out
    assert "w: block 0 at byte" in captured.err and captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["convert", "nothing.bin", "a.gguf"], "nothing.bin"),
        (["convert", ".", "a.gguf"], "this folder has no config.json"),
        (["convert", "a.bin", "a.gguf", "--context", "0"], "must be above 0"),
        (["convert", ".", "a.gguf", "--context", "4096"], "only for older files"),
        (["convert", ".", "a.gguf", "--eps", "1e-5"], "only for older files"),
        (["show", "tales", "--check", "--json"], "give no --json or --tensor"),
        (["show", "tales", "--check", "--tensor", "output_norm.weight"], "give no --json or --tensor"),
        (["compare", "--from", "a.jsonl", "--types", "Q8_0"], "--types would do nothing"),
        (["compare", "smollm2", "--from", "a.jsonl", "--quick"], "smollm2, --quick would do nothing"),
        (["bench", "tales", "--junit", "a.xml", "--base", "llamacpp"], "--base, --junit: only with diff"),
        (["split", "tales", "part"], "--max-size or --max-tensors"),
        (["split", "tales", "part", "--max-tensors", "0"], "at least 1"),
        (["merge", "nothing.gguf", "a.gguf"], "nothing.gguf"),
    ],
)
def test_faults_are_one_sentence_and_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list,
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_tensor_type_that_matches_nothing_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, more: tuple[str, ...]
) -> None:
    chosen = ("--tensor-type", "ffn_dwon=Q6_K", "--tensor-type", "ffn_down=Q6_K")
    assert cli.main(["quantize", "tales", str(tmp_path / "out.gguf"), "Q8_0", *chosen, *more]) == 0
    [line] = capsys.readouterr().err.splitlines()
    assert line == "llmlite: warning: --tensor-type ffn_dwon=Q6_K: no tensor's name matches"
