"""The records of a recorder: operations on buffers, and the methods that add them.

Nothing is compiled here: kernels are only named (`signatures`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmlite.engine import amx
from llmlite.engine.contract import STEP, TILE_TOKENS
from llmlite.engine.families import FAMILIES, Family
from llmlite.engine.jit import Kernel
from llmlite.errors import UnsupportedError

# The fields of the step record that count a buffer's rows. SLOTS: rows -> rows times experts used.
N_TOKENS, N_OUTPUTS = STEP.n_tokens, STEP.n_outputs
SLOTS = {STEP.n_tokens: STEP.n_slots, STEP.n_outputs: STEP.n_output_slots}


@dataclass(eq=False)
class Buffer:
    """Rows of numbers in the plan's arena, kept from the operation that writes them to the last that reads
    them.

    Attributes:
        width: numbers in a row.
        itemsize: bytes of a number.
        rows: the field of the step record that counts the rows.
        n_rows: the maximum number of rows, of all planes together.
        planes: number of heads with equally many separate rows; the rows of one head follow those of another.
        first, last: stages of the plan.
        offset: place in the arena, in bytes.
    """

    width: int
    itemsize: int = 4
    rows: int = N_TOKENS
    n_rows: int = 1
    planes: int = 1
    first: int | None = None
    last: int = -1
    offset: int = 0
    name: str = ""

    @property
    def n_bytes(self) -> int:
        """Bytes in the arena, rounded up to whole vectors."""
        return -(-self.width * self.itemsize * self.n_rows // 64) * 64

    @property
    def plane_bytes(self) -> int:
        """Bytes from one head's rows to the next head's."""
        return self.width * self.itemsize * (self.n_rows // self.planes)


@dataclass(eq=False)
class Op:
    """One operation: a kernel and its arguments, or a Python function that computes on arrays.

    Attributes:
        args: Buffers, arrays (kept alive, because the record has their addresses), kernels, integers, floats,
            and dataclasses of all these (separate records), in the kernel's order.
        reads, writes: Buffers, and tokens such as `Recorder.cache` for memory outside the arena.
        label: name of the weight, or of the result.
        bytes_read: bytes of weights read in each run.
        work: multiply-adds per row, times two.
    """

    kernel: Kernel | None
    args: tuple
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    label: str = ""
    type: str = ""
    bytes_read: int = 0
    work: int = 0
    function: Any = None
    stage: int = 0
    inputs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The kernel's name, or "numpy:…" for an operation without a kernel."""
        return self.kernel.name if self.kernel else f"numpy:{self.type}"


@dataclass(frozen=True, eq=False)
class PositionTable:
    """Numbers that depend only on the position: a row of `width` float32 for each position.

    Attributes:
        key: the values it is made from; operations with the same key share a table.
        rows: function (positions (n,)) -> float32 (n, width).
    """

    key: Any
    width: int
    rows: Callable[[np.ndarray], np.ndarray]


class Recording:
    """The operations of one plan, and the methods that all parts of the recorder use to add them.

    See `llmlite.engine.recorder.Recorder` for the arguments.
    """

    def __init__(
        self, *, max_tokens: int, max_outputs: int, n_threads: int, kv: str = "f16", tiles: bool = False
    ) -> None:
        self.limits = {N_TOKENS: max_tokens, N_OUTPUTS: max_outputs}
        self.n_used = 0  # experts for each row, set by the first routing
        self.n_threads = n_threads
        self.kv = kv
        self.tiles = tiles
        self.ops: list[Op] = []
        self.cache = Buffer(0, name="cache")
        self.tables: list[PositionTable] = []
        self._quantized: dict[Buffer, tuple[Buffer, ...]] = {}  # see MatrixOperations

    def _family(self, w: Any) -> Family | None:
        family = FAMILIES.get(w.type.id)
        return family if family and w.shape[-1] % family.multiple == 0 else None

    def _table(self, key: Any, width: int, rows: Callable[[np.ndarray], np.ndarray]) -> int:
        """Return the number of the table with this key, which is added if it is new."""
        for number, table in enumerate(self.tables):
            if table.key == key:
                return number
        self.tables.append(PositionTable(key, width, rows))
        return len(self.tables) - 1

    def _number(self) -> int:
        """Return the next operation's number in reports: its index plus 1."""
        return len(self.ops) + 1

    def _at_once(self, rows: int) -> int:
        """Return the maximum number of rows for one matrix; a token uses an expert at most once."""
        return self.limits[rows] // self.n_used if rows in SLOTS.values() else self.limits[rows]

    def _padded(self, rows: int) -> int:
        """Return `_at_once` rounded up to whole tiles of tokens, of both kinds."""
        n = self._at_once(rows)
        return max(-(-n // size) * size for size in (TILE_TOKENS, amx.TILE_ROWS))

    def _buffer(self, width: int, rows: int = N_TOKENS, itemsize: int = 4, planes: int = 1) -> Buffer:
        """Return a new buffer; matrix kernels read whole groups of tokens."""
        n_rows = self.limits[rows]
        if rows in SLOTS.values():  # a group of rows may extend past the last expert's rows
            n_rows += max(TILE_TOKENS, amx.TILE_ROWS)
        elif n_rows > 1:
            n_rows = self._padded(rows)
        return Buffer(width, itemsize, rows, n_rows * planes, planes)

    def _scratch(self, bytes_per_thread: int) -> tuple[Buffer, int]:
        size = -(-bytes_per_thread // 64) * 64
        return Buffer(size * self.n_threads, 1, name="scratch"), size

    def _elements(self, run: Kernel, like: Buffer, **args: Any) -> Buffer:
        """Record an operation on each number separately; the result has the shape of `like`."""
        out = self._buffer(like.width, like.rows)
        reads = tuple(value for value in args.values() if isinstance(value, Buffer))
        self._op(run, reads, (out,), rows=like.rows, out=out, width=like.width, **args)
        return out

    def _op(
        self, run: Kernel, reads: Sequence, writes: Sequence, facts: dict[str, Any] | None = None, **args: Any
    ) -> None:
        """Record an operation; `args` are named after the kernel's parameters."""
        if run.parameters is None or args.keys() != set(run.parameters):  # or it would read wrong memory
            raise TypeError(f"{run}: takes {run.parameters}, got {tuple(args)}")
        ordered = tuple(args[name] for name in run.parameters)
        self.ops.append(Op(run, ordered, tuple(reads), tuple(writes), **(facts or {})))

    def _whole_vectors(self, width: int, run: Kernel) -> None:
        """Refuse rows that aren't multiples of 16 numbers, because some kernels would run past their end."""
        if width % 16:
            raise UnsupportedError(f"rows of {width} numbers: {run.name} takes multiples of 16")

    def _python(self, function: Any, w: Any, reads: tuple[Buffer, ...], out: Buffer) -> Buffer:
        """Record an operation without a kernel, which NumPy runs between two runs of the team."""
        op = Op(None, (w, *reads, out), reads, (out,), function=function, **weight_facts(w))
        self.ops.append(op)
        return out


def weight_facts(w: Any) -> dict[str, Any]:
    return {
        "label": w.name,
        "type": w.type.name,
        "bytes_read": w.n_bytes,
        "work": 2 * w.shape[0] * w.shape[1],
    }
