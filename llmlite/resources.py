"""Find what comes with llmlite, in a checkout and in an installed package, and keep what it makes.

The bundled folders are `data/` and `notebooks/` beside the package in a checkout, and
`llmlite/_bundled/` in a wheel. Quantized siblings of the bundled model are made on first use and
stay in the cache folder, under names that change when the model or the quantizing code changes.
"""

from __future__ import annotations

import errno
import getpass
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmlite.errors import LlmliteError, MissingFileError

PACKAGE = Path(__file__).resolve().parent
BUNDLED_MODELS = {"tales": "tales-f16.gguf"}
CHECKSUMS = "SHA256SUMS"


def _bundled(folder: str) -> Path:
    checkout = PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / folder).is_dir():
        return checkout / folder
    return PACKAGE / "_bundled" / folder


def data_path(name: str = "") -> Path:
    """Return the path of a bundled data file, or of the data folder.

    Raises:
        MissingFileError: the file isn't there (an incomplete installation, or a wrong name).
    """
    path = _bundled("data") / name
    if not path.exists():
        what = f"bundled data is missing; reinstall llmlite-kit, or check the name {name!r}"
        raise MissingFileError(errno.ENOENT, what, str(path))
    return path


def notebooks_path() -> Path:
    """Return the folder of the lessons.

    Raises:
        MissingFileError: the installation carries no notebooks.
    """
    path = _bundled("notebooks")
    if not path.is_dir():
        raise MissingFileError(errno.ENOENT, "the notebooks are missing; reinstall llmlite-kit", str(path))
    return path


# --- the cache folder -------------------------------------------------------------------------


def cache_dir() -> Path:
    """Return the folder for what llmlite makes for later (created, writable).

    `LLMLITE_CACHE` where it is set; else the system's place for caches (`$XDG_CACHE_HOME` or
    `~/.cache`, `~/Library/Caches`, `%LOCALAPPDATA%`); where that can't be written, a private folder
    under the system's temporary one, with a message on stderr.

    Raises:
        LlmliteError: `LLMLITE_CACHE` names a folder that can't be written.
    """
    chosen = os.environ.get("LLMLITE_CACHE")
    if chosen:
        folder = Path(chosen).expanduser()
        problem = _unwritable(folder)
        if problem:
            raise LlmliteError(f"LLMLITE_CACHE={chosen}: the folder can't be written ({problem})")
        return folder
    try:
        folder = _usual_cache()
        problem = _unwritable(folder)
    except RuntimeError as error:  # Path.home() on a system that knows no home
        folder, problem = Path("~"), str(error)
    return _temporary_cache(folder, problem) if problem else folder


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
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".writable-", dir=folder)
        os.close(handle)
        os.unlink(name)
    except OSError as error:
        return error.strerror or str(error)
    return ""


_fallback: Path | None = None


def _temporary_cache(wanted: Path, problem: str) -> Path:
    """Return a private folder for this user under the temporary one; say so once."""
    global _fallback
    if _fallback is None or not _fallback.is_dir():
        try:
            user = str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()
        except (OSError, KeyError, ImportError):
            user = "user"
        _fallback = _private(Path(tempfile.gettempdir()) / f"llmlite-{user}")
        print(
            f"llmlite: {wanted} can't be written ({problem}); using {_fallback} "
            "(LLMLITE_CACHE chooses another folder)",
            file=sys.stderr,
        )
    return _fallback


def _private(folder: Path) -> Path:
    """Return the folder if it is ours alone, else a new one: cached kernels are code that we'll run."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        info = os.lstat(folder)
        ours = not hasattr(os, "getuid") or (info.st_uid == os.getuid() and not info.st_mode & 0o022)
        if ours and not folder.is_symlink() and not _unwritable(folder):
            return folder
    except OSError:
        pass  # somebody else's file has the name
    return Path(tempfile.mkdtemp(prefix="llmlite-"))


# --- models -----------------------------------------------------------------------------------


def model_path(name: str | os.PathLike[str] = "tales") -> Path:
    """Return the file of a model: a path as it is, "tales", or "tales:Q4_0" (made on first use).

    Raises:
        MissingFileError: no such file and no such bundled model.
        UnsupportedError: the type is unknown or can't be quantized to.
    """
    text = os.fspath(name)
    if os.path.exists(text):
        return Path(text)
    model, _, type_name = text.partition(":")
    if model not in BUNDLED_MODELS:
        known = ", ".join(f"{known!r}" for known in BUNDLED_MODELS)
        reason = f"no such file, and no bundled model of that name (there is: {known})"
        raise MissingFileError(errno.ENOENT, reason, text)
    source = data_path(BUNDLED_MODELS[model])
    if type_name.upper() in ("", "F16"):
        return source
    return _quantized(source, model, type_name.upper())


def _quantized(source: Path, model: str, type_name: str) -> Path:
    """Return the quantized sibling in the cache, making it if it isn't there."""
    from llmlite.mixes import canonical  # brings NumPy

    type_name = canonical(type_name)  # Q4_K and Q4_K_M are one file
    folder = cache_dir() / "models"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{model}-{type_name}-{_key(source)}.gguf"
    if not target.exists():
        from tqdm import tqdm

        from llmlite.quantize import plan, quantize_file

        plan(source, type_name)  # raises before anything is announced
        print(f"llmlite: making {target.name} (once)", file=sys.stderr)
        bar = tqdm(
            total=1, desc=type_name, leave=False, delay=1, disable=None, bar_format="{l_bar}{bar}| {postfix}"
        )
        with _replacing(target) as part, bar:

            def advance(done: int, total: int, name: str) -> None:
                bar.set_postfix_str(name, refresh=False)
                bar.update(done / total - bar.n)

            quantize_file(source, part, type_name, progress=advance)
    return target


def _key(source: Path) -> str:
    """Return what the quantized file depends on, as 12 hex digits: the model, and the code that quantizes."""
    digest = hashlib.sha256(sha256(source).encode())
    for code in sorted([*PACKAGE.glob("quants/*.py"), PACKAGE / "mixes.py", PACKAGE / "quantize.py"]):
        digest.update(code.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Yield a name of our own to write; rename it to the target when all went well.

    Two processes may do the same work at once: each writes its own file and the last rename wins,
    over equal bytes. A reader never sees half a file.
    """
    part = target.with_name(f"{target.stem}.{os.getpid()}-{os.urandom(3).hex()}.part")
    try:
        yield part
        try:
            os.replace(part, target)
        except PermissionError:  # Windows: the other process' file is there, and mapped
            if not target.exists():
                raise
    finally:
        part.unlink(missing_ok=True)


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged_data() -> list[str]:
    """Return the bundled files that differ from the list of checksums or are missing, each with the reason.

    Raises:
        LlmliteError: the list itself is missing.
    """
    problems = []
    for line in data_path(CHECKSUMS).read_text(encoding="utf-8").splitlines():
        expected, _, name = line.partition("  ")
        path = _bundled("data") / name
        if not path.is_file():
            problems.append(f"{name}: missing")
        elif sha256(path) != expected:
            problems.append(f"{name}: its bytes differ from the ones shipped")
    return problems
