"""The environment of a measurement, which one needs to repeat it: versions, processor, limits and load."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from importlib import metadata
from typing import Any

from llmlite.bench.memory import system_file
from llmlite.engine import cpu

PACKAGES = (
    *("llmlite-kit", "numpy", "numba", "llvmlite"),
    *("torch", "tensorflow-cpu", "tensorflow", "tensorflow-hub", "transformers", "llama-cpp-python"),
    *("xllamacpp", "openvino", "openvino-genai", "ctranslate2", "onnxruntime", "onnxruntime-genai"),
)
# The hash leaves out these fields, which change from minute to minute and don't identify the machine.
CHANGING = frozenset({"run_id", "test_time", "load_average", "env_hash"})
# CPU features that determine how fast quantized arithmetic can be.
FEATURES = frozenset(
    "avx avx2 fma f16c avx512f avx512bw avx512_vnni avx_vnni avx512_bf16 amx_int8 amx_bf16 "
    "asimd asimddp i8mm bf16 sve".split()
)


def record(run_id: str = "") -> dict[str, Any]:
    """Return the environment as a JSON object.

    Its `env_hash` is the same for the same machine and the same versions.

    Args:
        run_id: name of the run.
    """
    env: dict[str, Any] = {
        "run_id": run_id,
        "test_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "machine": platform.machine(),
        "cpu_info": cpu_name(),
        "cpu_features": cpu_features(),
        "n_cpu": os.cpu_count() or 1,
        "n_cpu_allowed": n_cpu_allowed(),
        "cpu_quota": cpu.cgroup_quota(),
        "governor": system_file("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "memory_bytes": total_memory(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": versions(),
    }
    fixed = {key: value for key, value in env.items() if key not in CHANGING}
    env["env_hash"] = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:12]
    return env


def place(env: dict[str, Any]) -> str:
    """Return the place and date of a measurement as text: "AMD EPYC, 2 cores, 2026-11-27"."""
    return f"{env['cpu_info']}, {env['n_cpu_allowed']} cores, {env['test_time'][:10]}"


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that matter here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """Return the processor's name, or the machine type if the system doesn't report a name."""
    for line in system_file("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """Return the features of FEATURES that this processor has; empty if the system doesn't list them."""
    for line in system_file("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return sorted(FEATURES & set(value.split()))
    return []


def has_bf16() -> bool | None:
    """Return whether the processor has bfloat16 arithmetic; None if the system doesn't report it."""
    features = cpu_features()
    return any(name in features for name in ("avx512_bf16", "amx_bf16", "bf16")) if features else None


def n_cpu_allowed() -> int:
    """Return the number of processors that this process may run on (its affinity)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def total_memory() -> int | None:
    """Return the machine's RAM in bytes; None if the system doesn't report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def available_memory() -> int | None:
    """Return the bytes of RAM that programs can still use; None if the system doesn't report them."""
    for line in system_file("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
