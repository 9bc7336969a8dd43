"""The AMX routine of the wheel's level on Bochs' Sapphire Rapids: every instruction is someone else's.

`LLMLITE_BOCHS` names a Bochs that was built with AMX (tests/support/bare_machine.py says how). Bochs 3.0
takes the signed bytes of TDPBSSD for unsigned ones: `DPBDSS` in cpu/avx/amx.cc has Bit8u instead of Bit8s. So
bytes are 0 to 127. With `LLMLITE_BOCHS_SIGNED=1`, after that is corrected, signed ones are tried too.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

llvm = pytest.importorskip("llvmlite.binding")
from llmlite.engine import amx, jit, shipped  # noqa: E402
from llmlite.engine.amx_emit import ARGUMENTS, PRODUCT_BYTES, block_module  # noqa: E402
from llmlite.engine.cpu import Target, host  # noqa: E402
from llmlite.engine.families import AMX_BLOCK, LANES, SCALES, STAGED  # noqa: E402
from llmlite.engine.families import TILE_ROWS as UNPACKED_ROWS  # noqa: E402
from tests.support import bare_machine  # noqa: E402
from tests.support.tile_trap import SUPPORTED, trapped  # noqa: E402
from tests.support.tile_unit import Emulator  # noqa: E402

BOCHS = os.environ.get("LLMLITE_BOCHS", "")
SIGNED = os.environ.get("LLMLITE_BOCHS_SIGNED", "") == "1"
LEVEL = shipped.LEVELS[0]
CPU = Target(architecture="x86", name=LEVEL.cpu, features=LEVEL.features)
SUMS_BYTES = LANES * AMX_BLOCK * UNPACKED_ROWS * 4
numbers = itertools.count()

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.skipif(not BOCHS, reason="LLMLITE_BOCHS names no Bochs that was built with AMX"),
    pytest.mark.skipif(not (SUPPORTED and shutil.which("as") and shutil.which("ld")), reason="no as or ld"),
    pytest.mark.skipif(not host().has(*LEVEL.required), reason=f"this CPU can't run code for {LEVEL.name}"),
    pytest.mark.skipif(SUPPORTED and amx.refusal() == "", reason="this machine has AMX itself"),
]


@functools.cache
def compiled(sub: int, has_minimum: bool) -> tuple[str, bytes, int]:
    """The routine: its name, its object file, its address in this process."""
    linker, name = jit._linker(), f"bare_{sub}_{int(has_minimum)}_{next(numbers)}"
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=CPU.name, features=CPU.features, opt=3, jit=True, reloc="default"
    )
    text = block_module(CPU, name, sub=sub, has_minimum=has_minimum)
    code = bytes(machine.emit_object(llvm.parse_assembly(text)))
    builder = llvm.JITLibraryBuilder().add_object_img(code).export_symbol(name).add_current_process()
    library = builder.link(linker, name)
    jit._alive.append(library)
    return name, code, library[name]


def sums(
    sub: int, has_minimum: bool, n_blocks: int, n_tokens: int, begins: int, *, signed: bool, folder: Path
) -> tuple[bytes, bytes]:
    """Run the routine on random memory; return the sums of this machine, with a trap, and of Bochs."""
    rng, n_rows = np.random.default_rng(n_blocks * sub), AMX_BLOCK
    low, high = (-128, 128) if signed else (0, 128)
    tile = np.zeros(STAGED, np.uint8)
    tile[:SCALES] = rng.integers(low, high, SCALES).astype(np.int8).view(np.uint8)
    floats = tile[SCALES:].view(np.float32)
    floats[:] = rng.standard_normal(floats.size)
    arrays = {
        "config": amx.config(sub),
        "tile": tile,
        "acc": rng.standard_normal(SUMS_BYTES // 4).astype(np.float32),
        "q": rng.integers(low, high, (n_rows, n_blocks * 32)).astype(np.int8),
        "d": rng.standard_normal((n_rows, n_blocks)).astype(np.float32),
        "sums": rng.standard_normal((n_rows, n_blocks * 32 // sub)).astype(np.float32),
        "products": np.zeros(4 * PRODUCT_BYTES, np.uint8),
        "coming": np.zeros(8192, np.uint8),
    }
    data, places = bytearray(), {}
    for name, array in arrays.items():
        data += bytes(-len(data) % 64)
        places[name] = len(data)
        data += array.tobytes()
    numbers_of = {"width": n_blocks * 32, "n_blocks": n_blocks, "n_tokens": n_tokens, "begins": begins}
    numbers_of |= {"row_bytes": 512, "n_coming": 128, "n_ahead": 1}

    def arguments(base: int) -> list[int]:
        return [base + places[name] if name in places else numbers_of[name] for name in ARGUMENTS]

    symbol, code, address = compiled(sub, has_minimum)
    memory = (ctypes.c_char * (len(data) + 64))()
    here = -(-ctypes.addressof(memory) // 64) * 64
    ctypes.memmove(here, bytes(data), len(data))
    emulator = Emulator()
    with trapped(emulator):
        ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(ARGUMENTS))(address)(*arguments(here))
    assert emulator.faults == [] and emulator.counts.min() > 0
    flat = bare_machine.flat(code, symbol, bare_machine.BASE + bare_machine.CODE, folder)
    there = bare_machine.BASE + bare_machine.DATA
    result = there + places["acc"], SUMS_BYTES
    found = bare_machine.run(BOCHS, flat, bytes(data), arguments(there), result, folder)
    ours = ctypes.string_at(here + places["acc"], SUMS_BYTES)
    assert ours != data[places["acc"] :][:SUMS_BYTES]  # something was computed
    return ours, found


FORMS = list(itertools.product((32, 16), (False, True)))  # weights to a scale, minimums
# blocks of 32 weights, tokens, whether sums start at zero: tails of both, a single block, a full chunk
SHAPES = [(61, 19, 1), (1, 1, 1), (64, 32, 0), (12, 32, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("sub", "has_minimum"), FORMS)
def test_bochs_gives_the_same_bits(
    sub: int, has_minimum: bool, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    ours, found = sums(sub, has_minimum, *shape, signed=False, folder=tmp_path)
    assert ours == found


@pytest.mark.skipif(not SIGNED, reason="LLMLITE_BOCHS_SIGNED=1 says that this Bochs multiplies signed bytes")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("sub", "has_minimum"), FORMS)
def test_a_corrected_bochs_gives_the_same_bits_for_signed_bytes(
    sub: int, has_minimum: bool, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    ours, found = sums(sub, has_minimum, *shape, signed=True, folder=tmp_path)
    assert ours == found
