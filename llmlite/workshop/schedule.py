"""Print the schedules of three workshops from one table: `llmlite workshop schedule`, docs/workshop.md."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmlite.errors import LlmliteError

# The titles of the lessons up to a colon, in the order of the course, and their minutes with exercises.
LESSONS = {
    "Is my machine ready?": 10,
    "Anatomy of a GGUF file": 20,
    "A weight in 4.5 bits": 35,
    "Which quantization should I pick?": 25,
    "One token through the whole model": 35,
    "Attention by hand": 30,
    "Why generation slows down, and the KV cache": 25,
    "Choosing the next token": 20,
    "From NumPy to the memory wall": 30,
    "Measure it honestly": 30,
    "Train in PyTorch, deploy as GGUF": 25,
    "Which tool for which job?": 15,
    "What replaces attention?": 25,
}


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Hold one entry of a schedule.

    Attributes:
        what: a lesson's title (a key of LESSONS), or what happens instead.
        minutes: its length; 0 for a lesson's usual length.
        note: advice on things to say or to leave out.
    """

    what: str
    minutes: int = 0
    note: str = ""

    @property
    def is_lesson(self) -> bool:
        """Return whether the slot is a lesson."""
        return self.what in LESSONS

    @property
    def length(self) -> int:
        """Return the minutes that the slot takes."""
        return self.minutes or LESSONS[self.what]


def lesson(title: str, note: str = "") -> Slot:
    """Return a slot for a lesson."""
    return Slot(what=title, note=note)


def pause(minutes: int, what: str = "Break") -> Slot:
    """Return a slot in which nobody sits at a screen."""
    return Slot(what=what, minutes=minutes)


WELCOME = Slot(
    what="Welcome", minutes=5, note="what everybody will be able to do at the end; who has no laptop"
)
CLOSE = Slot(what="Close", minutes=5, note="one sentence from each table: what surprised you?")
ROUTES: dict[str, tuple[Slot, ...]] = {
    "90-minutes": (
        WELCOME,
        lesson("Is my machine ready?"),
        lesson("Which quantization should I pick?", "exercises 1 and 2"),
        pause(10),
        lesson("Measure it honestly", "start with the shipped comparison; the live one runs meanwhile"),
        Slot(what="Close", minutes=10, note="which tool would you take, and what would you measure first?"),
    ),
    "3-hours": (
        WELCOME,
        lesson("Is my machine ready?"),
        lesson("Anatomy of a GGUF file"),
        lesson("A weight in 4.5 bits", "Q4_K for those who are quick"),
        pause(15),
        lesson("Which quantization should I pick?"),
        Slot(
            what="One token through the whole model",
            minutes=25,
            note="exercises 1 to 3, then the diagram of section 5",
        ),
        pause(10),
        lesson("Measure it honestly"),
        CLOSE,
    ),
    "day": (
        Slot(what="Welcome", minutes=10, note=WELCOME.note),
        lesson("Is my machine ready?"),
        lesson("Anatomy of a GGUF file"),
        lesson("A weight in 4.5 bits"),
        pause(15),
        lesson("Which quantization should I pick?"),
        lesson("One token through the whole model"),
        lesson("Attention by hand"),
        pause(60, "Lunch"),
        lesson("Why generation slows down, and the KV cache"),
        lesson("Choosing the next token"),
        lesson("From NumPy to the memory wall"),
        pause(15),
        lesson("Measure it honestly"),
        lesson("Train in PyTorch, deploy as GGUF"),
        pause(10),
        lesson("Which tool for which job?"),
        lesson("What replaces attention?", "if there is time: nothing after it needs it"),
        Slot(what="Close", minutes=10, note=CLOSE.note),
    ),
}
NAMES = {"90-minutes": "90 minutes", "3-hours": "Three hours", "day": "A day"}
HEADINGS = ("from", "to", "minutes", "what", "note")


def key(title: str) -> str:
    """Return a lesson's title up to a colon, the form that LESSONS has."""
    return title.partition(":")[0].strip()


def shipped(folder: Path) -> set[str]:
    """Return the keys of the lessons in a folder of notebooks, from their first headings."""
    found = set()
    for path in folder.glob("[0-9]*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "".join(cells[0]["source"]) if cells else ""
        heading = re.search(r"^# (.+)$", text, re.MULTILINE)
        if heading:
            found.add(key(heading[1]))
    return found


def minutes_of(clock: str) -> int:
    """Return a time of day such as "09:30" in minutes since midnight.

    Raises:
        LlmliteError: `clock` isn't a time of day.
    """
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", clock)
    if not match:
        raise LlmliteError(f"--start: expected a time of day such as 09:30, got {clock!r}")
    return 60 * int(match[1]) + int(match[2])


def rows(route: str, *, start: str = "09:00", only: set[str] | None = None) -> list[list[str]]:
    """Return a route's table, headings first.

    Args:
        route: a key of ROUTES.
        start: the time at which it begins, such as "09:00".
        only: keys of the lessons to keep; others are left out. None for all.

    Raises:
        LlmliteError: the route is unknown, or `start` isn't a time of day.
    """
    if route not in ROUTES:
        raise LlmliteError(f"no route {route!r}; there are: {', '.join(ROUTES)}")
    at = minutes_of(start)
    table = [list(HEADINGS)]
    for slot in ROUTES[route]:
        if slot.is_lesson and only is not None and slot.what not in only:
            continue
        end = at + slot.length
        table.append([_clock(at), _clock(end), str(slot.length), slot.what, slot.note])
        at = end
    return table


def total(route: str) -> int:
    """Return the length of a route in minutes, breaks included."""
    return sum(slot.length for slot in ROUTES[route])


def _clock(minutes: int) -> str:
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Return rows, headings first, as a table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in table]
    lines.insert(1, "|" + " --- |" * len(table[0]))
    return "\n".join(lines) + "\n"


def everything() -> str:
    """Return all routes in Markdown, for docs/workshop.md."""
    parts = []
    for route, name in NAMES.items():
        hours, minutes = divmod(total(route), 60)
        length = f"{total(route)} minutes" if not hours or total(route) == 90 else f"{hours} h {minutes:02d}"
        parts.append(f"### {name} (`{route}`, {length})\n\n{markdown(rows(route))}")
    return "\n".join(parts)
