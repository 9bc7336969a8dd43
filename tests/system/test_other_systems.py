"""The package where macOS' and Windows' Python lack what Linux' has: simulated, each in a process of its own.

Modules that those systems don't have can't be imported, functions of theirs are gone, and `sys.platform` says
the other name. What can't be simulated is in docs/platforms.md, with the command that would tell.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

ROOT = Path(__file__).resolve().parents[2]
# The standard library and other packages take their calls before they go; child processes are untouched.
HEAD = """
import ctypes, os, signal, sys, time
import asyncio, concurrent.futures, getpass, importlib.metadata, multiprocessing, random, subprocess, tempfile
import jinja2, numba, numpy
try:
    import pydantic, starlette.applications, starlette.testclient, uvicorn
except ImportError:
    pass

def without(module, names):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)

ROOT = os.geteuid() == 0
sys.modules["psutil"] = None  # it would look at this system
sys.platform = PLATFORM
without(os, "sched_getaffinity sched_setaffinity sched_getcpu")
if PLATFORM == "win32":
    for name in "fcntl resource pwd grp termios tty pty readline syslog".split():
        sys.modules[name] = None
    without(os, "fork forkpty geteuid getuid getgid getegid getloadavg sysconf register_at_fork killpg")
    without(os, "O_NONBLOCK O_NOFOLLOW O_CLOEXEC O_DIRECTORY uname mkfifo chown")
    without(signal, "SIGHUP SIGBUS SIGKILL SIGALRM alarm setitimer pthread_sigmask")
    without(time, "clock_gettime clock_gettime_ns CLOCK_MONOTONIC CLOCK_PROCESS_CPUTIME_ID")

    class Kernel32:
        class GetCurrentProcess:
            def __new__(cls):
                return -1
        class K32GetProcessMemoryInfo:
            def __new__(cls, process, counters, size):
                assert process == -1 and size == ctypes.sizeof(counters._obj)
                counters._obj.WorkingSetSize = counters._obj.PeakWorkingSetSize = 123 << 20
                return 1
    ctypes.WinDLL = {"kernel32": Kernel32}.__getitem__
real_open = open
def hidden(path):
    return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(("/proc/", "/sys/"))
def opened(path, *args, **more):
    if hidden(path):
        raise FileNotFoundError(2, "No such file or directory", path)
    return real_open(path, *args, **more)
import builtins, io, pathlib
builtins.open = io.open = opened

def claim(name):
    def run(function):
        try:
            function()
        except BaseException:
            import traceback
            print("failed", name, traceback.format_exc().replace("\\n", "\\n  "), flush=True)
        else:
            print("holds", name, flush=True)
    return run
"""
BODY = """
@claim("the package is imported")
def _():
    import llmlite as ll
    assert sys.platform == PLATFORM and ll.__version__

import llmlite as ll
from llmlite import cli

def command(*words):
    try:
        code = cli.main(list(words))
    except SystemExit as end:
        code = end.code
    assert code in (0, None), code

@claim("a text is made by the eager executor")
def _():
    model = ll.load("tales", executor="eager")
    assert len(str(model.generate("Once upon a time", max_tokens=4, temperature=0))) > 4

@claim("a chat template is rendered")
def _():
    model = ll.load("tales", executor="eager")
    assert list(model.chat([{"role": "user", "content": "Hello"}], max_tokens=2, temperature=0)) is not None

@claim("the system's calls are this system's")
def _():
    from llmlite.engine import systems
    assert systems.WINDOWS == (PLATFORM == "win32") and not systems.LINUX
    first, then = systems.now(), systems.now()
    assert then >= first and all(type(n) is int for n in then)

@claim("the number of threads is known")
def _():
    from llmlite.engine.cpu import choose_threads
    found = choose_threads()
    assert 1 <= found.n <= (os.cpu_count() or 1) and found.quota is None

@claim("doctor finds nothing wrong")
def _():
    command("doctor")

@claim("a server's app is built and answers")
def _():
    from llmlite.serve import Settings, make_app
    from starlette.testclient import TestClient
    with TestClient(make_app(ll.load("tales", executor="eager"), Settings(name="tales"))) as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "tales"

@claim("the help of lab is shown")
def _():
    command("lab", "--help")

@claim("JupyterLab would be started")
def _():
    from llmlite.cli import lab
    words = lab.command(pathlib.Path("."), browser=False)
    assert "jupyterlab" in words and ("--allow-root" in words) == (ROOT and hasattr(os, "geteuid"))

@claim("a file is quantized and written over")
def _():
    path = os.path.abspath(f"{PLATFORM}.gguf")
    for force in ((), ("--force",)):
        command("quantize", "tales", path, "Q4_0", *force)
    assert os.path.getsize(path) > 1 << 20

@claim("the cache folder is had")
def _():
    from llmlite.system import cache
    folder = cache.subfolder("some")
    assert folder.is_dir()

@claim("the machine is described")
def _():
    from llmlite.bench import environment
    assert environment.n_cpu_allowed() >= 1 and environment.cpu_name()
    environment.total_memory()

@claim("this process's memory is measured or unknown")
def _():
    from llmlite.bench import memory
    found = memory.now()
    assert found.resident == 123 << 20 if PLATFORM == "win32" else found.note
    assert memory.of(2**22 + 1) is None and memory.reset_peak() is False

@claim("models are listed")
def _():
    command("models")

@claim("limits are unknown, not wrong")
def _():
    from llmlite.serve.memory import available
    from llmlite.system.limits import memory_left
    assert available() is None and memory_left() is None
"""
CLAIMS = [line.split('"')[1] for line in BODY.splitlines() if line.startswith("@claim(")]


@functools.cache
def report(platform: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"PLATFORM = {platform!r}\n{HEAD}{BODY}"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        cwd=folder,
        env=dict(os.environ, PYTHONPATH=str(ROOT), PYTHONUTF8="1", LLMLITE_CACHE=str(folder / "cache")),
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("other")


@pytest.mark.parametrize("platform", ["darwin", "win32"])
@pytest.mark.parametrize("claim", CLAIMS)
def test_without_what_only_linux_has(claim: str, platform: str, folder: Path) -> None:
    if "server" in claim:
        pytest.importorskip("starlette")
        pytest.importorskip("httpx")
    said = report(platform, folder)
    assert f"holds {claim}\n" in said, said[-6000:]
