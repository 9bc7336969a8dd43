"""Where bundled files and made files are: environment variables, unwritable homes, two processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from llmlite import resources
from llmlite.errors import LlmliteError

ROOT = Path(__file__).resolve().parent.parent
# root may write anywhere, so "unwritable" is played with a file where a folder is needed
BLOCKED = "blocked"


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A path under which no folder can be made."""
    (tmp_path / BLOCKED).write_text("a file", encoding="utf-8")
    return tmp_path / BLOCKED / "cache"


@pytest.fixture(autouse=True)
def _forget_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_fallback", None)


def test_llmlite_cache_wins_and_is_created(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path / "a" / "b"))
    assert resources.cache_dir() == tmp_path / "a" / "b"
    assert resources.cache_dir().is_dir()


def test_llmlite_cache_that_cannot_be_written_is_an_error(
    monkeypatch: pytest.MonkeyPatch, blocked: Path
) -> None:
    monkeypatch.setenv("LLMLITE_CACHE", str(blocked))
    with pytest.raises(LlmliteError, match="LLMLITE_CACHE=.*can't be written"):
        resources.cache_dir()


@pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="XDG base directories are for the other systems"
)
def test_xdg_cache_home_is_followed_only_when_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LLMLITE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert resources.cache_dir() == tmp_path / "xdg" / "llmlite"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resources.cache_dir() == tmp_path / ".cache" / "llmlite"


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("darwin", {}, "Library/Caches/llmlite"),
        ("win32", {}, "AppData/Local/llmlite/Cache"),
        ("win32", {"LOCALAPPDATA": "somewhere"}, "somewhere/llmlite/Cache"),
    ],
)
def test_other_systems_have_their_own_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, variables: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr(resources.sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    assert resources._usual_cache() == tmp_path / expected


def test_unwritable_home_falls_back_to_a_private_folder_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, blocked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LLMLITE_CACHE", raising=False)
    monkeypatch.setattr(resources, "_usual_cache", lambda: blocked)
    monkeypatch.setattr(resources.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = resources.cache_dir()
    assert folder.parent == tmp_path
    assert resources.cache_dir() == folder
    message = capsys.readouterr().err
    assert message.count("can't be written") == 1, "said once, not each time"
    assert "LLMLITE_CACHE" in message
    if hasattr(os, "getuid"):
        assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permission bits are POSIX")
def test_a_fallback_that_others_may_write_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    assert resources._private(shared) != shared


def test_a_link_is_not_used_as_fallback(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert resources._private(tmp_path / "link") != tmp_path / "link"


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
