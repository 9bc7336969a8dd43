"""Find the features of this machine's CPU with another process."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from llmlite.engine.cpu import target

ROOT = Path(__file__).resolve().parents[2]
X86 = platform.machine() in ("x86_64", "AMD64")
AVX2 = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt"
AVX512 = f"{AVX2},+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx512cd"


ON_SMALLER_CPUS = pytest.mark.parametrize(
    ("name", "features"),
    [
        ("x86-64", ""),
        ("haswell", AVX2),
        ("alderlake", f"{AVX2},+avxvnni"),
        ("skylake-avx512", AVX512),
        ("cascadelake", f"{AVX512},+avx512vnni"),
    ],
    ids=["baseline", "avx2", "avx2-vnni", "avx512", "avx512-vnni"],
)


def probe(name: str | None = None, features: str | None = None) -> dict:
    """Run simd_probe.py for a CPU, by default the host; return its report."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    env |= {} if name is None else {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features or ""}
    script = ROOT / "tests" / "support" / "simd_probe.py"
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def host_has(*features: str) -> bool:
    return X86 and target().has(*features)


def environment_of(name: str, features: str, cache: Path) -> dict[str, str]:
    """Return the environment of a process that compiles for a CPU.

    Skip the test if this CPU lacks the features.
    """
    if missing := [f for f in features.split(",") if f and not host_has(f.lstrip("+"))]:
        pytest.skip(f"this CPU lacks {', '.join(missing)}")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LLMLITE_CACHE": str(cache)}
    return env | {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
