"""Find the model files of other programs: Hugging Face, llama.cpp, LM Studio, ollama.

Only file names are read here, and ollama's manifests. An entry that is malformed or can't be read is ignored,
because the folders belong to other programs. Sources of the places and layouts: huggingface_hub's
constants.py, llama.cpp's common.cpp (`fs_get_cache_directory`), LM Studio's and ollama's documentation.
"""

from __future__ import annotations

import difflib
import errno
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlite.errors import LlmliteError, MissingFileError

REPOSITORY = re.compile(r"(?P<owner>[\w][\w.-]*)/(?P<repo>[\w][\w.-]*)(?::(?P<file>.+))?", re.ASCII)
DIGEST = re.compile(r"sha256:(?P<hex>[0-9a-f]{64})")
OLLAMA_MODEL = "application/vnd.ollama.image.model"
OLLAMA_LICENCE = "application/vnd.ollama.image.license"
OLLAMA_HOST, OLLAMA_NAMESPACE = "registry.ollama.ai", "library"  # omitted in a name
MAX_MANIFEST = 1_000_000  # bytes; real ones have about a thousand
MAX_DEPTH = 4  # levels below a program's own folder: owner, repository, revision, folder in the repository
PREFIXES = {"llamacpp": "llama.cpp", "lmstudio": "LM Studio", "ollama": "ollama"}


@dataclass(frozen=True, kw_only=True)
class Found:
    """A model file of another program.

    Attributes:
        name: the name to give to `load`.
        owner: the program.
        path: the file.
        licence: the licence, if the program has it; else "".
    """

    name: str
    owner: str
    path: Path
    licence: str = ""


def everything() -> list[Found]:
    """Return every model file in the folders of the known programs, sorted by program and name."""
    return [*hugging_face(), *llama_cpp(), *lm_studio(), *ollama()]


def find(name: str) -> Path:
    """Return the file of a name such as OWNER/REPO, OWNER/REPO:FILE, ollama:NAME:TAG or lmstudio:FILE.

    Raises:
        LlmliteError: there is no such model, or there are several. The error says what to do.
    """
    prefix = name.partition(":")[0]
    if prefix in PREFIXES:
        return _find_foreign(name, prefix)
    match = REPOSITORY.fullmatch(name)
    if match is None:
        raise MissingFileError(errno.ENOENT, "no such file, and not the name of a model", name)
    own = [found for found in hugging_face() if found.name.startswith(f"{match['owner']}/{match['repo']}:")]
    names = [found.name.partition(":")[2] for found in own]
    chosen = choose(names, match["file"])
    if len(chosen) == 1:
        return own[names.index(chosen[0])].path
    if chosen:
        raise LlmliteError(f"{name}: say which file: {listed(chosen)}")
    there = f" (files of that repository on this machine: {listed(names)})" if names else ""
    raise LlmliteError(f"{name}: the model is not here yet; `llmlite pull {name}` downloads it{there}")


def _find_foreign(name: str, prefix: str) -> Path:
    there = {"llamacpp": llama_cpp, "lmstudio": lm_studio, "ollama": ollama}[prefix]()
    wanted = {name, f"{name}:latest"}
    for found in there:
        if found.name in wanted:
            return found.path
    near = difflib.get_close_matches(name, [found.name for found in there], n=3)
    hint = f"; did you mean {listed(near)}?" if near else "; `llmlite models` lists all models"
    raise LlmliteError(f"{name}: {PREFIXES[prefix]} has no model of that name on this machine{hint}")


def choose(names: list[str], wanted: str | None) -> list[str]:
    """Return the files that match: all of them for None, else the file of that name or those of that type.

    Args:
        names: the names of files.
        wanted: a file's name, a type such as "Q4_K_M", or None.
    """
    if wanted is None or wanted in names:
        return list(names) if wanted is None else [wanted]
    of_type = re.compile(rf"(^|[^a-z0-9]){re.escape(wanted.lower())}([^a-z0-9_]|$)")
    return [name for name in names if of_type.search(name.lower().removesuffix(".gguf"))]


def listed(names: list[str], most: int = 12) -> str:
    """Return names separated by commas, `most` at most, without a terminal's control characters."""
    from llmlite.gguf.parse import shown

    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more


def is_model(name: str) -> bool:
    """Return whether a file name is that of a model, or of the first file of a split one."""
    base = name.rpartition("/")[2]
    if not base.endswith(".gguf") or base.lower().startswith("mmproj"):
        return False  # a vision tower alone isn't a model
    from llmlite.gguf.reading import NAME as SHARD  # brings NumPy

    shard = SHARD.fullmatch(base)
    return shard is None or int(shard["number"]) == 1


# --- one function for each program ------------------------------------------------------------


def hub_folder() -> Path:
    """Return the folder of huggingface_hub's downloads."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return _expanded(os.environ[variable])
    home = os.environ.get("HF_HOME")
    base = (
        _expanded(home) if home else _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    )
    return base / "hub"


def hugging_face() -> list[Found]:
    """Return the GGUF files in huggingface_hub's cache. Of several revisions, the newest counts."""
    found: dict[str, Found] = {}
    for repository in _folders(hub_folder()):
        parts = repository.name.split("--")
        if parts[0] != "models" or len(parts) < 3:
            continue
        owner, repo = parts[1], "--".join(parts[2:])
        for revision in sorted(_folders(repository / "snapshots"), key=_modified):
            for path in _files(revision):
                name = f"{owner}/{repo}:{path.relative_to(revision).as_posix()}"
                found[name] = Found(name=name, owner="Hugging Face", path=path)
    return [found[name] for name in sorted(found)]


def llama_cpp() -> list[Found]:
    """Return the GGUF files in llama.cpp's cache."""
    chosen = os.environ.get("LLAMA_CACHE")
    if chosen:
        folder = _expanded(chosen)
    elif sys.platform == "darwin":
        folder = _expanded("~/Library/Caches") / "llama.cpp"
    elif sys.platform == "win32":
        folder = _expanded(os.environ.get("LOCALAPPDATA") or "~/AppData/Local") / "llama.cpp"
    else:
        folder = _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "llama.cpp"
    return _in("llamacpp", folder)


def lm_studio() -> list[Found]:
    """Return the GGUF files in LM Studio's folder, or in the folder of its older versions."""
    home = _expanded("~/.lmstudio")
    text = _text(_expanded("~/.lmstudio-home-pointer"))
    if text and text.strip():
        home = _expanded(text.strip())
    settings = _json(home / "settings.json")
    chosen = settings.get("downloadsFolder") if isinstance(settings, dict) else None
    today = _expanded(chosen) if isinstance(chosen, str) and chosen else home / "models"
    older = _expanded("~/.cache/lm-studio/models")
    return _in("lmstudio", today) or _in("lmstudio", older)


def ollama() -> list[Found]:
    """Return ollama's models. A manifest identifies the file of the weights by its hash."""
    chosen = os.environ.get("OLLAMA_MODELS")
    folders = [_expanded(chosen)] if chosen else [_expanded("~/.ollama/models")]
    if not chosen and sys.platform.startswith("linux"):
        folders.append(Path("/usr/share/ollama/.ollama/models"))  # the service's own home
    found: dict[str, Found] = {}
    for folder in folders:
        for path in _walk(folder / "manifests", MAX_DEPTH):
            model = _from_manifest(folder, path)
            if model is not None:
                found.setdefault(model.name, model)
    return [found[name] for name in sorted(found)]


def _from_manifest(folder: Path, path: Path) -> Found | None:
    """Return the model of one manifest, MANIFESTS/HOST/NAMESPACE/MODEL/TAG, or None if it has no weights."""
    parts = path.relative_to(folder / "manifests").parts
    manifest = _json(path)
    if len(parts) != 4 or not isinstance(manifest, dict):
        return None
    host, namespace, model, tag = parts
    name = f"{model}:{tag}"
    if (host, namespace) != (OLLAMA_HOST, OLLAMA_NAMESPACE):
        name = f"{namespace}/{name}" if host == OLLAMA_HOST else f"{host}/{namespace}/{name}"
    weights = _blob(folder, manifest, OLLAMA_MODEL)
    if weights is None:
        return None
    terms = _blob(folder, manifest, OLLAMA_LICENCE)
    first = "" if terms is None else next((line for line in _lines(terms) if line), "")
    return Found(name=f"ollama:{name}", owner="ollama", path=weights, licence=first)


def _blob(folder: Path, manifest: dict[str, Any], media_type: str) -> Path | None:
    layers = manifest.get("layers")
    for layer in layers if isinstance(layers, list) else []:
        if isinstance(layer, dict) and layer.get("mediaType") == media_type:
            digest = DIGEST.fullmatch(str(layer.get("digest")))
            path = folder / "blobs" / f"sha256-{digest['hex']}" if digest else None
            if path is not None and _is_file(path):
                return path
    return None


# --- reading the folders ----------------------------------------------------------------------


def _in(prefix: str, folder: Path) -> list[Found]:
    paths = sorted(_files(folder))
    return [
        Found(name=f"{prefix}:{path.relative_to(folder).as_posix()}", owner=PREFIXES[prefix], path=path)
        for path in paths
    ]


def _expanded(text: str) -> Path:
    """Return a path with ~ and variables replaced. Without a home folder, the ~ is kept."""
    return Path(os.path.expanduser(os.path.expandvars(text)))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in _walk(folder, MAX_DEPTH) if is_model(path.name) and _is_file(path))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the files at most `depth` levels down. Links to folders aren't followed: they may form a ring."""
    base = len(folder.parts)
    for parent, folders, names in os.walk(folder):
        if len(Path(parent).parts) - base >= depth:
            folders.clear()
        for name in names:
            yield Path(parent) / name


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _text(path: Path) -> str | None:
    """Return the beginning of a small text file, or None."""
    try:
        if not path.is_file():  # opening a pipe would wait for a writer
            return None
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_MANIFEST)
    except OSError:
        return None


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in (_text(path) or "").splitlines()]


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path) or "null")
    except (ValueError, RecursionError):
        return None
