"""A plan: recorded operations with addresses, which a team of threads runs without returning to Python."""

from __future__ import annotations

import ctypes
import dataclasses
import mmap
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmlite.engine import systems
from llmlite.engine.contract import FEW_TOKENS, MAX_PIECES, NO_FAULT, SEQUENCE, STEP, WORD
from llmlite.engine.jit import Kernel, prepare
from llmlite.engine.recorder import Recorder
from llmlite.engine.recording import N_OUTPUTS, N_TOKENS, Buffer, Op
from llmlite.engine.signatures import RUN, STOP, WORK
from llmlite.engine.team import renew_lock_after_fork, team
from llmlite.terminal import NamedProgress

ROW_WORDS = 4  # of the table: kernel, record, whether a barrier follows, pieces per thread
PIECE_BYTES = 128 << 10  # of weights: some microseconds of a thread. Half as many cost SmolLM2 1 % of decode.
READ_AHEAD = 64  # bytes after the last buffer that kernels may read: scales of an incomplete group


@dataclasses.dataclass(frozen=True)
class Share:
    """A sequence's share of a step.

    Attributes:
        ids: token ids, at least one.
        position: position of the first one.
        states: address of its cache's layer words (`contract.LayerWords`), one record for each layer.
        n_outputs: number of last ids whose results are needed.
        types: each id's token type; None if all are 0.
    """

    ids: Sequence[int]
    position: int = 0
    states: int = 0
    n_outputs: int = 0
    types: Sequence[int] | None = None


class FaultError(Exception):
    """Raised if an operation met a number that is not finite; `op` is the first such operation."""

    def __init__(self, op: Op) -> None:
        super().__init__(op.label or op.name)
        self.op = op


class Plan:
    """One forward pass for steps of up to `max_tokens` tokens.

    Args:
        recorder: a recorder whose operations `forward` has called.
        result: the Buffer of the logits.
        keep_all: give every buffer its own place, so that all of them can be read after a run.
        progress: see `jit.prepare`.

    Raises:
        KernelError: a kernel can't be compiled or loaded.
    """

    def __init__(
        self,
        recorder: Recorder,
        result: Buffer,
        *,
        keep_all: bool = False,
        progress: NamedProgress | None = None,
    ) -> None:
        self.ops = recorder.ops
        self.max_tokens, self.max_outputs = recorder.limits[N_TOKENS], recorder.limits[N_OUTPUTS]
        self.n_threads, self.n_used = recorder.n_threads, recorder.n_used
        self.lock = threading.Lock()
        renew_lock_after_fork(self)
        assign_stages(self.ops, result)
        arena_bytes = place(buffers_of(self.ops), keep_all)
        prepare(kernels_of(self.ops), progress)
        self._memory = np.empty(arena_bytes + 64 + READ_AHEAD, np.uint8)
        self._base = -(-self._memory.ctypes.data // 64) * 64
        self.tables = recorder.tables
        self._step_memory()
        self._kept: list[np.ndarray] = []  # records whose addresses are in other records
        self._records = [self._record(op) for op in self.ops]
        self._table = self._make_table()
        self._segments = segments_of(self.ops)
        self._result = result

    def _step_memory(self) -> None:
        """Make the step record, and the arrays whose addresses it holds."""
        self.step = np.zeros(len(STEP), np.int64)
        self.ids, self.positions, self.types = (np.zeros(self.max_tokens, np.int64) for _ in range(3))
        self.outputs = np.zeros(max(1, self.max_outputs), np.int64)
        self.sequences = np.zeros((self.max_tokens, len(SEQUENCE)), np.int64)
        self.table_addresses = np.zeros(max(1, len(self.tables)), np.int64)
        self.faults = np.full(1, NO_FAULT, np.int64)
        for name, array in (
            ("ids", self.ids), ("positions", self.positions), ("outputs", self.outputs),
            ("sequences", self.sequences), ("tables", self.table_addresses), ("faults", self.faults),
            ("types", self.types),
        ):  # fmt: skip
            self.step[getattr(STEP, name) // WORD] = array.ctypes.data

    @property
    def arena_bytes(self) -> int:
        """Memory reserved for intermediate results; long steps touch more of its pages than short ones."""
        return self._memory.nbytes

    def release(self) -> None:
        """Return the arena's pages to the system; the next step gets new ones. Call it with `lock` held.

        This works on Linux, where such pages come back as zeros. On other systems, nothing happens.
        """
        if sys.platform.startswith("linux"):
            first = -(-self._memory.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (self._memory.ctypes.data + self._memory.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                address, n_bytes = ctypes.c_void_p(first), ctypes.c_size_t(last - first)
                ctypes.CDLL(None).madvise(address, n_bytes, mmap.MADV_DONTNEED)

    def array(self, buffer: Buffer, dtype: Any = np.float32) -> np.ndarray:
        """Return the rows of `buffer` that the last step wrote, as a view (n, width) into the arena."""
        n = int(self.step[buffer.rows // WORD])
        start = self._base + buffer.offset - self._memory.ctypes.data
        rows = self._memory[start : start + n * buffer.width * buffer.itemsize]
        return rows.view(dtype).reshape(n, buffer.width)

    def run(
        self, shares: Sequence[Share], *, tables: Sequence[int] = (), clock: np.ndarray | None = None
    ) -> np.ndarray:
        """Run one step; call it with `lock` held, and copy the result before you release the lock.

        Args:
            shares: one for each sequence, with at most max_tokens ids and max_outputs outputs in all.
            tables: addresses of `self.tables`, from position 0 on.
            clock: int64 (n_ops + 1, 1 + n_threads, 2), times in seconds and nanoseconds. Row 0 gets the time
                of the start. Row i + 1 gets the time at which operation i ended, then for each thread the
                time at which it ran out of work in it; the entry of a thread that came too late isn't
                changed.

        Returns:
            The results of one share after another, as a view (n_outputs, width) into the arena.

        Raises:
            FaultError: an operation met a number that is not finite.
        """
        self._describe(shares, tables)
        workers = team(self.n_threads)
        for first, last in self._segments:
            if self.ops[first].kernel is None:
                self._run_python(self.ops[first])
                if clock is not None:
                    clock[first + 1, :] = systems.now()
                continue
            at = 0 if clock is None else clock[first:].ctypes.data
            workers.run(self._table[first:].ctypes.data, last - first, at)
        if self.faults[0] != NO_FAULT:
            raise FaultError(self.ops[int(self.faults[0]) - 1])
        return self.array(self._result)

    def _describe(self, shares: Sequence[Share], tables: Sequence[int]) -> None:
        """Write the step record."""
        row, n_outputs = 0, 0
        for i, share in enumerate(shares):
            end = row + len(share.ids)
            self.ids[row:end] = share.ids
            self.types[row:end] = 0 if share.types is None else share.types
            self.positions[row:end] = np.arange(share.position, share.position + len(share.ids))
            self.outputs[n_outputs : n_outputs + share.n_outputs] = np.arange(end - share.n_outputs, end)
            self.sequences[i] = row, end, share.position, share.states
            row, n_outputs = end, n_outputs + share.n_outputs
        self.table_addresses[: len(tables)] = tables
        self.faults[0] = NO_FAULT
        for name, value in (
            ("n_tokens", row), ("n_outputs", n_outputs), ("n_slots", row * self.n_used),
            ("n_output_slots", n_outputs * self.n_used), ("n_sequences", len(shares)),
        ):  # fmt: skip
            self.step[getattr(STEP, name) // WORD] = value

    def _run_python(self, op: Op) -> None:
        w, *reads, out = op.args
        n = int(self.step[out.rows // WORD])
        if n:
            arrays = [self.array(x) for x in reads] or [self.ids[:n]]
            op.function(w, *arrays, self.array(out))

    def _make_table(self) -> np.ndarray:
        table = np.zeros((len(self.ops), ROW_WORDS), np.int64)
        for i, op in enumerate(self.ops):
            if op.kernel is not None:
                next_stage = self.ops[i + 1].stage if i + 1 < len(self.ops) else -1
                ends, n = op.stage != next_stage, pieces_of(op, self.n_threads, self.max_tokens)
                table[i] = op.kernel.address, self._records[i].ctypes.data, ends, n
        return table

    def _record(self, op: Op) -> np.ndarray:
        """Return the kernel's record: the step's address, then its arguments (`jit.entry_source`)."""
        record = np.zeros(1 + len(op.args), np.int64)
        record[0] = self.step.ctypes.data
        if op.kernel is not None:
            for i, value in enumerate(op.args, 1):
                self._put(record[i : i + 1], value)
        return record

    def _put(self, word: np.ndarray, value: Any) -> None:
        """Write one argument as a word: an address, an integer, or the bits of a float64."""
        if isinstance(value, Buffer):
            word[0] = self._base + value.offset
        elif isinstance(value, np.ndarray):
            word[0] = value.ctypes.data
        elif isinstance(value, Kernel):
            word[0] = value.address
        elif isinstance(value, float):
            word.view(np.float64)[0] = value
        elif dataclasses.is_dataclass(value):
            fields = dataclasses.fields(value)
            inner = np.zeros(len(fields), np.int64)
            for i, field in enumerate(fields):
                self._put(inner[i : i + 1], getattr(value, field.name))
            self._kept.append(inner)
            word[0] = inner.ctypes.data
        else:
            word[0] = value

    def __repr__(self) -> str:
        slow = sorted({op.type for op in self.ops if op.kernel is None})
        text = f"Plan({len(self.ops)} operations, up to {self.max_tokens} tokens, {self.n_threads} threads, "
        text += f"arena {self.arena_bytes / 1e6:.1f} MB"
        return text + (f"; slow, through NumPy: {', '.join(slow)})" if slow else ")")


def kernels_of(ops: list[Op]) -> list[Kernel]:
    """Return all kernels that a run needs: the operations', the routines in their arguments, the team's."""
    found = [op.kernel for op in ops if op.kernel is not None]
    return [*found, *(value for op in ops for value in op.args if isinstance(value, Kernel)), RUN, WORK, STOP]


def buffers_of(ops: list[Op]) -> list[Buffer]:
    """Return every buffer that needs a place."""
    return [b for b in dict.fromkeys(b for op in ops for b in (*op.reads, *op.writes)) if b.n_bytes]


def segments_of(ops: list[Op]) -> list[tuple[int, int]]:
    """Return ranges of operations to run at once: kernels together, each Python operation alone."""
    segments: list[tuple[int, int]] = []
    for i, op in enumerate(ops):
        together = segments and op.kernel is not None and ops[i - 1].kernel is not None
        if together:
            segments[-1] = segments[-1][0], i + 1
        else:
            segments.append((i, i + 1))
    return segments


def assign_stages(ops: list[Op], result: Buffer) -> None:
    """Number the stages between barriers, and set every buffer's first and last stage.

    An operation joins the stage before if it neither touches memory that the stage has written, nor writes
    memory that the stage reads.
    """
    stage = 0
    read: set[Any] = set()
    written: set[Any] = set()
    for i, op in enumerate(ops):
        clash = written.intersection((*op.reads, *op.writes)) or read.intersection(op.writes)
        if i and (clash or op.kernel is None or ops[i - 1].kernel is None):
            stage, read, written = stage + 1, set(), set()
        op.stage = stage
        read.update(op.reads)
        written.update(op.writes)
        for buffer in (*op.reads, *op.writes):
            buffer.first = stage if buffer.first is None else buffer.first
            buffer.last = stage
    result.last = stage + 1


def pieces_of(op: Op, n_threads: int, max_tokens: int) -> int:
    """Return the number of pieces for each thread that an operation is cut into.

    An operation without weights on a single token ends sooner than a thread could take a piece of it.
    """
    if op.bytes_read:
        return max(1, min(MAX_PIECES, op.bytes_read // (PIECE_BYTES * n_threads)))
    return 1 if max_tokens <= FEW_TOKENS else MAX_PIECES // 2


def _first_stage(buffer: Buffer) -> int:
    assert buffer.first is not None, "an operation writes every buffer, and assign_stages has seen it"
    return buffer.first


def place(buffers: list[Buffer], keep_all: bool) -> int:
    """Place buffers by first fit: a byte of the arena may serve many buffers, but only one in each stage.

    Returns:
        The size of the arena in bytes.
    """
    placed: list[Buffer] = []
    top = 0
    for buffer in sorted(buffers, key=_first_stage):
        first, offset = _first_stage(buffer), 0
        for other in sorted((p for p in placed if keep_all or p.last >= first), key=lambda p: p.offset):
            if offset + buffer.n_bytes <= other.offset:
                break
            offset = max(offset, other.offset + other.n_bytes)
        buffer.offset = offset
        placed.append(buffer)
        top = max(top, offset + buffer.n_bytes)
    return top
