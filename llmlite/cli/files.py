"""Helpers of commands that read and write large files: sizes as text, a progress bar, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from llmlite.terminal import printable


def size(n_bytes: int) -> str:
    """Return bytes in the unit that reads best (powers of ten)."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.3g} {unit}"
    return f"{n_bytes} B"


@contextmanager
def bar(what: str) -> Iterator[Callable[..., None]]:
    """Show a progress bar on standard error, after one second.

    Yields:
        A function (bytes done, bytes in total, name of the present part), which moves the bar. The name is
        optional; it is shown without control characters.
    """
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, leave=False, delay=1, desc=what) as shown:

        def advance(done: int, total: int, name: str = "") -> None:
            shown.total = total
            shown.update(done - shown.n)
            if name:
                shown.set_postfix_str(printable(name), refresh=False)

        yield advance


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows, headings first, as lines in columns two spaces apart."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
