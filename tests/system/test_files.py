"""The one writer: whole or not at all, whatever cuts the writing short, and nothing left over."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from llmlite import gguf
from llmlite.system import files
from llmlite.system.files import replacing, together, write_bytes, write_text

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and limits are POSIX")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def python(code: str, *arguments: str) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], env=env, stdout=subprocess.PIPE, text=True
    )


def test_a_file_appears_whole_with_its_old_mode(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_text(path, "old")
    path.chmod(0o640)
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["x"]
    assert os.name == "nt" or path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_an_exception_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    write_text(tmp_path / "x", "old")
    with pytest.raises(error), replacing(tmp_path / "x") as file:
        file.write(b"half")
        raise error
    assert (tmp_path / "x").read_text() == "old" and names(tmp_path) == ["x"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, ".hidden", "a b\n\x1b"])
def test_any_name_that_a_folder_takes_can_be_written(tmp_path: Path, name: str) -> None:
    write_bytes(tmp_path / name, b"data")
    assert names(tmp_path) == [name]


@POSIX
def test_a_full_disk_names_the_file_that_was_being_written(tmp_path: Path) -> None:
    code = """
    import resource, signal, sys
    from llmlite.system import files
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    try:
        files.write_bytes(sys.argv[1], bytes(3 << 20))
    except OSError as error:
        print(error.filename == sys.argv[1], error.errno)
    """
    write_text(tmp_path / "x", "old")
    process = python(code, str(tmp_path / "x"))
    assert process.communicate()[0].split() == ["True", str(errno.EFBIG)]
    assert (tmp_path / "x").read_text() == "old" and names(tmp_path) == ["x"]


def test_files_of_one_block_appear_together_or_not_at_all(tmp_path: Path) -> None:
    write_text(tmp_path / "b", "old")
    with pytest.raises(RuntimeError), together():
        write_text(tmp_path / "a", "new")
        write_text(tmp_path / "b", "new")
        raise RuntimeError
    assert names(tmp_path) == ["b"] and (tmp_path / "b").read_text() == "old"
    with together():
        write_text(tmp_path / "a", "new")
        write_text(tmp_path / "b", "new")
        assert not (tmp_path / "a").exists()
    assert names(tmp_path) == ["a", "b"] and (tmp_path / "b").read_text() == "new"


def test_a_split_that_fails_leaves_no_file(tmp_path: Path, tales: Path) -> None:
    def progress(done: int, total: int) -> None:
        if done > total / 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        gguf.split(tales, tmp_path / "part", max_tensors=10, progress=progress)
    assert "part-0" in caught.value.filename
    assert names(tmp_path) == []


WRITER = """
    import os, sys, time
    from llmlite.system import files
    with files.replacing(sys.argv[1]) as file:
        file.write(b"half")
        file.flush()
        print("writing", flush=True)
        time.sleep(60)
"""


@POSIX
def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    process = python(WRITER, str(tmp_path / "x"))
    assert process.stdout and process.stdout.readline() == "writing\n"
    (part,) = names(tmp_path)
    assert files.PART.fullmatch(part)
    write_text(tmp_path / "y", "other")
    assert names(tmp_path) == [part, "y"], "its writer lives"
    process.kill()
    process.wait()
    write_text(tmp_path / "y", "other")
    assert names(tmp_path) == ["y"]


@POSIX
def test_a_part_of_another_containers_process_stays_while_it_is_locked(tmp_path: Path) -> None:
    process = python(WRITER, str(tmp_path / "x"))
    assert process.stdout and process.stdout.readline() == "writing\n"
    (part,) = names(tmp_path)
    other = part.replace(f".{process.pid}-", ".999999999-")  # no process here has that number
    (tmp_path / part).rename(tmp_path / other)
    write_text(tmp_path / "y", "")
    assert other in names(tmp_path)
    process.kill()
    process.wait()
    write_text(tmp_path / "y", "")
    assert names(tmp_path) == ["y"]


def test_only_parts_are_swept_away(tmp_path: Path) -> None:
    kept = [".x.part", "x.1-00000000.part", ".x.1-0000000g.part", ".x.999999999-0000000.part", "movie.part"]
    for name in kept:
        (tmp_path / name).write_text("somebody else's")
    (tmp_path / ".x.999999999-00000000.part").write_text("abandoned")
    write_text(tmp_path / "y", "")
    assert names(tmp_path) == sorted([*kept, "y"])


@POSIX
def test_a_process_that_exits_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    code = """
    import sys, threading, time
    from llmlite.system import files
    def write():
        with files.replacing(sys.argv[1]) as file:
            file.write(b"half")
            print("writing", flush=True)
            time.sleep(60)
    threading.Thread(target=write, daemon=True).start()
    time.sleep(0.5)
    """
    process = python(code, str(tmp_path / "x"))
    assert process.communicate()[0] == "writing\n" and process.returncode == 0
    assert names(tmp_path) == []


@POSIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_that_is_ended_removes_its_part_and_keeps_the_target(tmp_path: Path, number: int) -> None:
    target = tmp_path / "out.gguf"
    target.write_text("old")
    command = [sys.executable, "-m", "llmlite", "quantize", "tales", str(target), "Q4_K_M", "--force"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    before = signal.signal(number, signal.SIG_DFL)  # a child inherits what nohup ignores
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    signal.signal(number, before)
    deadline = time.monotonic() + 60
    while len(names(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.0005)  # the earliest moment is the hardest
    process.send_signal(number)
    message = process.communicate()[1]
    assert process.returncode == 128 + number
    assert "Traceback" not in message
    assert names(tmp_path) == ["out.gguf"] and target.read_text() == "old"
