"""Find the cache folder, and decide whether the files in it can be trusted.

Compiled kernels are code that the next process runs, so they must come from this user or from root. A folder
is trusted if it and every folder above it belong to one of the two, and nobody else may write there. A parent
folder with the sticky bit, such as /tmp, is fine: other users can't touch files there that aren't theirs. The
same rule holds for files. Windows keeps such rights in lists that Python can't read, but a user's cache there
is private anyway.
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
    """Return the cache folder, which exists and which only this user can write to.

    It is `LLMLITE_CACHE` if that is set, else the system's place for caches (`$XDG_CACHE_HOME` or `~/.cache`,
    `~/Library/Caches`, `%LOCALAPPDATA%`). If this folder can't be written or trusted, a private folder under
    the system's temporary folder takes its place, and a line on standard error says so once. If the folder is
    ours but others may write to it, their permission is removed, and a line says so.

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
    """Return the folder for the cache, created if possible, and the problem with it, or ""."""
    chosen = os.environ.get("LLMLITE_CACHE")
    try:
        folder = Path(os.path.abspath(Path(chosen).expanduser())) if chosen else _usual_cache()
    except RuntimeError as error:  # from Path.home(), if the system knows no home folder
        return Path("~"), str(error)
    return folder, _unwritable(folder) or tightened(folder)


def _named(folder: Path) -> str:
    chosen = os.environ.get("LLMLITE_CACHE")
    return f"LLMLITE_CACHE={chosen}" if chosen else str(folder)


def subfolder(name: str) -> Path:
    """Return a folder of that name in `cache_dir()`: it is created, and trusted by the same rule.

    Raises:
        LlmliteError: the folder can't be created, written or trusted.
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
    # the XDG specification says to ignore a relative path
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "llmlite"


def _unwritable(folder: Path) -> str:
    """Return the reason why the folder can't be written, or ""; in that case the folder exists."""
    try:
        _make_private(folder)
        handle, name = tempfile.mkstemp(prefix=".writable-", dir=folder)
        os.close(handle)
        os.unlink(name)
    except OSError as error:
        return f"can't be written ({error.strerror or error})"
    return ""


def _make_private(folder: Path) -> None:
    """Create the folder and its missing parents for this user alone, whatever the umask."""
    if not folder.is_dir():
        if folder.parent != folder:
            _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


# ---- trust -------------------------------------------------------------------------------------------------


def tightened(folder: Path) -> str:
    """Return the reason why the folder can't be trusted, or "".

    If the folder is ours but others may write to it, their permission is removed first.
    """
    if not POSIX:
        return ""
    try:
        info = os.lstat(folder)
        if info.st_uid == os.getuid() and stat.S_ISDIR(info.st_mode) and _loose(info):
            os.chmod(folder, 0o700)
            complain_once(f"others could write to {folder}; now only you can (mode 700)")
    except OSError as error:
        return f"can't be examined ({error.strerror})"
    return distrust(folder)


def distrust(path: str | os.PathLike[str]) -> str:
    """Return who else could have put the file or folder at `path` there, or "" if nobody could."""
    if not POSIX:
        return ""
    name = os.path.abspath(path)
    real = os.path.realpath(name)
    for start in dict.fromkeys((name, real)):  # a link can be trusted only if the folder that holds it can
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
    if stat.S_ISLNK(info.st_mode):  # a link's own mode means nothing
        return ""
    if _loose(info) and not (is_parent and info.st_mode & stat.S_ISVTX):
        return f"may be written by others (mode {stat.S_IMODE(info.st_mode):o})"
    return ""


def _loose(info: os.stat_result) -> bool:
    """Return whether anybody but the owner may write: everybody, or a group with other members."""
    if info.st_mode & 0o002:
        return True
    return bool(info.st_mode & 0o020) and not _private_group(info.st_gid)


@functools.cache
def _private_group(gid: int) -> bool:
    """Return whether a group is root's or has only this user, like those that Debian and Fedora create."""
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
    """Return the content of a file in a trusted folder; None if it is missing or could be another user's.

    A file in the installed package is trusted like the package's code.
    """
    ours = path.resolve().is_relative_to(PACKAGE)
    flags = [getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY", "O_NONBLOCK")]  # no waiting for pipes
    try:
        handle = os.open(path, os.O_RDONLY | sum(flags))
    except OSError:
        return None
    try:
        info = os.fstat(handle)  # of the open file, because another may have its name by now
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


# ---- the fallback ------------------------------------------------------------------------------------------

_fallback: Path | None = None


def _temporary_cache(wanted: Path, problem: str) -> Path:
    """Return a private folder for this user under the temporary folder; say so once."""
    global _fallback
    if _fallback is None or not _fallback.is_dir():
        try:
            user = str(os.getuid()) if POSIX else getpass.getuser()
        except (OSError, KeyError, ImportError):
            user = "user"
        _fallback = _private(Path(tempfile.gettempdir()) / f"llmlite-{user}")
    todo = "choose" if os.environ.get("LLMLITE_CACHE") else "set LLMLITE_CACHE to"
    complain_once(f"{_named(wanted)}: the folder {problem}; using {_fallback} ({todo} another folder)")
    return _fallback


def _private(folder: Path) -> Path:
    """Return the folder if it is ours alone, else a new one.

    Raises:
        LlmliteError: no folder can be made, or other users could replace the new one.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if not folder.is_symlink() and not _unwritable(folder) and not distrust(folder):
            return folder
    except OSError:
        pass  # another user's file has the name
    try:
        folder = Path(tempfile.mkdtemp(prefix="llmlite-"))
    except OSError as error:
        raise LlmliteError(f"no folder for the cache can be created: {error}") from None
    problem = distrust(folder)
    if problem:
        raise LlmliteError(f"{folder}: {problem}; set LLMLITE_CACHE to a folder of your own")
    return folder
