"""Matrix products of quantized weights with many tokens (prefill); `quantized` describes a type.

`matmul*` unpacks 32 rows × up to CHUNK groups of 256 weights once, into bytes that stay in the CPU's caches,
and reuses them for every token.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llmlite.engine import emit
from llmlite.engine.contract import MATMUL
from llmlite.engine.families import (
    CHUNK,
    KEPT,
    LANES,
    SCALES,
    SUMS,
    TILE_ROWS,
    TOKEN_BLOCK,
)
from llmlite.engine.kernels.common import kernel_of, share
from llmlite.engine.kernels.unpack import LINE
from llmlite.engine.simd import (
    i64,
    inline,
    load_f32,
    load_f32x16,
    load_i64,
    prefetch,
    store,
)  # fmt: skip

ROUNDS_AHEAD = TILE_ROWS // LANES  # rounds in which blocks of tokens prefetch LANES rows of the next chunk


def make_call(n):
    """Return an operation that calls the routine at an address, with n integers."""

    @intrinsic
    def call(typing, function, arguments):
        def codegen(context, builder, sig, args):
            kind = ir.FunctionType(ir.VoidType(), [emit.I64] * n)
            values = [
                context.cast(builder, builder.extract_value(args[1], i), sig.args[1][i], i64)
                for i in range(n)
            ]
            builder.call(builder.inttoptr(args[0], kind.as_pointer()), values)
            return context.get_dummy_value()

        return types.none(i64, arguments), codegen

    return call


call_unpack, call_multiply = make_call(6), make_call(13)


@inline
def ask_for(rows, row_bytes, n_rows, n_bytes):
    """Prefetch n_bytes of each of n_rows rows; return the address of the next row."""
    for _ in range(n_rows):
        for line in range(0, n_bytes, 64):
            prefetch(rows + line)
        rows += row_bytes
    return rows


@inline
def copy_out(sums, out, row_bytes, n_tokens, n_rows):
    """Copy the sums of the first n_rows of 32 rows, for n_tokens tokens, to the result."""
    for _ in range(n_tokens):
        if n_rows == TILE_ROWS:
            store(out, load_f32x16(sums))
            store(out + 64, load_f32x16(sums + 64))
        else:
            for i in range(0, n_rows * 4, 4):
                store(out + i, load_f32(sums + i))
        sums, out = sums + LINE, out + row_bytes


@inline
def next_chunk(place, first, n_groups, row_bytes):
    """Return the address of the chunk after the one at `place`, and its bytes in each row."""
    group_bytes = row_bytes // n_groups
    ahead = CHUNK * group_bytes
    if first + CHUNK >= n_groups:  # the next rows
        ahead = TILE_ROWS * row_bytes - first * group_bytes
    return place + ahead, min(row_bytes, CHUNK * group_bytes)


def make_multiply_chunk(sub):
    """Return the function that multiplies a chunk of unpacked rows with a block of tokens."""
    n_parts, sums_bytes = 32 // sub, 1024 // sub

    @inline
    def multiply_chunk(spec, tile, row, first, n_blocks, t, n_tokens, coming):
        """Multiply one chunk of 32 rows by up to TOKEN_BLOCK tokens from t on.

        Args:
            coming: address of the next chunk's first row to prefetch, the number of rows to prefetch with
                each block of a group, and the bytes of each. A chunk is stored row by row, so no CPU predicts
                the next one.

        Returns:
            The address of the first row that wasn't prefetched.
        """
        width, row_bytes = load_i64(spec + MATMUL.width), load_i64(spec + MATMUL.row_bytes)
        n_rows, zero = load_i64(spec + MATMUL.n_rows), load_i64(spec + MATMUL.zero)
        q = load_i64(spec + MATMUL.q) + t * width + first * 256
        d = load_i64(spec + MATMUL.d) + t * (width // 8) + first * 32
        xs = load_i64(spec + MATMUL.sums) + t * (width * 4 // sub) + first * sums_bytes
        n_groups, last = (n_blocks + 7) // 8, (first + CHUNK) * 256 >= width
        paired = load_i64(spec + MATMUL.paired)
        ahead, n_ahead, n_coming = coming
        kept, waiting = tile + KEPT + t * LANES * LINE, tile + SUMS
        out = load_i64(spec + MATMUL.out) + (t * n_rows + row) * 4
        if last:  # prefetch the lines of the results, because a write that misses delays the next ones
            ask_for(out, n_rows * 4, n_tokens, LINE)
        for i in range(paired, LANES, 1 + paired):
            ahead = ask_for(ahead, row_bytes, n_ahead << paired, n_coming)
            j = (i & 1 - paired) << 2 | i & 2 | i >> 2
            # it is folded with as many sums as i has ones at its end; its other ones are sums that still wait
            n_folded = (i & 1) + i64(i & 3 == 3) + i64(i == 7)
            depth = (i & 1) + (i >> 1 & 1) + (i >> 2) - n_folded
            n_here = n_groups - (1 if j >= n_blocks - 8 * (n_groups - 1) else 0)
            own = kept + j * TOKEN_BLOCK * LINE
            call_multiply(
                load_i64(spec + MATMUL.multiply),
                (
                    tile + j * n_groups * 8 * LINE,
                    tile + SCALES + j * n_groups * n_parts * LINE,
                    q + j * 32,
                    d + j * 4,
                    xs + j * 4,
                    width,
                    n_here,
                    sub,
                    zero,
                    n_tokens,
                    own if first else i64(0),
                    waiting + depth * TOKEN_BLOCK * LINE if last else own,
                    n_folded - paired if last else i64(0),  # a pair folds itself
                ),
            )
        if last:
            copy_out(waiting, out, n_rows * 4, n_tokens, min(TILE_ROWS, n_rows - row))
        return ahead

    return multiply_chunk


def make_matmul(sub):
    """Return the kernel out[t, r] = Σ weight[r]·x[t] over unpacked tiles, for sub-blocks of `sub` weights.

    A row and a token have eight sums, one for each block of a group. Each adds up its block of all groups,
    like a lane of `quantized.make_matvec`. Blocks are taken in the order 0, 4, 2, 6, 1, 5, 3, 7, so that sums
    are folded early, and at most three wait. If a row has one group only, a call takes two of them.
    """
    multiply_chunk = make_multiply_chunk(sub)

    @kernel_of(MATMUL)
    def matmul(step, rank, n_threads, worker, spec):
        n_tokens = load_i64(step + load_i64(spec + MATMUL.rows))
        n_rows, width = load_i64(spec + MATMUL.n_rows), load_i64(spec + MATMUL.width)
        w, row_bytes = load_i64(spec + MATMUL.w), load_i64(spec + MATMUL.row_bytes)
        tile = load_i64(spec + MATMUL.scratch) + worker * load_i64(spec + MATMUL.scratch_bytes)
        low, high = share((n_rows + TILE_ROWS - 1) // TILE_ROWS, rank, n_threads)
        n_groups = (width + 255) // 256
        if n_tokens == 0:
            return
        n_token_blocks = (n_tokens + TOKEN_BLOCK - 1) // TOKEN_BLOCK
        n_ahead = (ROUNDS_AHEAD + n_token_blocks - 1) // n_token_blocks  # so that no row is left out
        for row in range(low * TILE_ROWS, high * TILE_ROWS, TILE_ROWS):
            for first in range(0, n_groups, CHUNK):
                n_blocks, place = min(8 * CHUNK, width // 32 - first * 8), w + row * row_bytes
                n = min(TILE_ROWS, n_rows - row)
                call_unpack(load_i64(spec + MATMUL.unpack), (place, row_bytes, first, n_blocks, n, tile))
                place += first * (row_bytes // n_groups)
                coming, n_coming = next_chunk(place, first, n_groups, row_bytes)
                for t in range(0, n_tokens, TOKEN_BLOCK):
                    if t // TOKEN_BLOCK * n_ahead >= ROUNDS_AHEAD:  # the whole chunk has been prefetched
                        n_coming = 0
                    here = min(TOKEN_BLOCK, n_tokens - t)
                    coming = multiply_chunk(
                        spec, tile, row, first, n_blocks, t, here, (coming, n_ahead, n_coming)
                    )

    return matmul


matmul32, matmul16 = make_matmul(32), make_matmul(16)
