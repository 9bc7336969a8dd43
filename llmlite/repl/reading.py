"""Read a conversation's messages: with prompt_toolkit, with input() and readline, or from a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from llmlite.errors import LlmliteError
from llmlite.repl.commands import ALIASES, COMMANDS
from llmlite.repl.conversation import settable
from llmlite.system import cache

PROMPT, MORE = "> ", "… "
BLOCK = '"""'
KEPT = 1000  # entries of the history
MAX_HISTORY_BYTES = 4 << 20


class Reader(Protocol):
    """A source of messages."""

    interactive: bool

    def read(self) -> str | None:
        """Return the next message, perhaps of several lines; None at the end of the input."""
        ...


def make_reader(*, plain: bool = False) -> Reader:
    """Return the best reader that standard input and the installed packages allow."""
    try:
        interactive = sys.stdin.isatty()
    except (AttributeError, ValueError):
        interactive = False
    if not interactive:
        return LineReader(interactive=False)
    history = History()
    if not plain and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        with contextlib.suppress(ImportError):
            return FullReader(history)
    return LineReader(interactive=True, history=history)


class History:
    """The typed messages, oldest first, in a private file of the cache folder, with a JSON string per line.

    If the file can't be read or written, only the history is lost.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        if path is None:
            with contextlib.suppress(LlmliteError, OSError):
                self.path = cache.cache_dir() / "chat-history.jsonl"
        self.entries = list(self._read())[-KEPT:]
        self._shorten()

    def add(self, text: str) -> None:
        """Append an entry, unless it repeats the last one."""
        if not text.strip() or self.entries[-1:] == [text]:
            return
        self.entries.append(text)
        self._append([text], os.O_APPEND)

    def _append(self, entries: list[str], flag: int) -> None:
        if self.path is None:
            return
        data = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
        with contextlib.suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | flag, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)

    def _read(self) -> Iterator[str]:
        if self.path is None:
            return
        data = b""
        with contextlib.suppress(OSError), open(self.path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_HISTORY_BYTES))
            data = file.read(MAX_HISTORY_BYTES)
        for line in data.splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                entry = json.loads(line)
                if isinstance(entry, str):
                    yield entry

    def _shorten(self) -> None:
        """Reduce the file to the last entries if it is too large."""
        with contextlib.suppress(OSError):
            if self.path is not None and self.path.stat().st_size > MAX_HISTORY_BYTES:
                self._append(self.entries, os.O_TRUNC)


def completions(before: str) -> list[str]:
    """Return the words that can complete a line up to the cursor: commands, and the options of /set."""
    first, space, rest = before.partition(" ")
    if not first.startswith("/"):
        return []
    if not space:
        return sorted(f"/{name}" for name in (*COMMANDS, *ALIASES) if f"/{name}".startswith(first))
    if first == "/set" and " " not in rest:
        return [name for name in settable() if name.startswith(rest)]
    return []


def whole(read: Callable[[str], str | None]) -> str | None:
    r"""Read one message by read(prompt). A line that ends in "\\" goes on; \"\"\" encloses several lines."""
    line = read(PROMPT)
    if line is None:
        return None
    if line.strip().startswith(BLOCK):
        return _block(line.strip()[len(BLOCK) :], read)
    lines = []
    while line is not None and line.endswith("\\"):
        lines.append(line[:-1])
        line = read(MORE)
    return "\n".join([*lines, *([] if line is None else [line])])


def _block(first: str, read: Callable[[str], str | None]) -> str:
    if first.endswith(BLOCK):
        return first[: -len(BLOCK)]
    lines = [first] if first else []
    while (line := read(MORE)) is not None:
        if line.rstrip().endswith(BLOCK):
            last = line.rstrip()[: -len(BLOCK)]
            return "\n".join([*lines, *([last] if last else [])])
        lines.append(line)
    return "\n".join(lines)


class LineReader:
    """A reader by input(): on a terminal with readline's editing, history and completion, or from a pipe."""

    def __init__(self, *, interactive: bool, history: History | None = None) -> None:
        self.interactive = interactive
        self._history = history
        if interactive and history is not None:
            _prepare_readline(history)

    def read(self) -> str | None:
        text = whole(self._line)
        if text is not None and self._history is not None:
            self._history.add(text)
        return text

    def _line(self, prompt: str) -> str | None:
        try:
            return input(prompt if self.interactive else "")
        except EOFError:
            return None


def _prepare_readline(history: History) -> None:
    try:
        import readline
    except ImportError:  # Windows: its terminal edits lines itself
        return
    for entry in history.entries:
        if "\n" not in entry:
            readline.add_history(entry)

    def complete(_word: str, state: int) -> str | None:
        found = completions(readline.get_line_buffer()[: readline.get_endidx()])
        return f"{found[state]} " if state < len(found) else None

    readline.set_completer_delims(" ")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")


class FullReader:
    """A reader by prompt_toolkit: Enter sends, Alt-Enter begins a new line, pasted lines stay together."""

    interactive = True

    def __init__(self, history: History) -> None:
        """Prepare the prompt.

        Raises:
            ImportError: prompt_toolkit isn't installed.
        """
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import Completer, Completion
        from prompt_toolkit.history import InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings

        class Commands(Completer):
            def get_completions(self, document: Any, _event: Any) -> Iterator[Completion]:
                before = document.text_before_cursor
                start = -len(before.rpartition(" ")[2])
                return (Completion(text, start_position=start) for text in completions(before))

        keys = KeyBindings()

        @keys.add("escape", "enter")
        @keys.add("escape", "c-j")
        def _new_line(event: Any) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("enter")
        @keys.add("c-j")  # Enter, if it was pressed before this program read keys
        def _send(event: Any) -> None:
            event.current_buffer.validate_and_handle()

        self._history = history
        self._session: PromptSession[str] = PromptSession(
            history=InMemoryHistory(history.entries),
            completer=Commands(),
            complete_while_typing=False,
            key_bindings=keys,
            multiline=True,
            prompt_continuation=MORE,
        )

    def read(self) -> str | None:
        text = whole(self._line)
        if text is not None:
            self._history.add(text)
        return text

    def _line(self, prompt: str) -> str | None:
        try:
            return self._session.prompt(prompt)
        except EOFError:
            return None
