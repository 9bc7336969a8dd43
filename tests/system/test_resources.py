"""Where bundled files and made files are: names, damage, two processes at once. The folder: test_cache.py."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from llmlite import resources
from llmlite.errors import LlmliteError

ROOT = Path(__file__).resolve().parents[2]


def test_a_wrong_model_name_says_what_there_is() -> None:
    with pytest.raises(LlmliteError, match=r"nosuch\.gguf: no such file, and no bundled model.*'tales'"):
        resources.model_path("nosuch.gguf")


def test_a_path_is_returned_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF")
    assert resources.model_path(file) == file


def test_missing_bundled_data_says_where_it_looked() -> None:
    with pytest.raises(LlmliteError, match="nosuch.bin: bundled data is missing"):
        resources.data_path("nosuch.bin")


def test_a_quantized_sibling_is_made_once_and_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path))
    first = resources.model_path("tales:q8_0")
    stamp = first.stat().st_mtime_ns
    assert resources.model_path("tales:Q8_0") == first
    assert first.stat().st_mtime_ns == stamp
    assert first.stat().st_size < resources.model_path("tales").stat().st_size
    assert [path.name for path in first.parent.iterdir()] == [first.name], "no unfinished file stays behind"


def test_two_names_of_one_mix_are_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path))
    assert resources.model_path("tales:Q4_K") == resources.model_path("tales:q4_k_m")


def test_a_failed_quantization_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path))
    with pytest.raises(LlmliteError):
        resources.model_path("tales:NOSUCH")
    assert list(tmp_path.rglob("*.gguf*")) == list(tmp_path.rglob("*.part")) == []


def test_a_damaged_sibling_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path))
    path = resources.model_path("tales:Q8_0")
    right = path.read_bytes()
    for wrong in (right[:-1] + bytes([right[-1] ^ 1]), right[:1000], b""):
        path.write_bytes(wrong)
        assert resources.model_path("tales:Q8_0").read_bytes() == right
        assert "is damaged; it is made again" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permission bits are POSIX")
def test_a_sibling_that_others_may_write_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path))
    path = resources.model_path("tales:Q8_0")
    path.chmod(0o666)
    assert resources.model_path("tales:Q8_0").stat().st_mode & 0o022 == 0
    assert "may be written by others" in capsys.readouterr().err


def test_processes_that_race_for_a_sibling_all_get_a_whole_one(tmp_path: Path) -> None:
    code = (
        "from llmlite import gguf, resources\n"
        "path = resources.model_path('tales:Q4_0')\n"
        "print(sum(t.n_elements for t in gguf.read(path).tensors.values()), resources.sha256(path))"
    )
    environment = {**os.environ, "LLMLITE_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    answers = {racer.communicate(timeout=120)[0] for racer in racers}
    assert all(racer.returncode == 0 for racer in racers)
    assert len(answers) == 1
    assert len(list((tmp_path / "models").iterdir())) == 1


def test_the_list_of_checksums_fits_the_data_that_ships() -> None:
    assert resources.damaged_data() == []
    listed = {line.partition("  ")[2] for line in resources.data_path("SHA256SUMS").read_text().splitlines()}
    include = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]["include"]
    patterns = [entry.removeprefix("/data/") for entry in include if entry.startswith("/data/*")]
    shipped = {path.name for pattern in patterns for path in resources.data_path().glob(pattern)}
    assert shipped <= listed, "run tools/checksums.py"


def test_a_damaged_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "model.gguf").write_bytes(b"changed")
    (tmp_path / "data" / "SHA256SUMS").write_text("0" * 64 + "  model.gguf\n" + "0" * 64 + "  lost.txt\n")
    monkeypatch.setattr(resources, "_bundled", lambda folder: tmp_path / folder)
    assert resources.damaged_data() == [
        "model.gguf: its bytes differ from the ones shipped",
        "lost.txt: missing",
    ]
