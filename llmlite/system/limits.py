"""What the system grants this process: threads and memory, as far as it can be known beforehand.

Some libraries end the process when they get no memory or no thread: LLVM aborts, OpenBLAS raises SIGINT. So
what they will need is asked for here before they are called.
"""

from __future__ import annotations

import os
import sys

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

MAX_THREADS = 1024  # more than any machine this runs on has cores: a slip of the finger, not a wish
FEW_THREADS = 256  # a limit of threads below this counts as low: it is one for all processes of a user
# Address space in bytes, measured on x86-64 with llvmlite 0.50 and numba 0.68, with a reserve.
LOAD_LLVM = 224 << 20  # to load llvmlite and link objects
LINK = 64 << 20  # to link objects when llvmlite is loaded
COMPILE = 256 << 20  # to load numba and compile


def memory_left() -> int | None:
    """Return how many bytes of address space RLIMIT_AS (ulimit -v) leaves; None if there is no limit."""
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
    """Raise MemoryError if the limit of address space leaves less than `n_bytes` for `what`."""
    left = memory_left()
    if left is not None and left < n_bytes:
        raise MemoryError(
            f"{what} needs {n_bytes / 1e6:.0f} MB of address space, "
            f"the limit (ulimit -v) leaves {left / 1e6:.0f} MB"
        )


def require_llvm() -> None:
    """Raise MemoryError if the limit of address space is too low to load llvmlite and kernels with it."""
    require_memory(LINK if "llvmlite" in sys.modules else LOAD_LLVM, "llvmlite")


def spare_blas() -> None:
    """Let NumPy's BLAS start no threads if few threads or little memory are granted; before NumPy's import.

    OpenBLAS starts one for each core when it is loaded, and raises SIGINT if it can't.
    """
    if resource is None or "numpy" in sys.modules:
        return
    threads = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    few = threads != resource.RLIM_INFINITY and threads < FEW_THREADS
    if few or memory_left() is not None:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
