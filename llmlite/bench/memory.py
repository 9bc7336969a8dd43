"""The memory that this process holds, by kind.

A process has two kinds of memory. *File-backed* pages mirror a file on disk. The system can drop them at any
moment and read them again, and processes share them. *Private* (anonymous) pages exist nowhere else, so they
make a machine swap. A memory-mapped model is file-backed, and a dequantized copy of it is private. A single
number for both (RSS) hides the difference.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Bytes that this process holds; a field is None if the system doesn't report it.

    Attributes:
        private: anonymous pages (Pss_Anon on Linux).
        file_backed: mapped file pages in RAM, with shared pages counted in full (RssFile on Linux).
        file_share: this process's share of them (Pss_File on Linux). It gets smaller if another process maps
            the same file, so it is valid only at this moment.
        resident: everything in RAM, with shared pages counted in full (RSS).
        peak: the highest `resident` since the start or the last `reset_peak` (VmHWM on Linux).
        note: the limitations of the numbers on this system; "" if there are none.
    """

    private: int | None
    file_backed: int | None
    resident: int | None
    peak: int | None
    file_share: int | None = None
    note: str = ""

    def as_record(self) -> dict[str, Any]:
        """Return the fields, with the unit in each name."""
        names = {
            "private": "private_bytes",
            "file_backed": "file_bytes",
            "file_share": "file_share_bytes",
            "resident": "resident_bytes",
            "peak": "peak_bytes",
            "note": "memory_note",
        }
        return {names[key]: value for key, value in asdict(self).items()}


def parse_smaps_rollup(text: str) -> dict[str, int]:
    """Return bytes by name from the text of /proc/PID/smaps_rollup or status (lines `Name:   123 kB`)."""
    sizes = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            sizes[name] = int(words[0]) * 1024
    return sizes


def now() -> MemoryUse:
    """Measure the memory of this process."""
    if sys.platform == "linux":
        return _linux()
    if sys.platform == "win32":
        return _windows()
    return _posix()


def of(pid: int) -> MemoryUse | None:
    """Measure another process of this user; return None if it has ended or the system doesn't report it.

    Outside Linux, psutil is used if it is installed.
    """
    if sys.platform != "linux":
        return _psutil(pid)
    found = _linux(str(pid))
    return found if found.resident else None


def reset_peak() -> bool:
    """Reset the peak (Linux: write 5 to /proc/self/clear_refs); return False if that isn't possible."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _psutil(pid: int) -> MemoryUse | None:
    """Return psutil's figures for a process (macOS, Windows); None if psutil or the process is missing."""
    try:
        import psutil
    except ImportError:
        return None
    try:
        process = psutil.Process(pid)
        try:
            found = process.memory_full_info()
        except psutil.AccessDenied:  # macOS, for a process of another user
            found = process.memory_info()
    except psutil.Error:
        return None
    private = getattr(found, "uss", None)
    unknown = "file-backed pages aren't separated from other shared ones"
    if private is None:
        unknown = "only resident memory is reported, not its private and file-backed parts"
    return MemoryUse(
        private=private,
        file_backed=None,
        resident=found.rss,
        peak=getattr(found, "peak_wset", None),  # Windows; on macOS psutil reports none
        note=f"by psutil: {unknown}; the peak can't be reset",
    )


def _linux(process: str = "self") -> MemoryUse:
    status = parse_smaps_rollup(system_file(f"/proc/{process}/status"))
    rollup = parse_smaps_rollup(
        system_file(f"/proc/{process}/smaps_rollup")
    )  # Pss_Anon, Pss_File: Linux 5.4 and later
    return MemoryUse(
        private=rollup.get("Pss_Anon", status.get("RssAnon")),
        file_backed=status.get("RssFile"),
        file_share=rollup.get("Pss_File"),
        resident=status.get("VmRSS"),
        peak=status.get("VmHWM"),
        note="" if "Pss_File" in rollup else "the share of file pages isn't known on this kernel",
    )


def _posix() -> MemoryUse:
    """Return the figures on macOS and other systems: resident memory from `ps`, the peak from getrusage."""
    import resource

    try:
        shown = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, timeout=10
        ).stdout
        resident: int | None = int(shown) * 1024
    except (OSError, ValueError, subprocess.SubprocessError):
        resident = None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return MemoryUse(
        private=None,
        file_backed=None,
        resident=resident,
        peak=peak if sys.platform == "darwin" else peak * 1024,  # macOS counts bytes, the others KiB
        note="this system doesn't separate private from file-backed memory; the peak can't be reset",
    )


class _ProcessMemoryCounters(ctypes.Structure):
    _fields_ = (
        ("cb", ctypes.c_uint32),
        ("PageFaultCount", ctypes.c_uint32),
        ("PeakWorkingSetSize", ctypes.c_size_t),
        ("WorkingSetSize", ctypes.c_size_t),
        ("QuotaPeakPagedPoolUsage", ctypes.c_size_t),
        ("QuotaPagedPoolUsage", ctypes.c_size_t),
        ("QuotaPeakNonPagedPoolUsage", ctypes.c_size_t),
        ("QuotaNonPagedPoolUsage", ctypes.c_size_t),
        ("PagefileUsage", ctypes.c_size_t),
        ("PeakPagefileUsage", ctypes.c_size_t),
        ("PrivateUsage", ctypes.c_size_t),
    )


def _windows() -> MemoryUse:
    counters = _ProcessMemoryCounters(cb=ctypes.sizeof(_ProcessMemoryCounters))
    kernel32 = getattr(ctypes, "WinDLL")("kernel32")  # noqa: B009 - the name exists on Windows only
    kernel32.GetCurrentProcess.restype = ctypes.c_void_p
    get = kernel32.K32GetProcessMemoryInfo
    get.argtypes = (ctypes.c_void_p, ctypes.POINTER(_ProcessMemoryCounters), ctypes.c_uint32)
    if not get(kernel32.GetCurrentProcess(), ctypes.byref(counters), counters.cb):
        return MemoryUse(
            private=None, file_backed=None, resident=None, peak=None, note="GetProcessMemoryInfo failed"
        )
    return MemoryUse(
        private=counters.PrivateUsage,
        file_backed=None,
        resident=counters.WorkingSetSize,
        peak=counters.PeakWorkingSetSize,
        note="private counts committed memory, resident or not; file-backed pages aren't separated here",
    )


def system_file(path: str) -> str:
    """Return the text of one of the system's files, such as /proc/meminfo; "" if it can't be read."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
