"""Kernels that a wheel carries: only the right ones are run, and numba is imported only if none is."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from llmlite.engine import jit, shipped
from llmlite.engine.cpu import host
from llmlite.engine.shipped import LEVELS, Level
from llmlite.errors import LlmliteError

ROOT = Path(__file__).resolve().parents[2]
ARM = next(level for level in LEVELS if level.architecture == "arm")
FITTING = [
    level
    for level in LEVELS
    if level.architecture == host().architecture and host().enabled.issuperset(level.required)
]
NAMES = ("basic.add", "basic.scale")
pytestmark = pytest.mark.skipif(not jit.OBJECTS_PROVEN, reason="object files are loaded on Linux only")
known_cpu = pytest.mark.skipif(not FITTING, reason="no level fits this CPU, so nothing shipped is used here")


# ---- which level -------------------------------------------------------------------------------------------


@pytest.fixture
def all_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an empty manifest for every level, in the place of the package's."""
    for level in LEVELS:
        shipped.write(tmp_path, level, {}, "a test")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    monkeypatch.delenv(shipped.CHOICE, raising=False)
    shipped._manifest.cache_clear()
    yield tmp_path
    shipped._manifest.cache_clear()


def chosen(architecture: str, features: set[str] | frozenset[str]) -> Level | None:
    return shipped.level_for(architecture, frozenset(features))


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_a_level_is_taken_with_all_its_features_and_never_without_one_of_them(
    all_levels: Path, level: Level
) -> None:
    assert chosen(level.architecture, set(level.required) | {"something-newer"}) == level
    for missing in level.required:
        found = chosen(level.architecture, set(level.required) - {missing})
        assert found is None or missing not in found.required
    assert chosen("arm" if level.architecture == "x86" else "x86", set(level.required)) is None


def test_the_best_level_comes_first_and_one_without_files_is_passed_over(all_levels: Path) -> None:
    everything = {name for level in LEVELS for name in level.required}
    assert chosen("x86", everything) == LEVELS[0]
    (all_levels / f"{LEVELS[0].name}.json").unlink()
    assert chosen("x86", everything) == LEVELS[1]
    for i, level in enumerate(LEVELS):
        assert not any(set(level.required) > set(better.required) for better in LEVELS[:i])


def test_a_checkout_ships_nothing_and_compile_is_a_choice(
    all_levels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not (ROOT / "llmlite" / "_kernels").exists()
    monkeypatch.setenv(shipped.CHOICE, "compile")
    assert chosen("x86", set(LEVELS[0].required)) is None
    monkeypatch.setenv(shipped.CHOICE, "shipped?")
    with pytest.raises(LlmliteError, match='LLMLITE_KERNELS: expected "compile", or nothing; got'):
        chosen("x86", set(LEVELS[0].required))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 99}', "1" * 5000, '{"format": 1, "cpu": "i386"}']
)
def test_a_manifest_that_cant_be_used_is_named_and_numba_compiles_for_the_host(
    all_levels: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    level = LEVELS[0]
    (all_levels / f"{level.name}.json").write_text(text)
    assert chosen("x86", set(level.required)) is None, "not a lesser level either"
    assert f"{level.name}.json" in shipped.choose("x86", frozenset(level.required))[1]
    assert f"{level.name}.json" in capsys.readouterr().err


# ---- which bytes -------------------------------------------------------------------------------------------

REPORT = """
    from llmlite.engine.families import declared_kernel
    print(bool(declared_kernel("basic", "add").address), "numba" in sys.modules)
"""
NO_NUMBA = "sys.modules['numba'] = None\n"


def python(folder: Path, cache: Path, code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process whose package ships the folder."""
    start = "import sys, pathlib\nfrom llmlite.engine import shipped\n"
    start += f"shipped.FOLDER = pathlib.Path({str(folder)!r})\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LLMLITE_CACHE": str(cache), **env}
    environment.pop(shipped.CHOICE, None) if shipped.CHOICE not in env else None
    command = [sys.executable, "-c", start + textwrap.dedent(code)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kernels for the best level of this CPU and for ARM, as `make wheel` compiles them."""
    folder = tmp_path_factory.mktemp("kernels")
    command = [
        sys.executable,
        str(ROOT / "tools" / "compile_kernels.py"),
        "--out",
        str(folder),
        "--jobs",
        "2",
    ]
    for level in (FITTING[0], ARM):
        command += ["--level", level.name]
    for name in NAMES:
        command += ["--only", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(compiled: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    copy = tmp_path / "shipped"
    copy.mkdir()
    for path in compiled.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


@known_cpu
def test_a_shipped_kernel_runs_without_numba_and_writes_no_cache(folder: Path, tmp_path: Path) -> None:
    code = NO_NUMBA + textwrap.dedent("""
        import ctypes
        import numpy as np
        from llmlite.engine.contract import STEP
        from llmlite.engine.families import declared_kernel
        n, width = 3, 37
        a, b = (np.arange(n * width, dtype=np.float32) * f for f in (1, 2))
        out = np.zeros_like(a)
        step = np.zeros(len(STEP), np.int64)
        step[STEP.n_tokens // 8] = n
        words = [step.ctypes.data, STEP.n_tokens, *(x.ctypes.data for x in (a, b, out)), width]
        record = np.array(words, np.int64)
        entry = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(declared_kernel("basic", "add").address)
        entry(record.ctypes.data, 0, 1)
        print(np.array_equal(out, a + b))
    """)
    done = python(folder, tmp_path / "cache", code)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
    assert not list((tmp_path / "cache").rglob("*.o"))
    assert python(folder, tmp_path / "cache", REPORT).stdout.split() == ["True", "False"]


@known_cpu
def test_compile_leaves_the_shipped_kernels_alone(folder: Path, tmp_path: Path) -> None:
    done = python(folder, tmp_path, REPORT, LLMLITE_KERNELS="compile")
    assert done.stdout.split() == ["True", "True"]


def change(folder: Path, how: str) -> str:
    """Damage the object of basic.add in one way; return the reason that must be given."""
    name = FITTING[0].name
    manifest = json.loads((folder / f"{name}.json").read_text())
    whole = bytearray((folder / f"{name}.bin").read_bytes())
    entry = manifest["kernels"]["basic.add"]
    if how == "bit":
        whole[entry["offset"] + entry["size"] // 2] ^= 1
        reason = "SHA-256"
    elif how == "cut":
        del whole[entry["offset"] + entry["size"] - 1 :]
        reason = "SHA-256"
    elif how == "source":
        entry["source"] = "0" * 64
        reason = "another source text"
    elif how == "machine":
        other = json.loads((folder / f"{ARM.name}.json").read_text())["kernels"]["basic.add"]
        code = (folder / f"{ARM.name}.bin").read_bytes()[other["offset"] :][: other["size"]]
        entry.update(offset=len(whole), size=len(code), sha256=hashlib.sha256(code).hexdigest())
        whole += code
        reason = "this machine's format"
    elif how == "line":
        del entry["offset"]
        reason = "damaged"
    elif how == "gone":
        del manifest["kernels"]["basic.add"]
        reason = "isn't in the manifest"
    else:
        raise AssertionError(how)
    (folder / f"{name}.bin").write_bytes(whole)
    (folder / f"{name}.json").write_text(json.dumps(manifest))
    return reason


@known_cpu
@pytest.mark.parametrize("how", ["bit", "cut", "source", "machine", "line", "gone"])
def test_a_damaged_or_foreign_object_is_named_and_never_run(folder: Path, tmp_path: Path, how: str) -> None:
    reason = change(folder, how)
    done = python(folder, tmp_path, NO_NUMBA + REPORT.replace("\n    ", "\n"))
    assert done.returncode == 1 and "KernelError" in done.stderr, "without numba there is nothing to run"
    assert reason in done.stderr and "basic.add" in done.stderr and FITTING[0].name in done.stderr


@known_cpu
def test_what_is_compiled_in_the_place_of_a_damaged_one_is_for_the_level_and_kept(
    folder: Path, tmp_path: Path
) -> None:
    change(folder, "bit")
    report = REPORT + "    from llmlite.engine.cpu import target; print(target().name, target().features)\n"
    done = python(folder, tmp_path / "cache", report)
    assert done.stdout.split() == ["True", "True", FITTING[0].cpu, FITTING[0].features]
    assert done.stderr.count("SHA-256") == 1
    assert python(folder, tmp_path / "cache", REPORT).stdout.split() == ["True", "False"]


@known_cpu
def test_doctor_says_whose_kernels_run(folder: Path, tmp_path: Path) -> None:
    code = """
        import llmlite.engine.families  # declares all; then only the two that are in the folder are left
        from llmlite.engine.jit import DECLARED
        for pair in list(DECLARED):
            if ".".join(pair) not in ("basic.add", "basic.scale"):
                del DECLARED[pair]
        from llmlite.bench import checks
        (check,) = [check for check in checks.CHECKS if check.topic == "compiler"]
        found = checks._look(check, False)
        print(found.ok, found.found, found.remedy)
    """
    done = python(folder, tmp_path, code)
    assert done.stdout.startswith(f"True 2 shipped for {FITTING[0].name}, their hashes agree"), done.stderr
    change(folder, "bit")
    done = python(folder, tmp_path, code)
    assert done.stdout.startswith("False shipped for") and "basic.add: its SHA-256" in done.stdout
    assert "--force-reinstall" in done.stdout
