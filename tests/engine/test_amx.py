"""AMX tiles: their layout in NumPy, the compiled routine on an emulated tile unit, its assembly, its choice.

Few machines have AMX. So the tile unit is a NumPy model of Intel's manual (tests/support/tile_unit.py), and
the routine's own code runs on top of it: every bit must be that of the other kernels. The last test runs the
real instructions if a machine has them; test_amx_machine_code.py runs the routine's machine code elsewhere.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

llvm = pytest.importorskip("llvmlite.binding")
import llmlite as ll  # noqa: E402
from llmlite.bench import checks  # noqa: E402
from llmlite.engine import amx, amx_check, jit, shipped  # noqa: E402
from llmlite.engine.amx_emit import block_module  # noqa: E402
from llmlite.engine.cpu import Target, target  # noqa: E402
from llmlite.engine.families import FAMILIES  # noqa: E402
from llmlite.engine.plan import Plan, Share  # noqa: E402
from llmlite.engine.recorder import Recorder  # noqa: E402
from llmlite.errors import AMXWarning, KernelError, LlmliteError  # noqa: E402
from llmlite.quants.tensor import QuantTensor  # noqa: E402
from tests.support.amx_products import (  # noqa: E402
    FAST,
    FORMS,
    NAMES,
    SAPPHIRE_RAPIDS,
    TYPES,
    activations,
    assert_same_bits,
    bits,
    product,
    replace_routines,
)
from tests.support.amx_twin import by_tiles, fma  # noqa: E402
from tests.support.planned import random_weights  # noqa: E402
from tests.support.tile_unit import Emulator, TileFaultError, TileUnit  # noqa: E402
from tests.support.tiny_models import tiny_model  # noqa: E402

no_fma = pytest.mark.skipif(
    target().architecture == "x86" and not target().has("fma"), reason="this CPU has no FMA"
)


# ---- the layout --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sub", [32, 16])
def test_the_configuration_is_what_a_tile_unit_takes(sub: int) -> None:
    unit, config = TileUnit(), amx.config(sub)
    assert config.shape == (64,) and config.dtype == np.uint8
    unit.ldtilecfg(config)
    assert [shape for shape in unit.shapes if shape != (0, 0)] == [(16, 64), (16, sub), (sub // 4, 64)]


@pytest.mark.parametrize(
    ("byte", "value", "said"),
    [(0, 0, "palette"), (1, 1, "reserved"), (5, 1, "reserved"), (48, 17, "too large"), (16, 65, "too large"),
     (48, 0, "bytes without rows"), (60, 1, "more than eight")],
)  # fmt: skip
def test_the_tile_unit_faults_over_other_configurations(byte: int, value: int, said: str) -> None:
    config = amx.config(32).copy()
    config[byte] = value
    with pytest.raises(TileFaultError, match=said):
        TileUnit().ldtilecfg(config)


def test_fma_rounds_once() -> None:
    one, tiny = np.float32(1 + 2**-12), np.float32(2**-60)
    a, b = np.array([one, one]), np.array([one, one])
    c = np.array([tiny, -tiny])  # (1 + 2⁻¹²)² = 1 + 2⁻¹¹ + 2⁻²⁴: a tie, which c breaks
    found = fma(a, b, c)
    assert found[0] == np.float32(1 + 2**-11 + 2**-23) and found[1] == np.float32(1 + 2**-11)


@no_fma
@pytest.mark.parametrize("name", FAST)
def test_the_tile_layout_in_numpy_gives_the_bits_of_the_plain_kernel(name: str) -> None:
    w, x = random_weights(name, 16, 512), activations(32, 512)
    np.testing.assert_array_equal(bits(by_tiles(w, x)), bits(product(w, x, tiles=False)))


# ---- the routine -------------------------------------------------------------------------------------------


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The compiled routines, on a tile unit in NumPy; afterwards nothing may have faulted."""
    found = Emulator()
    replace_routines(found, monkeypatch)
    yield found
    assert found.faults == []


@pytest.mark.parametrize("name", TYPES)
def test_the_routine_gives_the_bits_of_the_other_kernel(name: str, emulator: Emulator) -> None:
    assert_same_bits(name)
    assert emulator.counts.min() > 0  # every instruction took part


def test_a_step_shorter_than_its_plan_is_multiplied_alike(emulator: Emulator) -> None:
    w, x = random_weights("Q4_0", 40, 288), activations(64, 288)
    recorder = Recorder(max_tokens=64, max_outputs=1, n_threads=1, tiles=True)
    plan = Plan(recorder, recorder.matmul(w, recorder.embed(QuantTensor.quantize(x, "F32"), None)))
    want = product(w, x, tiles=False)
    for n in (1, 16, 33, 50):
        with plan.lock:
            np.testing.assert_array_equal(bits(plan.run([Share(range(n))])), bits(want[:n]))


def test_a_routine_configures_once_and_releases_at_its_end(emulator: Emulator) -> None:
    product(random_weights("Q8_0", 32, 256), activations(32, 256), tiles=True)
    configured, zeroed, loaded, multiplied, stored, released = emulator.counts
    assert configured == released == 1
    # 8 blocks × 2 halves of the rows × 2 sixteens of tokens
    assert zeroed == multiplied == stored == 32 and loaded == 64


@pytest.mark.parametrize("options", [{}, {"n_expert": 4}], ids=["dense", "experts"])
def test_a_model_reads_its_prompt_by_tiles_with_the_same_logits(
    options: dict, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tiny_model(n_ctx=64, n_layer=1, **options).write(tmp_path / "tiny.gguf", "Q8_0")
    want = ll.load(path, executor="planned", n_threads=2).logits(list(range(37)))
    monkeypatch.setattr(amx_check, "usable", lambda weights: True)
    model = ll.load(path, executor="planned", n_threads=2)
    assert ", AMX" in repr(model.executor)
    np.testing.assert_array_equal(bits(model.logits(list(range(37)))), bits(want))
    assert emulator.counts.min() > 0


# ---- its code ----------------------------------------------------------------------------------------------


def assembly(sub: int, has_minimum: bool) -> str:
    """Compile the routine for an Intel CPU with AMX, whatever this one is."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(block_module(SAPPHIRE_RAPIDS, "block", sub=sub, has_minimum=has_minimum))
    machine = llvm.Target.from_triple("x86_64-unknown-linux-gnu").create_target_machine(
        cpu=SAPPHIRE_RAPIDS.name, features=SAPPHIRE_RAPIDS.features, opt=3
    )
    return machine.emit_assembly(module)


def words_of(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line.startswith("\t") and line.split()]


@pytest.mark.parametrize(("sub", "has_minimum"), FORMS)
def test_the_routine_is_made_of_tile_instructions(sub: int, has_minimum: bool) -> None:
    words = words_of(assembly(sub, has_minimum))
    assert words.count("ldtilecfg") == words.count("tilerelease") == 1
    n = words.count("tdpbssd")
    assert n == 2 * 2 * (32 // sub)  # for each half of the rows: before the loop and in it, each part
    assert words.count("tilezero") == words.count("tilestored") == n
    assert words.count("tileloadd") == 2 * n
    assert not [word for word in words if word.startswith("call")]  # neither libc nor anything else


@pytest.mark.parametrize(("sub", "has_minimum"), FORMS)
def test_sixteen_sums_stay_in_registers(sub: int, has_minimum: bool) -> None:
    text = assembly(sub, has_minimum)
    words = words_of(text)
    parts, each = 32 // sub, 16 * 2  # of a block; tokens × halves of the rows
    assert words.count("vcvtdq2ps") == parts * each  # straight from the products' memory
    n_fma = sum(word.startswith(("vfmadd", "vfnmadd", "vfmsub", "vfnmsub")) for word in words)
    assert n_fma == parts * each + (each if has_minimum else 0)
    stored = [line for line in text.splitlines() if "zmm" in line and line.rstrip().endswith("(%rsp)")]
    assert len(stored) <= (0 if sub == 32 else 8)  # of 32 sums; LLVM has too few addresses for 16 tokens


def test_numba_is_not_asked_for_tiles() -> None:
    """Its machine may be a target without them, and LLVM ends the process over an instruction it lacks."""
    kernel = next(k for k in jit.DECLARED.values() if k.name == "block32")
    text = jit.optimised_ir(kernel)
    assert f'"target-features"="{target().features},+amx-tile,+amx-int8"' in text
    assert "define void @llmlite_block32(" in text.replace('"', "")


def test_wheels_carry_the_routine_for_the_level_that_cpus_with_amx_reach() -> None:
    with_tiles = [
        level.name
        for level in shipped.LEVELS
        if any(k.module == "amx" for k in jit.declared_for(level.required))
    ]
    assert with_tiles == ["x86-64-v4-vnni-bf16"]


# ---- the choice --------------------------------------------------------------------------------------------


def test_tiles_are_chosen_for_many_tokens_of_quantized_weights_only() -> None:
    q4, f16 = NAMES["Q4_0"], FAMILIES[1]
    assert [q4.product(n, True).name for n in (1, 16, 17)] == [
        "matvec_q4_0",
        "matmul_few_q4_0",
        "matmul_tiles",
    ]
    assert q4.product(17).name == "matmul32"
    assert f16.product(17, True) is f16.matmul


def without_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Target(architecture="x86", name="skylake", features="+avx2")
    monkeypatch.setattr(amx, "host", lambda: bare)


def with_amx(monkeypatch: pytest.MonkeyPatch, answer: tuple[int, int]) -> None:
    """A CPU that has AMX, under a system that answers so."""
    features = ",".join(f"+{name}" for name in (*amx.FEATURES, *amx.NEEDS))
    cpu = Target(architecture="x86", name="sapphirerapids", features=features)
    for name in ("host", "target"):
        monkeypatch.setattr(amx, name, lambda: cpu)
    monkeypatch.setattr(amx, "LINUX", True)
    monkeypatch.setattr(amx.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(amx, "_arch_prctl", lambda: answer)
    amx.ask.cache_clear()


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No choice made, nothing asked and nothing compared before; nor is it kept afterwards."""
    monkeypatch.delenv(amx.CHOICE, raising=False)
    monkeypatch.setattr(amx_check, "_compared", {})
    amx.ask.cache_clear()
    yield
    amx.ask.cache_clear()


@pytest.mark.usefixtures("clean")
def test_a_cpu_without_amx_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    without_amx(monkeypatch)
    monkeypatch.setattr(amx, "_arch_prctl", lambda: pytest.fail("the system was asked"))
    assert "no AMX" in amx.refusal()
    assert not amx_check.usable([random_weights("Q4_0", 8, 256)])
    right, words = amx_check.report()
    assert right and words.startswith("not used: this CPU has no AMX")


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((0, 0), ""),
        ((-1, errno.EPERM), "EPERM: Operation not permitted"),
        ((-1, errno.EINVAL), "EINVAL: this kernel, or the sandbox"),
        ((-1, errno.ENOSPC), "ENOSPC: a thread's alternate signal stack is too small"),
        ((-1, 98765), "98765"),
    ],
)
def test_what_the_system_answers_decides(
    answer: tuple[int, int], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_amx(monkeypatch, answer)
    found = amx.refusal()
    assert (said in found and "refuses" in found) if said else found == ""


@pytest.mark.usefixtures("clean")
def test_other_systems_and_lesser_targets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_amx(monkeypatch, (0, 0))
    monkeypatch.setattr(amx, "LINUX", False)
    assert "Linux" in amx.refusal()
    lesser = Target(architecture="x86", name="x86-64-v3", features="+avx2")
    monkeypatch.setattr(amx, "target", lambda: lesser)
    assert "x86-64-v3, lacks" in amx.refusal()


@pytest.mark.usefixtures("clean")
def test_a_user_can_leave_tiles_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with_amx(monkeypatch, (0, 0))
    monkeypatch.setenv(amx.CHOICE, "off")
    assert amx.refusal() == "LLMLITE_AMX=off"
    monkeypatch.setenv(amx.CHOICE, "yes")
    with pytest.raises(LlmliteError, match='LLMLITE_AMX: expected "off", "on" or nothing; got \'yes\''):
        amx.refusal()


@pytest.mark.usefixtures("clean")
def test_tiles_that_agree_are_used_if_they_are_not_slower(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_amx(monkeypatch, (0, 0))
    w = random_weights("Q4_0", 40, 32)
    assert not amx_check.usable([w])  # the emulator is slow
    (found,) = amx_check._compared.values()
    assert found.n_unlike == 0 and found.n == 40 * amx_check.N_TOKENS and found.ratio < 1
    monkeypatch.setenv(amx.CHOICE, "on")
    assert amx_check.usable([w])
    assert not amx_check.usable([random_weights("F16", 40, 32)])  # nothing that tiles could multiply
    monkeypatch.setattr(amx_check, "TYPES", ("Q4_0",))
    right, words = amx_check.report()
    assert right and words.startswith(
        "used: granted by the system; the same bits as other kernels; times as fast: Q4_0 0."
    )


@pytest.mark.usefixtures("clean")
def test_tiles_that_differ_in_one_number_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(TileUnit):
        def tdpbssd(self, sums: int, a: int, b: int) -> None:
            super().tdpbssd(sums, a, b)
            self.registers[sums, 3].view(np.int32)[5] += 1

    with_amx(monkeypatch, (0, 0))
    monkeypatch.setenv(amx.CHOICE, "on")
    replace_routines(Emulator(Broken), monkeypatch)
    with pytest.warns(AMXWarning, match="AMX tiles are not used: [0-9]+ of 5640 numbers differ"):
        assert not amx_check.usable([random_weights("Q4_0", 40, 32)])
    monkeypatch.setattr(amx_check, "TYPES", ("Q4_0",))
    right, words = amx_check.report()
    assert not right and words.startswith("not used: granted by the system; DIFFERENT numbers")
    (check,) = [check for check in checks.CHECKS if check.topic == "AMX"]
    assert checks._look(check, strict=False).verdict == "optional"


@pytest.mark.usefixtures("clean")
def test_kernels_that_cannot_be_had_cost_nothing_but_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(w: QuantTensor) -> amx_check.TileCheck:
        raise KernelError("no such instruction")

    with_amx(monkeypatch, (0, 0))
    monkeypatch.setattr(amx_check, "compare", failing)
    with pytest.warns(AMXWarning, match="AMX tiles are not used: no such instruction; please report"):
        assert not amx_check.usable([random_weights("Q4_0", 40, 32)])
    assert amx_check.report() == (False, "not used: granted by the system, but no such instruction")


def test_this_machine_runs_its_own_tiles() -> None:
    """The real instructions, on a machine that grants them."""
    if reason := amx.refusal():
        pytest.skip(reason)
    for name in NAMES:
        w = random_weights(name, 100, 2304)
        for n_tokens in (17, 96, 141):
            x = activations(n_tokens, 2304)
            for n_threads in (1, 2):
                found = product(w, x, tiles=True, n_threads=n_threads)
                np.testing.assert_array_equal(bits(found), bits(product(w, x, tiles=False)), name)
