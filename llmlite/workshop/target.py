"""Describe the systems that a stick can support: pip's names of their platforms, their marker values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llmlite.errors import LlmliteError

PYTHONS = ("3.11", "3.12", "3.13")
# Minor versions, the oldest first. Wheels for a newer glibc don't run on older systems, so 2.28 (2018) is the
# limit.
GLIBC = range(5, 29)


@dataclass(frozen=True, kw_only=True)
class System:
    """Describe a kind of laptop.

    Attributes:
        name: the name for `--for`.
        machine: the processors of such laptops.
        platforms: pip's platform tags, the best first.
        markers: values of the environment markers there (PEP 508).
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
    """Describe a system with a version of Python.

    Attributes:
        system: the kind of laptop.
        python: the version, such as "3.12".
    """

    system: System
    python: str

    @property
    def name(self) -> str:
        """Return a name such as "linux-3.12", which its list of packages has on the stick."""
        return f"{self.system.name}-{self.python}"

    def pip_options(self) -> list[str]:
        """Return the options that make pip choose wheels for this target instead of this machine."""
        number = self.python.replace(".", "")
        options = ["--implementation", "cp", "--python-version", self.python, "--abi", f"cp{number}"]
        options += ["--abi", "abi3", "--abi", "none"]
        for platform in self.system.platforms:
            options += ["--platform", platform]
        return options

    def marker_values(self, extra: str = "") -> dict[str, str]:
        """Return the environment for evaluating a requirement's marker."""
        return self.system.markers | {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "implementation_version": f"{self.python}.0",
            "extra": extra,
        }


def targets(systems: str, pythons: str) -> list[Target]:
    """Return every pair of a system of `--for` and a version of `--python`.

    Args:
        systems: names separated by commas.
        pythons: versions separated by commas.

    Raises:
        LlmliteError: a name is unknown.
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
