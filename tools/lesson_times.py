"""Time all cells of each lesson on this machine; leave the copies alone.

    python tools/lesson_times.py              all lessons
    python tools/lesson_times.py 08 09        only lessons with these prefixes
    python tools/lesson_times.py --write      put the times into notebooks/README.md

Each lesson runs twice in fresh kernels, and the shorter time counts: the first run may compile. The exit code
is 1 if a lesson takes longer than 20 seconds. Use a quiet machine.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import lessons
from tools.calls import LessonError

README = lessons.NOTEBOOKS / "README.md"
LIMIT = 20.0  # seconds, warm, on two cores
TABLE = re.compile(r"^\| 00 \|.*\n\|[ |-]+\|\n\|.*\|$", re.M)


def seconds_of(source: Path, runs: int = 2) -> float:
    """Run a lesson with its solutions `runs` times; return the seconds of the shortest run."""
    found = []
    for _ in range(runs):
        found.append(lessons.execute(lessons.instructor(lessons.load(source)), lessons.NOTEBOOKS))
    return min(found)


def table(times: Mapping[str, float]) -> str:
    """Return the times as a Markdown table, by number of the lesson."""
    rows = [list(times), ["---"] * len(times), [f"{seconds:.1f}" for seconds in times.values()]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def replaced(text: str, times: Mapping[str, float]) -> str:
    """Return the README's text with a new table of times.

    Raises:
        ValueError: the text has no such table, or more than one.
    """
    if len(TABLE.findall(text)) != 1:
        raise ValueError(f"{README}: expected one table of times, which begins with | 00 |")
    return TABLE.sub(lambda _: table(times), text)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginnings of lessons' names")
    parser.add_argument("--write", action="store_true", help="put the times into notebooks/README.md")
    options = parser.parse_args()
    if options.write and options.names:
        parser.error("--write needs the times of all lessons: give no NAME")
    try:
        chosen = lessons.sources(options.names)
    except LessonError as error:
        parser.error(str(error))
    times = {}
    for source in chosen:
        number = source.stem.partition("_")[0]
        times[number] = seconds_of(source)
        print(f"{source.stem}: {times[number]:.1f} s", flush=True)
    print(table(times))
    if options.write:
        README.write_text(replaced(README.read_text(encoding="utf-8"), times), encoding="utf-8")
    slow = [number for number, seconds in times.items() if seconds > LIMIT]
    if slow:
        print(f"longer than {LIMIT:g} s: {', '.join(slow)}", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
