"""Prefill of quantized weights by AMX tiles: `matmul.make_matmul` with another inner part, and the same bits.

Rows are unpacked by the same routines. The type's zero is subtracted from their bytes once, so they become
signed. The integer products then need no correction, and equal those of the other kernels. The routine of
`amx_emit` multiplies a chunk of 32 rows by up to AMX_BLOCK tokens.
"""

from llmlite.engine import emit
from llmlite.engine.amx_emit import ARGUMENTS, LINE, block_module
from llmlite.engine.families import AMX_BLOCK, CHUNK, LANES, STAGED, SUMS, TILE_ROWS
from llmlite.engine.kernels.common import kernel, share
from llmlite.engine.kernels.matmul import ROUNDS_AHEAD, call_unpack, copy_out, make_call, next_chunk
from llmlite.engine.simd import (
    i64,
    inline,
    load_f32x16,
    load_i64,
    load_u8x64,
    splat_u8x64,
    store,
)  # fmt: skip

call_block = make_call(len(ARGUMENTS))
SIGNED = emit.dots_signed(emit.current_target())  # then 128 was already subtracted from unpacked full bytes
APART = AMX_BLOCK * LINE  # bytes from one block's sums to the next one's


class Routine:
    """A routine made of IR, with the methods that `jit` calls on numba's functions."""

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


@inline
def subtract_zero(tile, n_bytes, zero):
    """Make unpacked bytes signed."""
    offset = splat_u8x64(zero)
    for place in range(tile, tile + n_bytes, 64):
        store(place, load_u8x64(place) - offset)


@inline
def fold(sums, n_tokens):
    """Fold the eight sums of 32 rows, which are APART bytes apart, into the first ones, by halves (see
    docs/numerics.md).
    """
    for place in range(sums, sums + n_tokens * LINE, 64):
        a = load_f32x16(place) + load_f32x16(place + 4 * APART)
        b = load_f32x16(place + APART) + load_f32x16(place + 5 * APART)
        c = load_f32x16(place + 2 * APART) + load_f32x16(place + 6 * APART)
        d = load_f32x16(place + 3 * APART) + load_f32x16(place + 7 * APART)
        store(place, (a + c) + (b + d))


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
            if zero != 0 and not (SIGNED and zero == 128):
                subtract_zero(tile, (n_blocks + 7) // 8 * (64 * LINE), zero)
            last = first + CHUNK >= n_groups  # of this row's chunks
            place = w + row * row_bytes + first * group_bytes
            coming, n_coming = next_chunk(place, first, n_groups, row_bytes)
            for t in range(0, n_tokens, AMX_BLOCK):
                here = min(AMX_BLOCK, n_tokens - t)
                acc = tile + SUMS + (t * LANES * LINE if n_groups > CHUNK else 0)
                if t // AMX_BLOCK * n_ahead >= ROUNDS_AHEAD:  # the whole chunk has been prefetched
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
                    fold(acc, here)
                    copy_out(acc, out + (t * n_rows + row) * 4, n_rows * 4, here, n)
