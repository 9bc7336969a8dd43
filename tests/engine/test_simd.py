"""The vector vocabulary on several CPUs: right results on each, and on each its own instruction."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

llvm = pytest.importorskip("llvmlite.binding")
from llvmlite import ir  # noqa: E402

from llmlite.engine import emit  # noqa: E402
from llmlite.engine.cpu import Target, cgroup_quota, target, usable_threads  # noqa: E402
from llmlite.errors import LlmliteError  # noqa: E402
from tests.support.machine import AVX2, AVX512, ON_SMALLER_CPUS, X86, environment_of, host_has, probe  # noqa: E402


def test_the_host_computes_what_numpy_does() -> None:
    report = probe()
    assert report["exp"] < 3e-7
    if target().dot_bits:
        assert "vpdpbusd" in report["dot"]
        assert "vpmaddwd" not in report["dot"]


@pytest.mark.skipif(not X86, reason="an x86 baseline")
def test_a_baseline_x86_computes_the_same_without_any_extension() -> None:
    report = probe("x86-64", "")
    assert report["exp"] < 1e-6  # no fused multiply-add
    assert not [name for name in report["dot"] if name.startswith("v")]  # no AVX at all


EVERY_PRODUCT = """
import ctypes, mmap
import numpy as np
from llmlite.quants.tensor import QuantTensor
from llmlite.bench.ladder import exact_activations, product, random_matrix
from llmlite.engine.families import FAMILIES
from llmlite.engine.plan import Share, Plan
from llmlite.engine.recorder import Recorder
from llmlite.quants import get


def at_the_brink(w, end):
    # the same weights between two pages that nobody may read, against the later one or the earlier one
    page, n = mmap.PAGESIZE, w.blocks.nbytes
    pages = -(-n // page)
    memory = mmap.mmap(-1, (pages + 2) * page)
    all_bytes = np.frombuffer(memory, np.uint8)
    start = (pages + 1) * page - n if end else page
    all_bytes[start : start + n] = w.blocks.reshape(-1)
    for forbidden in (0, pages + 1):
        address = ctypes.c_void_p(all_bytes.ctypes.data + forbidden * page)
        assert ctypes.CDLL(None).mprotect(address, ctypes.c_size_t(page), 0) == 0
    return QuantTensor(w.name, w.type, w.shape, all_bytes[start : start + n].reshape(w.blocks.shape))


def of_many(w, x):
    # as a prompt is read: rows unpacked into tiles, one token more than some of these take at a time
    recorder = Recorder(max_tokens=len(x), max_outputs=1, n_threads=2)
    plan = Plan(recorder, recorder.matmul(w, recorder.embed(QuantTensor.quantize(x, "F32"), None)))
    with plan.lock:
        return plan.run([Share(range(len(x)))]).copy()


for type_id, family in FAMILIES.items():
    width = 768 if family.block == 256 else 864  # whole groups of 256, and a rest where a type may have one
    w, x = random_matrix(get(type_id).name, 37, width), exact_activations(width)
    expected = product("numpy", w)(x)
    for end in (True, False):
        found = product("simd", at_the_brink(w, end))(x)
        error = float(np.abs(found - expected).max() / np.abs(expected).max())
        assert error < 1e-5, (w.type.name, error)
    x = np.stack([np.roll(x, 32 * t) for t in range(7)])
    expected = np.stack([product("numpy", w)(row) for row in x])
    for end in (True, False):
        error = float(np.abs(of_many(at_the_brink(w, end), x) - expected).max() / np.abs(expected).max())
        assert error < 1e-5, (w.type.name, "of many", error)
print(len(FAMILIES), "types")
"""


@pytest.mark.slow
@ON_SMALLER_CPUS
def test_every_type_multiplies_alike_on_smaller_cpus(name: str, features: str, tmp_path: Path) -> None:
    env = environment_of(name, features, tmp_path)
    done = subprocess.run([sys.executable, "-c", EVERY_PRODUCT], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[0]) >= 16


@pytest.mark.slow
@pytest.mark.skipif(not host_has("avx2", "fma", "f16c"), reason="this CPU has no AVX2")
def test_avx2_multiplies_pairs() -> None:
    report = probe("haswell", AVX2)
    assert "vpmaddwd" in report["dot"]
    assert "vpmaddubsw" in report["dot_small"]
    assert "vpdpbusd" not in report["dot"] + report["dot_small"]


@pytest.mark.slow
@pytest.mark.skipif(
    not host_has("avx512bw", "avx512vl", "avx512dq", "avx512cd"), reason="this CPU has no AVX-512"
)
def test_avx512_without_vnni_multiplies_pairs() -> None:
    report = probe("skylake-avx512", AVX512)
    assert "vpmaddubsw" in report["dot_small"]
    assert "vpdpbusd" not in report["dot"] + report["dot_small"]


def dot_assembly(triple: str, cpu: Target, n: int, *, small: bool = False, signed: bool = False) -> str:
    """Compile one dot product of 4n bytes for any CPU and return its assembly; nothing runs."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = ir.Module()
    module.triple = triple
    sums, quarters = ir.VectorType(emit.I32, n), ir.VectorType(emit.I8, 4 * n)
    function = ir.Function(module, ir.FunctionType(sums, [sums, quarters, quarters]), "dot")
    builder = ir.IRBuilder(function.append_basic_block())
    found = None if signed else emit.dot4(builder, *function.args, cpu, small=small)
    builder.ret(found or emit.dot4_signed(builder, *function.args, cpu))
    machine = llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu.name, features=cpu.features, opt=3
    )
    return machine.emit_assembly(llvm.parse_assembly(str(module)))


ARM = "aarch64-unknown-linux-gnu"
APPLE = "arm64-apple-macosx"
INTEL = "x86_64-unknown-linux-gnu"


@pytest.mark.parametrize(
    ("triple", "architecture", "name", "features", "small", "expected"),
    [
        (ARM, "arm", "neoverse-n1", "+neon,+dotprod", True, "sdot"),
        (ARM, "arm", "neoverse-n1", "+neon,+dotprod", False, "sdot"),
        (ARM, "arm", "neoverse-v1", "+neon,+dotprod,+i8mm", False, "usdot"),
        (ARM, "arm", "neoverse-v1", "+neon,+dotprod,+i8mm,+sve", True, "sdot"),
        (APPLE, "arm", "apple-m1", "+neon,+dotprod", True, "sdot"),
        (APPLE, "arm", "apple-m1", "+neon,+dotprod", False, "sdot"),
        (APPLE, "arm", "apple-m2", "+neon,+dotprod,+i8mm", False, "usdot"),
        (ARM, "arm", "cortex-a53", "+neon", False, "mla"),
        (INTEL, "x86", "znver4", f"{AVX512},+avx512vnni", False, "vpdpbusd"),
        (INTEL, "x86", "alderlake", f"{AVX2},+avxvnni", False, "vpdpbusd"),
        (INTEL, "x86", "haswell", AVX2, False, "vpmaddwd"),
        (INTEL, "x86", "haswell", AVX2, True, "vpmaddubsw"),
        (INTEL, "x86", "x86-64", "", False, "pm"),
    ],
)
def test_every_cpu_gets_its_own_dot_product(
    triple: str, architecture: str, name: str, features: str, small: bool, expected: str
) -> None:
    cpu = Target(architecture=architecture, name=name, features=features)
    assert f"\t{expected}" in dot_assembly(triple, cpu, 16, small=small)


@pytest.mark.parametrize(
    ("triple", "architecture", "name", "features", "expected", "times"),
    [
        (ARM, "arm", "neoverse-n1", "+neon,+dotprod", "sdot", 4),
        (INTEL, "x86", "haswell", AVX2, "vpsignb", 2),
    ],
)
def test_bytes_that_stand_for_signed_numbers_are_multiplied_as_such(
    triple: str, architecture: str, name: str, features: str, expected: str, times: int
) -> None:
    cpu = Target(architecture=architecture, name=name, features=features)
    assert emit.dots_signed(cpu)
    assert dot_assembly(triple, cpu, 16, signed=True).count(f"\t{expected}") == times


@pytest.mark.parametrize("features", ["avx2", "+avx2,,+fma", "+", "+avx2 +fma", "-,+avx2"])
def test_features_that_llvm_would_abort_over_are_refused(
    features: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CPU_FEATURES", features)
    with pytest.raises(LlmliteError, match="NUMBA_CPU_FEATURES: expected"):
        target()


def test_an_override_without_features_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    assert target().enabled == frozenset()
    assert target().dot_bits == 0


def test_threads_stay_within_affinity_and_quota(tmp_path: Path) -> None:
    if hasattr(os, "sched_getaffinity"):
        assert 1 <= usable_threads() <= len(os.sched_getaffinity(0))
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/a/b\n")
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    if sys.platform.startswith("linux"):
        assert cgroup_quota(str(tmp_path), str(tmp_path / "cgroup")) == 1.5
        (tmp_path / "a" / "cpu.max").write_text("max 100000\n")
        assert cgroup_quota(str(tmp_path), str(tmp_path / "cgroup")) is None
