"""Print to a terminal: harmless text, and progress that isn't stored in a notebook.

A model file, its tokens, a results file and even a file's name are untrusted text. On a terminal, control
characters in them could move the cursor, change the window's title or reverse the direction of writing. Then
the screen would show something else than the text. So all such text is printed by `say` or `printable`.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

# Control characters except tab and newline (C0, DEL, C1), the controls of writing direction (Unicode UAX #9),
# line and paragraph separators, interlinear annotations, and lone surrogates, which no encoding has.
HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\u206a-\u206f"
    "\ufff9-\ufffb\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return the text with an escape for each character that could steer a terminal: "\x1b", "\u202e".

    Newlines and tabs are kept. The result is only for display, because it can't be converted back.
    """
    return HARMFUL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def json_text(value: Any, **options: Any) -> str:
    """Return `value` as JSON, with JSON's escapes for characters that could steer a terminal.

    Args:
        value: any value that json.dumps accepts.
        options: options of json.dumps.
    """
    text = json.dumps(value, ensure_ascii=False, **options)
    return HARMFUL.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)


def say(*values: object, end: str = "\n", file: IO[str] | None = None, flush: bool = False) -> None:
    """Print values in `printable` form.

    Args:
        values, end, flush: as for `print`.
        file: the stream; None for standard output.

    Raises:
        OSError: the stream can't be written. The error has "standard output" as the file's name.
    """
    with _named_output():
        print(printable(" ".join(map(str, values))), end=end, file=file, flush=flush)


def say_text(text: str, *, end: str = "", flush: bool = True) -> None:
    """Print a model's text to standard output: in `printable` form on a terminal, else unchanged.

    A program that reads it from a pipe or a file must get the model's own text.
    """
    shown = printable(text) if sys.stdout is not None and sys.stdout.isatty() else text
    with _named_output():
        print(shown, end=end, flush=flush)


def flush_output() -> None:
    """Write the buffer of standard output.

    Raises:
        OSError: the output can't be written. The error names "standard output", as in `say`.
    """
    with _named_output():
        sys.stdout.flush()


@contextmanager
def _named_output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:  # without a name, "no space" would seem to be about another file
        raise type(error)(error.errno, error.strerror, "standard output") from None


class Lossy:
    """A stream for messages. If a message can't be written, it is lost, and the work continues."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def complain(text: str) -> None:
    """Print a line "llmlite: TEXT" to standard error. Errors of that stream are ignored."""
    with suppress(OSError, ValueError):
        say(f"llmlite: {text}", file=sys.stderr, flush=True)


_said: set[str] = set()


def complain_once(text: str) -> None:
    """Do the same as `complain`, but only once for each text in a process."""
    if text not in _said:
        _said.add(text)
        complain(text)


# ---- progress ----------------------------------------------------------------------------------------------


# Callbacks of long work: (done, total), in units that the caller's documentation names; and (done, total,
# name of the next part).
Progress = Callable[[int, int], None]
NamedProgress = Callable[[int, int, str], None]


class ProgressLine:
    """A message about work in progress. Made by `progress`."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._on_terminal = False
        self._shown = False

    @property
    def is_live(self) -> bool:
        """Whether each message replaces the previous one."""
        return _in_notebook() or (sys.stderr is not None and sys.stderr.isatty())

    def show(self, text: str) -> None:
        """Replace the message. Without a terminal or a notebook, only the first one is printed."""
        if _in_notebook():
            self._display({"text/plain": printable(text)})
        elif sys.stderr is None:
            return
        elif sys.stderr.isatty():
            self._on_terminal = True
            with suppress(OSError, ValueError):
                print(f"\r{printable(text):<78}", end="", file=sys.stderr, flush=True)
        elif not self._shown:
            complain(text)
        self._shown = True

    def end(self) -> None:
        """Remove the message from a notebook, or end its line on a terminal."""
        if self._handle is not None:
            self._display({})
        if self._on_terminal:
            with suppress(OSError, ValueError):
                print(file=sys.stderr, flush=True)
        self._handle, self._on_terminal = None, False

    def _display(self, data: dict[str, str]) -> None:
        from IPython.display import DisplayHandle

        if self._handle is None:
            self._handle = DisplayHandle()
            self._handle.display(data, raw=True)
        else:
            self._handle.update(data, raw=True)


@contextmanager
def progress() -> Iterator[ProgressLine]:
    """Show messages about work in progress: on standard error, or in a notebook as a temporary display.

    A notebook stores standard error of its cells, and nbval compares it. So a message there would make the
    stored outputs depend on the state of the cache.
    """
    shown = ProgressLine()
    try:
        yield shown
    finally:
        shown.end()


def _in_notebook() -> bool:
    """Return whether this thread runs a cell of a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    if ipython is None or threading.current_thread() is not threading.main_thread():
        return False
    shell = ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")
