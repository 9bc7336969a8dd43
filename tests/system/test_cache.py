"""The cache folder: where it is, who may write there, and what happens if nobody or everybody may."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmlite import terminal
from llmlite.errors import LlmliteError
from llmlite.system import cache

ROOT = Path(__file__).resolve().parents[2]
# root may write anywhere, so "unwritable" is played with a file where a folder is needed
BLOCKED = "blocked"
POSIX = pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and permission bits are POSIX")
ROOT_ONLY = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a file to another user"
)


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A path under which no folder can be made."""
    (tmp_path / BLOCKED).write_text("a file", encoding="utf-8")
    return tmp_path / BLOCKED / "cache"


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing was said yet, and the folder for temporary files is the test's own."""
    monkeypatch.setattr(cache, "_fallback", None)
    monkeypatch.setattr(terminal, "_said", set())
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path / "tmp"))


def chosen(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    monkeypatch.setenv("LLMLITE_CACHE", str(folder))
    return cache.cache_dir()


def test_llmlite_cache_wins_and_is_created(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = chosen(monkeypatch, tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b"
    assert folder.is_dir()


@POSIX
def test_what_is_created_is_ours_alone_whatever_the_umask(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = os.umask(0)
    try:
        monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path / "a" / "b"))
        folder = cache.subfolder("kernels")
    finally:
        os.umask(before)
    assert [place.stat().st_mode & 0o777 for place in (folder, folder.parent, folder.parent.parent)] == [
        0o700
    ] * 3


def test_llmlite_cache_that_cannot_be_written_falls_back_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, blocked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = chosen(monkeypatch, blocked)
    assert folder.parent == tmp_path / "tmp"
    assert cache.cache_dir() == folder
    message = capsys.readouterr().err
    assert message.count("can't be written") == 1, "said once, not each time"
    assert f"LLMLITE_CACHE={blocked}" in message and str(folder) in message


def test_a_second_process_finds_what_the_first_put_into_the_fallback(tmp_path: Path) -> None:
    code = (
        "from llmlite import resources\nfrom llmlite.system import cache\n"
        "path = resources.model_path('tales:Q4_0')\n"
        "print(path.parent.parent == cache.cache_dir(), path.stat().st_mtime_ns)"
    )
    env = {**os.environ, "LLMLITE_CACHE": os.devnull, "TMPDIR": str(tmp_path / "tmp")}
    first, second = (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
        for _ in range(2)
    )
    assert first.stdout == second.stdout and first.stdout.startswith("True")
    assert second.stderr.count("\n") == 1 and "can't be written" in second.stderr


@pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="XDG base directories are for the other systems"
)
def test_xdg_cache_home_is_followed_only_when_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LLMLITE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_dir() == tmp_path / "xdg" / "llmlite"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / ".cache" / "llmlite"


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
    monkeypatch.setattr(cache.sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    assert cache._usual_cache() == tmp_path / expected


def test_unwritable_home_falls_back_to_a_private_folder_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, blocked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LLMLITE_CACHE", raising=False)
    monkeypatch.setattr(cache, "_usual_cache", lambda: blocked)
    folder = cache.cache_dir()
    assert folder.parent == tmp_path / "tmp"
    assert cache.cache_dir() == folder
    message = capsys.readouterr().err
    assert message.count("can't be written") == 1, "said once, not each time"
    assert "LLMLITE_CACHE" in message
    if hasattr(os, "getuid"):
        assert folder.stat().st_mode & 0o077 == 0


# ---- who may write -----------------------------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize("mode", [0o777, 0o702])
def test_our_own_open_folder_is_closed_with_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int
) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    assert chosen(monkeypatch, folder) == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "now only you can" in capsys.readouterr().err


@POSIX
def test_a_folder_below_one_that_everybody_may_write_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    assert chosen(monkeypatch, tmp_path / "shared" / "cache").parent == tmp_path / "tmp"
    message = capsys.readouterr().err
    assert f"{tmp_path / 'shared'} may be written by others (mode 777)" in message
    assert "choose another folder" in message
    (tmp_path / "shared").chmod(0o1777)  # sticky, as /tmp is: what is ours there stays ours
    assert cache.cache_dir() == tmp_path / "shared" / "cache"


@POSIX
@ROOT_ONLY
def test_another_users_folder_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o755)
    os.chown(folder, 12345, 12345)
    assert chosen(monkeypatch, folder).parent == tmp_path / "tmp"
    assert chosen(monkeypatch, folder / "below").parent == tmp_path / "tmp"
    assert "belongs to another user, 12345" in capsys.readouterr().err


@POSIX
@ROOT_ONLY
def test_a_link_in_another_users_folder_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir(mode=0o700)
    (tmp_path / "theirs").mkdir(mode=0o755)
    (tmp_path / "theirs" / "link").symlink_to(tmp_path / "ours")
    assert chosen(monkeypatch, tmp_path / "theirs" / "link") == tmp_path / "theirs" / "link"
    os.chown(tmp_path / "theirs", 12345, 12345)
    assert cache.cache_dir().parent == tmp_path / "tmp"


@POSIX
def test_a_group_of_one_is_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "group"
    folder.mkdir()
    folder.chmod(0o770)
    monkeypatch.setattr(cache, "_private_group", lambda gid: True)
    assert cache.distrust(folder) == ""
    monkeypatch.setattr(cache, "_private_group", lambda gid: False)
    assert "may be written by others (mode 770)" in cache.distrust(folder)


@POSIX
def test_a_fallback_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    assert cache._private(shared) != shared


def test_a_link_is_not_used_as_fallback(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert cache._private(tmp_path / "link") != tmp_path / "link"


@POSIX
def test_without_any_safe_place_the_error_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "tmp").chmod(0o777)
    with pytest.raises(LlmliteError, match="set LLMLITE_CACHE to a folder of your own"):
        cache._private(tmp_path / "tmp" / "llmlite-0")


@POSIX
def test_a_file_is_read_only_if_nobody_else_could_have_written_it(tmp_path: Path) -> None:
    file = tmp_path / "kernel.o"
    file.write_bytes(b"code")
    assert cache.trusted_bytes(file) == b"code"
    file.chmod(0o666)
    assert cache.trusted_bytes(file) is None
    file.chmod(0o600)
    assert cache.trusted_bytes(file) == b"code"
    if os.getuid() == 0:
        os.chown(file, 12345, 12345)
        assert cache.trusted_bytes(file) is None
    assert cache.trusted_bytes(tmp_path / "nosuch.o") is None
    os.mkfifo(tmp_path / "pipe.o")
    assert cache.trusted_bytes(tmp_path / "pipe.o") is None
    assert cache.trusted_bytes(tmp_path) is None


@POSIX
def test_a_file_of_the_package_is_trusted_as_its_code_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "kernel.o"
    file.write_bytes(b"code")
    file.chmod(0o666)
    monkeypatch.setattr(cache, "PACKAGE", tmp_path)
    assert cache.trusted_bytes(file) == b"code"
