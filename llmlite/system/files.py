"""Write files whole or not at all, and leave nothing behind if writing is interrupted.

A new file is written beside its target as ".NAME.PID-HEX.part" and then renamed. Parts are removed if writing
fails, when the process exits, and when a signal that Python sees ends it (the command line turns SIGTERM and
SIGHUP into exceptions). A part that SIGKILL leaves is removed by the next write in that folder. Parts in
use are safe, because their writers keep them locked.
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

    Until then, and if the process is killed, the file at `path` stays as it was. The new file is flushed to
    the disk before it is renamed.

    Raises:
        OSError: the file can't be written; the error's file name is `path`. It is also raised if `path` is a
            folder or a device, which would be lost.
    """
    named = os.fspath(path)
    target = os.path.realpath(named)  # so that a link stays a link
    if os.path.exists(target) and not os.path.isfile(target):
        reason = "expected a file, or nothing yet; this is a folder or a device"
        raise OSError(errno.EINVAL, reason, named)
    folder = os.path.dirname(target)
    remove_abandoned(folder)
    try:
        part, file = _open_part(target)
    except OSError as error:  # report the name that the user knows
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
            raise type(error)(error.errno, error.strerror, named) from None  # add the path to "no space"
        waiting = _together.get()
        if waiting is None:
            _rename(part, target, named)
        else:
            waiting.append((part, target))
    except BaseException:
        with suppress(OSError):  # closing flushes the buffer, and may fail like the write
            file.close()
        _remove(part)
        raise


@contextmanager
def together() -> Iterator[None]:
    """Rename all files that `replacing` writes in the block at its end, in order.

    If the block raises an exception, none of them appears.
    """
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
    """Write a file whole or not at all; raise OSError like `replacing`."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text in UTF-8, whole or not at all; raise OSError like `replacing`."""
    write_bytes(path, text.encode("utf-8"))


def remove_abandoned(folder: str | os.PathLike[str]) -> None:
    """Remove the parts in a folder whose writers are gone; ignore those that can't be removed."""
    with suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if entry.name.endswith(".part")]:
            match = PART.fullmatch(name)
            if match and not _lives(int(match[1])):
                _remove_unlocked(os.path.join(folder, name))


# ---- parts -------------------------------------------------------------------------------------------------


def _open_part(target: str) -> tuple[str, BinaryIO]:
    """Create and lock a new part beside the target; return its path and the open file."""
    folder, name = os.path.split(target)
    while True:
        short = name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")
        part = os.path.join(folder, f".{short}.{os.getpid()}-{secrets.token_hex(4)}.part")
        _pending[part] = os.getpid()  # before opening: a signal may raise as soon as the file exists
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
        file.close()  # a process in another container, which can't see our PID, removed it
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
    with suppress(OSError):  # the first error matters, not that the part can't be removed
        os.unlink(part)


def _lives(pid: int) -> bool:
    """Return whether a process has this PID. Containers number their own processes: hence the lock."""
    if os.name == "nt":
        return False  # os.kill would end the process; Windows doesn't remove open files
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
    """Flush the rename itself to the disk, on systems that can open a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some file systems can't sync folders; the data is on the disk anyway
    finally:
        os.close(handle)


def _remove_pending() -> None:
    for part, pid in list(_pending.items()):
        if pid == os.getpid():  # a forked child must not remove its parent's parts
            _remove(part)


atexit.register(_remove_pending)
