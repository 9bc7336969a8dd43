"""The resources that this process may use: instruction set, cores, quota.

Nothing here imports numba. `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` override the host, as in numba itself,
so that kernels for a smaller CPU can be compiled and run on a larger one.
"""

import functools
import os
import pathlib
import platform
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from llmlite.engine.shipped import Level, level_for
from llmlite.errors import LlmliteError

FEATURE = re.compile(r"[+-][A-Za-z0-9][A-Za-z0-9_.-]*")
# platform.machine() -> the architecture for kernels
_ARCHITECTURES = {"x86_64": "x86", "amd64": "x86", "aarch64": "arm", "arm64": "arm"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """The CPU that kernels are compiled for."""

    architecture: str
    """"x86", "arm", or the machine name of anything else."""
    name: str
    """LLVM's CPU name, such as "znver4"."""
    features: str
    """LLVM's feature string, such as "+avx2,-avx512f"."""

    @functools.cached_property
    def enabled(self) -> frozenset[str]:
        """Names of the features that are switched on."""
        return frozenset(f[1:] for f in self.features.split(",") if f.startswith("+"))

    @property
    def dot_bits(self) -> int:
        """Bits of the widest vector of this CPU's int8 dot-product instruction (VNNI); 0 without the
        instruction.
        """
        if self.architecture != "x86":
            return 0
        if {"avx512vnni", "avx512bw", "avx512vl"} <= self.enabled:
            return 512
        return 256 if {"avxvnni", "avx2"} <= self.enabled else 0

    def has(self, *features: str) -> bool:
        """Return whether all of `features` are switched on."""
        return self.enabled.issuperset(features)

    def __str__(self) -> str:
        x86 = ("avx512vnni", "avxvnni", "avx512f", "avx2", "f16c", "sse4.1")
        best = [f for f in (*x86, "dotprod", "i8mm") if f in self.enabled]
        return f"{self.name} ({', '.join(best) or 'baseline'})"


def target() -> Target:
    """Return the CPU that kernels are compiled for: the best shipped level that fits the host, or the host.

    Raises:
        LlmliteError: NUMBA_CPU_FEATURES or LLMLITE_KERNELS has an invalid value.
    """
    level = shipped_level()
    if level is None:
        return host()
    return Target(architecture=level.architecture, name=level.cpu, features=level.features)


def shipped_level() -> Level | None:
    """Return the level of the shipped kernels that this process runs; None to compile kernels here."""
    return level_for(host().architecture, host().enabled)


def host() -> Target:
    """Return this machine's CPU, or the one that NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name.

    Raises:
        LlmliteError: NUMBA_CPU_FEATURES is not a list of features.
    """
    return _host(os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES"))


@functools.lru_cache(maxsize=4)
def _host(name: str | None, features: str | None) -> Target:
    import llvmlite.binding as llvm

    if features and (wrong := [item for item in features.split(",") if not FEATURE.fullmatch(item)]):
        # LLVM would abort the process because of one of these
        raise LlmliteError(
            f"NUMBA_CPU_FEATURES: expected features with a sign and commas between, such as +avx2,-avx512f; "
            f"got {wrong[0]!r} among them"
        )
    if features is None:
        # for numba, a "generic" CPU without a feature list has no features at all
        features = "" if (name or "").lower() == "generic" else llvm.get_host_cpu_features().flatten()
    machine = platform.machine().lower()
    return Target(
        architecture=_ARCHITECTURES.get(machine, machine),
        name=name or llvm.get_host_cpu_name(),
        features=features,
    )


@dataclass(frozen=True, kw_only=True)
class Threads:
    """The default number of threads of a model, and the reason."""

    n: int
    """The number."""
    n_allowed: int
    """Hardware threads that this process may run on."""
    n_cores: int
    """Physical cores among them."""
    n_slow: int
    """Cores left out because they have less than half the fastest core's speed."""
    quota: float | None
    """CPU time that a cgroup grants, in CPUs; None without a limit."""

    def __str__(self) -> str:
        text = f"{self.n} by default: {_count(self.n_cores, 'core')}"
        if self.n_allowed > self.n_cores:
            text += f" with {self.n_allowed} hardware threads"
        if self.n_slow:
            text += f", {self.n_slow} of them left out as slow"
        if self.quota is not None:
            text += f", a quota of {_count(self.quota, 'CPU')}"
        return text


def _count(n: float, what: str) -> str:
    return f"{n:g} {what}" + ("" if n == 1 else "s")


def usable_threads() -> int:
    """Return the default number of threads of a model; `choose_threads` also gives the reason."""
    return choose_threads().n


SLOW = 0.5  # of the fastest core's speed


def choose_threads(
    *, sysfs: str = "/sys/devices/system/cpu", cpus: Iterable[int] | None = None, quota: float | None = None
) -> Threads:
    """Count the physical cores in our affinity mask that are fast enough, within the cgroup's quota.

    Two hardware threads of a core share its dot-product units and its path to memory, so a core counts once.
    Threads take their work in pieces, so slower cores help. But a core with less than half the fastest core's
    speed makes the others wait for its last piece, so it is left out.

    Args:
        sysfs: the folder that describes CPUs (Linux).
        cpus: numbers of CPUs; by default, those that this process may use.
        quota: CPU time in CPUs; by default, that of our cgroup.
    """
    if cpus is None:
        if hasattr(os, "sched_getaffinity"):
            cpus = os.sched_getaffinity(0)
        else:
            cpus = range(os.cpu_count() or 1)
        quota = cgroup_quota() if quota is None else quota
    folders = {cpu: pathlib.Path(sysfs, f"cpu{cpu}") for cpu in cpus}
    cores = {_siblings(folder) or str(cpu): _speed(folder) for cpu, folder in folders.items()}
    fastest = max((speed for speed in cores.values() if speed), default=0.0)
    n_slow = sum(1 for speed in cores.values() if speed and speed < SLOW * fastest)
    if sys.platform == "darwin" and (fast := _fast_cores_of_macos()):
        n_slow = max(0, len(cores) - fast)
    n = len(cores) - n_slow
    if quota:
        n = min(n, int(quota + 0.5))
    return Threads(n=max(1, n), n_allowed=len(folders), n_cores=len(cores), n_slow=n_slow, quota=quota)


def _siblings(folder: pathlib.Path) -> str | None:
    """Return the hardware threads of a CPU's core, from the file under its newer or older name."""
    return _first_of(folder, "topology/core_cpus_list", "topology/thread_siblings_list")


def _speed(folder: pathlib.Path) -> float:
    """Return a CPU's speed from the scheduler, else its highest clock in kHz; 0 if neither is known."""
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        try:
            return float(_first_of(folder, name) or "")
        except ValueError:
            continue
    return 0.0


def _first_of(folder: pathlib.Path, *names: str) -> str | None:
    """Return the text of the first of these files that can be read."""
    for name in names:
        try:
            return (folder / name).read_text().strip()
        except (OSError, UnicodeError):
            continue
    return None


def _fast_cores_of_macos() -> int:
    """Return the number of performance cores of an Apple CPU, or 0; others do a third of the work."""
    import ctypes

    value, size = ctypes.c_int32(0), ctypes.c_size_t(4)
    try:
        found = ctypes.CDLL(None).sysctlbyname(
            b"hw.perflevel0.physicalcpu", ctypes.byref(value), ctypes.byref(size), None, 0
        )
    except (AttributeError, OSError):
        return 0
    return value.value if found == 0 else 0


def cgroup_quota(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> float | None:
    """Return the CPU time, in CPUs, that our cgroup (or any above it) grants, or None without a limit.

    Args:
        root: mount point of the cgroup file system.
        membership: the file that names our cgroups, in the format of cgroups(7).

    Reads version 2 (`cpu.max`) and version 1 (`cpu.cfs_quota_us`).
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        lines = pathlib.Path(membership).read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = pathlib.Path(root) if not controllers else pathlib.Path(root, controllers)
        for folder in (path.strip("/"), *map(str, pathlib.PurePosixPath(path.strip("/")).parents)):
            quotas.append(_quota_of(base / folder))
    return min((q for q in quotas if q), default=None)


def _quota_of(folder: pathlib.Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        return int(quota) / int(period) if int(quota) > 0 else None
    except (ValueError, ZeroDivisionError):  # "max"
        return None
