"""What the engine does to a process: its cache of kernels, forks, interrupts, files that change."""

from __future__ import annotations

import ast
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from llmlite.engine import jit
from llmlite.engine.families import declared_kernel
from llmlite.engine.jit import Kernel
from tests.support.tiny_models import tiny_model

LINUX = sys.platform.startswith("linux")
pytestmark = pytest.mark.skipif(not jit.OBJECTS_PROVEN, reason="object files are loaded on Linux x86-64 only")

# Any kernel that compiles quickly.
SMALL = "import sys; from llmlite.engine.families import declared_kernel as k; k('basic', 'add').address; "


def python(
    code: str, cache: Path | None = None, *arguments: str, timeout: float = 240, **env: str
) -> subprocess.CompletedProcess:
    """Run code in a fresh process, with a cache folder of its own if given."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env}
    if cache is not None:
        env["LLMLITE_CACHE"] = str(cache)
    code = textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, timeout=timeout
    )


def output(code: str, cache: Path | None = None, **env: str) -> str:
    done = python(code, cache, **env)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


# ---- the cache of kernels ----------------------------------------------------------------------------------


def test_a_warm_process_never_imports_numba_and_a_cold_one_compiles_what_it_needs(tmp_path: Path) -> None:
    report = SMALL + "print('numba' in sys.modules)"
    assert output(report, tmp_path) == "True"
    assert [file.name.split("-")[0] for file in (tmp_path / "kernels").iterdir()] == ["add"]
    assert output(report, tmp_path) == "False"


def test_a_torn_changed_or_foreign_object_is_compiled_again(tmp_path: Path) -> None:
    output(SMALL, tmp_path)
    (path,) = (tmp_path / "kernels").iterdir()
    good = path.read_bytes()
    code = good[len(jit.MAGIC) + 32 :]
    seal = lambda code: jit.MAGIC + hashlib.sha256(code).digest() + code  # noqa: E731
    assert seal(code) == good
    no_symbol = seal(code.replace(b"llmlite_add", b"llmlite_bad"))  # whole, but not what is looked for
    for bad in (good[:100], good[:-1] + bytes([good[-1] ^ 1]), seal(b"not an object"), no_symbol):
        path.write_bytes(bad)
        assert output(SMALL + "print('numba' in sys.modules)", tmp_path) == "True"
        assert output(SMALL + "print('numba' in sys.modules)", tmp_path) == "False"


def test_an_object_that_others_may_write_is_compiled_again(tmp_path: Path) -> None:
    output(SMALL, tmp_path)
    (path,) = (tmp_path / "kernels").iterdir()
    path.chmod(0o666)
    assert output(SMALL + "print('numba' in sys.modules)", tmp_path) == "True"
    assert path.stat().st_mode & 0o022 == 0


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "kernels").write_text("a file where the folder should be")
    assert output(SMALL + "print('ran')", tmp_path) == "ran"


def test_two_processes_may_compile_the_same_kernel_at_once(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LLMLITE_CACHE": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", SMALL], env=env) for _ in range(2)]
    assert [process.wait(timeout=240) for process in both] == [0, 0]
    assert [file.suffix for file in (tmp_path / "kernels").iterdir()] == [".o"]


def test_another_cpu_or_another_source_is_another_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    k = Kernel("basic", "add")
    key = jit._key.__wrapped__
    before = key(k)
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell" if jit.target().name == "x86-64" else "x86-64")
    assert key(k) != before
    monkeypatch.delenv("NUMBA_CPU_NAME")
    changed = tmp_path / "simd.py"
    changed.write_text("# not the one before\n")
    files = jit.source_files(jit.ENGINE / "kernels" / "basic.py")
    assert {"basic.py", "common.py", "simd.py", "emit.py", "jit.py", "cpu.py"} <= {
        file.name for file in files
    }
    monkeypatch.setattr(jit, "source_files", lambda path: files | {changed})
    assert key(k) != before


@pytest.mark.parametrize("file", sorted(jit.ENGINE.rglob("*.py")), ids=lambda file: file.stem)
def test_the_files_of_a_key_are_those_that_python_would_import(file: Path) -> None:
    expected = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llmlite.engine"):
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                expected.add(jit.ENGINE.joinpath(*name.split(".")[2:]).with_suffix(".py"))
    assert expected & set(jit.ENGINE.rglob("*.py")) <= jit.source_files(file)


BROKEN_LIBRARY = """
    import sys
    class Finder:
        def find_spec(self, name, *_):
            if name == "llvmlite":
                raise OSError("libllvmlite.so: failed to map segment from shared object")
    sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    ("before", "env", "why"),
    [
        ("", {"NUMBA_DISABLE_JIT": "1"}, "NUMBA_DISABLE_JIT"),
        (BROKEN_LIBRARY, {}, "llvmlite, can't be loaded: OSError: libllvmlite.so: failed to map"),
        ("import sys; sys.modules['llvmlite'] = None\n", {}, "llvmlite, can't be loaded"),
        ("import sys; sys.modules['numba'] = None\n", {}, "numba"),
    ],
    ids=["no-jit", "llvmlite-broken", "llvmlite-missing", "numba-missing"],
)
def test_without_a_compiler_auto_falls_back_and_says_why_each_time_and_planned_refuses(
    tmp_path: Path, before: str, env: dict[str, str], why: str
) -> None:
    path = tiny_model().write(tmp_path / "tiny.gguf")
    before = textwrap.dedent(before)
    code = f"{before}import llmlite; print(repr(llmlite.load({str(path)!r}).executor))"
    text = output(code, tmp_path, **env)
    assert text.startswith("EagerExecutor") and why in text
    command = f"{before}import sys; from llmlite.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["run", str(path), "-p", "a", "-n", "2", "--quiet"]
    for _ in range(2):
        done = python(command, tmp_path, *words, **env)
        assert done.returncode == 0
        (line,) = [line for line in done.stderr.splitlines() if "slow executor" in line]
        assert line.startswith("llmlite: warning: ") and why in line and "llmlite doctor" in line
    done = python(command, tmp_path, *words, "--executor", "planned", **env)
    assert done.returncode == 2 and why in done.stderr and "Traceback" not in done.stderr
    assert "slow executor" not in done.stderr
    done = python(command, tmp_path, *words, "--executor", "eager", **env)
    assert done.returncode == 0 and "slow executor" not in done.stderr


@pytest.mark.parametrize("name", ["basic.add", "basic.quantize", "activations.silu_mul"])
def test_a_kernel_neither_raises_nor_allocates(name: str) -> None:
    text = jit.optimised_ir(declared_kernel(*name.split(".")))
    assert ".const.pickledata" not in text
    assert "NRT_Allocate" not in text and "NRT_MemInfo_alloc" not in text


@pytest.mark.skipif("avx512vnni" not in jit.target().enabled, reason="this CPU has no AVX-512 VNNI")
def test_matrix_kernels_use_the_dot_product_instruction() -> None:
    for module, name in (("blocks32", "matvec_q4_0"), ("multiply", "multiply32")):
        text = jit.assembly(declared_kernel(module, name))
        assert text.count("vpdpbusd") >= 4
        assert "vpmaddubsw" not in text


def test_warmup_compiles_what_a_model_needs(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from llmlite import cli

    assert cli.main(["warmup", str(tiny)]) == 0
    assert "kernels are ready" in capsys.readouterr().out
    assert (
        declared_kernel("multiply", "multiply32_bytes").ready
        and declared_kernel("blocks32", "matvec_q8_0").ready
    )


# ---- a process that is interrupted, forked, ended ----------------------------------------------------------

RUN = """
    import os, signal, sys, threading, time
    import numpy as np
    import llmlite
    import llmlite.engine.planned
    llmlite.engine.planned.BYTES_PER_THREAD = 1  # two threads also for one token of a tiny model
    model = llmlite.load({path!r}, n_threads=2)
    ids = list(range(1, 40))
    want = model.logits(ids)
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(n_ctx=512).write(tmp_path_factory.mktemp("models") / "tiny.gguf", "Q8_0")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_gets_a_team_of_its_own(tiny: Path) -> None:
    code = (
        RUN.format(path=str(tiny))
        + """
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(model.logits(ids), want) else 1)
    assert np.array_equal(model.logits(ids), want)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    )
    assert output(code) == "0"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_forked_while_another_thread_generates_finds_every_lock_free(tiny: Path) -> None:
    code = (
        RUN.format(path=str(tiny))
        + """
    from llmlite.system import guard
    from llmlite.engine import jit, team
    done = threading.Event()
    def work():
        while not done.is_set():
            model.logits(ids)
    busy = threading.Thread(target=work)
    busy.start()
    jobs = (
        lambda: model.logits(ids),
        lambda: llmlite.load({path!r}, n_threads=2).logits(ids),
        lambda: llmlite.load({path!r}, executor="eager").logits(ids) * 0 + want,
    )
    locks = [guard._table.lock, guard._install_lock, team._teams_lock, model.executor._lock]
    for attempt in range(12):
        for lock in locks:  # as if another thread were inside
            lock.acquire()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(0 if np.array_equal(jobs[attempt % 3](), want) else 1)
        for lock in locks:
            lock.release()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    done.set()
    busy.join()
    """.replace("{path!r}", repr(str(tiny)))
    )
    assert output(code).split() == ["0"] * 12


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_fork_waits_for_the_kernel_that_another_thread_compiles(tmp_path: Path) -> None:
    code = """
    import os, signal, threading, time
    from llmlite.engine import jit
    from llmlite.engine.families import declared_kernel
    inside = threading.Event()
    def compile():
        with jit._lock:
            inside.set()
            time.sleep(1)
    threading.Thread(target=compile).start()
    inside.wait()
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if declared_kernel("basic", "add").address else 1)
    print(time.monotonic() - begin > 0.5, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert output(code, tmp_path) == "True 0"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
def test_ctrl_c_leaves_the_model_usable(tiny: Path) -> None:
    code = (
        RUN.format(path=str(tiny))
        + """
    import faulthandler
    faulthandler.dump_traceback_later(60, exit=True)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for attempt in range(30):
        try:  # again every half second: Python drops an exception that comes up in a destructor
            signal.setitimer(signal.ITIMER_REAL, 0.002 + 0.001 * attempt, 0.5)
            while True:
                model.generate(ids, max_tokens=100, temperature=0)
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert np.allclose(model.logits(ids), want, atol=1e-5)
    print('usable')
    """
    )
    assert output(code) == "usable"


def test_a_process_ends_at_once_while_workers_wait(tiny: Path) -> None:
    assert output(RUN.format(path=str(tiny)) + "    print('done')") == "done"
    daemon = (
        RUN.format(path=str(tiny))
        + """
    def forever():
        while True: model.logits(ids)
    threading.Thread(target=forever, daemon=True).start()
    time.sleep(0.2)
    print('done')
    """
    )
    assert python(daemon, timeout=120).stdout.strip() == "done"


@pytest.mark.skipif(not LINUX, reason="the guard is for Linux")
def test_a_fault_that_is_not_ours_still_kills(tiny: Path) -> None:
    code = RUN.format(path=str(tiny)) + "    for _ in range(2): os.kill(os.getpid(), signal.SIGBUS)"
    assert python(code).returncode == -signal.SIGBUS


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads have no affinity on this system")
def test_a_worker_leaves_the_core_of_the_thread_that_it_waits_for(tiny: Path) -> None:
    code = (
        RUN.format(path=str(tiny))
        + """
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        print("moved")
        sys.exit()
    (worker,) = [thread.native_id for thread in threading.enumerate() if thread.name == "llmlite-1"]
    core = min(allowed)
    for task in (threading.get_native_id(), worker):
        os.sched_setaffinity(task, {core})  # both on one core, though the worker may go
    os.sched_setaffinity(worker, allowed)
    def where():
        return int(open(f"/proc/self/task/{worker}/stat").read().rsplit(")", 1)[1].split()[36])
    assert np.array_equal(model.logits(ids), want)
    for _ in range(2000):  # the leader may have done all the work before the worker had the core
        if where() != core:
            break
        model.logits(ids)
    assert where() != core
    for _ in range(100):  # between two changes of its mask
        if os.sched_getaffinity(worker) == allowed:
            break
        time.sleep(0.01)
    assert os.sched_getaffinity(worker) == allowed  # its mask is as it was
    print("moved")
    """
    )
    assert output(code) == "moved"
