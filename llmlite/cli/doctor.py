"""Say what this machine has for llmlite, and what to do where something is wrong.

Examines the processor, the threads this process may use, memory, packages, the cache folder and the bundled
data. Exit code 0: all is well; 1: something is wrong (its line begins with "wrong").
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata

from llmlite._version import __version__
from llmlite.errors import LlmliteError

HELP = "say what this machine has, and what is wrong"
EXAMPLES = """\
examples:
  llmlite doctor
  llmlite doctor --json            for a bug report or a script
"""
CORE = {
    "numpy": "numpy",
    "numba": "numba",
    "llvmlite": "llvmlite",
    "regex": "regex",
    "jinja2": "jinja2",
    "tqdm": "tqdm",
}
OPTIONAL = {  # import name -> (distribution, extra, what it is for)
    "torch": ("torch", "torch", "comparing with PyTorch"),
    "matplotlib": ("matplotlib", "plot", "figures"),
    "jupyterlab": ("jupyterlab", "lab", "the lessons"),
    "ipywidgets": ("ipywidgets", "lab", "the lessons' widgets"),
    "transformers": ("transformers", "transformers", "comparing with Transformers"),
    "llama_cpp": ("llama-cpp-python", "llamacpp", "comparing with llama.cpp; compiles for minutes"),
}
MIN_JINJA2 = (3, 1, 6)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report: what was examined, what was found, and what to do where `ok` is False."""

    topic: str
    found: str
    ok: bool = True
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(options: argparse.Namespace) -> int:
    findings = [*machine(), *packages(), *folders()]
    wrong = [finding for finding in findings if not finding.ok]
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1, ensure_ascii=False))
        return 1 if wrong else 0
    for finding in findings:
        print(f"{'' if finding.ok else 'wrong':<6} {finding.topic:<16} {finding.found}")
        if finding.remedy:
            print(f"{'':<6} {'':<16} -> {finding.remedy}")
    print(f"{len(wrong)} of {len(findings)} wrong" if wrong else "all is well")
    return 1 if wrong else 0


def machine() -> Iterator[Finding]:
    """Yield what the processor, the system and its limits are."""
    from llmlite.bench import environment, memory
    from llmlite.engine import cpu

    yield Finding(
        topic="llmlite", found=f"{__version__}, Python {platform.python_version()}, {platform.platform()}"
    )
    yield Finding(topic="processor", found=f"{environment.cpu_name()} ({platform.machine()})")
    yield Finding(
        topic="CPU features", found=" ".join(environment.cpu_features()) or "not listed by this system"
    )
    quota = cpu.cgroup_quota()
    threads = (
        f"{cpu.usable_threads()} used; {os.cpu_count()} in the machine, {environment.n_cpu_allowed()} "
        f"allowed to this process, quota {'none' if quota is None else f'{quota:g} CPUs'}"
    )
    yield Finding(topic="threads", found=threads)
    if importlib.util.find_spec("llvmlite"):
        yield Finding(topic="kernels for", found=str(cpu.target()))
    total = environment.total_memory()
    resident = memory.now().resident
    yield Finding(
        topic="memory", found=f"{_gigabytes(total)} in the machine, {_gigabytes(resident)} in this process"
    )


def _gigabytes(n_bytes: int | None) -> str:
    return "unknown" if n_bytes is None else f"{n_bytes / 1e9:.3g} GB"


def packages() -> Iterator[Finding]:
    """Yield each package that llmlite needs or can use."""
    pip = f"{sys.executable} -m pip install"
    for module, distribution in CORE.items():
        version = _version(module, distribution)
        if version is None:
            yield Finding(topic=module, found="missing", ok=False, remedy=f"{pip} {distribution}")
        elif module == "jinja2" and _numbers(version) < MIN_JINJA2:
            yield Finding(
                topic=module,
                found=f"{version}: its sandbox can be left",
                ok=False,
                remedy=f"{pip} 'jinja2>=3.1.6'",
            )
        else:
            yield Finding(topic=module, found=version)
    for module, (distribution, extra, purpose) in OPTIONAL.items():
        version = _version(module, distribution)
        remedy = "" if version else f"{pip} 'llmlite-kit[{extra}]'"
        yield Finding(topic=module, found=version or f"not installed (optional: {purpose})", remedy=remedy)


def _version(module: str, distribution: str) -> str | None:
    """Return the version of an installed package without importing it."""
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "present, version unknown"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def folders() -> Iterator[Finding]:
    """Yield whether the cache can be written and the bundled data is whole."""
    from llmlite import resources

    try:
        cache = resources.cache_dir()
        n_bytes = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        yield Finding(topic="cache folder", found=f"{cache} ({n_bytes / 1e6:.1f} MB)")
    except (LlmliteError, OSError) as error:
        yield Finding(
            topic="cache folder",
            found=str(error),
            ok=False,
            remedy="set LLMLITE_CACHE to a folder that you may write",
        )
    try:
        problems = resources.damaged_data()
    except LlmliteError as error:
        problems = [str(error)]
    if problems:
        yield Finding(
            topic="bundled data",
            found="; ".join(problems),
            ok=False,
            remedy=f"{sys.executable} -m pip install --force-reinstall llmlite-kit (or: git status data)",
        )
    else:
        yield Finding(topic="bundled data", found=f"{resources.data_path()} (checksums agree)")
