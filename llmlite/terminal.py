"""What goes to a terminal: text from files made harmless, and progress that a notebook doesn't keep.

A model file, its tokens, a results file and even a file's name are a stranger's text. On a terminal their
control characters would move the cursor, change the window's title or turn the direction of writing, so that
the screen shows something else than what is there. `say` and `printable` are the only way from such text to
a terminal.
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
    r"""Return the text with each character that could steer a terminal as an escape: "\x1b", "\u202e".

    Newlines and tabs stay. Raw and escaped text can't be told apart afterwards: this is for showing.
    """
    return HARMFUL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def json_text(value: Any, **options: Any) -> str:
    """Return `value` as JSON in which no character can steer a terminal: they are JSON's own escapes.

    options: of json.dumps.
    """
    text = json.dumps(value, ensure_ascii=False, **options)
    return HARMFUL.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)


def say(*values: object, end: str = "\n", file: IO[str] | None = None, flush: bool = False) -> None:
    """Print values, made `printable`; to standard output unless `file` is given.

    Raises:
        OSError: standard output can't be written, with "standard output" as the file's name.
    """
    with _named_output():
        print(printable(" ".join(map(str, values))), end=end, file=file, flush=flush)


def say_text(text: str, *, end: str = "", flush: bool = True) -> None:
    """Print a model's text to standard output: made `printable` for a terminal, as it is for a pipe or file.

    What a program reads must be what the model wrote.
    """
    shown = printable(text) if sys.stdout is not None and sys.stdout.isatty() else text
    with _named_output():
        print(shown, end=end, flush=flush)


def flush_output() -> None:
    """Write out what standard output still holds. Raises OSError as `say`."""
    with _named_output():
        sys.stdout.flush()


@contextmanager
def _named_output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:  # "no space" must not look as if it were about a file
        raise type(error)(error.errno, error.strerror, "standard output") from None


class Lossy:
    """A stream for messages: what can't be written is lost, and the work goes on."""

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
    """As `complain`, but each text once in a process."""
    if text not in _said:
        _said.add(text)
        complain(text)


# ---- progress ----------------------------------------------------------------------------------------------


# What long work calls as it goes on: (done, total), in units that the caller's documentation names; and the
# same with the name of what comes next.
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
        """Whether each message replaces the one before."""
        return _in_notebook() or (sys.stderr is not None and sys.stderr.isatty())

    def show(self, text: str) -> None:
        """Replace the message. Without a terminal or a notebook only the first one is printed."""
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
        """Take the message away from a notebook; end its line on a terminal."""
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
    """Show messages about work in progress: on standard error, or in a notebook as a display that goes away.

    What a notebook's cell writes to standard error stays in the notebook, so its outputs would depend on what
    the cache held (nbval compares them).
    """
    shown = ProgressLine()
    try:
        yield shown
    finally:
        shown.end()


def _in_notebook() -> bool:
    """Whether this thread runs a cell of a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    if ipython is None or threading.current_thread() is not threading.main_thread():
        return False
    shell = ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")
