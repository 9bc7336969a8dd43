"""Run tile instructions on a CPU that lacks them: each raises SIGILL, and a handler does its work.

So the routine's machine code runs byte for byte as on a machine with AMX, and only its tile instructions are
carried out by `tile_unit`. The handler decodes them as in Intel's Software Developer's Manual, volume 2
(LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TDPBSSD, TILERELEASE). Linux on x86-64 only.

The handler is a Python function that ctypes calls. This is safe, because the signal comes from compiled code
that holds no lock and runs without the GIL. Any other instruction goes to the previous handler, which ends
the process.
"""

from __future__ import annotations

import ctypes
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llmlite.system.guard import SA_SIGINFO, _Action
from tests.support.tile_unit import CONFIGURE, LOAD, MULTIPLY, RELEASE, STORE, ZERO, Emulator

SUPPORTED = sys.platform.startswith("linux") and platform.machine() == "x86_64"
SA_NODEFER = 0x40000000
GENERAL_REGISTERS = 40  # offset of uc_mcontext.gregs in ucontext_t
# the index in gregs of each register number; gregs: r8 … r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip
PLACES = (13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7)
RIP, N_GENERAL = 16, 23
LONGEST = 15  # the most bytes of an instruction
NP, P66, PF3, PF2 = range(4)  # the legacy prefix that a VEX prefix encodes
ZERO_STRIDE = 4  # the number of the index register that means no index


@dataclass(frozen=True)
class Instruction:
    """Hold a decoded tile instruction.

    Attributes:
        what: the kind of instruction, CONFIGURE and so on in `tile_unit`.
        n_bytes: the length of the instruction.
        registers: the tile registers, in the order of the manual's operands.
        base: the number of the general register with the address; None for none.
        index: the number of the general register with the stride; None for none.
        shift: the stride of a row is index << shift.
        displacement: the address is base + displacement.
    """

    what: int
    n_bytes: int
    registers: tuple[int, ...] = ()
    base: int | None = None
    index: int | None = None
    shift: int = 0
    displacement: int = 0


class UnknownInstructionError(Exception):
    """Report an instruction that isn't one of the six that the routine may use."""


def _require(right: bool, code: bytes) -> None:
    if not right:
        raise UnknownInstructionError(code.hex(" "))


def decode(code: bytes) -> Instruction:
    """Decode the tile instruction at the start of `code`.

    Raises:
        UnknownInstructionError: it isn't one of the six tile instructions.
    """
    _require(code[0] == 0xC4 and code[1] & 31 == 2, code)  # VEX of three bytes, map 0F 38
    r, x, b = (0 if code[1] >> bit & 1 else 8 for bit in (7, 6, 5))
    vvvv, prefix = ~code[2] >> 3 & 15, code[2] & 3
    _require(code[2] & 0x84 == 0, code)  # W0, 128 bits
    opcode, mod, reg, rm = code[3], code[4] >> 6, code[4] >> 3 & 7, code[4] & 7
    if opcode == 0x5E:  # TDPBSSD tmm1 (reg), tmm2 (rm), tmm3 (vvvv)
        _require((prefix, mod, r, b) == (PF2, 3, 0, 0) and vvvv < 8, code)
        return Instruction(MULTIPLY, 5, (reg, rm, vvvv))
    _require(vvvv == 0 and opcode in (0x49, 0x4B), code)
    if opcode == 0x49 and mod == 3:
        if prefix == PF2 and rm == 0 and r == 0:
            return Instruction(ZERO, 5, (reg,))
        _require(prefix == NP and code[4] == 0xC0, code)
        return Instruction(RELEASE, 5)
    _require(mod != 3, code)
    base, index, shift, at = rm + b, None, 0, 5
    if rm == 4:
        number = (code[5] >> 3 & 7) + x
        base, shift, at = (code[5] & 7) + b, code[5] >> 6, 6
        index = None if number == ZERO_STRIDE else number
    _require(mod != 0 or base & 7 != 5, code)  # no RIP-relative address, no bare displacement
    size = (0, 1, 4)[mod]
    displacement = int.from_bytes(code[at : at + size], "little", signed=True)
    address = {"base": base, "index": index, "shift": shift, "displacement": displacement}
    if opcode == 0x49:
        _require(prefix == NP and reg == 0 and index is None, code)
        return Instruction(CONFIGURE, at + size, (), **address)
    _require(prefix in (PF2, PF3) and rm == 4 and r == 0, code)  # both always have a SIB byte
    return Instruction(LOAD if prefix == PF2 else STORE, at + size, (reg,), **address)


@contextmanager
def trapped(emulator: Emulator) -> Iterator[None]:
    """Make `emulator` carry out the tile instructions of this process within the block."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = _Action()

    def trap(number: int, info: int, context: int) -> None:
        registers = (ctypes.c_int64 * N_GENERAL).from_address(context + GENERAL_REGISTERS)
        code = ctypes.string_at(registers[RIP], LONGEST)
        try:
            found = decode(code)
        except UnknownInstructionError as unknown:
            print(f"not a tile instruction: {unknown}", file=sys.__stderr__, flush=True)
            libc.sigaction(number, ctypes.byref(before), None)  # it runs again and ends the process
            return
        operands = [*found.registers]
        if found.base is not None:
            operands.append(registers[PLACES[found.base]] + found.displacement)
        if found.what in (LOAD, STORE):
            stride = 0 if found.index is None else registers[PLACES[found.index]] << found.shift
            operands.append(stride)
        emulator._call(found.what, *operands, *[0] * (3 - len(operands)))
        registers[RIP] += found.n_bytes

    kind = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    function = kind(trap)
    address = ctypes.cast(function, ctypes.c_void_p).value
    action = _Action(address, (ctypes.c_ulong * 16)(), SA_SIGINFO | SA_NODEFER, None)
    if libc.sigaction(int(signal.SIGILL), ctypes.byref(action), ctypes.byref(before)):
        raise OSError(ctypes.get_errno(), "sigaction")
    try:
        yield
    finally:
        libc.sigaction(int(signal.SIGILL), ctypes.byref(before), None)
