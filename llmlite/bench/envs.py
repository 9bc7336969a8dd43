"""Separate environments for backends whose packages conflict with others or are very large.

`llmlite bench env create NAME` makes one in the cache folder, with uv if it is installed, otherwise with venv
and pip. The cost of the installation is recorded, because the comparison reports it too: seconds, packages,
bytes, and whether anything was compiled.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llmlite import resources
from llmlite.errors import LlmliteError
from llmlite.system import files

# The packages that llmlite's side of the worker imports, in addition to those of the backend.
ALWAYS = ("numpy>=2.0",)
# Name -> requirements: the same as the extra of that name in pyproject.toml (a test checks this).
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "torch": ("torch>=2.4",),
    "transformers": ("torch>=2.4", "transformers>=4.50", "accelerate>=1.0", "gguf>=0.17"),
    "tensorflow": (
        "tensorflow>=2.16",  # not tensorflow-cpu: Hub's tf-keras requires this one; both use one folder
        "tensorflow-hub>=0.16",
        "tf-keras>=2.16",
        "setuptools<81",  # tensorflow-hub imports pkg_resources, which later versions lack
    ),
    "xllamacpp": ("xllamacpp>=2025.9",),
    "llamacpp": ("llama-cpp-python>=0.3.16",),
    "openvino": ("openvino-genai>=2025.2",),
    "ctranslate2": ("ctranslate2>=4.5",),
    "ort-genai": ("onnxruntime-genai>=0.12", "onnx>=1.18"),
}
CORE = ("numpy", "numba", "regex", "jinja2", "tqdm")  # the packages that llmlite itself requires
RECORD = "installation.json"
COMPILED = ("Building wheel for", "Built ")  # printed by pip and uv if no wheel fits
# Caches of earlier installations aren't used, so that the seconds include downloads and compilation.
FRESH = {"uv": ("--no-cache",), "pip": ("--no-input", "--no-cache-dir")}


@dataclass(frozen=True, kw_only=True)
class Installation:
    """The cost of installing an environment.

    Attributes:
        name: name of the environment.
        requirements: the requirements that were asked for.
        seconds: time of the installer, with downloads but without making the empty environment.
        n_bytes: bytes of the installed files.
        n_packages: number of distributions, numpy included.
        compiled: whether a package came as source code and was built here.
        installer: "uv" or "pip".
        python: version of Python.
    """

    name: str
    requirements: tuple[str, ...]
    seconds: float
    n_bytes: int
    n_packages: int
    compiled: bool
    installer: str
    python: str

    def as_record(self) -> dict[str, Any]:
        return {**asdict(self), "requirements": list(self.requirements)}


def folder(name: str) -> Path:
    """Return the folder of the environment called `name`; it need not exist yet.

    Raises:
        LlmliteError: the name is unknown; the message lists the known names.
    """
    if name not in ENVIRONMENTS:
        raise LlmliteError(f"no environment {name!r}; there are: {', '.join(ENVIRONMENTS)}")
    return resources.cache_dir() / "bench-env" / name


def interpreter(home: Path) -> Path:
    """Return the Python of a virtual environment."""
    return home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def python_with(name: str, modules: str) -> str:
    """Return the interpreter of the environment `name`; "" if that is incomplete or lacks a module.

    Args:
        name: name of the environment.
        modules: names of the required modules, separated by spaces.
    """
    if name not in ENVIRONMENTS:
        return ""
    home = folder(name)
    if not (home / RECORD).is_file():
        return ""
    python = interpreter(home)
    return str(python) if python.exists() and _has(str(python), modules) else ""


@cache
def _has(python: str, modules: str) -> bool:
    names = modules.split()
    code = f"import sys; from importlib.util import find_spec as f; sys.exit(None in map(f, {names!r}))"
    try:
        return subprocess.run([python, "-I", "-c", code], timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def create(name: str, *, again: bool = False) -> Installation:
    """Make the environment called `name` unless it exists, and return its cost.

    Args:
        name: a key of ENVIRONMENTS.
        again: remove an existing environment first and install it again.

    Raises:
        LlmliteError: the name is unknown, or the installer failed; the message has its last lines.
    """
    home = folder(name)
    found = installed(name)
    if found and not again:
        return found
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    requirements = (*ALWAYS, *ENVIRONMENTS[name])
    uv = shutil.which("uv")
    if uv:
        _run([uv, "venv", "--python", sys.executable, str(home)])
        command = [uv, "pip", "install", *FRESH["uv"], "--python", str(interpreter(home)), *requirements]
    else:
        _run([sys.executable, "-m", "venv", str(home)])
        command = [str(interpreter(home)), "-m", "pip", "install", *FRESH["pip"], *requirements]
    before = set(_packages(home))
    begin = time.monotonic()
    said = _run(command)
    seconds = time.monotonic() - begin
    after = _packages(home)
    record = Installation(
        name=name,
        requirements=requirements,
        seconds=round(seconds, 1),
        n_bytes=sum(size for package, size in after.items() if package not in before),
        n_packages=len(after.keys() - before),
        compiled=any(word in said for word in COMPILED),
        installer="uv" if uv else "pip",
        python=sys.version.split()[0],
    )
    files.write_text(home / RECORD, json.dumps(record.as_record()) + "\n")
    _has.cache_clear()
    return record


def installed(name: str) -> Installation | None:
    """Return the recorded cost of an environment; None if it doesn't exist or is incomplete."""
    try:
        found = json.loads((folder(name) / RECORD).read_text(encoding="utf-8"))
        return Installation(**{**found, "requirements": tuple(found["requirements"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remove(name: str) -> bool:
    """Delete the environment called `name`; return False if there was none."""
    home = folder(name)
    if not home.exists():
        return False
    shutil.rmtree(home)
    _has.cache_clear()
    return True


def _run(command: list[str]) -> str:
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=kept)
    except OSError as error:
        raise LlmliteError(f"{command[0]} can't be started: {error.strerror or error}") from error
    if done.returncode:
        last = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()][-3:]
        raise LlmliteError(f"installing failed (exit code {done.returncode}): {' / '.join(last)}")
    return done.stdout + done.stderr


def _packages(home: Path) -> dict[str, int]:
    """Return the distributions installed in an environment and the bytes of each."""
    from importlib.metadata import distributions

    places = [*home.glob("lib/python*/site-packages"), *home.glob("Lib/site-packages")]
    return {
        dist.metadata["Name"].lower(): installed_bytes(dist)
        for dist in distributions(path=[str(place) for place in places])
    }


def installed_bytes(dist: Any) -> int:
    """Return the bytes of a distribution's files by its RECORD; compiled .pyc files aren't counted."""
    total = 0
    for file in dist.files or ():
        if file.suffix == ".pyc":
            continue
        if file.size is not None:
            total += file.size
        else:
            try:
                total += Path(str(dist.locate_file(file))).stat().st_size
            except OSError:
                continue
    return total


def cost(extra: str, *, here: bool = True) -> dict[str, Any]:
    """Return the cost of installing a backend's packages; empty if they aren't installed.

    The keys are `installed_bytes` and `n_packages`. A separate environment also has `install_seconds` and
    `compiled`, which were recorded. For packages in this environment, `compiled` is known only on Linux.

    Args:
        extra: a key of ENVIRONMENTS, or "" for llmlite itself.
        here: look in this environment instead of the separate one.
    """
    if not here:
        found = installed(extra)
        if found is None:
            return {}
        return {
            "installed_bytes": found.n_bytes,
            "n_packages": found.n_packages,
            "install_seconds": found.seconds,
            "compiled": found.compiled,
        }
    names = [_required(line) for line in ENVIRONMENTS[extra]] if extra else ["llmlite-kit"]
    try:
        n_packages, n_bytes = footprint(*names)
    except LlmliteError:
        if extra:
            return {}
        n_packages, n_bytes = footprint(*CORE)  # run from a checkout: the packages it would install
    found_here = {"installed_bytes": n_bytes, "n_packages": n_packages}
    if extra and sys.platform == "linux":
        found_here["compiled"] = any(map(built_here, names))
    return found_here


def built_here(distribution: str) -> bool:
    """Return whether a distribution in this environment was compiled on this machine (Linux).

    Then its wheel has the platform "linux". A package index accepts no such wheels, only those for
    "manylinux" or "musllinux" (PEP 513, 600).
    """
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import distribution as of

    try:
        text = of(distribution).read_text("WHEEL") or ""
    except PackageNotFoundError:
        return False
    tags = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Tag:")]
    return any(tag.rpartition("-")[2].startswith("linux_") for tag in tags)


def footprint(*names: str) -> tuple[int, int]:
    """Return the number of packages and their bytes, for distributions and all that they require.

    Raises:
        LlmliteError: a distribution isn't installed.
    """
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import distribution as of

    seen: dict[str, int] = {}
    asked = list(map(_canonical, names))
    waiting = list(asked)
    while waiting:
        name = _canonical(waiting.pop())
        if name in seen:
            continue
        try:
            dist = of(name)
        except PackageNotFoundError:
            if name in asked:
                raise LlmliteError(f"{name} isn't installed") from None
            continue  # required on another system only, or by an extra
        seen[name] = installed_bytes(dist)
        waiting += [_required(line) for line in dist.requires or () if "extra ==" not in line]
    return len(seen), sum(seen.values())


def _required(line: str) -> str:
    """Return the name at the start of a requirement."""
    import re

    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line.strip())
    return match.group() if match else ""


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
