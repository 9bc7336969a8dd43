"""Sum up the findings of `llmlite doctor` in a short code, to send by mail or read out over the telephone.

    LL1-08BW-C81C-G4K0-…      encode(summary)
    summary                   decode(text): exactly what was encoded, or LlmliteError

The code is a row of bits in Crockford's base32 (no I, L, O, U; small letters and missing hyphens are fine).
The CRC-16 at its end detects every mistyped letter and every swap of two letters. A code holds no name, path
or address, only the fields of `MachineSummary`. The "1" in "LL1" is the version of this layout.

Sources: Crockford's base32 (https://www.crockford.com/base32.html); CRC-16/XMODEM, as binascii.crc_hqx.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmlite.errors import LlmliteError

PREFIX = "LL1"
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
ALIASES = str.maketrans("OIL", "011")  # letters that people read as 0 and 1
LONGEST = 64  # the most letters of a code; today's codes have 24
GROUP = 4
# Codes of all versions of llmlite list the topics in the same order. Add new topics at the end.
TOPICS = (
    *("Python", "processor", "CPU features", "threads", "memory"),
    *("numpy", "numba", "llvmlite", "regex", "jinja2", "tqdm"),
    *("matplotlib", "jupyterlab", "ipywidgets", "jupyterlab_widgets"),
    *("cache folder", "disk", "bundled data", "compiler", "lessons' kernels"),
    *("torch", "transformers", "llama_cpp"),
    "AMX",
)
VERDICTS = ("ready", "optional", "wrong", "unknown")
SYSTEMS = ("other", "Linux", "Windows", "macOS")
MACHINES = ("other", "x86-64", "arm64")
# The name and number of bits of each field, in order. Two bits for each topic follow.
FIELDS = (
    *(("system", 3), ("machine", 3), ("python", 5), ("major", 5), ("minor", 6), ("patch", 6)),
    *(("memory", 8), ("disk", 8), ("threads", 7), ("n_topics", 6)),
)


@dataclass(frozen=True, kw_only=True)
class MachineSummary:
    """Hold the fields of a code.

    Attributes:
        system: one of SYSTEMS.
        machine: one of MACHINES.
        python: the minor version, such as 12 for "3.12".
        version: the three numbers of llmlite's version.
        memory: gigabytes available, in steps of 0.25, at most 63.75 (which means "or more"); 0 if unknown.
        disk: free gigabytes on the disk of the cache folder, at most 255 (which means "or more").
        threads: number of threads that llmlite uses, at most 127.
        verdicts: topic of `llmlite doctor` -> one of VERDICTS.
    """

    system: str
    machine: str
    python: int
    version: tuple[int, int, int]
    memory: float
    disk: int
    threads: int
    verdicts: Mapping[str, str] = field(default_factory=dict)

    @property
    def wrong(self) -> list[str]:
        """Return the topics that must be fixed."""
        return [topic for topic, verdict in self.verdicts.items() if verdict == "wrong"]

    @property
    def lacking(self) -> list[str]:
        """Return the topics that could be better: llmlite works without them, but a lesson may not."""
        return [topic for topic, verdict in self.verdicts.items() if verdict == "optional"]


def encode(summary: MachineSummary) -> str:
    """Return the code of a summary: "LL1-" and groups of four letters."""
    bits, n_bits = 0, 0

    def put(value: int, width: int) -> None:
        nonlocal bits, n_bits
        bits, n_bits = bits << width | min(max(int(value), 0), (1 << width) - 1), n_bits + width

    major, minor, patch = summary.version
    values: dict[str, Any] = {
        "system": SYSTEMS.index(summary.system),
        "machine": MACHINES.index(summary.machine),
        "python": summary.python,
        "major": major,
        "minor": minor,
        "patch": patch,
        "memory": summary.memory * 4,
        "disk": summary.disk,
        "threads": summary.threads,
        "n_topics": len(TOPICS),
    }
    for name, width in FIELDS:
        put(values[name], width)
    for topic in TOPICS:
        put(VERDICTS.index(summary.verdicts.get(topic, "unknown")), 2)
    put(0, -n_bits % 8)
    data = bits.to_bytes(n_bits // 8, "big")
    data += binascii.crc_hqx(data, 0).to_bytes(2, "big")
    letters = _letters(data)
    return "-".join([PREFIX, *(letters[i : i + GROUP] for i in range(0, len(letters), GROUP))])


def decode(code: str) -> MachineSummary:
    """Return the summary that a code holds.

    Raises:
        LlmliteError: `code` isn't a code, a letter is wrong, or a newer llmlite made it; the text says which.
    """
    shown = code.strip()[:LONGEST]
    text = re.sub(r"[\s-]", "", code.strip().upper()[: 2 * LONGEST])
    if not text.startswith(PREFIX):
        other = re.match(r"LL[2-9]", text)
        why = "a newer llmlite made it: update yours" if other else f"a code begins with {PREFIX}-"
        raise LlmliteError(f"{shown!r}: {why}")
    letters = text[len(PREFIX) :].translate(ALIASES)
    if len(letters) > LONGEST:
        raise LlmliteError(f"{shown!r}: too long for a code; expected at most {LONGEST} letters")
    strange = sorted(set(letters) - set(ALPHABET))
    if strange:
        raise LlmliteError(f"{shown!r}: {strange[0]!r} is not a letter of codes; ask for it to be sent again")
    data = _bytes(letters)
    if data is None or binascii.crc_hqx(data[:-2], 0) != int.from_bytes(data[-2:], "big"):
        raise LlmliteError(
            f"{shown!r}: a letter is wrong or missing (the checksum differs); ask for it again"
        )
    return _fields(data[:-2], shown)


def _fields(data: bytes, shown: str) -> MachineSummary:
    bits, left = int.from_bytes(data, "big"), 8 * len(data)

    def take(width: int) -> int:
        nonlocal left
        left -= width
        if left < 0:
            raise LlmliteError(f"{shown!r}: too short for what it says it holds")
        return bits >> left & (1 << width) - 1

    values = {name: take(width) for name, width in FIELDS}
    if values["n_topics"] > len(TOPICS):
        raise LlmliteError(
            f"{shown!r}: a newer llmlite made it, with more checks than yours knows: update yours"
        )
    if values["system"] >= len(SYSTEMS) or values["machine"] >= len(MACHINES):
        raise LlmliteError(f"{shown!r}: a system or processor that this llmlite doesn't know: update yours")
    verdicts = {topic: VERDICTS[take(2)] for topic in TOPICS[: values["n_topics"]]}
    if left >= 8 or bits & (1 << left) - 1:
        raise LlmliteError(f"{shown!r}: it holds more than its fields; no llmlite made it")
    return MachineSummary(
        system=SYSTEMS[values["system"]],
        machine=MACHINES[values["machine"]],
        python=values["python"],
        version=(values["major"], values["minor"], values["patch"]),
        memory=values["memory"] / 4,
        disk=values["disk"],
        threads=values["threads"],
        verdicts=verdicts,
    )


def _letters(data: bytes) -> str:
    """Return bytes as base32, padded on the right with zero bits to whole letters."""
    n = -(-8 * len(data) // 5)
    value = int.from_bytes(data, "big") << (5 * n - 8 * len(data))
    return "".join(ALPHABET[value >> 5 * (n - 1 - i) & 31] for i in range(n))


def _bytes(letters: str) -> bytes | None:
    """Return the bytes of base32 letters; None if no bytes have this code."""
    n = 5 * len(letters) // 8
    value = 0
    for letter in letters:
        value = value << 5 | ALPHABET.index(letter)
    spare = 5 * len(letters) - 8 * n
    if n < 3 or spare >= 5 or value & (1 << spare) - 1:
        return None
    return (value >> spare).to_bytes(n, "big")
