"""Show an answer as text, or as Markdown that is formatted while it arrives.

Control characters of a model's answer are first made harmless (`llmlite.terminal.printable`).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Protocol

from llmlite.terminal import printable, say, say_text

if TYPE_CHECKING:
    from llmlite.generate import Generation

FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


class View(Protocol):
    """A place for answers."""

    def show(self, generation: Generation) -> None:
        """Show the pieces as they arrive, until the generation ends."""
        ...


def make_view(*, plain: bool = False) -> View:
    """Return the best view that standard output and the installed packages allow."""
    on_terminal = sys.stdout.isatty() and os.environ.get("TERM") not in (None, "dumb")
    if on_terminal and not plain:
        with contextlib.suppress(ImportError):
            return MarkdownView()
    return PlainView()


class PlainView:
    """A view that prints pieces as they arrive, then a line end."""

    def show(self, generation: Generation) -> None:
        for piece in generation:
            say_text(piece)
        say(flush=True)


class MarkdownView:
    """A view that formats Markdown with rich.

    A complete paragraph is printed once. The present one is formatted again with each piece. So an answer
    longer than the screen scrolls like any text.
    """

    def __init__(self, console: Any = None) -> None:
        """Prepare the console.

        Raises:
            ImportError: rich isn't installed.
        """
        from rich.console import Console
        from rich.live import Live
        from rich.markdown import Markdown

        self._console = Console(highlight=False, markup=False, emoji=False) if console is None else console
        self._live, self._markdown = Live, Markdown

    def show(self, generation: Generation) -> None:
        blocks = Blocks()
        live = self._live(console=self._console, auto_refresh=False, transient=True)
        with live:
            for piece in generation:
                for block in blocks.add(printable(piece)):
                    self._print(block)
                live.update(self._set(self._last_lines(blocks.rest)), refresh=True)
            live.update("", refresh=True)
        if blocks.rest.strip():
            self._print(blocks.rest)

    def _print(self, block: str) -> None:
        self._console.print(self._set(block))
        self._console.print()

    def _set(self, text: str) -> Any:
        # Without hyperlinks, the address is shown; a link's text could hide it.
        return self._markdown(text, hyperlinks=False)

    def _last_lines(self, text: str) -> str:
        """Return the part of a block that fits on the screen: its end."""
        lines = text.splitlines()
        most = max(1, self._console.height - 4)
        return text if len(lines) <= most else "\n".join(lines[-most:])


class Blocks:
    """Cut Markdown that arrives in pieces at its blank lines, but never inside a fenced block of code.

    Attributes:
        rest: the incomplete block at the end.
    """

    def __init__(self) -> None:
        self.rest = ""

    def add(self, piece: str) -> list[str]:
        """Add a piece, and return the blocks that it completes."""
        self.rest += piece
        done, start, at = [], 0, 0
        fence = ""
        while (end := self.rest.find("\n", at)) >= 0:
            line = self.rest[at:end]
            at = end + 1
            if found := FENCE.match(line):
                if not fence:
                    fence = found[1]
                elif found[1].startswith(fence) and not line.strip().strip(fence[0]):
                    fence = ""
            elif not line.strip() and not fence:
                if self.rest[start:at].strip():
                    done.append(self.rest[start:at].strip("\n"))
                start = at
        self.rest = self.rest[start:]
        return done
