"""Check how much memory and how many threads the system grants this process.

Some libraries end the process if they get no memory or no thread: LLVM aborts, OpenBLAS raises SIGINT. So
this module checks the limits before they are called.
"""

from __future__ import annotations

import os
import sys

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

MAX_THREADS = 1024  # more than the cores of any machine in question: a larger number is a typing error
FEW_THREADS = 256  # a lower limit of threads counts as low, because all processes of a user share it
# Bytes of address space, measured on x86-64 with llvmlite 0.50 and numba 0.68, plus a reserve.
LOAD_LLVM = 224 << 20  # to load llvmlite and link objects
LINK = 64 << 20  # to link objects when llvmlite is loaded
COMPILE = 256 << 20  # to load numba and compile


def memory_left() -> int | None:
    """Return the bytes of address space that RLIMIT_AS (ulimit -v) leaves; None if there is no limit."""
    if resource is None:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return None
    return max(0, limit - used)


def require_memory(n_bytes: int, what: str) -> None:
    """Raise MemoryError if the limit of address space leaves fewer than `n_bytes` bytes for `what`."""
    left = memory_left()
    if left is not None and left < n_bytes:
        raise MemoryError(
            f"{what} needs {n_bytes / 1e6:.0f} MB of address space, "
            f"but the limit (ulimit -v) leaves {left / 1e6:.0f} MB"
        )


def require_llvm() -> None:
    """Raise MemoryError if the limit of address space is too low to load llvmlite and kernels with it."""
    require_memory(LINK if "llvmlite" in sys.modules else LOAD_LLVM, "llvmlite")


def spare_blas() -> None:
    """Keep NumPy's BLAS to one thread if threads or memory are limited; call this before importing NumPy.

    When OpenBLAS is loaded, it starts a thread for each core, and raises SIGINT if it can't.
    """
    if resource is None or "numpy" in sys.modules:
        return
    threads = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    few = threads != resource.RLIM_INFINITY and threads < FEW_THREADS
    if few or memory_left() is not None:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
