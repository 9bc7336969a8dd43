"""Kernels compiled ahead of time in a wheel: their CPUs, and the checks of their bytes before use.

`make wheel` compiles every kernel for each of LEVELS (tools/compile_kernels.py) and puts two files for each
level into `llmlite/_kernels`: all objects in one file, and a manifest with their places and hashes. A
checkout, an editable installation and a source distribution have none, and compile with numba.

A process runs kernels of only one target, because they share layouts that depend on the CPU
(`emit.block_order`). So the level is chosen once: it is the target of all kernels, also of a kernel that must
be compiled because its object is missing or damaged. Nothing here imports numba or llvmlite.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmlite.errors import LlmliteError
from llmlite.terminal import complain_once

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "_kernels"
FORMAT = 1  # of the manifest, and of an object's entry and linking
CHOICE = "LLMLITE_KERNELS"
MACHINES = {"x86": 62, "arm": 183}  # ELF's e_machine
SUPPORTED = sys.platform == "linux" and sys.maxsize > 1 << 32 and sys.byteorder == "little"
LARGEST = 1 << 20  # the maximum bytes of a manifest or an object; a longer one is damaged


@dataclass(frozen=True, kw_only=True)
class Level:
    """A set of CPUs that can run the same objects.

    Attributes:
        name: name of its files.
        architecture: see `cpu.Target`.
        cpu: LLVM's name. It determines the order of instructions, and implies no feature beyond `required`.
        required: all features that a CPU must have, by LLVM's names.
        tuning: more items for LLVM's list of features, which no CPU must have.
    """

    name: str
    architecture: str
    cpu: str
    required: tuple[str, ...]
    tuning: str = ""

    @property
    def features(self) -> str:
        """LLVM's feature string."""
        return ",".join([*(f"+{name}" for name in self.required), *filter(None, [self.tuning])])


# The psABI's levels; https://gitlab.com/x86-psABIs/x86-64-ABI
_V3 = "cx16 sahf popcnt sse3 ssse3 sse4.1 sse4.2 crc32 avx avx2 bmi bmi2 f16c fma lzcnt movbe xsave".split()
_V4 = [*_V3, *"avx512f avx512bw avx512cd avx512dq avx512vl".split()]
_WIDE = "-prefer-256-bit"  # kernels themselves ask for vectors of 512 bits if that is faster


def _x86(name: str, cpu: str, features: list[str], tuning: str = "") -> Level:
    return Level(name=name, architecture="x86", cpu=cpu, required=tuple(features), tuning=tuning)


# The best first
LEVELS = (
    _x86("x86-64-v4-vnni-bf16", "x86-64-v4", [*_V4, "avx512vnni", "avx512vbmi", "avx512bf16"], _WIDE),
    _x86("x86-64-v4-vnni", "x86-64-v4", [*_V4, "avx512vnni"], _WIDE),
    _x86("x86-64-v3-avxvnni", "x86-64-v3", [*_V3, "avxvnni"]),
    _x86("x86-64-v3", "x86-64-v3", _V3),
    Level(
        name="armv8.2-dotprod",
        architecture="arm",
        cpu="generic",
        required=("fp-armv8", "neon", "lse", "dotprod"),
    ),
)


def level_for(architecture: str, enabled: frozenset[str]) -> Level | None:
    """Return the best level with all its features enabled, among the levels whose files are installed.

    Raises:
        LlmliteError: LLMLITE_KERNELS is neither empty nor "compile".
    """
    level, reason = choose(architecture, enabled)
    if reason.startswith("damaged"):
        complain_once(f"the kernels shipped with llmlite are not used: {reason}")
    return level


def choose(architecture: str, enabled: frozenset[str]) -> tuple[Level | None, str]:
    """Return the level, or None and a short reason why there is none; "" if nothing is shipped.

    Raises:
        LlmliteError: LLMLITE_KERNELS is neither empty nor "compile".
    """
    choice = os.environ.get(CHOICE, "")
    if choice not in ("", "compile"):
        raise LlmliteError(f'{CHOICE}: expected "compile", or nothing; got {choice!r}')
    there = [level for level in LEVELS if SUPPORTED and (FOLDER / f"{level.name}.json").is_file()]
    if not there:
        return None, ""
    if choice:
        return None, f"{CHOICE}={choice}"
    for level in there:
        if level.architecture == architecture and enabled.issuperset(level.required):
            damage = _manifest(level)[1]  # then no lower level is used either: numba makes better kernels
            return (None, damage) if damage else (level, "")
    return None, "none of the shipped kernels fits this CPU"


def object_of(level: Level, kernel: str, source: str) -> bytes | None:
    """Return the object of a kernel ("file.name"); if it can't be trusted, report the reason once and return
    None.

    Args:
        source: digest of the kernel's present source text.
    """
    code, reason = _look(level, kernel, source)
    if reason:
        complain_once(f"the kernel {kernel} that is shipped for {level.name} is not used: {reason}")
    return code


def problems(level: Level, sources: Mapping[str, str]) -> list[str]:
    """Return the faults of the shipped objects; sources: digests for `object_of`, by kernel."""
    found = ((kernel, _look(level, kernel, source)[1]) for kernel, source in sources.items())
    return [f"{kernel}: {reason}" for kernel, reason in found if reason]


def _look(level: Level, kernel: str, source: str) -> tuple[bytes | None, str]:
    entry = _manifest(level)[0].get(kernel)
    if entry is None:
        return None, "it isn't in the manifest"
    try:
        if entry["source"] != source:
            return None, "it was made from another source text"
        offset, size = int(entry["offset"]), int(entry["size"])
        if offset < 0 or not 0 <= size <= LARGEST:
            return None, "the manifest gives an impossible place"
        with open(FOLDER / f"{level.name}.bin", "rb") as file:
            file.seek(offset)
            code = file.read(size)
    except OSError as error:
        return None, f"its file can't be read ({error.strerror})"
    except (KeyError, TypeError, ValueError) as error:
        return None, f"its line in the manifest is damaged ({type(error).__name__})"
    if hashlib.sha256(code).hexdigest() != entry.get("sha256"):
        return None, "its SHA-256 isn't the one in the manifest"
    if (
        code[:6] != b"\x7fELF\x02\x01"
        or int.from_bytes(code[18:20], "little") != MACHINES[level.architecture]
    ):
        return None, "it isn't an object of this machine's format"
    return code, ""


@functools.cache
def _manifest(level: Level) -> tuple[dict[str, Any], str]:
    """Return the entries by kernel and ""; or no entries, and the fault of the manifest."""
    path = FOLDER / f"{level.name}.json"
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(LARGEST))
        if found["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {found['format']!r}")
        if (found["cpu"], found["features"]) != (level.cpu, level.features):
            raise ValueError("it is for other features than this version's level")
        return dict(found["kernels"]), ""
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return {}, f"damaged: {path}: {type(error).__name__}: {error}"


def write(folder: pathlib.Path, level: Level, objects: dict[str, tuple[str, bytes]], made_by: str) -> None:
    """Write a level's two files.

    Args:
        objects: kernel -> (digest of its source, object).
        made_by: versions, for the reader; nothing depends on them.
    """
    from llmlite.system import files

    kernels, whole = {}, bytearray()
    for kernel, (source, code) in sorted(objects.items()):
        digest = hashlib.sha256(code).hexdigest()
        kernels[kernel] = {"source": source, "offset": len(whole), "size": len(code), "sha256": digest}
        whole += code
    manifest = {
        "format": FORMAT,
        "cpu": level.cpu,
        "features": level.features,
        "made_by": made_by,
        "kernels": kernels,
    }
    files.write_bytes(folder / f"{level.name}.bin", bytes(whole))
    files.write_bytes(folder / f"{level.name}.json", json.dumps(manifest, indent=0).encode())
