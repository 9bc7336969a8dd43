"""Write files: whole or not at all, with nothing left over when the writing is cut short.

A new file gets a name of its own in its folder, ".NAME.PID-HEX.part", and takes its target's place by being
renamed. Parts are removed when writing fails, when the process exits and when it is ended by a signal that
Python sees (the command line turns SIGTERM and SIGHUP into exceptions). What SIGKILL leaves is removed by the
next write in that folder: a part whose writer lives is locked.
"""

from __future__ import annotations

import atexit
import contextvars
import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where an open file can't be removed anyway
    fcntl = None  # type: ignore[assignment]

PART = re.compile(r"\..+\.(\d+)-[0-9a-f]{8}\.part", re.DOTALL)

_pending: dict[str, int] = {}  # part -> the process that writes it
_together: contextvars.ContextVar[list[tuple[str, str]] | None] = contextvars.ContextVar(
    "together", default=None
)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of the one at `path` when the block ends without an exception.

    Until then, and if the process is killed, the file at `path` stays as it was. The new one is flushed to
    the disk before it is renamed.

    Raises:
        OSError: it can't be written, with `path` as its file name; also if `path` is something else than a
            file, which would be gone.
    """
    named = os.fspath(path)
    target = os.path.realpath(named)  # a link stays a link
    if os.path.exists(target) and not os.path.isfile(target):
        reason = "expected a file, or nothing yet; this is a folder or a device"
        raise OSError(errno.EINVAL, reason, named)
    folder = os.path.dirname(target)
    remove_abandoned(folder)
    try:
        part, file = _open_part(target)
    except OSError as error:  # said of the name that the user knows
        why = error.strerror if os.path.isdir(folder) else f"there is no folder {folder}"
        raise type(error)(error.errno, why, named) from None
    try:
        try:
            yield file
            file.flush()
            if os.path.exists(target):
                os.chmod(part, os.stat(target).st_mode & 0o7777)
            os.fsync(file.fileno())
            file.close()
        except OSError as error:
            if error.filename is not None or error.errno is None:
                raise
            raise type(error)(error.errno, error.strerror, named) from None  # "no space" says where
        waiting = _together.get()
        if waiting is None:
            _rename(part, target, named)
        else:
            waiting.append((part, target))
    except BaseException:
        with suppress(OSError):  # closing writes what is left, and fails as the writing did
            file.close()
        _remove(part)
        raise


@contextmanager
def together() -> Iterator[None]:
    """Let all files that are written in the block by `replacing` appear at its end, in order, or none."""
    waiting: list[tuple[str, str]] = []
    token = _together.set(waiting)
    try:
        yield
        while waiting:
            part, target = waiting[0]
            _rename(part, target, target)
            waiting.pop(0)
    finally:
        _together.reset(token)
        for part, _ in waiting:
            _remove(part)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all. Raises OSError as `replacing`."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as UTF-8, whole or not at all. Raises OSError as `replacing`."""
    write_bytes(path, text.encode("utf-8"))


def remove_abandoned(folder: str | os.PathLike[str]) -> None:
    """Remove the parts in a folder whose writers are gone. What can't be removed stays, without an error."""
    with suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if entry.name.endswith(".part")]:
            match = PART.fullmatch(name)
            if match and not _lives(int(match[1])):
                _remove_unlocked(os.path.join(folder, name))


# ---- parts -------------------------------------------------------------------------------------------------


def _open_part(target: str) -> tuple[str, BinaryIO]:
    """Make and lock a new part beside the target: its path and the file."""
    folder, name = os.path.split(target)
    while True:
        short = name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")
        part = os.path.join(folder, f".{short}.{os.getpid()}-{secrets.token_hex(4)}.part")
        _pending[part] = os.getpid()  # first: a signal may raise as soon as the file is there
        try:
            file = open(part, "xb", buffering=1 << 20)  # noqa: SIM115 (closed by the caller)
        except OSError:
            del _pending[part]
            raise
        if fcntl is None:
            return part, file
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return part, file
        file.close()  # another process, for which ours has no number, took it for abandoned
        _pending.pop(part, None)


def _rename(part: str, target: str, named: str) -> None:
    try:
        os.replace(part, target)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, named) from None
    _pending.pop(part, None)
    _sync_folder(os.path.dirname(target))


def _remove(part: str) -> None:
    _pending.pop(part, None)
    with suppress(OSError):  # what went wrong is the thing to say, not that the rest can't be removed
        os.unlink(part)


def _lives(pid: int) -> bool:
    """Whether a process of that number is there. Containers have numbers of their own: see the lock."""
    if os.name == "nt":
        return False  # os.kill would end it; a part that is open can't be removed there
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _remove_unlocked(part: str) -> None:
    if fcntl is None:
        with suppress(OSError):
            os.unlink(part)
        return
    try:
        file = os.open(part, os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK)
    except OSError:
        return
    try:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(part)
    finally:
        os.close(file)


def _sync_folder(folder: str) -> None:
    """Make the rename itself last; not every system lets a folder be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some file systems refuse it for folders; the data itself is on the disk
    finally:
        os.close(handle)


def _remove_pending() -> None:
    for part, pid in list(_pending.items()):
        if pid == os.getpid():  # a forked child doesn't remove what its parent writes
            _remove(part)


atexit.register(_remove_pending)
