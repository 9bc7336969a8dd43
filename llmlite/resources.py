"""Find bundled files, in a checkout and in an installed package, and make quantized copies of models.

The bundled folders are `data/` and `notebooks/` beside the package in a checkout, and `llmlite/_bundled/` in
a wheel. Quantized copies of the bundled model, its siblings, are made on first use and cached (see
llmlite.system.cache). Their names change if the model or the quantizing code changes. They also contain a
hash of the file's bytes, which shows damage.
"""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path

from llmlite import catalog
from llmlite.errors import MissingFileError
from llmlite.system.cache import cache_dir, distrust, subfolder
from llmlite.terminal import complain, progress

PACKAGE = Path(__file__).resolve().parent
BUNDLED_MODELS = {"tales": "tales-f16.gguf"}
CHECKSUMS = "SHA256SUMS"
CONTENT_DIGITS = 16  # digits of the hash in a sibling's name
__all__ = ["cache_dir", "damaged_data", "data_path", "model_path", "notebooks_path", "sha256"]


def _bundled(folder: str) -> Path:
    checkout = PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / folder).is_dir():
        return checkout / folder
    return PACKAGE / "_bundled" / folder


def data_path(name: str = "") -> Path:
    """Return the path of a bundled data file, or of the data folder.

    Raises:
        MissingFileError: the file is missing, because the installation is incomplete or the name is wrong.
    """
    path = _bundled("data") / name
    if not path.exists():
        what = f"bundled data is missing; reinstall llmlite-kit, or check the name {name!r}"
        raise MissingFileError(errno.ENOENT, what, str(path))
    return path


def notebooks_path() -> Path:
    """Return the folder of the lessons.

    Raises:
        MissingFileError: the installation has no notebooks.
    """
    path = _bundled("notebooks")
    if not path.is_dir():
        raise MissingFileError(errno.ENOENT, "the notebooks are missing; reinstall llmlite-kit", str(path))
    return path


# --- models -----------------------------------------------------------------------------------


def model_path(name: str | os.PathLike[str] = "tales") -> Path:
    """Return the file of a model.

    Args:
        name: a path, which is returned unchanged; "tales" (bundled) or "smollm2" (pulled), also with a type,
            such as "tales:Q4_0", which is made on first use; or a model of another program:
            "OWNER/REPO:FILE", "ollama:NAME:TAG", and so on.

    Raises:
        MissingFileError: there is no such file or model on this machine.
        LlmliteError: the name fits several files, or the model isn't pulled yet.
        UnsupportedError: the type is unknown, or has no quantizer.
    """
    text = os.fspath(name)
    model, _, type_name = text.partition(":")
    known = model in BUNDLED_MODELS or model in catalog.PACKAGED
    if os.path.exists(text) and not (known and os.path.isdir(text)):
        return Path(text)
    if not known:
        return _found(text)
    if model in BUNDLED_MODELS:
        source, own_type = data_path(BUNDLED_MODELS[model]), "F16"
    else:
        source, own_type = catalog.pulled_path(model, cache_dir()), catalog.PACKAGED[model].type
    if type_name.upper() in ("", own_type):
        return source
    return _quantized(source, model, type_name.upper(), own_type)


def _found(text: str) -> Path:
    """Return another program's file of this name."""
    repository = catalog.REPOSITORY.fullmatch(text)
    is_path = repository and text.endswith(".gguf") and ":" not in text  # folder/model.gguf
    if text.partition(":")[0] in catalog.PREFIXES or (repository and not is_path):
        return catalog.find(text)
    names = ", ".join(f"{name!r}" for name in (*BUNDLED_MODELS, *catalog.PACKAGED))
    reason = f"no such file, and no bundled model or package of that name (there are: {names})"
    raise MissingFileError(errno.ENOENT, reason, text)


def sibling_stem(source: Path, model: str, type_name: str) -> str:
    """Return the beginning of the file name of an up-to-date sibling in a canonical type."""
    return f"{model}-{type_name}-{_key(source)}"


def _quantized(source: Path, model: str, type_name: str, own_type: str) -> Path:
    """Return the quantized sibling in the cache. It is made if it is missing."""
    from llmlite.quantize.mixes import canonical  # brings NumPy

    type_name = canonical(type_name)  # Q4_K and Q4_K_M are one file
    folder = subfolder("models")
    stem = sibling_stem(source, model, type_name)
    return _verified(folder, stem) or _make(source, folder, stem, type_name, own_type)


def _verified(folder: Path, stem: str) -> Path | None:
    """Return the undamaged file of that stem, or None. Remove damaged ones.

    The file name ends in a hash of the content: STEM-HASH.gguf.
    """
    for path in sorted(folder.glob(f"{stem}-*.gguf")):
        problem = distrust(path)
        if not problem:
            if path.is_file() and sha256(path).startswith(path.stem.removeprefix(f"{stem}-")):
                return path
            problem = "is damaged"
        complain(f"{path}: {problem}; it is made again")
        with suppress(OSError):
            path.unlink()
    return None


def _make(source: Path, folder: Path, stem: str, type_name: str, own_type: str) -> Path:
    """Quantize a bundled or pulled model to a file in the folder. Warn if the model is already quantized.

    Two processes may do this at the same time. Each writes its own file with the same bytes; the last rename
    wins.
    """
    from llmlite.quantize import UNQUANTIZED, plan, quantize_file

    again = own_type not in UNQUANTIZED
    plan(source, type_name, requantize=again)  # raises errors before a message is printed
    part = folder / f".{stem}.{os.getpid()}-{os.urandom(4).hex()}.part"  # files.py removes abandoned ones
    if again:
        complain(
            f"the source is already {own_type}: {type_name} adds its own rounding error, and doesn't restore "
            f"the precision that {own_type} has lost"
        )
    try:
        with progress() as shown:

            def advance(done: int, total: int, name: str) -> None:
                percent = f": {done / total:.0%}" if shown.is_live else ""
                shown.show(f"making {stem}.gguf (once){percent}")

            advance(0, 1, "")
            quantize_file(source, part, type_name, requantize=again, progress=advance)
        target = folder / f"{stem}-{sha256(part)[:CONTENT_DIGITS]}.gguf"
        try:
            os.replace(part, target)
        except PermissionError:  # Windows: another process has made the file and mapped it
            if not target.exists():
                raise
    finally:
        part.unlink(missing_ok=True)
    return target


def _key(source: Path) -> str:
    """Return a hash of the model and the quantizing code, which determine the new file: 12 hex digits."""
    digest = hashlib.sha256(sha256(source).encode())
    for code in sorted([*PACKAGE.glob("quants/*.py"), *PACKAGE.glob("quantize/*.py")]):
        digest.update(code.read_bytes())
    return digest.hexdigest()[:12]


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged_data() -> list[str]:
    """Return the bundled files that are missing or differ from the list of checksums, each with the reason.

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
