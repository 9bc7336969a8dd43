"""Check that this machine meets the requirements of llmlite and its lessons, and suggest remedies if not.

    for result in ll.bench.checks.examine():
        print(result.verdict, result.topic, result.found, result.remedy)

`llmlite doctor` and the first lesson's panel both show the results. This module imports no third-party
package, so that a missing package is a result, not a crash.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from llmlite import resources
from llmlite._version import __version__
from llmlite.errors import LlmliteError
from llmlite.system import cache

if TYPE_CHECKING:
    from llmlite.engine.jit import Kernel
    from llmlite.terminal import NamedProgress

GROUPS = {
    "machine": "the machine",
    "packages": "packages for llmlite",
    "lessons": "packages for the lessons",
    "files": "files and folders",
    "kernels": "compiled kernels",
    "peers": "packages for comparisons",
}
# The models that lessons run with compiled kernels.
LESSON_MODELS = ("tales", "tales:Q8_0", "tales:Q4_0")
MADE_TYPES = ("Q5_0",)  # made in memory by lesson 03, in addition to the models' types
LESSON_TYPES = ("F32", "F16", "Q8_0", "Q4_0", "Q6_K", *MADE_TYPES)  # of tensors in lessons
MIN_PYTHON = (3, 11)
MIN_MEMORY = 500e6  # bytes: the largest lesson and PyTorch
MIN_DISK = 200e6  # bytes: the bundled model in every type, and the kernels
FAST = frozenset({"avx2", "asimd"})  # one of these makes integer arithmetic on quantized weights fast
PIP = "python -m pip install"  # in a finding, "python" is replaced by the running interpreter's path
REINSTALL = f"{PIP} --force-reinstall llmlite-kit (until then kernels are compiled here)"


class WrongError(Exception):
    """Raised when a check fails.

    Args:
        found: description of the actual state.
        remedy: remedy to use instead of the check's own; "" keeps that.
    """

    def __init__(self, found: str, remedy: str = "") -> None:
        super().__init__(found)
        self.found, self.remedy = found, remedy


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing to check.

    Attributes:
        group: a key of GROUPS.
        topic: name of the check.
        needs: description of what is required.
        remedy: action to take if the check fails.
        look: function that returns a description of the actual state, or raises WrongError.
        optional: whether llmlite and the lessons also work without it.
    """

    group: str
    topic: str
    needs: str
    remedy: str
    look: Callable[[], str]
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The result of a check.

    Attributes:
        group: a key of GROUPS.
        topic: name of the check.
        found: description of the actual state.
        ok: False if something must be done.
        remedy: action to take; "" if there is nothing to do.
    """

    group: str
    topic: str
    found: str
    ok: bool = True
    remedy: str = ""

    @property
    def verdict(self) -> str:
        """The verdict: "ready", "wrong", or "optional" if it works but could be better."""
        if not self.ok:
            return "wrong"
        return "optional" if self.remedy else "ready"


def examine(groups: Iterable[str] = tuple(GROUPS), *, needed: Iterable[str] = ()) -> list[CheckResult]:
    """Run every check of the groups and return their results.

    Args:
        groups: keys of GROUPS.
        needed: groups whose optional checks count as required; ("lessons",) in a lesson.
    """
    chosen, strict = set(groups), set(needed)
    return [_look(check, check.group in strict) for check in CHECKS if check.group in chosen]


def wrong(results: Iterable[CheckResult]) -> list[str]:
    """Return a line for each result that needs action: its topic, the actual state and the remedy."""
    return [f"{f.topic}: {f.found} -> {f.remedy}" for f in results if not f.ok]


def _look(check: Check, strict: bool) -> CheckResult:
    try:
        return CheckResult(group=check.group, topic=check.topic, found=check.look())
    except WrongError as error:
        found, remedy = error.found, error.remedy or check.remedy
    except ImportError as error:
        found, remedy = f"can't be checked: {error}", f"{PIP} llmlite-kit"
    except (LlmliteError, OSError) as error:
        found, remedy = str(error), check.remedy
    remedy = remedy.replace(PIP, f"{sys.executable} -m pip install")
    ok = check.optional and not strict
    return CheckResult(group=check.group, topic=check.topic, found=found, ok=ok, remedy=remedy)


# --- the machine ------------------------------------------------------------------------------


def _python() -> str:
    found = f"{platform.python_version()}, llmlite {__version__}, {platform.platform()}"
    if sys.version_info < MIN_PYTHON:
        raise WrongError(found)
    return found


def _processor() -> str:
    from llmlite.bench import environment

    return f"{environment.cpu_name()} ({platform.machine()})"


def _features() -> str:
    from llmlite.bench import environment

    features = environment.cpu_features()
    if not features:
        return "not listed by this system"
    if not FAST & set(features):
        raise WrongError(" ".join(features))
    return " ".join(features)


def _amx() -> str:
    from llmlite.engine import amx_check

    right, found = amx_check.report()
    if not right:
        raise WrongError(found)
    return found


def _threads() -> str:
    from llmlite.engine import cpu

    chosen = cpu.choose_threads()
    return f"{chosen}; {chosen.n_allowed} of {os.cpu_count()} hardware threads allowed to this process"


def _memory() -> str:
    from llmlite.bench import environment, memory

    total, free = environment.total_memory(), environment.available_memory()
    found = (
        f"{_gigabytes(total)} in the machine, {_gigabytes(free)} free, "
        f"{_gigabytes(memory.now().resident)} in this process"
    )
    if free is not None and free < MIN_MEMORY:
        raise WrongError(found)
    return found


def _gigabytes(n_bytes: int | None) -> str:
    return "unknown" if n_bytes is None else f"{n_bytes / 1e9:.3g} GB"


# --- packages ---------------------------------------------------------------------------------


def version(module: str, distribution: str) -> str | None:
    """Return the version of an installed package without importing it; None if it isn't installed."""
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "present, version unknown"


def _package(
    group: str,
    module: str,
    distribution: str,
    needs: str,
    *,
    install: str = "",
    least: tuple[int, ...] = (),
    too_old: str = "too old",
    optional: bool = False,
) -> Check:
    """Return the check that a package is installed, in version `least` or newer."""
    text = ".".join(map(str, least))
    wanted = install or (f"'{distribution}>={text}'" if least else distribution)

    def look() -> str:
        found = version(module, distribution)
        if found is None:
            raise WrongError(f"not installed (for: {needs})" if optional else "missing")
        if least and _numbers(found) and _numbers(found) < least:
            raise WrongError(f"{found}: {too_old}")
        return found

    return Check(
        group=group,
        topic=module,
        needs=f"{needs}{f'; {text} or newer' if least else ''}",
        remedy=f"{PIP} {wanted}",
        look=look,
        optional=optional,
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _for_lessons(module: str, distribution: str, needs: str, **options: Any) -> Check:
    return _package(
        "lessons", module, distribution, needs, install="'llmlite-kit[lab]'", optional=True, **options
    )


def _peer(module: str, distribution: str, name: str, extra: str, note: str = "") -> Check:
    return _package(
        "peers",
        module,
        distribution,
        f"comparing with {name}{note}",
        install=f"'llmlite-kit[{extra}]'",
        optional=True,
    )


# --- files, kernels ---------------------------------------------------------------------------


def _cache() -> str:
    if reason := cache.refused():
        raise WrongError(f"{reason}; {resources.cache_dir()} is used instead")
    folder = resources.cache_dir()
    n_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{folder} ({n_bytes / 1e6:.1f} MB)"


def _disk() -> str:
    free = shutil.disk_usage(resources.cache_dir()).free
    if free < MIN_DISK:
        raise WrongError(f"{free / 1e6:.0f} MB free where the cache folder is")
    return f"{free / 1e9:.3g} GB free where the cache folder is"


def _data() -> str:
    problems = resources.damaged_data()
    if problems:
        raise WrongError("; ".join(problems))
    return f"{resources.data_path()} (checksums agree)"


def _compiler() -> str:
    import llmlite.engine.families  # declares all kernels  # noqa: F401
    from llmlite.engine import jit, shipped
    from llmlite.engine.cpu import host, target
    from llmlite.engine.signatures import ADD

    level, why = shipped.choose(host().architecture, host().enabled)
    if level is not None:
        kernels = {f"{k.module}.{k.name}": jit.source_of(k) for k in jit.declared_for(level.required)}
        if problems := shipped.problems(level, kernels):
            more = f"; {len(problems)} in all" if len(problems) > 1 else ""
            raise WrongError(f"shipped for {level.name}, but not usable: {problems[0]}{more}", REINSTALL)
        _ = ADD.address
        return f"{len(kernels)} shipped for {level.name}, their hashes agree; this CPU is {host()}"
    _ = ADD.address  # raises KernelError, an LlmliteError
    if why.startswith("damaged"):
        raise WrongError(f"the shipped kernels aren't used: {why}", REINSTALL)
    return f"kernels compile and load, for {target()}{f'; {why}' if why else ''}"


def _warm() -> str:
    kernels = lesson_kernels()
    n = sum(kernel.ready for kernel in kernels)
    if n < len(kernels):
        raise WrongError(f"{n} of {len(kernels)} compiled")
    return f"all {n} are ready"


def lesson_kernels() -> list[Kernel]:
    """Return the kernels that LESSON_MODELS use and those that the lesson on kernels measures."""
    from llmlite.engine.families import every_kernel
    from llmlite.engine.signatures import PEAK, SCALAR_MATVEC
    from llmlite.quants import by_name

    found = every_kernel(by_name(name).id for name in LESSON_TYPES)
    return [*found, *SCALAR_MATVEC.values(), *PEAK.values()]


def warm_up(models: Sequence[str] = LESSON_MODELS, progress: NamedProgress | None = None) -> None:
    """Compile the kernels that the models need and run each model once, so that no one has to wait later.

    Args:
        models: names that `llmlite.load` takes; by default, the models of the lessons.
        progress: called with (done, total, kernel's name) while the lessons' kernels compile; if it is None,
            a line is printed to standard error.

    Raises:
        LlmliteError: kernels can't be compiled here; NumPy then runs the models, more slowly.
    """
    from llmlite import load
    from llmlite.engine.jit import prepare

    if set(LESSON_MODELS) <= set(models):
        prepare(lesson_kernels(), progress)
    for name in models:
        model = load(name, n_ctx=8)
        if model.executor.name != "planned":
            raise LlmliteError(f"{name}: {model.executor!r}")
        for ids in ([0, 1, 2], [0]):
            if model.config.causal:
                model.logits(ids)
            else:
                model.embed([ids], pooling="mean")


CHECKS = (
    Check(
        group="machine",
        topic="Python",
        needs="3.11 or newer",
        remedy="install Python 3.11 or newer and make a new environment with it",
        look=_python,
    ),
    Check(group="machine", topic="processor", needs="any", remedy="", look=_processor),
    Check(
        group="machine",
        topic="CPU features",
        needs="AVX2 on x86, or NEON on ARM",
        remedy="nothing to do: everything works, but more slowly than the lessons say",
        look=_features,
        optional=True,
    ),
    Check(
        group="machine",
        topic="AMX",
        needs="nothing; it makes prefill faster",
        remedy="report this with the output of `llmlite doctor --json`; other kernels are used",
        look=_amx,
        optional=True,
    ),
    Check(
        group="machine", topic="threads", needs="any number; two or more are better", remedy="", look=_threads
    ),
    Check(
        group="machine",
        topic="memory",
        needs="half a gigabyte free",
        remedy="close other programs, and in JupyterLab the notebooks that you don't need",
        look=_memory,
    ),
    _package("packages", "numpy", "numpy", "arrays"),
    _package("packages", "numba", "numba", "compiling kernels"),
    _package("packages", "llvmlite", "llvmlite", "loading compiled kernels"),
    _package("packages", "regex", "regex", "tokenizers"),
    _package(
        "packages",
        "jinja2",
        "jinja2",
        "chat templates",
        least=(3, 1, 6),
        too_old="too old: templates can escape its sandbox",
    ),
    _package("packages", "tqdm", "tqdm", "progress bars"),
    _for_lessons("matplotlib", "matplotlib", "figures", least=(3, 9)),
    _for_lessons("jupyterlab", "jupyterlab", "opening the lessons", least=(4, 2)),
    _for_lessons("ipywidgets", "ipywidgets", "the lessons' widgets", least=(8, 1)),
    _for_lessons("jupyterlab_widgets", "jupyterlab_widgets", "showing widgets in JupyterLab", least=(3,)),
    Check(
        group="files",
        topic="cache folder",
        needs="a writable folder",
        remedy="set LLMLITE_CACHE to a folder that you can write to",
        look=_cache,
    ),
    Check(
        group="files",
        topic="disk",
        needs="200 MB free where the cache folder is",
        remedy="free some space, or set LLMLITE_CACHE to a folder on another disk",
        look=_disk,
    ),
    Check(
        group="files",
        topic="bundled data",
        needs="every file has the checksum it was shipped with",
        remedy=f"{PIP} --force-reinstall llmlite-kit (in a clone: git status data)",
        look=_data,
    ),
    Check(
        group="kernels",
        topic="compiler",
        needs="a kernel can be compiled and loaded",
        remedy=f"{PIP} --force-reinstall numba llvmlite (until then NumPy runs the models, more slowly)",
        look=_compiler,
    ),
    Check(
        group="kernels",
        topic="lessons' kernels",
        needs="compiled before the lessons need them",
        remedy="llmlite warmup --lessons (a minute or two, once)",
        look=_warm,
        optional=True,
    ),
    _peer("torch", "torch", "PyTorch", "torch"),
    _peer("transformers", "transformers", "Transformers", "transformers"),
    _peer("llama_cpp", "llama-cpp-python", "llama.cpp", "llamacpp", note=" (it takes minutes to compile)"),
)
