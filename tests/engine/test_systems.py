"""The team's kernels for Windows and macOS: compiled here for those systems, and Windows' form run here.

Each runs in a process of its own, where `systems` takes the system for another one. Windows' functions are
Python ones then, registered with LLVM as kernel32's are there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

from llmlite.engine import jit, signatures, systems

ROOT = Path(__file__).resolve().parents[2]
POSIX = {"sched_yield", "clock_gettime", "usleep"}
LINUX = {"sem_wait", "sem_post", "sched_getcpu", "sched_getaffinity", "sched_setaffinity"}
WINDOWS = set(systems.KERNEL32)
# sys.platform as `systems` and the functions of kernel32 see it; the rest of the process stays on this system
FAKE = """
import ctypes, sys, threading, time
import numba, numpy
from types import SimpleNamespace

calls = dict.fromkeys(
    "SwitchToThread QueryPerformanceCounter QueryPerformanceFrequency WaitForSingleObject ReleaseSemaphore"
    " CreateSemaphoreW".split(), 0
)
I32, I64, U32 = ctypes.c_int32, ctypes.c_int64, ctypes.c_uint32
semaphores = {}

def native(result, *arguments):
    def declare(function):
        def counted(*values):
            calls[function.__name__] += 1
            return function(*values)
        return ctypes.CFUNCTYPE(result, *arguments)(counted)
    return declare

@native(I32)
def SwitchToThread():
    time.sleep(0)
    return 1

@native(I32, I64)
def QueryPerformanceCounter(address):
    I64.from_address(address).value = time.perf_counter_ns() // 100
    return 1

@native(I32, I64)
def QueryPerformanceFrequency(address):
    I64.from_address(address).value = 10_000_000  # as on most Windows machines
    return 1

@native(I64, I64, I32, I32, I64)
def CreateSemaphoreW(attributes, first, most, name):
    semaphores[len(semaphores) + 1] = threading.Semaphore(first)
    return len(semaphores)

@native(U32, I64, U32)
def WaitForSingleObject(handle, milliseconds):
    assert milliseconds == 0xFFFFFFFF
    semaphores[handle].acquire()
    return 0

@native(I32, I64, I32, I64)
def ReleaseSemaphore(handle, count, before):
    semaphores[handle].release(count)
    return 1

def create(attributes, first, most, name):
    return CreateSemaphoreW(attributes or 0, first, most, name or 0)

ctypes.WinDLL = lambda name: SimpleNamespace(
    SwitchToThread=SwitchToThread, QueryPerformanceCounter=QueryPerformanceCounter,
    QueryPerformanceFrequency=QueryPerformanceFrequency, WaitForSingleObject=WaitForSingleObject,
    ReleaseSemaphore=ReleaseSemaphore, CreateSemaphoreW=create,
)
real, sys.platform = sys.platform, PLATFORM
import llmlite.engine.systems
sys.platform = real
"""

COMPILE = """
import re
import llvmlite.binding as llvm

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
from llmlite.engine import emit, jit, signatures

if not TRIPLE.startswith("x86"):  # kernels have no other instruction of one kind of CPU than this
    emit.pause = lambda builder, cpu: None
machine = llvm.Target.from_triple(TRIPLE).create_target_machine(opt=3, jit=True, reloc="default")
for kernel in (signatures.RUN, signatures.WORK, signatures.STOP):
    text = jit.optimised_ir(kernel)
    print(*re.findall(r"^declare .*@([A-Za-z_]\\w*)\\(", text, re.M))
    text = re.sub(r"(?m)^target (triple|datalayout) = .*$", "", text)
    text = re.sub(r'"(target-cpu|target-features)"="[^"]*"', "", text)
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = TRIPLE, str(machine.target_data)
    code = machine.emit_object(module)
    assert code.startswith(MAGIC), code[:8]
"""

RUN = """
import numpy as np
import llmlite as ll
from llmlite.engine import jit, systems

assert systems.WINDOWS == (PLATFORM == "win32") and not systems.LINUX
jit.OBJECTS_PROVEN = False  # as there: numba's own code, which finds what LLVM was told
one, three = (ll.load("tales", executor="planned", n_threads=n) for n in (1, 3))
for prompt in ("Once upon a time", "There was a dragon who liked tea", "The sea was calm, and"):
    text = [model.generate(prompt, max_tokens=12, temperature=0) for model in (one, three)]
    assert text[0] == text[1] and len(text[0]) > 20
    time.sleep(0.2)  # the workers park, and the next prompt wakes them
before = systems.now()
rows = three.executor.profile(repeat=2)
after = systems.now()
span = (after[0] - before[0]) * 10**9 + after[1] - before[1]
assert 0 < sum(row["nanoseconds"] for row in rows) < span
print(*[name for name, n in calls.items() if n])
"""


def outcome(platform: str, script: str, tmp_path: Path, **names: object) -> str:
    head = "".join(f"{name} = {value!r}\n" for name, value in {"PLATFORM": platform, **names}.items())
    done = subprocess.run(
        [sys.executable, "-c", head + FAKE + script],
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ, PYTHONPATH=str(ROOT), LLMLITE_CACHE=str(tmp_path), LLMLITE_KERNELS="compile"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    ("platform", "triple", "magic", "allowed"),
    [
        ("win32", "x86_64-pc-windows-msvc", b"\x64\x86", WINDOWS),
        pytest.param("win32", "aarch64-pc-windows-msvc", b"\x64\xaa", WINDOWS, marks=pytest.mark.slow),
        pytest.param("darwin", "x86_64-apple-macosx", b"\xcf\xfa\xed\xfe", POSIX, marks=pytest.mark.slow),
        ("darwin", "arm64-apple-macosx", b"\xcf\xfa\xed\xfe", POSIX),
        pytest.param(
            "linux",
            "x86_64-unknown-linux-gnu",
            b"\x7fELF",
            LINUX | POSIX - {"usleep"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_object_for_a_system_asks_only_for_what_the_system_has(
    platform: str, triple: str, magic: bytes, allowed: set[str], tmp_path: Path
) -> None:
    asked = set(outcome(platform, COMPILE, tmp_path, TRIPLE=triple, MAGIC=magic).split())
    assert asked & (POSIX | LINUX | WINDOWS) == allowed
    assert not {name for name in asked - allowed if not name.startswith(("llvm", "numba", "NRT", "Py"))}


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_a_systems_form_runs_with_functions_that_behave_as_its_own(platform: str, tmp_path: Path) -> None:
    called = set(outcome(platform, RUN, tmp_path).split())  # macOS' functions are there on Linux, too
    assert called == ({*WINDOWS, "CreateSemaphoreW"} if platform == "win32" else set())


def test_the_key_of_an_object_holds_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    here = jit._key.__wrapped__(signatures.RUN)
    monkeypatch.setattr(sys, "platform", "freebsd14")
    assert jit._key.__wrapped__(signatures.RUN) != here
