"""The machine code of the AMX routine, as it runs on a machine with AMX, on one without.

A CPU without AMX raises SIGILL for a tile instruction. A handler decodes it, and the tile unit in NumPy
carries it out (tests/support/tile_trap.py). So encodings, addresses, strides, the use of registers and the
order of instructions are LLVM's own. The CPU runs every other instruction.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("llvmlite.binding")
import numpy as np

import llmlite as ll
from llmlite.engine import amx, amx_check, shipped
from llmlite.engine.cpu import Target, host, target
from tests.support.amx_products import (
    NAMES,
    SAPPHIRE_RAPIDS,
    TYPES,
    assert_same_bits,
    bits,
    use_routines,
)
from tests.support.tile_trap import SUPPORTED, Instruction, UnknownInstructionError, decode, trapped
from tests.support.tile_unit import CONFIGURE, LOAD, MULTIPLY, RELEASE, STORE, ZERO, Emulator
from tests.support.tiny_models import tiny_model

RAX, RSP, RSI, RDI, R12, R13, R15, RBX = 0, 4, 6, 7, 12, 13, 15, 3
ENCODED = {  # by LLVM 14's assembler
    "ldtilecfg (%rdi)": ("c4 e2 78 49 07", Instruction(CONFIGURE, 5, base=RDI)),
    "ldtilecfg 64(%r13)": ("c4 c2 78 49 45 40", Instruction(CONFIGURE, 6, base=R13, displacement=64)),
    "tilezero %tmm3": ("c4 e2 7b 49 d8", Instruction(ZERO, 5, (3,))),
    "tileloadd (%rsi,%rbx,2), %tmm1": (
        "c4 e2 7b 4b 0c 5e",
        Instruction(LOAD, 6, (1,), base=RSI, index=RBX, shift=1),
    ),
    "tileloadd -4096(%r12,%r13), %tmm7": (
        "c4 82 7b 4b bc 2c 00 f0 ff ff",
        Instruction(LOAD, 10, (7,), base=R12, index=R13, displacement=-4096),
    ),
    "tileloadd (%rax), %tmm2": ("c4 e2 7b 4b 14 20", Instruction(LOAD, 6, (2,), base=RAX)),
    "tilestored %tmm0, 128(%rsp,%r15,8)": (
        "c4 a2 7a 4b 84 fc 80 00 00 00",
        Instruction(STORE, 10, (0,), base=RSP, index=R15, shift=3, displacement=128),
    ),
    "tdpbssd %tmm2, %tmm1, %tmm0": ("c4 e2 6b 5e c1", Instruction(MULTIPLY, 5, (0, 1, 2))),
    "tdpbssd %tmm6, %tmm5, %tmm4": ("c4 e2 4b 5e e5", Instruction(MULTIPLY, 5, (4, 5, 6))),
    "tilerelease": ("c4 e2 78 49 c0", Instruction(RELEASE, 5)),
}
OTHERS = {
    "sttilecfg (%rax)": "c4 e2 79 49 00",
    "tdpbusd %tmm2, %tmm1, %tmm0": "c4 e2 69 5e c1",
    "tileloaddt1 (%rsi,%rbx), %tmm1": "c4 e2 79 4b 0c 1e",
    "ldtilecfg 8(%rip)": "c4 e2 78 49 05 08 00 00 00",
    "vpmulld %xmm8, %xmm7, %xmm9": "c4 42 41 40 c8",
    "ud2": "0f 0b",
}


def padded(code: str) -> bytes:
    return bytes.fromhex(code).ljust(15, b"\xcc")


@pytest.mark.parametrize("words", ENCODED)
def test_the_trap_decodes_what_an_assembler_encodes(words: str) -> None:
    code, want = ENCODED[words]
    assert decode(padded(code)) == want


@pytest.mark.parametrize("words", OTHERS)
def test_the_trap_takes_no_other_instruction_for_one_of_its_own(words: str) -> None:
    with pytest.raises(UnknownInstructionError):
        decode(padded(OTHERS[words]))


# ---- the routine -------------------------------------------------------------------------------------------

needs_trap = [
    pytest.mark.skipif(not SUPPORTED, reason="signals are decoded on Linux, x86-64 only"),
    pytest.mark.skipif(
        SUPPORTED and amx.refusal() == "",
        reason="this machine has AMX: test_amx.py runs its own instructions",
    ),
]


@contextmanager
def trap(
    monkeypatch: pytest.MonkeyPatch, cpu: Target, forms: Iterable[tuple[int, bool]]
) -> Iterator[Emulator]:
    """The routines compiled for a CPU, with a trap for their tile instructions, of which none may fault."""
    found = Emulator()
    use_routines(monkeypatch, cpu, forms)
    with trapped(found):
        yield found
    assert found.faults == []
    assert not any(unit.shapes for unit in found._units.values())  # every thread has released its registers


def form_of(name: str) -> tuple[int, bool]:
    return NAMES[name].sub, NAMES[name].has_minimum


class TestHere:
    pytestmark = needs_trap

    @pytest.mark.parametrize("name", TYPES)
    def test_the_machine_code_gives_the_bits_of_the_other_kernel(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with trap(monkeypatch, target(), [form_of(name)]) as emulator:
            assert_same_bits(name)
        assert emulator.counts.min() > 0  # every instruction took part
        configured, zeroed, loaded, multiplied, stored, released = emulator.counts
        assert configured == released and zeroed == multiplied == stored and loaded == 2 * stored

    @pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "Q6_K", pytest.param("Q2_K", marks=pytest.mark.slow)])
    @pytest.mark.parametrize("cpu", ["x86-64-v4-vnni-bf16", "x86-64-v3", "sapphirerapids"])
    def test_the_code_of_other_cpus_gives_them_too(
        self, cpu: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The level whose wheels carry it, 256-bit vectors, and an Intel server that compiles by itself."""
        level = next((level for level in shipped.LEVELS if level.name == cpu), None)
        made = SAPPHIRE_RAPIDS
        if level:
            made = Target(architecture="x86", name=level.cpu, features=level.features)
        if not host().has(*made.enabled):
            pytest.skip(f"this CPU can't run code for {cpu}")
        with trap(monkeypatch, made, [form_of(name)]) as emulator:
            assert_same_bits(name)
        assert emulator.counts.min() > 0

    def test_a_model_reads_its_prompt_with_the_same_logits(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        path = tiny_model(n_ctx=64, n_layer=1, n_expert=4).write(tmp_path / "tiny.gguf", "Q8_0")
        want = ll.load(path, executor="planned", n_threads=2).logits(list(range(37)))
        monkeypatch.setattr(amx_check, "usable", lambda weights: True)
        with trap(monkeypatch, target(), [form_of("Q8_0")]) as emulator:
            model = ll.load(path, executor="planned", n_threads=2)
            np.testing.assert_array_equal(bits(model.logits(list(range(37)))), bits(want))
        assert emulator.counts.min() > 0

    def test_another_illegal_instruction_ends_the_process_as_ever(self) -> None:
        code = """
import ctypes, mmap
from tests.support.tile_trap import trapped
from tests.support.tile_unit import Emulator
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(bytes.fromhex("0f 0b c3"))  # ud2, ret
place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
with trapped(Emulator()):
    ctypes.CFUNCTYPE(None)(place)()
print("survived")
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == -4 and "survived" not in done.stdout
        assert "not a tile instruction: 0f 0b c3" in done.stderr
