"""The cache folder: where it is, and whether what lies there may be trusted.

Compiled kernels are code that the next process runs, so they must come from this user or from root. A folder
is trusted if it, and every folder above it, belongs to one of the two and nobody else may write there (in
a folder with the sticky bit, such as /tmp, others can't touch what isn't theirs). A file is trusted by the
same rule. Windows keeps such rights in lists that Python can't read; a user's cache there is private anyway.
"""

from __future__ import annotations

import functools
import getpass
import os
import stat
import sys
import tempfile
from pathlib import Path

from llmlite.errors import LlmliteError
from llmlite.terminal import complain_once

PACKAGE = Path(__file__).resolve().parents[1]
POSIX = hasattr(os, "getuid")
OTHERS_WRITE = 0o022


def cache_dir() -> Path:
    """Return the cache folder: it exists, and only this user can write to it.

    `LLMLITE_CACHE` if it is set; else the system's place for caches (`$XDG_CACHE_HOME` or `~/.cache`,
    `~/Library/Caches`, `%LOCALAPPDATA%`). If that can't be written or can't be trusted, a private folder
    under the system's temporary one, with a line on standard error, once. Our own folder that others may
    write is closed to them, with a line.

    Raises:
        LlmliteError: not even a temporary folder can be used.
    """
    folder, problem = _wanted()
    return _temporary_cache(folder, problem) if problem else folder


def refused() -> str:
    """Return why the folder that `cache_dir` documents isn't used, with its name; "" if it is used."""
    folder, problem = _wanted()
    return f"{_named(folder)}: the folder {problem}" if problem else ""


def _wanted() -> tuple[Path, str]:
    """The folder for the cache, made if it can be, and what is wrong with it, or ""."""
    chosen = os.environ.get("LLMLITE_CACHE")
    try:
        folder = Path(os.path.abspath(Path(chosen).expanduser())) if chosen else _usual_cache()
    except RuntimeError as error:  # Path.home() on a system that knows no home
        return Path("~"), str(error)
    return folder, _unwritable(folder) or tightened(folder)


def _named(folder: Path) -> str:
    chosen = os.environ.get("LLMLITE_CACHE")
    return f"LLMLITE_CACHE={chosen}" if chosen else str(folder)


def subfolder(name: str) -> Path:
    """Return a folder of that name in `cache_dir()`: created, and trusted as that is.

    Raises:
        LlmliteError: it can't be had. OSError: it can't be made.
    """
    folder = cache_dir() / name
    problem = _unwritable(folder) or tightened(folder)
    if problem:
        raise LlmliteError(f"{folder}: {problem}")
    return folder


def _usual_cache() -> Path:
    """Return the system's place for this program's caches (XDG base directories, Apple, Windows)."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "llmlite" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "llmlite"
    base = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG specification: a relative path is invalid and to be ignored
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "llmlite"


def _unwritable(folder: Path) -> str:
    """Return why nothing can be written in the folder, or "" (it exists then)."""
    try:
        _make_private(folder)
        handle, name = tempfile.mkstemp(prefix=".writable-", dir=folder)
        os.close(handle)
        os.unlink(name)
    except OSError as error:
        return f"can't be written ({error.strerror or error})"
    return ""


def _make_private(folder: Path) -> None:
    """Make the folder and what is missing above it for this user alone, whatever the umask."""
    if not folder.is_dir():
        if folder.parent != folder:
            _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


# ---- trust -------------------------------------------------------------------------------------------------


def tightened(folder: Path) -> str:
    """Return why the folder can't be trusted, or "". One that is ours but open to others is closed first."""
    if not POSIX:
        return ""
    try:
        info = os.lstat(folder)
        if info.st_uid == os.getuid() and stat.S_ISDIR(info.st_mode) and _loose(info):
            os.chmod(folder, 0o700)
            complain_once(f"{folder} was open for others to write; it is now yours alone (mode 700)")
    except OSError as error:
        return f"can't be examined ({error.strerror})"
    return distrust(folder)


def distrust(path: str | os.PathLike[str]) -> str:
    """Return who else could have put the file or folder at `path` there, or "" if nobody could."""
    if not POSIX:
        return ""
    name = os.path.abspath(path)
    real = os.path.realpath(name)
    for start in dict.fromkeys((name, real)):  # a link is as good as the folder it lies in
        place = start
        while True:
            try:
                problem = _distrust_one(place, os.lstat(place), is_parent=place != start)
            except OSError as error:
                return f"can't be examined ({error.strerror})"
            if problem:
                return problem if place == name else f"is not safe: {place} {problem}"
            if place == os.path.dirname(place):
                break
            place = os.path.dirname(place)
    return ""


def _distrust_one(path: str, info: os.stat_result, *, is_parent: bool) -> str:
    if info.st_uid not in (0, os.getuid()):
        return f"belongs to another user, {info.st_uid}"
    if stat.S_ISLNK(info.st_mode):  # its mode says nothing
        return ""
    if _loose(info) and not (is_parent and info.st_mode & stat.S_ISVTX):
        return f"may be written by others (mode {stat.S_IMODE(info.st_mode):o})"
    return ""


def _loose(info: os.stat_result) -> bool:
    """Whether others than the owner may write: the world, or a group that has other members."""
    if info.st_mode & 0o002:
        return True
    return bool(info.st_mode & 0o020) and not _private_group(info.st_gid)


@functools.cache
def _private_group(gid: int) -> bool:
    """Whether a group is root's, or one that this user has alone, as Debian and Fedora make them."""
    if gid == 0:
        return True
    try:
        import grp
        import pwd

        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(gid)
    except (ImportError, KeyError):
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def trusted_bytes(path: Path) -> bytes | None:
    """Return the content of a file in a trusted folder, or None if it is missing or could be another user's.

    A file inside the installed package is trusted as the package's own code is.
    """
    ours = path.resolve().is_relative_to(PACKAGE)
    flags = [getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY", "O_NONBLOCK")]  # no wait for a pipe
    try:
        handle = os.open(path, os.O_RDONLY | sum(flags))
    except OSError:
        return None
    try:
        info = os.fstat(handle)  # of what was opened, not of what has the name by now
        if not stat.S_ISREG(info.st_mode):
            return None
        if POSIX and not ours and _distrust_one(os.fspath(path), info, is_parent=False):
            return None
        with open(handle, "rb", closefd=False) as file:
            return file.read()
    except OSError:
        return None
    finally:
        os.close(handle)


# ---- the way out -------------------------------------------------------------------------------------------

_fallback: Path | None = None


def _temporary_cache(wanted: Path, problem: str) -> Path:
    """Return a private folder for this user under the temporary one; say so once."""
    global _fallback
    if _fallback is None or not _fallback.is_dir():
        try:
            user = str(os.getuid()) if POSIX else getpass.getuser()
        except (OSError, KeyError, ImportError):
            user = "user"
        _fallback = _private(Path(tempfile.gettempdir()) / f"llmlite-{user}")
    todo = "name" if os.environ.get("LLMLITE_CACHE") else "LLMLITE_CACHE chooses"
    complain_once(f"{_named(wanted)}: the folder {problem}; using {_fallback} ({todo} another folder)")
    return _fallback


def _private(folder: Path) -> Path:
    """Return the folder if it is ours alone, else a new one.

    Raises:
        LlmliteError: none can be made, or the place for temporary files is open to everybody.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if not folder.is_symlink() and not _unwritable(folder) and not distrust(folder):
            return folder
    except OSError:
        pass  # somebody else's file has the name
    try:
        folder = Path(tempfile.mkdtemp(prefix="llmlite-"))
    except OSError as error:
        raise LlmliteError(f"no folder can be written for the cache: {error}") from None
    problem = distrust(folder)
    if problem:
        raise LlmliteError(f"{folder}: {problem}; set LLMLITE_CACHE to a folder of your own")
    return folder
