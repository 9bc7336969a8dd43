"""The systems that a stick is made for: pip's names of their platforms, and what markers mean there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llmlite.errors import LlmliteError

PYTHONS = ("3.11", "3.12", "3.13")
# The oldest glibc first: wheels for a newer one don't run on an older system, so 2.28 (2018) is the limit.
GLIBC = range(5, 29)


@dataclass(frozen=True, kw_only=True)
class System:
    """A kind of laptop.

    Attributes:
        name: what `--for` takes.
        machine: processors that it means.
        platforms: pip's platform tags, the best first.
        markers: values of environment markers there (PEP 508).
    """

    name: str
    machine: str
    platforms: tuple[str, ...]
    markers: dict[str, str]


def _markers(os_name: str, sys_platform: str, platform_system: str, machine: str) -> dict[str, str]:
    return {
        "os_name": os_name,
        "sys_platform": sys_platform,
        "platform_system": platform_system,
        "platform_machine": machine,
        "platform_release": "",
        "platform_version": "",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


SYSTEMS = {
    system.name: system
    for system in (
        System(
            name="linux",
            machine="x86-64, glibc 2.28 or newer",
            platforms=(
                *(f"manylinux_2_{minor}_x86_64" for minor in reversed(GLIBC)),
                *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"),
            ),
            markers=_markers("posix", "linux", "Linux", "x86_64"),
        ),
        System(
            name="windows",
            machine="x86-64",
            platforms=("win_amd64",),
            markers=_markers("nt", "win32", "Windows", "AMD64"),
        ),
        System(
            name="macos",
            machine="Apple silicon, macOS 14 or newer",
            platforms=tuple(
                f"macosx_{version}_0_{arch}"
                for version in (14, 13, 12, 11)
                for arch in ("arm64", "universal2")
            )
            + ("macosx_10_9_universal2",),
            markers=_markers("posix", "darwin", "Darwin", "arm64"),
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A system with a Python.

    Attributes:
        system: what kind of laptop.
        python: as "3.12".
    """

    system: System
    python: str

    @property
    def name(self) -> str:
        """Return "linux-3.12": the name of its list of packages on the stick."""
        return f"{self.system.name}-{self.python}"

    def pip_options(self) -> list[str]:
        """Return the options that make pip choose wheels for this target instead of its own machine."""
        number = self.python.replace(".", "")
        options = ["--implementation", "cp", "--python-version", self.python, "--abi", f"cp{number}"]
        options += ["--abi", "abi3", "--abi", "none"]
        for platform in self.system.platforms:
            options += ["--platform", platform]
        return options

    def marker_values(self, extra: str = "") -> dict[str, str]:
        """Return the environment that a requirement's marker is evaluated in."""
        return self.system.markers | {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "implementation_version": f"{self.python}.0",
            "extra": extra,
        }


def targets(systems: str, pythons: str) -> list[Target]:
    """Return every pair of `--for` and `--python`, each given as names with commas.

    Raises:
        LlmliteError: a name that isn't known.
    """
    chosen = [
        Target(system=SYSTEMS[name], python=python)
        for name in _names("--for", systems, tuple(SYSTEMS))
        for python in _names("--python", pythons, PYTHONS)
    ]
    return chosen


def _names(option: str, text: str, known: tuple[str, ...]) -> Iterator[str]:
    names = [name.strip() for name in re.split(",", text) if name.strip()]
    for name in names:
        if name not in known:
            raise LlmliteError(f"{option}: no {name!r}; there are: {', '.join(known)}")
    if not names:
        raise LlmliteError(f"{option}: expected names with commas between them: {', '.join(known)}")
    yield from dict.fromkeys(names)
