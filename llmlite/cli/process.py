"""The command line as a process: closed streams, signals, limits of the system."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class EndedBySignal(BaseException):
    """Raised when a signal asks the process to end, so that unfinished files are cleaned up.

    Attributes:
        number: The signal's number.
        code: The exit code, 128 + number.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.code = 128 + number


def open_streams() -> bool:
    """Open the null device for each standard stream that is closed; return whether output was closed.

    Otherwise the next file that is opened would get the stream's number, and a library's messages could be
    written into a model.
    """
    lost = sys.stdout is None
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            lost = lost or number == 1
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # takes the lowest free number
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (until the exit)
    return lost


def discard_output() -> None:
    """Send everything that Python still writes to standard output at its exit to the null device."""
    with suppress(OSError, ValueError):  # a stream without a number of its own, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def ending_by_signal() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into EndedBySignal: unfinished files are removed. A second signal kills.

    Python drops an exception that a signal raises inside a destructor; such a signal is sent again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    raised = False

    def end(number: int, _: object) -> None:
        nonlocal raised
        if raised:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        raised = True
        raise EndedBySignal(number)

    def unraisable(dropped: Any) -> None:
        nonlocal raised
        if isinstance(dropped.exc_value, EndedBySignal):
            raised = False
            signal.raise_signal(dropped.exc_value.number)
        elif isinstance(dropped.exc_value, KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        else:
            hook(dropped)

    changed: dict[int, Any] = {}
    hook = sys.unraisablehook
    sys.unraisablehook = unraisable
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # not ignored, as by nohup
            changed[number] = signal.signal(number, end)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, before in changed.items():
            signal.signal(number, before)


def is_expected(error: BaseException) -> bool:
    """Return whether an error is about the machine or the request, not a fault of llmlite itself."""
    if isinstance(error, RuntimeError):
        return "start new thread" in str(error)  # Python's own words for the system's limit
    return True
