"""Rows of quantized weights unpacked to bytes, in the order in which `matmul` reads them."""

from numba import types

from llmlite.engine import emit
from llmlite.engine.families import (
    MINIMUMS,
    SCALES,
    STAGED,
    TILE_ROWS,
)
from llmlite.engine.kernels.common import routine
from llmlite.engine.kernels.quantized import TARGET, nothing
from llmlite.engine.simd import (
    f32,
    make_transpose16,
    splat_u8x32,
    splat_u8x64,
    store,
)  # fmt: skip

LINE = TILE_ROWS * 4  # bytes of one row of words, scales, minimums or sums

transpose16 = make_transpose16(8)


def make_unpack(family, *, quants64, scales, mins=None, quants32=None, scale=None, minimum=None):
    """Return the routine that unpacks up to CHUNK groups of 32 rows to bytes.

    Their order is [block of a group][group][k/4][row][k%4], so that the bytes of one sum are stored together.
    Scales and minimums follow as [block][group][sub-block][row]. A group is written row by row, then
    transposed. From quants of full bytes, 128 is subtracted if `multiply` takes signed numbers
    (`emit.dots_signed`).

    The routine's arguments:
        w: address of the first row.
        row_bytes: bytes of a row.
        first: the first group.
        n_blocks: the number of blocks of 32, which at the end of a row may not be a multiple of 8.
        n_rows: the number of rows that exist; the last one is repeated.
        tile: a thread's scratch memory.
    """
    has_minimum, has_tail = family.has_minimum, quants32 is not None
    mins, quants32 = mins or nothing, quants32 or nothing
    scale, minimum = scale or nothing, minimum or nothing
    sub, group_bytes, block_bytes = family.sub, family.group_bytes, family.group_bytes // 8
    numbers_bytes = 32 // sub * LINE  # scales of a block of 32 rows
    signed = family.full_bytes and emit.dots_signed(TARGET)

    @routine(6)
    def unpack(w, row_bytes, first, n_blocks, n_rows, tile):
        rows, n_groups = tile + STAGED, (n_blocks + 7) // 8
        for group in range(n_groups):
            left = n_blocks - 8 * group
            for row in range(TILE_ROWS):
                p = w + min(row, n_rows - 1) * row_bytes + (first + group) * group_bytes
                bytes_place, place = rows + row * 256, rows + TILE_ROWS * 256 + row * 64
                if left >= 8:
                    for i in range(4):
                        v = quants64(p, i)
                        store(bytes_place + i * 64, v ^ splat_u8x64(types.uint8(128)) if signed else v)
                    store(place, scales(p))
                    if has_minimum:
                        store(place + TILE_ROWS * 64, mins(p))
                elif has_tail:
                    for i in range(left):
                        v = quants32(p)
                        store(bytes_place + i * 32, v ^ splat_u8x32(types.uint8(128)) if signed else v)
                        store(place + i * 4, f32(scale(p)))
                        if has_minimum:
                            store(place + TILE_ROWS * 64 + i * 4, f32(minimum(p)))
                        p += block_bytes
            for half in range(2):
                bytes_place, place = rows + half * 16 * 256, rows + TILE_ROWS * 256 + half * 16 * 64
                words = tile + group * 8 * LINE + half * 64
                apart_bytes = n_groups * 8 * LINE
                for i in range(4):
                    transpose16(bytes_place + i * 64, 256, words + i * 2 * apart_bytes, LINE, apart_bytes)
                numbers, step = tile + group * numbers_bytes + half * 64, n_groups * numbers_bytes
                halves = (
                    LINE if sub == 16 else 8 * step
                )  # otherwise, the numbers after eight scales go to memory that isn't read
                transpose16(place, 64, numbers + SCALES, step, halves)
                if has_minimum:
                    transpose16(place + TILE_ROWS * 64, 64, numbers + MINIMUMS, step, halves)

    return unpack
