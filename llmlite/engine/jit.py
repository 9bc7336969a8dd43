"""Kernels: shipped, or compiled by numba once and kept as object files; loaded by llvmlite alone.

A kernel is a function of `llmlite.engine.kernels.<module>`. These modules import numba, so they are imported
only if an object is missing: a process that finds all its kernels among the shipped ones (`shipped`) and in
the cache never imports numba.

The key of a cached object is the text of the kernel's file and of every engine file it imports, the versions
of numba and llvmlite, the system, and the CPU with its features. If a cached object is truncated, corrupt or
foreign, its kernel is compiled again; if the folder can't be written, the next process must compile again
too.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import itertools
import pathlib
import platform
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from llmlite import terminal
from llmlite.engine import shipped
from llmlite.engine.cpu import shipped_level, target
from llmlite.errors import KernelError, LlmliteError
from llmlite.system import cache, files
from llmlite.system.limits import COMPILE, require_memory
from llmlite.system.locks import wait_before_fork
from llmlite.terminal import NamedProgress

ENGINE = pathlib.Path(__file__).parent
MAGIC = b"llmlite kernel 1\n"
IMPORT = re.compile(r"^\s*from (llmlite\.engine[.\w]*) import (\([^)]*\)|.+)$", re.MULTILINE)
KEPT_VERSIONS = 4  # object files of one kernel to keep in the cache, which several environments may share
# Object loading is used on systems where its tests ran; elsewhere, numba's own in-memory code is used.
OBJECTS_PROVEN = shipped.SUPPORTED and platform.machine() in ("x86_64", "aarch64")
# numba's entry code names these in the path of a raised exception, which our kernels don't have.
DEAD_SYMBOLS = (
    "NRT_MemInfo_call_dtor", "NRT_Free", "NRT_incref", "NRT_decref", "numba_gil_ensure", "numba_gil_release",
    "numba_unpickle", "numba_runtime_build_excinfo_struct", "numba_do_raise",
)  # fmt: skip


class Kernel:
    """One compiled function; compilation, and the import of numba, wait until `address` is read."""

    def __init__(
        self, module: str, name: str, parameters: tuple[str, ...] | None = None, needs: tuple[str, ...] = ()
    ) -> None:
        self.module, self.name, self.parameters, self.needs = module, name, parameters, needs
        self.symbol = f"llmlite_{name}"
        self._address: int | None = None

    def __repr__(self) -> str:
        return f"Kernel({self.module}.{self.name})"

    @property
    def address(self) -> int:
        """Address of the machine code, which is compiled or loaded on first use.

        Raises:
            KernelError: the kernel can't be compiled or loaded; with the reason.
        """
        if self._address is None:
            with _lock:
                if self._address is None:
                    self._address = _load(self)
        return self._address

    @property
    def path(self) -> pathlib.Path | None:
        """Path of its object file in the cache, which may not exist; None without a cache folder."""
        folder = _cache_folder()
        return folder and folder / f"{self.name}-{_key(self)}.o"

    @property
    def ready(self) -> bool:
        """Whether `address` can be read without compilation."""
        return self._address is not None or (OBJECTS_PROVEN and any(True for _ in _objects(self)))


DECLARED: dict[tuple[str, str], Kernel] = {}


def declare(module: str, name: str, parameters: str | None, needs: tuple[str, ...] = ()) -> Kernel:
    """Return the kernel `name` of `llmlite.engine.kernels.<module>`; a second declaration must be the same.

    Args:
        parameters: its parameters after (step, rank, n_threads), in order, separated by spaces; None for a
            routine, which compiled code calls.
        needs: features that a CPU must have to run it, by LLVM's names.
    """
    names = None if parameters is None else tuple(parameters.split())
    found = DECLARED.setdefault((module, name), Kernel(module, name, names, needs))
    same = (found.parameters, found.needs) == (names, needs)
    assert same, f"{module}.{name} is declared twice, with different parameters"
    return found


def declared_for(features: Iterable[str]) -> list[Kernel]:
    """Return the declared kernels that a CPU with these features may run."""
    return [k for k in DECLARED.values() if set(k.needs) <= set(features)]


def prepare(kernels: Iterable[Kernel], progress: NamedProgress | None = None) -> None:
    """Make every kernel ready; call `progress(done, total, name)` for those that must be compiled.

    Without `progress`, a line is printed to standard error if there is something to compile.

    Raises:
        KernelError: a kernel can't be compiled; with its name and the reason.
    """
    kernels = list(dict.fromkeys(kernels))
    missing = [k for k in kernels if not k.ready]
    if missing:
        with terminal.progress() as shown:
            tell = progress or functools.partial(_tell, shown)
            for done, k in enumerate(missing):
                tell(done, len(missing), k.name)
                _ = k.address
            tell(len(missing), len(missing), "")
    for k in kernels:
        _ = k.address


def _tell(shown: terminal.ProgressLine, done: int, total: int, name: str) -> None:
    kept = "once" if _cache_folder() else "for this process: there is no folder to keep them"
    now = f": {done}/{total} {name}" if shown.is_live else ""
    kernels = "kernel" if total == 1 else "kernels"
    shown.show(f"compiling {total} {kernels} for this CPU, {kept}{now}")


# ---- the cache ---------------------------------------------------------------------------------------------


@functools.cache
def _cache_folder() -> pathlib.Path | None:
    """Return the folder of the objects, which only this user can write; None if there is none."""
    try:
        return cache.subfolder("kernels")
    except (OSError, LlmliteError):
        return None


def source_of(k: Kernel) -> str:
    """Return the digest of the kernel's source text."""
    return _digest(source_files(ENGINE / "kernels" / f"{k.module}.py")).hexdigest()


@functools.cache
def _key(k: Kernel) -> str:
    digest = _digest(source_files(ENGINE / "kernels" / f"{k.module}.py")).copy()
    cpu = target()
    versions = (_version("numba"), llvmlite.__version__, llvm.llvm_version_info, sys.byteorder, sys.platform)
    digest.update(repr((k.module, k.name, versions, cpu.architecture, cpu.name, cpu.features)).encode())
    return digest.hexdigest()[:32]


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


@functools.cache
def _digest(files: frozenset[pathlib.Path]) -> Any:
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest


@functools.cache
def source_files(path: pathlib.Path) -> frozenset[pathlib.Path]:
    """Return `path`, this file, and every file of the engine that `path` imports, directly or indirectly."""
    found: set[pathlib.Path] = set()
    waiting = [path, pathlib.Path(__file__)]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        waiting += _imports(file)
    return frozenset(found)


@functools.cache
def _imports(file: pathlib.Path) -> list[pathlib.Path]:
    """Return the engine's files that `file` imports, by a pattern, because Python's parser took 0.2 s."""
    found = []
    for module, names in IMPORT.findall(file.read_text(encoding="utf-8")):
        base = ENGINE.joinpath(*module.split(".")[2:])
        found += [base.with_suffix(".py"), *(base / f"{name}.py" for name in re.findall(r"\w+", names))]
    return [place for place in found if place.is_file()]


def _objects(k: Kernel) -> Iterator[bytes]:
    """Yield the objects that may be linked: the shipped one, then the cached one."""
    level = shipped_level()
    if level is not None and (code := shipped.object_of(level, f"{k.module}.{k.name}", source_of(k))):
        yield code
    if code := _read(k):
        yield code


def _read(k: Kernel) -> bytes | None:
    """Return the cached object; None if there is none, or it can't be trusted."""
    path = k.path
    blob = cache.trusted_bytes(path) if path else None
    if blob is None:
        return None
    head = len(MAGIC) + 32
    if not blob.startswith(MAGIC) or hashlib.sha256(blob[head:]).digest() != blob[len(MAGIC) : head]:
        return None
    return blob[head:]


def _write(k: Kernel, code: bytes) -> None:
    """Store the object, with a rename at the end, so that another process sees all of it or nothing."""
    path = k.path
    if path is None:
        return
    with contextlib.suppress(OSError):  # then the next process must compile again
        path.unlink(missing_ok=True)  # it may be damaged, or have a mode that a new file must not inherit
        files.write_bytes(path, MAGIC + hashlib.sha256(code).digest() + code)
        same = [
            p
            for p in path.parent.glob(f"{k.name}-*.o")
            if re.fullmatch(r"[0-9a-f]{32}", p.stem[len(k.name) + 1 :])
        ]
        for old in sorted(same, key=lambda p: p.stat().st_mtime)[:-KEPT_VERSIONS]:
            old.unlink(missing_ok=True)


# ---- loading and compiling ---------------------------------------------------------------------------------

_lock = threading.RLock()
wait_before_fork(_lock)  # LLVM's own state can't be renewed in a child
_numbers = itertools.count()  # a name can't be linked twice, not even after a failure
_alive: list[Any] = []  # libraries and cfuncs whose code our plans call: never freed


@functools.cache
def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu = target()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu.name, features=cpu.features, opt=3, jit=True, reloc="default"
    )


@functools.cache
def _linker() -> Any:
    return llvm.create_lljit_compiler(_machine())


def _load(k: Kernel) -> int:
    if not OBJECTS_PROVEN:
        cfunc = _compile(k)
        _alive.append(cfunc)
        return cfunc.address
    for code in _objects(k):
        try:
            return _link(k, code)
        except RuntimeError:  # complete, but this LLVM can't link it: compile again
            pass
    code = object_code(k)
    _write(k, code)
    try:
        return _link(k, code)
    except RuntimeError as error:
        raise KernelError(f"kernel {k.name}: the compiled object can't be loaded: {error}") from error


def _link(k: Kernel, code: bytes) -> int:
    builder = llvm.JITLibraryBuilder().add_object_img(code).export_symbol(k.symbol).add_current_process()
    trap = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value
    for symbol in DEAD_SYMBOLS:
        builder.import_symbol(symbol, trap)
    library = builder.link(_linker(), f"{k.symbol}-{next(_numbers)}")
    _alive.append(library)
    return library[k.symbol]


def _compile(k: Kernel) -> Any:
    """Return numba's cfunc of the kernel, entry code included."""
    try:
        require_memory(COMPILE, "compiling")
        import numba

        if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]  # numba sets it from the environment
            raise KernelError("NUMBA_DISABLE_JIT is set")
        function = getattr(importlib.import_module(f"llmlite.engine.kernels.{k.module}"), k.name)
        taken = getattr(function, "llmlite_parameters", None)
        if k.parameters is not None and taken != list(k.parameters):
            raise KernelError(f"declared with the parameters {' '.join(k.parameters)}, but takes {taken}")
        return function.llmlite_compile()
    except KernelError:
        raise
    except Exception as error:  # numba's errors are many; the reason is what matters
        raise KernelError(f"kernel {k.name}: {type(error).__name__}: {str(error)[:2000]}") from error


def object_code(k: Kernel, machine: Any = None) -> bytes:
    """Compile the kernel and return its object file, by default for LLVM's machine of this process."""
    text = optimised_ir(k)
    if target().architecture == "arm":
        # A symbol of the process may be more than 4 GB away from the code. Through a table (the default) its
        # address would be relative, and LLVM's linker aborts the process if it doesn't fit. So use full
        # addresses.
        text = text.replace(" = external global ", " = external dso_local global ")
    return bytes((machine or _machine()).emit_object(llvm.parse_assembly(text)))


def optimised_ir(k: Kernel) -> str:
    """Compile the kernel and return its optimised LLVM IR, under its own symbol."""
    cfunc = _compile(k)
    return cfunc.inspect_llvm().replace(cfunc.native_name, k.symbol)


def assembly(k: Kernel) -> str:
    """Compile the kernel and return its assembly, as in the object file."""
    return _machine().emit_assembly(llvm.parse_assembly(optimised_ir(k)))


# ---- the entry of a plan's kernel --------------------------------------------------------------------------


def entry_source(body: Callable) -> str:
    """Return the code of the function (record, rank, n_threads, worker) that calls `body`.

    A record is an int64 array: the address of the step, then one value for each parameter after (step, rank,
    n_threads) and `worker` if there is one. An address or an integer is stored as itself, and a parameter
    annotated `float` as the bits of a float64.
    """
    parameters, first = own_parameters(body), list(inspect.signature(body).parameters)[3:4]
    loads = [
        f"float32(load_f64(record + {8 * i}))"
        if p.annotation in (float, "float")
        else f"load_i64(record + {8 * i})"
        for i, p in enumerate(parameters, 1)
    ]
    worker = ["worker"] if first == ["worker"] else []
    arguments = ", ".join(["load_i64(record)", "rank", "n_threads", *worker, *loads])
    return f"def entry(record, rank, n_threads, worker):\n    body({arguments})\n"


def own_parameters(body: Callable) -> list[inspect.Parameter]:
    """Return those parameters of a kernel's body that its record has, in order."""
    parameters = list(inspect.signature(body).parameters.values())[3:]
    return parameters[1:] if parameters and parameters[0].name == "worker" else parameters
