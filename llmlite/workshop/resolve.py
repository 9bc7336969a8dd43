"""Find the wheels that a target needs, with all dependencies, and name every gap.

pip evaluates environment markers for the machine that it runs on, even when it fetches for another one. So
this module follows dependencies itself, with the target's markers, and asks pip for single packages only
(`--no-deps --dry-run --report`). pip talks to the index, so its settings, proxies and certificates apply.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from llmlite.errors import LlmliteError
from llmlite.workshop.target import Target

if TYPE_CHECKING:
    from packaging.requirements import Requirement

MISSING = re.compile(r"No matching distribution found for ([A-Za-z0-9._-]+)")
ROUNDS = 50  # the most rounds of following dependencies; real packages need at most eight
SECONDS = 10  # the longest wait for the size of a file


@dataclass(frozen=True, kw_only=True)
class Found:
    """Describe a wheel that pip would install.

    Attributes:
        name: the normalized name of the package.
        version: the exact version.
        url: the address of the wheel.
        sha256: 64 hex digits; "" if the index gives none.
        requires: the lines of Requires-Dist.
    """

    name: str
    version: str
    url: str
    sha256: str
    requires: tuple[str, ...]

    @property
    def file(self) -> str:
        """Return the wheel's file name."""
        return urllib.parse.unquote(urllib.parse.urlparse(self.url).path.rpartition("/")[2])


@dataclass(kw_only=True)
class Resolution:
    """Hold the wheels of a target, and the gaps.

    Attributes:
        target: the target that the packages are for.
        wheels: name -> wheel.
        gaps: name -> the reason why there is no wheel for this target.
    """

    target: Target
    wheels: dict[str, Found] = field(default_factory=dict)
    gaps: dict[str, str] = field(default_factory=dict)


def normalized(name: str) -> str:
    """Return a package's name in the form in which indexes compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(path: Path | None) -> dict[str, str]:
    """Return name -> version from the lines "name==version" of a constraints file."""
    if path is None:
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line.partition("#")[0].strip()) for line in lines]
    return {normalized(match[1]): match[2] for match in found if match}


def resolve(
    root: str, target: Target, *, find_links: Path, pins: Mapping[str, str] | None = None
) -> Resolution:
    """Return the wheels that a requirement needs on a target.

    Args:
        root: the requirement, such as "llmlite-kit[lab]==0.1.0".
        target: the system and Python that the wheels are for.
        find_links: a folder of wheels to use besides those of the index.
        pins: name -> exact version to take.

    Raises:
        LlmliteError: pip fails for any reason but a missing wheel, or a wheel is a pre-release.
    """
    parse = _packaging("requirements").Requirement
    result = Resolution(target=target)
    wanted: dict[str, tuple[Any, set[str]]] = {}  # name -> (specifiers, extras)
    todo: list[tuple[Requirement, str]] = [(parse(root), "")]
    for _ in range(ROUNDS):
        ask = set()
        for requirement, by in todo:
            name = normalized(requirement.name)
            before, extras = wanted.get(name, (None, set()))
            specifier = requirement.specifier if before is None else before & requirement.specifier
            wanted[name] = specifier, extras | requirement.extras
            held = result.wheels.get(name)
            if name in result.gaps:
                continue
            if held is None or not specifier.contains(held.version, prereleases=True):
                if held is not None and name in (pins or {}):
                    result.gaps[name] = f"{by} needs {specifier}, the pinned version is {held.version}"
                    continue
                ask.add(name)
            elif not requirement.extras <= extras:
                ask.add(name)
        for name in ask & result.wheels.keys():
            del result.wheels[name]
        new = _fetch(ask, wanted, result, find_links, pins or {})
        todo = [pair for name in sorted(new) for pair in _needs(result, name, wanted[name][1])]
        if not todo:
            return result
    raise LlmliteError(f"{target.name}: resolving the dependencies didn't finish in {ROUNDS} rounds")


def _fetch(
    ask: set[str],
    wanted: Mapping[str, tuple[Any, set[str]]],
    result: Resolution,
    find_links: Path,
    pins: Mapping[str, str],
) -> set[str]:
    """Ask pip for these names, record the wheels and the gaps, and return the names found."""
    left = {name: f"{name}=={pins[name]}" if name in pins else f"{name}{wanted[name][0]}" for name in ask}
    while left:
        report, why = _ask_pip(left.values(), result.target, find_links)
        if report is not None:
            break
        match = MISSING.search(why)
        if match is None or normalized(match[1]) not in left:
            raise LlmliteError(f"{result.target.name}: pip failed: {why.strip().splitlines()[-1][:300]}")
        name = normalized(match[1])
        result.gaps[name] = f"no wheel of {left.pop(name)}"
    else:
        return set()
    for item in report["install"]:
        found = _found(item)
        if _packaging("version").Version(found.version).is_prerelease:
            raise LlmliteError(
                f"{result.target.name}: {found.name} {found.version} is a pre-release; a workshop needs "
                "releases: pin an older version in a file of constraints and give it with --constraints"
            )
        result.wheels[found.name] = found
    return set(left)


def _found(item: Mapping[str, Any]) -> Found:
    info, about = item["download_info"], item["metadata"]
    hashes = info.get("archive_info", {}).get("hashes", {})
    return Found(
        name=normalized(about["name"]),
        version=about["version"],
        url=info["url"],
        sha256=hashes.get("sha256", ""),
        requires=tuple(about.get("requires_dist", ())),
    )


def _needs(result: Resolution, name: str, extras: Iterable[str]) -> list[tuple[Any, str]]:
    """Return the requirements of a wheel with these extras on the target, each with the wheel's name."""
    parse = _packaging("requirements").Requirement
    found = []
    for line in result.wheels[name].requires:
        requirement = parse(line)
        marker = requirement.marker
        environments = [result.target.marker_values(extra) for extra in ("", *extras)]
        if marker is None or any(marker.evaluate(values) for values in environments):
            found.append((requirement, name))
    return found


def _ask_pip(
    requirements: Iterable[str], target: Target, find_links: Path
) -> tuple[dict[str, Any] | None, str]:
    """Return pip's report of a dry run and ""; if pip fails, return None and its messages."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [*pip("install"), "--dry-run", "--ignore-installed", "--no-deps", "--only-binary", ":all:"]
        command += ["--target", str(Path(folder) / "t"), "--report", str(report)]
        command += ["--find-links", str(find_links), *target.pip_options(), *sorted(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=quiet())
        if done.returncode == 0:
            return json.loads(report.read_text(encoding="utf-8")), ""
        return None, done.stderr or done.stdout or f"exit code {done.returncode}"


def pip(command: str) -> list[str]:
    """Return the beginning of a pip command line; -P keeps a pip.py in the current folder from running."""
    return [
        sys.executable,
        "-P",
        "-m",
        "pip",
        command,
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]


def quiet() -> dict[str, str]:
    """Return the environment for pip, without this machine's constraints, which don't apply to others."""
    return {**os.environ, "PIP_CONSTRAINT": ""}


def n_bytes(found: Found) -> int | None:
    """Return a wheel's size without fetching it; None if the index doesn't say."""
    parts = urllib.parse.urlparse(found.url)
    try:
        if parts.scheme == "file":
            return os.path.getsize(urllib.request.url2pathname(parts.path))
        request = urllib.request.Request(found.url.partition("#")[0], method="HEAD")
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return int(answer.headers.get("Content-Length") or 0) or None
    except (OSError, ValueError):
        return None


def _packaging(name: str) -> Any:
    """Return a module of `packaging`.

    Raises:
        LlmliteError: `packaging` isn't installed.
    """
    from importlib import import_module

    try:
        return import_module(f"packaging.{name}")
    except ImportError:
        raise LlmliteError(
            f"a bundle needs the package packaging: {Path(sys.executable).name} -m pip install packaging"
        ) from None
