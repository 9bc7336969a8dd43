"""Raise an error if a model file is cut off while it is mapped, instead of losing the process.

Reading a page of a mapping that its file no longer has raises SIGBUS. The handler installed here checks
whether the address is in a mapping that it watches. If so, it maps zeros over the rest of the mapping, notes
where they begin and returns. The kernel (or NumPy) then finishes on zeros, and `check` raises. Any other
SIGBUS goes to the previous handler.

`enter` notes each mapping when it is made. The handler is compiled machine code (a few lines of LLVM IR that
hold the table's address). Compiling takes 0.15 s if llvmlite isn't imported yet. So `arm` installs it only
before weights are read: reading a file's metadata doesn't pay for it. Linux only.
"""

from __future__ import annotations

import ctypes
import mmap
import signal
import sys
import threading
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from llmlite.errors import GGUFError
from llmlite.system.limits import require_llvm
from llmlite.system.locks import fork_safe
from llmlite.terminal import complain_once

SUPPORTED = sys.platform.startswith("linux") and ctypes.sizeof(ctypes.c_void_p) == 8
CAPACITY = 4096  # the most mappings watched at a time
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
look:                                                           ; a row: low, high, where zeros begin
  %offset = mul i64 %i, 24
  %row = add i64 %offset, {rows}
  %low_at = inttoptr i64 %row to ptr
  %high_at = getelementptr i64, ptr %low_at, i64 1
  %lost_at = getelementptr i64, ptr %low_at, i64 2
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
  store i64 %page, ptr %lost_at
  store i64 1, ptr inttoptr (i64 {hit} to ptr)
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
    """Lay out struct sigaction as glibc and musl do."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class _Table:
    """Hold the memory that the handler reads: the previous handler, a flag for a hit, a row per mapping.

    A row is (low, high, lost): the mapping's first address, the address after its last page, and the first
    address at which zeros replace lost bytes; 0 if none are lost.
    """

    def __init__(self) -> None:
        self.words = np.zeros(8 + 3 * CAPACITY, np.int64)  # never freed
        self.rows = self.words[8:].reshape(CAPACITY, 3)
        self.paths: dict[int, str] = {}  # row in use -> path of its file
        self.lock = fork_safe(threading.RLock())  # a mapping may be collected, and leave, while one enters

    def enter(self, low: int, high: int, path: str) -> int | None:
        """Watch a range of addresses; return its row, or None if the table is full."""
        with self.lock:
            row = next((row for row in range(CAPACITY) if row not in self.paths), None)
            if row is not None:
                self.paths[row] = path
                self.rows[row] = low, low, 0  # empty until both ends are right
                self.rows[row, 1] = high
            return row

    def leave(self, row: int) -> None:
        with self.lock:
            self.rows[row] = 0
            self.paths.pop(row, None)

    @property
    def hit(self) -> bool:
        """Return whether the handler ever had to map zeros."""
        return bool(self.words[1])


_table = _Table()
_armed: bool | None = None  # None: not tried yet
_alive: list[Any] = []  # keeps the handler's code from being freed
_install_lock = fork_safe(threading.Lock())


def enter(mapped: mmap.mmap, path: str) -> None:
    """Watch a mapping of the file at `path` for as long as it lives."""
    if SUPPORTED:
        low = np.frombuffer(mapped, np.uint8).ctypes.data
        high = low + -(-len(mapped) // mmap.PAGESIZE) * mmap.PAGESIZE
        row = _table.enter(low, high, path)
        if row is not None:
            weakref.finalize(mapped, _table.leave, row)


def arm() -> None:
    """Install the handler once.

    If that fails, a line on standard error says so once, and reading still works.
    """
    global _armed
    if _armed is not None or not SUPPORTED or not _table.paths:
        return
    with _install_lock:
        if _armed is None:
            try:
                _install()
                _armed = True
            except (ImportError, RuntimeError, OSError, AttributeError, MemoryError) as error:
                _armed = False
                complain_once(
                    f"if a model file is cut off while it is read, this process will end: "
                    f"llvmlite can't be used ({type(error).__name__}: {str(error).split('. ')[0][:160]})"
                )


def _install() -> None:
    """Compile the handler and replace the previous one."""
    text = HANDLER.format(
        capacity=CAPACITY,
        rows=_table.rows.ctypes.data,
        hit=_table.words[1:].ctypes.data,
        previous=_table.words.ctypes.data,
        page_mask=-mmap.PAGESIZE,
    )
    address = _compile(text, "llmlite_on_fault")
    libc = ctypes.CDLL(None, use_errno=True)
    action, previous = _Action(address, (ctypes.c_ulong * 16)(), SA_SIGINFO | SA_ONSTACK, None), _Action()
    if libc.sigaction(int(signal.SIGBUS), None, ctypes.byref(previous)):
        raise OSError(ctypes.get_errno(), "sigaction")
    _table.words[0] = previous.handler or 0
    if libc.sigaction(int(signal.SIGBUS), ctypes.byref(action), None):
        raise OSError(ctypes.get_errno(), "sigaction")


def _compile(text: str, symbol: str) -> int:
    """Compile LLVM IR in memory for any CPU of this architecture; return the symbol's address."""
    require_llvm()
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    compiler = llvm.create_lljit_compiler(machine)
    builder = llvm.JITLibraryBuilder().add_ir(text).export_symbol(symbol).add_current_process()
    library = builder.link(compiler, symbol)
    _alive.append((compiler, library))
    return library[symbol]


def check(array: np.ndarray) -> None:
    """Raise if `array` reaches into a part of a mapped file that was missing when something read it.

    Raises:
        GGUFError: names the file. Values read from the array since are worthless.
    """
    if not _table.hit or not array.size:
        return
    low = array.ctypes.data
    high = low + array.nbytes
    for row, path in list(_table.paths.items()):
        first, last, lost = _table.rows[row].tolist()
        if lost and first <= low < last and high > lost:
            raise _cut_off(path)


def _cut_off(path: str) -> GGUFError:
    return GGUFError(
        path or None,
        "the mapped file",
        expected="the bytes it had when it was opened",
        got="a file that has been cut off since",
        hint="load it again",
    )


class Watch:
    """Watch the mappings that hold some arrays, so that they can be checked after each step."""

    def __init__(self, arrays: Iterable[np.ndarray]) -> None:
        arm()
        self._arrays = [array for array in arrays if array.size]

    def check(self) -> None:
        """Raise if a part of a file was missing when something read it.

        Raises:
            GGUFError: names the file. Results computed since are worthless.
        """
        if _table.hit:
            for array in self._arrays:
                check(array)
