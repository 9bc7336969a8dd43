"""Types without blocks: F32, F16, BF16. Products in float32, activations as they are.

`make_matvec`: a row at a time, four sums side by side. `make_matmul`: 32 rows × 256 weights converted once to
float32 in the order [k][row], then sums of 2 × 16 rows × FLOAT_TOKENS.
"""

from llmlite.engine.contract import STEP
from llmlite.engine.kernels.common import kernel, share
from llmlite.engine.kernels.quantized import clear, copy_out
from llmlite.engine.simd import (
    FLOAT_TOKENS,
    add_outer,
    bfloat_to_f32,
    f32,
    fma,
    half_to_f32,
    inline,
    load_f32x16,
    load_i64,
    load_u16x16,
    make_load_sums,
    prefetch,
    reduce_add,
    scatter_words,
    splat_f32x16,
    store,
    store_sums,
)  # fmt: skip

TILE_ROWS, TILE_COLUMNS = 32, 128
ACCUMULATORS = TILE_ROWS * TILE_COLUMNS * 4
AHEAD = 2048

load_sums = make_load_sums(FLOAT_TOKENS)


@inline
def sixteen_f32(p):
    return load_f32x16(p)


@inline
def sixteen_f16(p):
    return half_to_f32(load_u16x16(p))


@inline
def sixteen_bf16(p):
    return bfloat_to_f32(load_u16x16(p))


def make_matvec(sixteen, size):
    """Return the kernel out[t, r] = Σ weight[r]·x[t]; `sixteen(p)` gives 16 weights of `size` bytes."""

    @kernel
    def matvec(step, rank, n_threads, rows, w, x, out, n_rows, width):
        low, high = share(n_rows, rank, n_threads)
        for t in range(load_i64(step + rows)):
            for r in range(low, high):
                p, v = w + r * width * size, x + t * width * 4
                a, b, c, d = (
                    splat_f32x16(f32(0)),
                    splat_f32x16(f32(0)),
                    splat_f32x16(f32(0)),
                    splat_f32x16(f32(0)),
                )
                for _ in range(width // 64):
                    prefetch(p + AHEAD)
                    if size == 4:
                        prefetch(p + AHEAD + 64)
                        prefetch(p + AHEAD + 128)
                        prefetch(p + AHEAD + 192)
                    else:
                        prefetch(p + AHEAD + 64)
                    a = fma(sixteen(p), load_f32x16(v), a)
                    b = fma(sixteen(p + 16 * size), load_f32x16(v + 64), b)
                    c = fma(sixteen(p + 32 * size), load_f32x16(v + 128), c)
                    d = fma(sixteen(p + 48 * size), load_f32x16(v + 192), d)
                    p, v = p + 64 * size, v + 256
                for _ in range(width % 64 // 16):
                    a = fma(sixteen(p), load_f32x16(v), a)
                    p, v = p + 16 * size, v + 64
                store(out + (t * n_rows + r) * 4, f32(reduce_add((a + b) + (c + d))))

    return matvec


def make_embed(sixteen, size):
    """Return the kernel out[t] = row ids[t]."""

    @kernel
    def embed(step, rank, n_threads, w, out, width):
        low, high = share(load_i64(step + STEP.n_tokens), rank, n_threads)
        for t in range(low, high):
            p = w + load_i64(load_i64(step + STEP.ids) + t * 8) * width * size
            for i in range(0, width, 16):
                store(out + (t * width + i) * 4, sixteen(p + i * size))

    return embed


@inline
def multiply(tile, acc, x, width, n):
    """32 rows × FLOAT_TOKENS × n weights, added to `acc` (FLOAT_TOKENS, 32)."""
    sums = load_sums(acc)
    for k in range(n):
        w0, w1 = load_f32x16(tile + k * 128), load_f32x16(tile + k * 128 + 64)
        sums = add_outer(sums, w0, w1, x + k * 4, width * 4)
    store_sums(acc, sums)


def make_matmul(sixteen, size):
    """Return the kernel out[t, r] = Σ weight[r]·x[t] for many tokens."""

    @kernel
    def matmul(step, rank, n_threads, rows, w, x, out, n_rows, width, scratch, scratch_bytes):
        n_tokens = load_i64(step + rows)
        if n_tokens == 0:
            return
        tile = scratch + rank * scratch_bytes
        acc = tile + ACCUMULATORS
        low, high = share((n_rows + TILE_ROWS - 1) // TILE_ROWS, rank, n_threads)
        for first in range(low * TILE_ROWS, high * TILE_ROWS, TILE_ROWS):
            n = min(TILE_ROWS, n_rows - first)
            clear(acc, (n_tokens + FLOAT_TOKENS - 1) // FLOAT_TOKENS * FLOAT_TOKENS)
            for start in range(0, width, TILE_COLUMNS):
                columns = min(TILE_COLUMNS, width - start)
                for row in range(TILE_ROWS):
                    p = w + ((first + min(row, n - 1)) * width + start) * size
                    for k in range(0, columns, 16):
                        scatter_words(sixteen(p + k * size), tile + (k * TILE_ROWS + row) * 4, TILE_ROWS * 4)
                for t in range(0, n_tokens, FLOAT_TOKENS):
                    multiply(tile, acc + t * TILE_ROWS * 4, x + (t * width + start) * 4, width, columns)
            copy_out(acc, out + first * 4, n_tokens, n_rows * 4, n)

    return matmul


matvec_f32, matmul_f32, embed_f32 = (
    make_matvec(sixteen_f32, 4),
    make_matmul(sixteen_f32, 4),
    make_embed(sixteen_f32, 4),
)
matvec_f16, matmul_f16, embed_f16 = (
    make_matvec(sixteen_f16, 2),
    make_matmul(sixteen_f16, 2),
    make_embed(sixteen_f16, 2),
)
matvec_bf16, matmul_bf16 = make_matvec(sixteen_bf16, 2), make_matmul(sixteen_bf16, 2)
embed_bf16 = make_embed(sixteen_bf16, 2)
