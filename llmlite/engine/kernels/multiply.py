"""Products of unpacked rows of quantized weights with activations: the inner loops of `matmul`."""

from llmlite.engine import emit
from llmlite.engine.families import (
    MINIMUMS,
    SCALES,
    TOKEN_BLOCK,
)
from llmlite.engine.kernels.common import routine
from llmlite.engine.kernels.quantized import TARGET
from llmlite.engine.kernels.unpack import LINE
from llmlite.engine.simd import (
    QUANTIZED_TOKENS,
    add_scaled,
    add_vectors,
    i32x16,
    inline,
    load_f32x16,
    load_u8x64,
    make_add_products,
    make_add_sums,
    make_load_sums,
    make_offset_products,
    make_subtract_minimums,
    make_zero_sums,
    store_sums,
)  # fmt: skip

TILE_TOKENS = QUANTIZED_TOKENS

add_sums = make_add_sums(TILE_TOKENS)
load_sums, offset_products = make_load_sums(TILE_TOKENS), make_offset_products(TILE_TOKENS)
no_products, no_sums = make_zero_sums(TILE_TOKENS, i32x16), make_zero_sums(TILE_TOKENS)
HALF = 4  # blocks from the first of a pair to the second: their sums are folded first
# With 16 registers, loops over the words of a sub-block have a bound that LLVM doesn't know, so that they
# stay loops. LLVM would unroll them, put all words of one row first, and run out of registers: 40 % slower.
UNROLLED = TARGET.has("avx512f")


def make_multiply_tokens(sub, has_minimum, small):
    """Return the inner loop of `make_multiply`, whose arguments it has: the sums of TILE_TOKENS tokens."""
    signed = not small and emit.dots_signed(TARGET)
    add_products = make_add_products(small, signed)
    subtract_mins = make_subtract_minimums(32 // sub, LINE)
    n_parts, sums_bytes = 32 // sub, 1024 // sub  # sub-blocks of a block; bytes of a group's Σ q

    @inline
    def multiply_tokens(total, words, numbers, q, d, xs, width, n_groups, n_bytes, zero):
        """Return `total` plus the products of one block of every group."""
        d_stride, s_stride = width // 8, width * 4 // sub  # from one token's scales (sums) to the next one's
        for _ in range(n_groups):
            for part in range(n_parts):
                products = no_products() if signed else offset_products(xs + part * 32, s_stride, zero)
                for k in range(0, sub if UNROLLED else n_bytes, 4):
                    w0, w1 = load_u8x64(words), load_u8x64(words + 64)
                    products = add_products(products, w0, w1, q + part * sub + k, width)
                    words += LINE
                s0, s1 = load_f32x16(numbers), load_f32x16(numbers + 64)
                total = add_scaled(total, products, s0, s1, d, d_stride)
                numbers += LINE
            if has_minimum:
                total = subtract_mins(total, numbers + MINIMUMS - SCALES - n_parts * LINE, xs, s_stride)
            q, d, xs = q + 256, d + 32, xs + sums_bytes
        return total

    return multiply_tokens


def make_multiply(*, sub, has_minimum=False, small=True):
    """Return the routine that multiplies one block of every group of a chunk: 32 rows × n_tokens.

    With AVX-512, twelve vectors of sums (2 × 16 rows, 6 tokens) are computed side by side, because a dot
    product takes 4 or 5 cycles, and two start in each. A separate routine has registers for all its
    addresses. `small` promises that every quant is below 128; otherwise `zero` is 128, and bytes are shifted
    signed numbers.

    The routine's arguments:
        words, numbers: addresses of the block's quants and of its scales.
        q, d, xs: addresses of the first token's activations, their scales, and their sums.
        width: numbers in a row.
        n_groups: the number of groups.
        n_bytes: the same as `sub`.
        zero: number to subtract from quants.
        n_tokens: the number of tokens.
        before: address of each token's earlier sums; 0 if there are none.
        sums: address of the results.
        n_folded: the number of sums at `sums`, TOKEN_BLOCK tokens apart, that are folded in, the last first.
    """
    multiply_tokens = make_multiply_tokens(sub, has_minimum, small)

    @routine(13)
    def multiply(
        words, numbers, q, d, xs, width, n_groups, n_bytes, zero, n_tokens, before, sums, n_folded
    ):  # fmt: skip
        for _ in range(0, n_tokens, TILE_TOKENS):
            total = load_sums(before) if before else no_sums()
            total = multiply_tokens(total, words, numbers, q, d, xs, width, n_groups, n_bytes, zero)
            for k in range(n_folded - 1, -1, -1):
                total = add_sums(total, sums + k * TOKEN_BLOCK * LINE)
            store_sums(sums, total)
            q, d = q + TILE_TOKENS * width, d + TILE_TOKENS * (width // 8)
            xs, sums = xs + TILE_TOKENS * (width * 4 // sub), sums + TILE_TOKENS * LINE
            before += TILE_TOKENS * LINE if before else 0

    return multiply


def make_multiply_pair(*, sub, has_minimum=False, small=True):
    """Return the routine that multiplies two blocks, HALF apart, of a row's only group: 32 rows × n_tokens.

    Its arguments are those of `make_multiply`'s routine. Both blocks are added up in registers: rows of 256
    weights would otherwise write eight sums for little work. Two sub-blocks of 16 need more registers than
    there are, but spilling the first sums still takes less time than two calls.
    """
    multiply_tokens, n_parts = make_multiply_tokens(sub, has_minimum, small), 32 // sub

    @routine(13)
    def multiply_pair(
        words, numbers, q, d, xs, width, _n_groups, n_bytes, zero, n_tokens, _before, sums, n_folded
    ):  # fmt: skip
        for _ in range(0, n_tokens, TILE_TOKENS):
            first = multiply_tokens(no_sums(), words, numbers, q, d, xs, width, 1, n_bytes, zero)
            total = multiply_tokens(
                no_sums(), words + HALF * 8 * LINE, numbers + HALF * n_parts * LINE, q + HALF * 32,
                d + HALF * 4, xs + HALF * 4, width, 1, n_bytes, zero,
            )  # fmt: skip
            total = add_vectors(first, total)
            for k in range(n_folded - 1, -1, -1):
                total = add_sums(total, sums + k * TOKEN_BLOCK * LINE)
            store_sums(sums, total)
            q, d = q + TILE_TOKENS * width, d + TILE_TOKENS * (width // 8)
            xs, sums = xs + TILE_TOKENS * (width * 4 // sub), sums + TILE_TOKENS * LINE

    return multiply_pair


multiply32 = make_multiply(sub=32)
multiply32_bytes = make_multiply(sub=32, small=False)
multiply32_min = make_multiply(sub=32, has_minimum=True)
multiply32_pair = make_multiply_pair(sub=32)
multiply32_bytes_pair = make_multiply_pair(sub=32, small=False)
multiply32_min_pair = make_multiply_pair(sub=32, has_minimum=True)
multiply16 = make_multiply(sub=16)
multiply16_min = make_multiply(sub=16, has_minimum=True)
multiply16_pair = make_multiply_pair(sub=16)
multiply16_min_pair = make_multiply_pair(sub=16, has_minimum=True)
