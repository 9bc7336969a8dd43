"""A model file that is cut off while it is in use: an error on every path that reads it, never death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from llmlite.system import guard
from tests.support.tiny_models import tiny_model

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the guard is for Linux")


def python(code: str, **env: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True, timeout=240
    )


@pytest.fixture
def big(tmp_path: Path) -> Path:
    return tiny_model(n_embd=256, n_ff=512, n_layer=4).write(tmp_path / "big.gguf")


BEGIN = """
    import os, shutil, sys
    import numpy as np
    import llmlite as ll
    from llmlite import gguf
    from llmlite.quantize import quantize_file
    path, folder = {path!r}, {folder!r}
    def cut():
        os.truncate(path, os.path.getsize(path) // 2)
    def outcome(job):
        try:
            job()
        except ll.GGUFError as error:
            print(error)
        else:
            print("no error")
"""
# what is opened before the file is cut off, and what reads it afterwards
PATHS = {
    "planned": (
        "m = ll.load(path, executor='planned', n_threads=2); m.logits([1, 2])",
        "m.logits([1, 2, 3])",
    ),
    "eager": ("m = ll.load(path, executor='eager')", "m.logits([1, 2, 3])"),
    "trace": ("m = ll.load(path, executor='eager')", "m.trace([1, 2, 3])"),
    "dequantize": ("f = gguf.read(path); t = list(f.tensors.values())[-1]", "t.dequantize()"),
    "rows": ("f = gguf.read(path); t = list(f.tensors.values())[-1]", "t.rows([0, t.n_rows - 1])"),
    "block": ("f = gguf.read(path); t = list(f.tensors.values())[-1]", "t.block(len(t.blocks) - 1)"),
    "write": ("f = gguf.read(path)", "gguf.write(folder + '/out.gguf', f.metadata, f.tensors)"),
    "write-big-endian": (
        "f = gguf.read(path)",
        "gguf.write(folder + '/out.gguf', f.metadata, f.tensors, byte_order='big')",
    ),
    "check": ("f = gguf.read(path)", "gguf.check_weights(f)"),
    "requantize": (
        "f = gguf.read(path); t = list(f.tensors.values())[-1]",
        "ll.QuantTensor.quantize(t, 'Q8_0', n_threads=2)",
    ),
    "imatrix": (
        "from llmlite.bench.imatrix import collect; m = ll.load(path, executor='eager')",
        "collect(m, list(range(1, 65)), n_ctx=32)",
    ),
}


@pytest.mark.parametrize("name", PATHS)
def test_what_reads_a_file_that_was_cut_off_says_so(tmp_path: Path, big: Path, name: str) -> None:
    opened, read = PATHS[name]
    code = textwrap.dedent(BEGIN).format(path=str(big), folder=str(tmp_path))
    code += f"{opened}\ncut()\nfor attempt in range(2): outcome(lambda: {read})\n"
    done = python(code)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("cut off" in line and "big.gguf" in line for line in lines), lines
    assert [path.name for path in tmp_path.iterdir()] == ["big.gguf"], "nothing half written is left"


def test_a_source_that_is_cut_off_while_it_is_quantized_leaves_no_target(tmp_path: Path, big: Path) -> None:
    code = textwrap.dedent(BEGIN).format(path=str(big), folder=str(tmp_path)) + textwrap.dedent("""
    def progress(done, total, name):
        if 0 < done < total / 3 and os.path.getsize(path) == size:
            cut()
    size = os.path.getsize(path)
    outcome(lambda: quantize_file(path, folder + "/out.gguf", "Q8_0", progress=progress))
    """)
    done = python(code)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "cut off" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["big.gguf"]


def test_what_lies_before_the_cut_is_still_read(tmp_path: Path, big: Path) -> None:
    code = textwrap.dedent(BEGIN).format(path=str(big), folder=str(tmp_path)) + textwrap.dedent("""
    f = gguf.read(path)
    first, last = list(f.tensors.values())[0], list(f.tensors.values())[-1]
    want = first.dequantize()
    cut()
    outcome(last.dequantize)
    assert np.array_equal(first.dequantize(), want)
    g = gguf.read(shutil.copyfile({whole!r}, folder + "/other.gguf"))
    list(g.tensors.values())[-1].dequantize()
    print("other files too")
    """).format(whole=str(tiny_model().write(tmp_path / "whole.gguf")))
    done = python(code)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "cut off" in done.stdout and "other files too" in done.stdout


def test_a_file_opened_again_is_read_again(tmp_path: Path, big: Path) -> None:
    code = textwrap.dedent(BEGIN).format(path=str(big), folder=str(tmp_path)) + textwrap.dedent("""
    shutil.copyfile(path, folder + "/copy.gguf")
    f = gguf.read(path)
    cut()
    outcome(lambda: gguf.check_weights(f))
    del f
    for attempt in range(300):  # rows of the table are given back, and addresses come again
        os.replace(shutil.copyfile(folder + "/copy.gguf", folder + "/next.gguf"), path)
        f = gguf.read(path)
        list(f.tensors.values())[-1].dequantize()
        f = gguf.read(path)
    from llmlite.system import guard
    print(len(guard._table.paths) < 10)
    """)
    done = python(code)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[1:] == ["True"]


def test_looking_at_a_file_costs_no_compiler(big: Path) -> None:
    done = python(f"""
    import sys
    from llmlite import cli
    cli.main(["show", {str(big)!r}])
    print("llvmlite" in sys.modules)
    """)
    assert done.stdout.splitlines()[-1] == "False"


def test_without_llvmlite_reading_works_and_the_lack_is_said_once(big: Path) -> None:
    done = python(f"""
    import sys
    sys.modules["llvmlite"] = None
    from llmlite import gguf
    for tensor in gguf.read({str(big)!r}).tensors.values():
        tensor.dequantize()
    """)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1 and "llvmlite can't be used" in done.stderr


def test_a_fault_that_is_not_ours_still_kills(big: Path) -> None:
    done = python(f"""
    import os, signal
    from llmlite import gguf
    from llmlite.system import guard
    list(gguf.read({str(big)!r}).tensors.values())[0].dequantize()
    assert guard._armed
    for _ in range(2): os.kill(os.getpid(), signal.SIGBUS)
    """)
    assert done.returncode == -signal.SIGBUS


def test_a_mapping_collected_while_another_enters_does_not_wait_for_ever() -> None:
    """The collector may run a finalizer in any line, also in one that holds the table's lock."""
    table = guard._Table()
    row = table.enter(4096, 8192, "x")

    def leave_inside() -> None:
        with table.lock:
            table.leave(row)

    thread = threading.Thread(target=leave_inside, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive() and not table.paths
