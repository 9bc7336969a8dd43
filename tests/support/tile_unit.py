"""Model AMX's tile unit in NumPy after Intel's manual: the effects of its instructions, and their faults.

`TileUnit` computes on arrays or on memory. `emulated` makes the compiled routine call it instead of the CPU's
own instructions, so the routine also runs on machines without AMX.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from llmlite.engine import emit
from llmlite.engine.amx_emit import Instructions

N_REGISTERS, MOST_ROWS, MOST_BYTES = 8, 16, 64


class TileFaultError(Exception):
    """Report that the CPU would raise #GP or #UD."""


def require(right: bool, what: str) -> None:
    if not right:
        raise TileFaultError(what)


class TileUnit:
    """Hold eight tile registers, with the instructions on them."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []
        self.registers = np.zeros((N_REGISTERS, MOST_ROWS, MOST_BYTES), np.uint8)

    def ldtilecfg(self, config: np.ndarray) -> None:
        """Read a configuration of 64 bytes: palette, start row, 14 reserved, colsb u16 × 16, rows u8 × 16."""
        palette, start = int(config[0]), int(config[1])
        colsb, rows = config[16:48].view(np.uint16), config[48:64]
        require(palette == 1, "the palette isn't 1")
        require(start == 0 and not config[2:16].any(), "reserved bytes")
        require(not colsb[N_REGISTERS:].any() and not rows[N_REGISTERS:].any(), "more than eight registers")
        for n_rows, n_bytes in zip(rows[:N_REGISTERS], colsb):
            require(n_rows <= MOST_ROWS and n_bytes <= MOST_BYTES, "too large a register")
            require((n_rows == 0) == (n_bytes == 0), "rows without bytes, or bytes without rows")
        self.shapes = [(int(r), int(c)) for r, c in zip(rows[:N_REGISTERS], colsb)]
        self.registers[:] = 0

    def _shape(self, register: int) -> tuple[int, int]:
        require(bool(self.shapes), "no configuration")
        require(self.shapes[register] != (0, 0), f"register {register} has no shape")
        return self.shapes[register]

    def tilezero(self, register: int) -> None:
        self._shape(register)
        self.registers[register] = 0

    def tileload(self, register: int, rows: np.ndarray) -> None:
        """Load a register from `rows`, uint8 (rows, bytes of a row)."""
        n_rows, n_bytes = self._shape(register)
        require(rows.shape == (n_rows, n_bytes), f"{rows.shape} for a register of {n_rows} × {n_bytes}")
        self.registers[register] = 0
        self.registers[register, :n_rows, :n_bytes] = rows

    def tilestore(self, register: int) -> np.ndarray:
        n_rows, n_bytes = self._shape(register)
        return self.registers[register, :n_rows, :n_bytes]

    def tdpbssd(self, sums: int, a: int, b: int) -> None:
        """Add to the sums: sums[m][n] += Σ a[m][4k + i] · b[k][4n + i], all signed."""
        require(len({sums, a, b}) == 3, "one register twice")
        (m, n4), (a_rows, k4), (k, b_bytes) = map(self._shape, (sums, a, b))
        require(m == a_rows and k4 == 4 * k and b_bytes == n4, "shapes that don't fit each other")
        left = self.registers[a, :m, :k4].view(np.int8).reshape(m, k, 4).astype(np.int64)
        right = self.registers[b, :k, :n4].view(np.int8).reshape(k, n4 // 4, 4).astype(np.int64)
        found = self.registers[sums, :m, :n4].view(np.int32)
        total = found.astype(np.int64) + np.einsum("mki,kni->mn", left, right)
        require(bool((np.abs(total) < 2**31).all()), "more than 32 bits")
        self.registers[sums, :m, :n4] = total.astype(np.int32).view(np.uint8)

    def tilerelease(self) -> None:
        self.shapes = []
        self.registers[:] = 0


# ---- the compiled routine on top of it ---------------------------------------------------------------------

CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
CONFIGURE, ZERO, LOAD, MULTIPLY, STORE, RELEASE = range(6)


def _bytes_at(address: int, n: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_uint8 * n).from_address(address), np.uint8)


class Emulator:
    """Emulate a tile unit per thread through one function that compiled code calls.

    Attributes:
        faults: the texts of the faults that the CPU would have raised.
        counts: the number of times each instruction ran.
    """

    def __init__(self, unit: Callable[[], TileUnit] = TileUnit) -> None:
        self.faults: list[str] = []
        self.counts = np.zeros(6, np.int64)
        self._units: dict[int, TileUnit] = {}
        self._make = unit
        self.function = CALLBACK(self._call)

    @property
    def address(self) -> int:
        found = ctypes.cast(self.function, ctypes.c_void_p).value
        assert found is not None
        return found

    def _call(self, what: int, first: int, second: int, third: int) -> None:
        unit = self._units.setdefault(threading.get_ident(), self._make())
        self.counts[what] += 1
        try:
            if what == CONFIGURE:
                unit.ldtilecfg(_bytes_at(first, 64))
            elif what == ZERO:
                unit.tilezero(first)
            elif what == LOAD:
                n_rows, n_bytes = unit._shape(first)
                rows = np.stack([_bytes_at(second + i * third, n_bytes) for i in range(n_rows)])
                unit.tileload(first, rows)
            elif what == MULTIPLY:
                unit.tdpbssd(first, second, third)
            elif what == STORE:
                for i, row in enumerate(unit.tilestore(first)):
                    _bytes_at(second + i * third, len(row))[:] = row
            else:
                unit.tilerelease()
        except TileFaultError as fault:
            self.faults.append(str(fault))


def emulated(emulator: Emulator) -> type[Instructions]:
    """Return instructions that call the emulator; its address is written into the code."""

    class Emulated(Instructions):
        def _emulate(self, what: int, *values: Any) -> None:
            kind = ir.FunctionType(ir.VoidType(), [emit.I64] * 4)
            function = self.builder.inttoptr(emit.I64(emulator.address), kind.as_pointer())
            words = [v if isinstance(v, ir.Value) else emit.I64(v) for v in (what, *values)]
            self.builder.call(function, words + [emit.I64(0)] * (4 - len(words)))

        def configure(self, address: Any) -> None:
            self._emulate(CONFIGURE, address)

        def zero(self, register: int) -> None:
            self._emulate(ZERO, register)

        def load(self, register: int, address: Any, stride: Any) -> None:
            self._emulate(LOAD, register, address, stride)

        def multiply(self, sums: int, a: int, b: int) -> None:
            self._emulate(MULTIPLY, sums, a, b)

        def store(self, register: int, address: Any, stride: Any) -> None:
            self._emulate(STORE, register, address, stride)

        def release(self) -> None:
            self._emulate(RELEASE)

    return Emulated
