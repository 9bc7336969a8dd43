"""The operating system that kernels run on: the Python side of `system_calls`.

Compiled code has three forms: for LINUX, for WINDOWS, and for neither (macOS and other POSIX systems). The
names are constants during compilation, and `sys.platform` is part of the key of a cached object.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import time
from typing import Any

from llmlite.errors import LlmliteError

LINUX = sys.platform.startswith("linux")
WINDOWS = sys.platform == "win32"
# kernel32's functions that compiled code calls
KERNEL32 = (
    "SwitchToThread", "QueryPerformanceCounter", "QueryPerformanceFrequency", "WaitForSingleObject",
    "ReleaseSemaphore",
)  # fmt: skip
LARGEST_COUNT = 2**31 - 1


@functools.cache
def kernel32() -> Any:
    """Return Windows' kernel32.dll, which only Windows has."""
    return getattr(ctypes, "WinDLL")("kernel32")  # noqa: B009 - the name exists on Windows only


def kernel32_addresses() -> dict[str, int]:
    """Return the addresses of the functions in KERNEL32, by name."""
    found = {name: ctypes.cast(getattr(kernel32(), name), ctypes.c_void_p).value for name in KERNEL32}
    return {name: address for name, address in found.items() if address is not None}


def make_semaphores(addresses: list[int]) -> None:
    """Make a semaphore at each address, with a count of 0.

    Linux: a `sem_t`. Windows: a handle. Elsewhere nothing, since macOS has no unnamed semaphores.

    Raises:
        LlmliteError: Windows refuses another semaphore.
    """
    if LINUX:
        libc = ctypes.CDLL(None)
        for address in addresses:
            libc.sem_init(ctypes.c_void_p(address), 0, 0)  # fails only for a count too large
    elif WINDOWS:
        create = kernel32().CreateSemaphoreW
        create.restype = ctypes.c_void_p
        create.argtypes = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p)
        for address in addresses:
            handle = create(None, 0, LARGEST_COUNT, None)
            if not handle:
                raise LlmliteError("Windows grants no semaphore; load with n_threads=1")
            ctypes.c_int64.from_address(address).value = handle


def now() -> tuple[int, int]:
    """Return seconds and nanoseconds of the clock that kernels read (`system_calls.write_time`)."""
    if WINDOWS:  # Python's performance counter is QueryPerformanceCounter there
        return divmod(time.perf_counter_ns(), 10**9)
    return divmod(time.clock_gettime_ns(time.CLOCK_MONOTONIC), 10**9)
