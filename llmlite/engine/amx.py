"""AMX, tiles of bytes that a CPU multiplies at once: their layout, and the permission to use them.

A tile register has up to 16 rows of up to 64 bytes. One instruction, `tdpbssd`, adds to 16 × 16 integers the
products of 16 rows of up to 64 signed bytes with as many columns of signed bytes. Here tokens are the rows,
and rows of weights the columns; a product takes the 32 or 16 weights that share a scale.

Nothing here imports numba or llvmlite. `amx_emit` emits the instructions, `kernels/amx.py` is the kernel, and
`amx_check` compares it with the other kernels, bit by bit, before a model uses it.

Sources: Intel's Software Developer's Manual, volume 1, chapter "Programming with Intel AMX", and the
instructions LDTILECFG, TILELOADD, TDPBSSD; Linux: Documentation/arch/x86/xstate.rst.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform

import numpy as np

from llmlite.engine.cpu import host, target
from llmlite.engine.systems import LINUX
from llmlite.errors import LlmliteError

CHOICE = "LLMLITE_AMX"
CHOICES = ("", "off", "on")
FEATURES = ("amx-tile", "amx-int8")  # of the CPU; LLVM lists them only if the system saves the registers
NEEDS = ("avx512bw", "avx512bf16")  # of the kernels' target: every CPU with AMX has them

TILE_ROWS = 16  # rows of a register: tokens, rows of weights, or sums of one token
ROW_BYTES = 64  # bytes of a register's row
PRODUCTS, TOKENS, WEIGHTS = range(3)  # the registers that the kernel uses
PALETTE = 1  # eight registers of 1 KB
# Linux, x86-64: the number of arch_prctl, and its arguments
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA = 158, 0x1023, 18
# What the system means by two of its refusals, whose general texts would mislead
REFUSALS = {
    errno.EINVAL: "this kernel, or the sandbox it runs in, doesn't know them",
    errno.ENOSPC: "a thread's alternate signal stack is too small to save them",
}


def shapes(sub: int) -> dict[int, tuple[int, int]]:
    """Return the (rows, bytes of a row) of each register, for `sub` weights that share a scale.

    WEIGHTS has four weights of 16 rows side by side: byte 4·r + i of row k is weight 4·k + i of row r.
    """
    return {PRODUCTS: (TILE_ROWS, ROW_BYTES), TOKENS: (TILE_ROWS, sub), WEIGHTS: (sub // 4, ROW_BYTES)}


@functools.cache
def config(sub: int) -> np.ndarray:
    """Return the 64 bytes that LDTILECFG reads, uint8 (64,): palette, bytes of a row, rows."""
    found = np.zeros(64, np.uint8)
    found[0] = PALETTE
    for register, (rows, row_bytes) in shapes(sub).items():
        found[16:32].view(np.uint16)[register] = row_bytes
        found[48 + register] = rows
    return found


def choice() -> str:
    """Return the value of LLMLITE_AMX: "" (use tiles if they are faster), "off", or "on" (even if slower).

    Raises:
        LlmliteError: the value is something else.
    """
    found = os.environ.get(CHOICE, "")
    if found not in CHOICES:
        raise LlmliteError(f'{CHOICE}: expected "off", "on" or nothing; got {found!r}')
    return found


def refusal() -> str:
    """Return the reason why this process may not use tiles, in a few words; "" if it may.

    Each process asks the system once; the permission is for all its threads.

    Raises:
        LlmliteError: LLMLITE_AMX is not a valid choice.
    """
    if choice() == "off":
        return f"{CHOICE}=off"
    if not host().has(*FEATURES):
        return "this CPU has no AMX for bytes, or the system doesn't save its registers"
    if not target().has(*NEEDS):
        return f"the kernels' target, {target().name}, lacks {' or '.join(NEEDS)}"
    return ask()


@functools.cache
def ask() -> str:
    """Ask Linux for the tile registers; return "" if they are granted, else the reason."""
    if not (LINUX and platform.machine() == "x86_64"):
        return "supported only on Linux, x86-64"
    return _reason(*_arch_prctl())


def _arch_prctl() -> tuple[int, int]:
    """Make the system call; return its result and errno."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    arguments = (ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA)
    return call(*map(ctypes.c_long, arguments)), ctypes.get_errno()


def _reason(result: int, error: int) -> str:
    if result == 0:
        return ""
    name = errno.errorcode.get(error, str(error))
    return f"the system refuses the registers ({name}: {REFUSALS.get(error) or os.strerror(error)})"
