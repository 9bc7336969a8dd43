"""The recorder: the operations that a forward pass calls, written down instead of computed.

It has the methods of `llmlite.engine.eager.Eager`; each returns the `Buffer` that will hold the result when
the plan runs. Nothing is compiled here: kernels are named, not made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmlite.engine.families import FAMILIES, Family
from llmlite.engine.jit import Kernel, kernel
from llmlite.errors import UnsupportedError

# The step record, int64 each, at these byte offsets (kernels/common.py has the same list).
N_TOKENS, N_OUTPUTS, POSITION, N_CTX, K_CACHE, V_CACHE, IDS, ANGLES, N_SLOTS, N_OUTPUT_SLOTS = range(0, 80, 8)
STEP_WORDS = 10
SLOTS = {N_TOKENS: N_SLOTS, N_OUTPUTS: N_OUTPUT_SLOTS}  # rows -> rows times the experts that each uses

FEW_TOKENS = 2  # up to here rows are streamed once per token instead of unpacked for all
TILE_SCRATCH = 2 * (32 * 256 + 2 * 16 * 32 * 4)  # a thread's tile with scales and minimums, and as unpacked
FLOAT_TILE = 32 * 128 * 4
TILE_TOKENS = 12  # matrix kernels take 6, 4 or 2 tokens at a time: a common multiple
ATTENTION_BLOCK, ATTENTION_TILE = 32, 16
ATTENTION_QUERIES = 4  # queries at a time, at most (`tiles.QUERIES`)
ATTENTION_UNITS = 8  # at least so many shares of a single token's attention
ATTENTION_HEADS = (64, 128)  # head sizes that have a kernel of their own


@dataclass(eq=False)
class Buffer:
    """Rows of numbers that live in the plan's arena from the operation that writes them to the last that
    reads them.

    Attributes:
        width, itemsize: of one row. rows: N_TOKENS, N_OUTPUTS or one of SLOTS: the step's count that
            says how many there are.
        n_rows: the most there can be.
        first, last: stages of the plan. offset: in the arena.
    """

    width: int
    itemsize: int = 4
    rows: int = N_TOKENS
    n_rows: int = 1
    first: int | None = None
    last: int = -1
    offset: int = 0
    name: str = ""

    @property
    def n_bytes(self) -> int:
        return -(-self.width * self.itemsize * self.n_rows // 64) * 64


@dataclass(frozen=True)
class RouteBuffers:
    """Where a step's rows go among experts (kernels/experts.py)."""

    counts: Buffer
    token_of: Buffer
    slot_of: Buffer
    weights: Buffer


@dataclass(eq=False)
class Op:
    """One operation: a kernel and its arguments, or a Python function that computes on arrays.

    Attributes:
        args: Buffers, arrays (kept alive: the record holds their address), integers and floats, in the
            kernel's order.
        reads, writes: Buffers, and tokens such as `Recorder.cache` that stand for memory outside the arena.
        label: the weight's name, or what the result is called. bytes_read: of weights, each run.
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
        """The kernel's name, or "numpy:…" for the slow way."""
        return self.kernel.name if self.kernel else f"numpy:{self.type}"


class Recorder:
    """Writes operations down.

    Args:
        max_tokens, max_outputs: the longest step, and how many logits rows it may ask for.
        n_threads: scratch memory is for so many.
        kv_itemsize: 2 for a float16 cache, 4 for float32.

    Raises (from any operation):
        UnsupportedError: a width, or something else, that the kernels don't take.
    """

    def __init__(self, *, max_tokens: int, max_outputs: int, n_threads: int, kv_itemsize: int) -> None:
        self.limits = {N_TOKENS: max_tokens, N_OUTPUTS: max_outputs}
        self.n_used = 0  # experts for each row, known when one is routed
        self.n_threads = n_threads
        self.kv = "f16" if kv_itemsize == 2 else "f32"
        self.ops: list[Op] = []
        self.cache = Buffer(0, name="cache")
        self.frequencies: np.ndarray | None = None
        self._quantized: dict[Buffer, tuple[Buffer, ...]] = {}
        self._helpers: list[Kernel] = []

    # ---- what forward calls --------------------------------------------------------------------------------

    def name(self, x: Buffer, name: str, layer: int | None = None, heads: int | None = None) -> Buffer:
        """Call x "name-layer" in profiles."""
        x.name = name if layer is None else f"{name}-{layer}"
        return x

    def embed(self, w: Any, ids: Any) -> Buffer:
        """Rows of w for the step's ids."""
        out = self._buffer(w.shape[1])
        family = self._family(w)
        if family is None:
            return self._python(_embed_rows, w, (), out)
        self._op(family.embed, w.blocks, out, w.shape[1], writes=(out,), label=w.name, type=w.type.name)
        return out

    def rms_norm(self, x: Buffer, gain: np.ndarray, eps: float) -> Buffer:
        out = self._buffer(x.width, x.rows)
        args = (x.rows, x, gain, out, len(gain), x.width // len(gain), float(eps))
        self._op(_basic("rms_norm"), *args, reads=(x,), writes=(out,))
        return out

    def layer_norm(self, x: Buffer, gain: np.ndarray, bias: np.ndarray, eps: float) -> Buffer:
        out = self._buffer(x.width, x.rows)
        args = (x.rows, x, gain, bias, out, x.width, float(eps))
        self._op(_basic("layer_norm"), *args, reads=(x,), writes=(out,))
        return out

    def positions(self, table: np.ndarray) -> Buffer:
        out = self._buffer(table.shape[1])
        self._op(_basic("positions"), table, out, table.shape[1], writes=(out,), bytes_read=0)
        return out

    def matmul(self, w: Any, x: Buffer, bias: np.ndarray | None = None) -> Buffer:
        out = self._buffer(w.shape[0], x.rows)
        family = self._family(w)
        if family is None:
            self._python(_matmul_slabs, w, (x,), out)
        elif not family.sub:
            self._plain_matmul(family, w, x, out)
        else:
            self._quantized_matmul(family, w, x, out)
        return out if bias is None else self._biased(out, bias)

    def add(self, a: Buffer, b: Buffer) -> Buffer:
        out = self._buffer(a.width, a.rows)
        self._op(_basic("add"), a.rows, a, b, out, a.width, reads=(a, b), writes=(out,))
        return out

    def silu_mul(self, gate: Buffer, up: Buffer) -> Buffer:
        out = self._buffer(gate.width, gate.rows)
        args = (gate.rows, gate, up, out, gate.width)
        self._op(_basic("silu_mul"), *args, reads=(gate, up), writes=(out,))
        return out

    def gelu(self, x: Buffer) -> Buffer:
        out = self._buffer(x.width, x.rows)
        self._op(_basic("gelu"), x.rows, x, out, x.width, reads=(x,), writes=(out,))
        return out

    def route(self, scores: Buffer, n_used: int) -> RouteBuffers:
        n_expert, rows = scores.width, scores.rows
        self.n_used = n_used
        for counted, slots in SLOTS.items():
            self.limits[slots] = self.limits[counted] * n_used
        ids, token_of, slot_of = (self._buffer(n_used, rows, 8) for _ in range(3))
        weights, counts = self._buffer(n_used, rows), Buffer(2 * n_expert, 8)
        args = (rows, scores, ids, weights, n_expert, n_used)
        self._op(kernel("experts", "choose_experts"), *args, reads=(scores,), writes=(ids, weights))
        args = (rows, ids, counts, token_of, slot_of, n_expert, n_used)
        self._op(kernel("experts", "sort_rows"), *args, reads=(ids,), writes=(counts, token_of, slot_of))
        return RouteBuffers(counts, token_of, slot_of, weights)

    def spread(self, x: Buffer, routes: RouteBuffers) -> Buffer:
        out = self._buffer(x.width, SLOTS[x.rows])
        args = (out.rows, x, routes.token_of, out, x.width)
        self._op(kernel("experts", "spread"), *args, reads=(x, routes.token_of), writes=(out,))
        return out

    def expert_matmul(self, w: Any, x: Buffer, routes: RouteBuffers) -> Buffer:
        n_expert, n_rows, _ = w.shape
        family = self._family(w)
        if family is None:
            raise UnsupportedError(f"{w.name}: experts in {w.type.name}, which has no kernels of its own")
        out = self._buffer(n_rows, x.rows)
        matrix = w.slice_rows(0, n_rows)
        plain = self._plain_matmul if not family.sub else self._quantized_matmul
        before = len(self.ops)
        plain(family, matrix, x, out)
        one = self.ops.pop()  # the multiplication by a single matrix: what is left are the activations
        assert len(self.ops) - before <= 1
        strides = np.zeros((len(one.args), 2), np.int64)
        for i, value in enumerate(one.args):
            if value is matrix.blocks:
                strides[i, 0] = matrix.n_bytes
            elif isinstance(value, Buffer) and value.rows == x.rows and not value.name:
                strides[i, 1] = value.width * value.itemsize
        frames, size = self._scratch(8 * (1 + len(one.args)))
        first = (0, *one.args[1:])  # the step that an expert sees begins with the count of its rows
        args = (routes.counts, n_expert, one.kernel, len(first), frames, size, strides, *first)
        used = min(n_expert, self.limits[x.rows]) / n_expert
        facts = {"label": w.name, "type": w.type.name, "bytes_read": int(w.n_bytes * used), "work": one.work}
        reads, writes = (*one.reads, routes.counts), (*one.writes, frames)
        self._op(kernel("experts", "each_expert"), *args, reads=reads, writes=writes, **facts)
        return out

    def gather(self, x: Buffer, routes: RouteBuffers) -> Buffer:
        out = self._buffer(x.width, routes.weights.rows)
        args = (out.rows, x, routes.slot_of, routes.weights, out, x.width, self.n_used)
        reads = (x, routes.slot_of, routes.weights)
        self._op(kernel("experts", "gather"), *args, reads=reads, writes=(out,))
        return out

    def outputs(self, x: Buffer) -> Buffer:
        out = self._buffer(x.width, N_OUTPUTS)
        self._op(_basic("take_outputs"), x, out, x.width, reads=(x,), writes=(out,))
        return out

    def rope(self, x: Buffer, n_head: int, frequencies: np.ndarray, pairs: str) -> Buffer:
        if self.frequencies is None:
            self.frequencies = frequencies
        if frequencies is not self.frequencies:
            raise UnsupportedError("layers whose RoPE frequencies differ")
        out = self._buffer(x.width)
        half = len(frequencies)
        distance = 1 if pairs == "norm" else half
        args = (x, out, n_head, x.width // n_head, 2 * half, distance)
        self._op(_basic("rope"), *args, reads=(x,), writes=(out,))
        return out

    def attention(self, q: Buffer, k: Buffer, v: Buffer, cache: Any, n_head: int, scale: float) -> Buffer:
        n_head_kv, _, head_size = cache.v.shape
        if head_size % 16:
            raise UnsupportedError(f"a head size of {head_size}: kernels take multiples of 16")
        sizes = (cache.layer, n_head_kv, head_size)
        self._op(_basic(f"store_{self.kv}"), k, v, *sizes, reads=(k, v), writes=(self.cache,))
        few = self.limits[N_TOKENS] <= FEW_TOKENS
        convert_first = self.kv == "f16" and not few
        queries = min(ATTENTION_TILE, self.limits[N_TOKENS]) * (n_head // n_head_kv)
        queries = -(-queries // ATTENTION_QUERIES) * ATTENTION_QUERIES
        per_thread = ATTENTION_QUERIES * ATTENTION_BLOCK * 4 + 64  # scores, then what shrinks older sums
        per_thread += queries * (head_size * 4 + -(-head_size // 32) * 128 + 8)  # queries, outputs, m and l
        per_thread += 2 * ATTENTION_BLOCK * head_size * 4 if convert_first else 0
        scratch, size = self._scratch(per_thread)
        # A single token has no tiles of tokens to share, only heads; where these are few, its positions are
        # cut up: into as many parts whatever the number of threads, so that all add in the same order.
        n_parts = -(-ATTENTION_UNITS // n_head_kv) if few else 1
        parts, states = self._buffer(q.width * n_parts), self._buffer(n_head * n_parts, itemsize=8)
        sizes = (cache.layer, n_head, n_head_kv, head_size, float(scale), n_parts)
        form = f"_{head_size}" if head_size in ATTENTION_HEADS else ""
        name = f"attention_{'prompt_' if convert_first else ''}{self.kv}{form}"
        run, label = kernel("attention", name), f"layer {cache.layer}"
        args, writes = (q, parts, *sizes, states, scratch, size), (parts, states, scratch)
        self._op(run, *args, reads=(q, self.cache), writes=writes, label=label)
        if n_parts == 1:
            return parts
        out, merge = self._buffer(q.width), kernel("attention", "merge_parts")
        args = (parts, states, out, n_head, head_size, n_parts)
        self._op(merge, *args, reads=(parts, states), writes=(out,), label=label)
        return out

    # ---- matrices ------------------------------------------------------------------------------------------

    def _family(self, w: Any) -> Family | None:
        family = FAMILIES.get(w.type.id)
        return family if family and w.shape[-1] % 32 == 0 else None

    def _plain_matmul(self, family: Family, w: Any, x: Buffer, out: Buffer) -> None:
        facts = _facts(w)
        if self._at_once(x.rows) <= FEW_TOKENS:
            args = (x.rows, w.blocks, x, out, *w.shape)
            self._op(family.matvec, *args, reads=(x,), writes=(out,), **facts)
            return
        scratch, size = self._scratch(FLOAT_TILE + self._padded(x.rows) * 32 * 4)
        args = (x.rows, w.blocks, x, out, *w.shape, scratch, size)
        self._op(family.matmul, *args, reads=(x,), writes=(out, scratch), **facts)

    def _quantized_matmul(self, family: Family, w: Any, x: Buffer, out: Buffer) -> None:
        q, d, sums32, sums16, *mixed = self._activations(x)
        sums = sums32 if family.sub == 32 else sums16
        facts = _facts(w)
        if self._at_once(x.rows) <= FEW_TOKENS:
            args = (x.rows, w.blocks, q, *mixed, d, sums, out, *w.shape)
            self._op(family.matvec, *args, reads=(q, *mixed, d, sums), writes=(out,), **facts)
            return
        scratch, size = self._scratch(TILE_SCRATCH + self._padded(x.rows) * 32 * 4)
        row_bytes = w.n_bytes // w.shape[0]
        args = (
            x.rows,
            family.unpack,
            w.blocks,
            row_bytes,
            q,
            d,
            sums,
            out,
            *w.shape,
            family.zero,
            scratch,
            size,
        )
        self._op(family.matmul, *args, reads=(q, d, sums), writes=(out, scratch), **facts)

    def _activations(self, x: Buffer) -> tuple[Buffer, ...]:
        """x as bytes, scales, sums over 32 and over 16: once, however many matrices read it.

        Where rows are streamed, also the bytes in a second order.
        """
        if x not in self._quantized:
            parts = [
                self._buffer(x.width, x.rows, 1),
                self._buffer(x.width // 32, x.rows),
                self._buffer(x.width // 32, x.rows),
                self._buffer(x.width // 16, x.rows),
            ]
            run = "quantize"
            if self._at_once(x.rows) <= FEW_TOKENS:
                parts.append(self._buffer(x.width, x.rows, 1))
                run = "quantize_mixed"
            self._op(_basic(run), x.rows, x, *parts, x.width, reads=(x,), writes=parts)
            self._quantized[x] = tuple(parts)
        return self._quantized[x]

    def _biased(self, x: Buffer, bias: np.ndarray) -> Buffer:
        out = self._buffer(x.width, x.rows)
        self._op(_basic("add_bias"), x.rows, x, bias, out, x.width, reads=(x,), writes=(out,))
        return out

    # ---- writing down --------------------------------------------------------------------------------------

    def _at_once(self, rows: int) -> int:
        """The most rows that one matrix may meet: a token uses an expert once."""
        return self.limits[rows] // self.n_used if rows in SLOTS.values() else self.limits[rows]

    def _padded(self, rows: int) -> int:
        return -(-self._at_once(rows) // TILE_TOKENS) * TILE_TOKENS

    def _buffer(self, width: int, rows: int = N_TOKENS, itemsize: int = 4) -> Buffer:
        """A new buffer; matrix kernels read whole groups of tokens."""
        n_rows = self.limits[rows]
        if rows in SLOTS.values():  # a group of rows may reach past the last expert's
            n_rows += TILE_TOKENS
        elif n_rows > FEW_TOKENS:
            n_rows = self._padded(rows)
        return Buffer(width, itemsize, rows, n_rows)

    def _scratch(self, bytes_per_thread: int) -> tuple[Buffer, int]:
        size = -(-bytes_per_thread // 64) * 64
        return Buffer(size * self.n_threads, 1, name="scratch"), size

    def _op(self, run: Kernel, *args: Any, reads: Sequence = (), writes: Sequence, **facts: Any) -> None:
        for buffer in (*reads, *writes):
            if buffer.itemsize == 4 and buffer.width % 16 and buffer.name != "scratch":
                self._refuse_odd_width(buffer, run)
        self.ops.append(Op(run, args, tuple(reads), tuple(writes), **facts))

    def _refuse_odd_width(self, buffer: Buffer, run: Kernel) -> None:
        """Row operations take 16 numbers at a time; matrices may have any number of rows, scales any
        width.
        """
        if run.module == "basic" and not run.name.startswith("quantize"):
            raise UnsupportedError(f"rows of {buffer.width} numbers: {run.name} takes multiples of 16")

    def _python(self, function: Any, w: Any, reads: tuple[Buffer, ...], out: Buffer) -> Buffer:
        """An operation without a kernel: NumPy, between two runs of the team."""
        op = Op(None, (w, *reads, out), reads, (out,), function=function, **_facts(w))
        self.ops.append(op)
        return out


def _facts(w: Any) -> dict[str, Any]:
    return {
        "label": w.name,
        "type": w.type.name,
        "bytes_read": w.n_bytes,
        "work": 2 * w.shape[0] * w.shape[1],
    }


def _basic(name: str) -> Kernel:
    return kernel("basic", name)


def _embed_rows(w: Any, ids: np.ndarray, out: np.ndarray) -> None:
    out[:] = w.rows(ids)


def _matmul_slabs(w: Any, x: np.ndarray, out: np.ndarray) -> None:
    from llmlite.engine.eager import Eager

    out[:] = Eager(0, 0).matmul(w, x)
