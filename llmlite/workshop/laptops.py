"""Sum up this machine in a code, and show the codes of a room as a table."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmlite import resources
from llmlite._version import __version__
from llmlite.errors import LlmliteError
from llmlite.workshop import codes
from llmlite.workshop.codes import MachineSummary

if TYPE_CHECKING:
    from llmlite.bench.checks import CheckResult

CODE = re.compile(r"(?:^|(?<=[\s,;:|]))LL\d-?[0-9A-Z]{2}[0-9A-Z-]{6,}", re.IGNORECASE)
MOST = 1000  # the most lines of a file of codes
NAME = 24  # the most characters of a name that are shown
SYSTEMS = {"Linux": "Linux", "Windows": "Windows", "Darwin": "macOS"}
MACHINES = {"x86_64": "x86-64", "AMD64": "x86-64", "arm64": "arm64", "aarch64": "arm64"}


def summary(findings: Iterable[CheckResult]) -> MachineSummary:
    """Return the summary of this machine: the findings, its memory, disk and threads."""
    from llmlite.bench import environment
    from llmlite.engine import cpu

    numbers = [int(part) for part in re.findall(r"\d+", __version__)[:3]]
    free = shutil.disk_usage(resources.cache_dir()).free
    return MachineSummary(
        system=SYSTEMS.get(platform.system(), "other"),
        machine=MACHINES.get(platform.machine(), "other"),
        python=sys.version_info.minor,
        version=(*numbers, 0, 0, 0)[:3],  # type: ignore[arg-type]
        memory=(environment.available_memory() or 0) / 1e9,
        disk=int(free / 1e9),
        threads=cpu.usable_threads(),
        verdicts={finding.topic: finding.verdict for finding in findings},
    )


@dataclass(frozen=True, kw_only=True)
class Laptop:
    """Hold a decoded code.

    Attributes:
        name: the text before the code; "" if there is none.
        summary: the decoded fields.
    """

    name: str
    summary: MachineSummary


def read(lines: Iterable[str], where: str = "") -> tuple[list[Laptop], list[str]]:
    """Return the laptops of lines such as "Ada: LL1-…", and a sentence for each line without a valid code.

    Empty lines and lines that begin with "#" are skipped. A code may be anywhere in its line.

    Raises:
        LlmliteError: more than 1000 lines.
    """
    found, refused = [], []
    for number, line in enumerate(lines, 1):
        if number > MOST:
            raise LlmliteError(f"{where or 'codes'}: more than {MOST} lines; is this a file of codes?")
        text = line.strip().lstrip("\ufeff")
        if not text or text.startswith("#"):
            continue
        at = f"{where}, line {number}: " if where else ""
        match = CODE.search(text)
        if match is None:
            refused.append(f"{at}no code in {text[:60]!r}; a code begins with {codes.PREFIX}-")
            continue
        try:
            laptop = codes.decode(match[0])
        except LlmliteError as error:
            refused.append(f"{at}{error}")
            continue
        found.append(Laptop(name=text[: match.start()].strip(" \t,;:|<>\"'"), summary=laptop))
    return found, refused


HEADINGS = ("who", "system", "Python", "llmlite", "memory", "threads", "disk", "wrong", "could be better")


def rows(laptops: Sequence[Laptop]) -> list[list[str]]:
    """Return a table: the headings, then a row for each laptop. Laptops with a problem come first."""
    table = [list(HEADINGS)]
    order = sorted(range(len(laptops)), key=lambda i: (not laptops[i].summary.wrong, i))
    for i in order:
        s = laptops[i].summary
        memory = "unknown" if not s.memory else f"{s.memory:g} GB{' or more' if s.memory == 63.75 else ''}"
        name = laptops[i].name or f"({i + 1})"
        table.append(
            [
                name if len(name) <= NAME else name[: NAME - 1] + "…",
                f"{s.system} {s.machine}",
                f"3.{s.python}",
                ".".join(map(str, s.version)),
                memory,
                str(s.threads),
                f"{s.disk} GB{' or more' if s.disk == 255 else ''}",
                ", ".join(s.wrong) or "-",
                ", ".join(s.lacking) or "-",
            ]
        )
    return table


def conclusion(laptops: Sequence[Laptop], n_refused: int) -> str:
    """Return the preparations that the codes suggest, in a line or two."""
    wrong = Counter(topic for laptop in laptops for topic in laptop.summary.wrong)
    n_wrong = sum(bool(laptop.summary.wrong) for laptop in laptops)
    text = f"{len(laptops)} decoded, {len(laptops) - n_wrong} ready, {n_wrong} with something wrong"
    if wrong:
        text += ": " + ", ".join(f"{topic} ({n})" for topic, n in wrong.most_common())
    systems = Counter(
        f"{x.summary.system.lower()} with Python 3.{x.summary.python}" for x in laptops
    ).most_common()
    if systems:
        text += "\nthe stick needs: " + ", ".join(f"{name} ({n})" for name, n in systems)
    if n_refused:
        text += f"\n{n_refused} refused: ask for these codes again"
    return text
