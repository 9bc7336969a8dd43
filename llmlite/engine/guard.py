"""A model file that shrinks while it is mapped: an error that says so, instead of the death of the process.

Reading a page of a mapping that its file no longer has raises SIGBUS. The handler installed here looks
whether the address lies in a mapping it watches; then it maps zeros over the rest of it, counts the hit and
returns, so that the kernel (or NumPy) finishes on zeros, and `Watch.check` raises. Any other SIGBUS goes to
whoever handled it before.

Linux only; elsewhere `watch` watches nothing. The handler is a few lines of LLVM IR with the table's address
in it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from llmlite.errors import GGUFError

SUPPORTED = sys.platform.startswith("linux") and ctypes.sizeof(ctypes.c_void_p) == 8
CAPACITY = 256  # mappings watched at a time
SA_SIGINFO, SA_ONSTACK = 4, 0x08000000

HANDLER = """
declare i64 @mmap(i64, i64, i32, i32, i32, i64)
declare i64 @signal(i32, i64)

define void @llmlite_on_fault(i32 %signal, ptr %info, ptr %context) {{
entry:
  %place = getelementptr i8, ptr %info, i64 16                  ; siginfo_t.si_addr
  %address = load i64, ptr %place
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %after, %skip ]
  %more = icmp ult i64 %i, {capacity}
  br i1 %more, label %look, label %other
look:                                                           ; a row: low, high, hits
  %offset = mul i64 %i, 24
  %row = add i64 %offset, {rows}
  %low_at = inttoptr i64 %row to ptr
  %high_at = getelementptr i64, ptr %low_at, i64 1
  %hits_at = getelementptr i64, ptr %low_at, i64 2
  %low = load i64, ptr %low_at
  %high = load i64, ptr %high_at
  %above = icmp uge i64 %address, %low
  %below = icmp ult i64 %address, %high
  %inside = and i1 %above, %below
  br i1 %inside, label %zeros, label %skip
skip:
  %after = add i64 %i, 1
  br label %next
zeros:                                                          ; private, fixed, anonymous, readable
  %page = and i64 %address, {page_mask}
  %length = sub i64 %high, %page
  %mapped = call i64 @mmap(i64 %page, i64 %length, i32 1, i32 50, i32 -1, i64 0)
  %hits = load i64, ptr %hits_at
  %more_hits = add i64 %hits, 1
  store i64 %more_hits, ptr %hits_at
  ret void
other:
  %previous = load i64, ptr inttoptr (i64 {previous} to ptr)
  %has = icmp ugt i64 %previous, 1                              ; 0: default, 1: ignore
  br i1 %has, label %chain, label %default
chain:
  %handler = inttoptr i64 %previous to ptr
  call void %handler(i32 %signal, ptr %info, ptr %context)
  ret void
default:                                                        ; the access is repeated, and now it kills
  %ignored = call i64 @signal(i32 %signal, i64 0)
  ret void
}}
"""


class _Action(ctypes.Structure):
    """glibc's and musl's struct sigaction."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class _Table:
    """The memory that the handler reads: the previous handler, then a row for each watched mapping."""

    def __init__(self) -> None:
        self.words = np.zeros(8 + 3 * CAPACITY, np.int64)  # never freed
        self.rows = self.words[8:].reshape(CAPACITY, 3)
        self.lock = threading.Lock()
        self.users = np.zeros(CAPACITY, np.int64)

    def enter(self, low: int, high: int) -> int | None:
        """Watch a range; returns its row, or None when the table is full. A range may be entered several
        times.
        """
        with self.lock:
            same = np.flatnonzero((self.rows[:, 0] == low) & (self.rows[:, 1] == high) & (self.users > 0))
            row = int(same[0]) if same.size else int(np.argmin(self.users))
            if not same.size:
                if self.users[row]:
                    return None
                self.rows[row] = low, low, 0  # empty until both ends are right
                self.rows[row, 1] = high
            self.users[row] += 1
            return row

    def leave(self, row: int) -> None:
        with self.lock:
            self.users[row] -= 1
            if not self.users[row]:
                self.rows[row] = 0


_table: _Table | None = None
_alive: list[Any] = []  # the handler's code
_install_lock = threading.Lock()


def _installed() -> _Table | None:
    """Return the table, with the handler in place; None where that can't be had."""
    global _table
    with _install_lock:
        if _table is None and SUPPORTED:
            table = _Table()
            try:
                _install(table)
            except (RuntimeError, OSError, AttributeError):
                return None
            _table = table
    return _table


def _install(table: _Table) -> None:
    from llmlite.engine.jit import compile_ir

    text = HANDLER.format(
        capacity=CAPACITY,
        rows=table.rows.ctypes.data,
        previous=table.words.ctypes.data,
        page_mask=-mmap.PAGESIZE,
    )
    address, library = compile_ir(text, "llmlite_on_fault")
    _alive.append((table, library))
    libc = ctypes.CDLL(None, use_errno=True)
    action, previous = _Action(address, (ctypes.c_ulong * 16)(), SA_SIGINFO | SA_ONSTACK, None), _Action()
    if libc.sigaction(int(signal.SIGBUS), None, ctypes.byref(previous)):
        raise OSError(ctypes.get_errno(), "sigaction")
    table.words[0] = previous.handler or 0
    if libc.sigaction(int(signal.SIGBUS), ctypes.byref(action), None):
        raise OSError(ctypes.get_errno(), "sigaction")


class Watch:
    """The mappings that some arrays lie in, watched until it is collected."""

    def __init__(self, arrays: Iterable[np.ndarray]) -> None:
        self._rows: list[tuple[int, str]] = []
        table = _installed()
        ranges = {_mapping(array) for array in arrays} - {None} if table is not None else set()
        for low, high in ranges:
            row = table.enter(low, high)
            if row is not None:
                self._rows.append((row, _path_at(low)))
                weakref.finalize(self, table.leave, row)

    def check(self) -> None:
        """Raise if a part of the file was missing when something read it.

        Raises:
            GGUFError: with the file's path. What was computed meanwhile is worthless.
        """
        for row, path in self._rows:
            if _table is not None and _table.rows[row, 2]:
                raise GGUFError(
                    path or None,
                    "the mapped file",
                    expected="the bytes it had when it was opened",
                    got="a file that has been cut off since",
                    hint="load it again",
                )


def _mapping(array: np.ndarray) -> tuple[int, int] | None:
    """The memory map that an array is a view of, as whole pages; None if it is ordinary memory."""
    owner: Any = array
    while isinstance(owner, (np.ndarray, memoryview)):
        below = owner.base if isinstance(owner, np.ndarray) else owner.obj
        if isinstance(below, mmap.mmap):
            whole = np.frombuffer(below, np.uint8)
            low = whole.ctypes.data
            return low, low + -(-whole.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        owner = below
    return None


def _path_at(address: int) -> str:
    """The file mapped at an address, as the system knows it; "" where it doesn't say."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            for line in maps:
                fields = line.rstrip("\n").split(maxsplit=5)
                low, _, high = fields[0].partition("-")
                if int(low, 16) <= address < int(high, 16):
                    return os.fspath(fields[5]) if len(fields) > 5 else ""
    except OSError:
        pass
    return ""
