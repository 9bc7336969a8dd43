"""Prefill of quantized weights by AMX tiles: `matmul.make_matmul` with another middle, and the same bits.

Rows are unpacked by the same routines. Their bytes lose the type's zero once, so that they are signed: the
integer products then need no correction, and are those of the other kernels exactly. The routine of
`amx_emit` multiplies a chunk of 32 rows by up to AMX_BLOCK tokens.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llmlite.engine import emit
from llmlite.engine.amx_emit import ARGUMENTS, LINE, block_module
from llmlite.engine.families import AMX_BLOCK, CHUNK, LANES, STAGED, SUMS, TILE_ROWS
from llmlite.engine.kernels.common import kernel, share
from llmlite.engine.kernels.matmul import ROUNDS_AHEAD, call_unpack
from llmlite.engine.simd import (
    i64,
    inline,
    load_f32,
    load_i64,
    load_u8x64,
    make_fold,
    splat_u8x64,
    store,
)  # fmt: skip

fold = make_fold(LANES)
APART = AMX_BLOCK * LINE  # bytes from one block's sums to the next one's


class Routine:
    """A routine made of IR; `jit` takes it as it takes numba's."""

    def __init__(self, sub: int, has_minimum: bool) -> None:
        self.sub, self.has_minimum = sub, has_minimum
        self.native_name = f"amx_routine_{sub}{'_min' if has_minimum else ''}"

    def llmlite_compile(self) -> "Routine":
        return self

    def inspect_llvm(self) -> str:
        cpu = emit.current_target()
        return block_module(cpu, self.native_name, sub=self.sub, has_minimum=self.has_minimum)


block32, block32_min = Routine(32, False), Routine(32, True)
block16, block16_min = Routine(16, False), Routine(16, True)


@intrinsic
def call_block(typing, function, arguments):
    """Call a routine of `amx_emit` at address `function`."""
    n = len(ARGUMENTS)

    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(ir.VoidType(), [emit.I64] * n)
        values = [builder.extract_value(args[1], i) for i in range(n)]
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), values)
        return context.get_dummy_value()

    return types.none(i64, types.UniTuple(i64, n)), codegen


@inline
def subtract_zero(tile, n_bytes, zero):
    """Make unpacked bytes signed."""
    offset = splat_u8x64(zero)
    for place in range(tile, tile + n_bytes, 64):
        store(place, load_u8x64(place) - offset)


@inline
def copy_out(acc, out, n_tokens, row_bytes, n, spare):
    """Fold the sums; the first n of 32 rows of every token go to their place."""
    for t in range(n_tokens):
        source, target = acc + t * LINE, out + t * row_bytes
        place = target if n == TILE_ROWS else spare
        store(place, fold(source, APART))
        store(place + 64, fold(source + 64, APART))
        if n < TILE_ROWS:
            for i in range(0, n * 4, 4):
                store(target + i, load_f32(spare + i))


@kernel
def matmul_tiles(
    step, rank, n_threads, worker, rows, unpack, block, config, w, row_bytes, q, d, sums, out, n_rows, width,
    zero, sub, scratch, scratch_bytes,
):  # fmt: skip
    n_tokens, tile = load_i64(step + rows), scratch + worker * scratch_bytes
    low, high = share((n_rows + TILE_ROWS - 1) // TILE_ROWS, rank, n_threads)
    n_groups = (width + 255) // 256
    group_bytes, s_stride = row_bytes // n_groups, width * 4 // sub
    if n_tokens == 0:
        return
    n_ahead = max(1, ROUNDS_AHEAD // ((n_tokens + AMX_BLOCK - 1) // AMX_BLOCK))
    for row in range(low * TILE_ROWS, high * TILE_ROWS, TILE_ROWS):
        n = min(TILE_ROWS, n_rows - row)
        for first in range(0, n_groups, CHUNK):
            n_blocks = min(8 * CHUNK, width // 32 - first * 8)
            call_unpack(unpack, (w + row * row_bytes, row_bytes, first, n_blocks, n, tile))
            if zero != 0:
                subtract_zero(tile, (n_blocks + 7) // 8 * (64 * LINE), zero)
            last = first + CHUNK >= n_groups  # of this row's chunks
            coming = w + (row + TILE_ROWS if last else row) * row_bytes
            coming += 0 if last else (first + CHUNK) * group_bytes
            n_coming = min(row_bytes, CHUNK * group_bytes)
            for t in range(0, n_tokens, AMX_BLOCK):
                here = min(AMX_BLOCK, n_tokens - t)
                acc = tile + SUMS + (t * LANES * LINE if n_groups > CHUNK else 0)
                if t // AMX_BLOCK * n_ahead >= ROUNDS_AHEAD:  # all of it is on its way
                    n_coming = 0
                x, xd, xs = q + t * width, d + t * width // 8, sums + t * s_stride
                x, xd, xs = x + first * 256, xd + first * 32, xs + first * (1024 // sub)
                begins = i64(1) if first == 0 else i64(0)
                call_block(
                    block,
                    (config, tile, acc, x, xd, xs, width, n_blocks, here, begins, tile + STAGED,
                     coming, row_bytes, n_coming, n_ahead),
                )  # fmt: skip
                coming += LANES * n_ahead * row_bytes
                if last:
                    copy_out(acc, out + (t * n_rows + row) * 4, here, n_rows * 4, n, tile + STAGED)
