"""The cache of keys and values: stores of a step's keys and values, and their products in attention.

Each kind of cache (float32, float16, Q8_0) has a store kernel and a `Reader`. A block of Q8_0 has 32 numbers
of a head's key or value at one position: a float16 scale, and a byte for each number.
`llmlite.engine.kv_cache` has the layout. A reader returns exactly the float32 numbers that the cache
represents, so all kinds share one order of summation.
"""

from collections import namedtuple

from llmlite.engine.contract import LAYER, LAYER_BYTES, SEQUENCE, SEQUENCE_BYTES, STEP
from llmlite.engine.kernels.common import kernel, share
from llmlite.engine.kernels.dense import sixteen_f16, sixteen_f32
from llmlite.engine.simd import (
    QUERIES,
    absolute,
    add_outer,
    f32,
    f32_to_half,
    float_of_bits,
    half_to_f32,
    i32,
    inline,
    lane,
    load_f16,
    load_f32,
    load_f32x16,
    load_i64,
    load_u8x16,
    load_u16x16,
    make_load_sums,
    make_zero_sums,
    narrow_u8,
    prefetch,
    reduce_max,
    reinterpret,
    scale_sums,
    scatter_bytes,
    scatter_words,
    splat_f32x16,
    store,
    store_sums,
    to_f32,
    widen_i8,
)  # fmt: skip

BLOCK = 32  # positions whose keys are stored transposed
LINE = BLOCK * 4  # bytes of one row of scores, and of 32 columns of an output row
MAGIC = 12582912.0  # 1.5 · 2²³: adding it rounds a float32 to an integer in its low bits
SMALLEST = 1e-30  # a smaller scale is 0 in float16 anyway, and its inverse may overflow

load_sums, zero_sums = make_load_sums(QUERIES), make_zero_sums(QUERIES)


# ---- writing -----------------------------------------------------------------------------------------------


def make_store(put_key, put_value):
    """Return the kernel that writes a step's keys and values to the caches of its sequences.

    k is float32 (T, K, Dk), v (T, K, Dv). `put_key(words, place, source, size)` writes one head's key of
    `size` numbers to `place` (head · positions + position); `put_value` writes a value.
    """

    @kernel
    def store_kv(step, rank, n_threads, k, v, layer, n_head_kv, key_size, value_size):
        low, high = share(load_i64(step + STEP.n_tokens) * n_head_kv, rank, n_threads)
        sequence = load_i64(step + STEP.sequences)
        for _ in range(load_i64(step + STEP.n_sequences)):
            first, end = load_i64(sequence + SEQUENCE.first), load_i64(sequence + SEQUENCE.end)
            words = load_i64(sequence + SEQUENCE.states) + layer * LAYER_BYTES
            n_places, before = load_i64(words + LAYER.size), load_i64(sequence + SEQUENCE.position) - first
            for row in range(max(low, first * n_head_kv), min(high, end * n_head_kv)):
                place = row % n_head_kv * n_places + (before + row // n_head_kv) % n_places
                put_key(words, place, k + row * key_size * 4, key_size)
                put_value(words, place, v + row * value_size * 4, value_size)
            sequence += SEQUENCE_BYTES

    return store_kv


def make_puts(of_f32, width):
    """Return `put_key` and `put_value` for a cache of numbers of `width` bytes."""

    @inline
    def put_key(words, place, source, size):
        target = load_i64(words + LAYER.k) + (place // BLOCK * BLOCK * size + place % BLOCK) * width
        whole = size // 16 * 16
        for i in range(0, whole, 16):
            scatter_words(of_f32(load_f32x16(source + i * 4)), target + i * BLOCK * width, BLOCK * width)
        for i in range(whole, size):
            one = of_f32(splat_f32x16(load_f32(source + i * 4)))
            store(target + i * BLOCK * width, lane(one, 0))

    @inline
    def put_value(words, place, source, size):
        target = load_i64(words + LAYER.v) + place * size * width
        whole = size // 16 * 16
        for i in range(0, whole, 16):
            store(target + i * width, of_f32(load_f32x16(source + i * 4)))
        for i in range(whole, size):
            store(target + i * width, lane(of_f32(splat_f32x16(load_f32(source + i * 4))), 0))

    return put_key, put_value


@inline
def as_it_is(v):
    return v


@inline
def codes_of(v, inverse):
    """round(v · inverse), to even, as bytes."""
    magic = splat_f32x16(f32(MAGIC))
    shifted = v * splat_f32x16(inverse) + magic
    return narrow_u8(reinterpret(shifted, "i32") - reinterpret(magic, "i32"))


@inline
def quantized(source):
    """Quantize the 32 numbers at `source`: return the scale max|x| / 127, and two vectors of 16 codes.

    Each operation is rounded once, so that `kv_cache.quantize` gives the same bytes. If a number isn't
    finite, the scale isn't finite either, because the bits of infinity and NaN are larger than all others. So
    no number of the block is finite.
    """
    u, v = load_f32x16(source), load_f32x16(source + 64)
    bits = max(reduce_max(reinterpret(absolute(u), "i32")), reduce_max(reinterpret(absolute(v), "i32")))
    largest = float_of_bits(i32(bits))
    inverse = f32(0)
    if largest > f32(SMALLEST):
        inverse = f32(f32(127) / largest)
    scale = lane(f32_to_half(splat_f32x16(f32(largest / f32(127)))), 0)
    return scale, codes_of(u, inverse), codes_of(v, inverse)


@inline
def scale_place(scales, place, size):
    """Return the address of the first scale of `place`; scales are (…, positions/32, size/32, 32)."""
    return scales + place // BLOCK * size * 2 + place % BLOCK * 2


@inline
def put_key_q8_0(words, place, source, size):
    target = load_i64(words + LAYER.k) + place // BLOCK * BLOCK * size + place % BLOCK
    scales = scale_place(load_i64(words + LAYER.k_scales), place, size)
    for i in range(0, size, 32):
        scale, u, v = quantized(source + i * 4)
        store(scales + i * 2, scale)
        scatter_bytes(u, target + i * BLOCK, BLOCK)
        scatter_bytes(v, target + (i + 16) * BLOCK, BLOCK)


@inline
def put_value_q8_0(words, place, source, size):
    target = load_i64(words + LAYER.v) + place * size
    scales = scale_place(load_i64(words + LAYER.v_scales), place, size)
    for i in range(0, size, 32):
        scale, u, v = quantized(source + i * 4)
        store(scales + i * 2, scale)
        store(target + i, u)
        store(target + i + 16, v)


store_f32, store_f16 = make_store(*make_puts(as_it_is, 4)), make_store(*make_puts(f32_to_half, 2))
store_q8_0 = make_store(put_key_q8_0, put_value_q8_0)


# ---- reading -----------------------------------------------------------------------------------------------

# The functions with which attention reads a kind of cache. `width`: bytes of a number. A block of 32 keys or
# values is given by its address and the address of its scales (0 if there are none).
#   score(q, q_bytes, keys, scales, scores, size): scores[r, j] = q[r] · key j, for QUERIES queries.
#   weigh(o, scores, shrink, values, scales, size, first, end): o[r] ← o[r]·shrink[r] + Σⱼ scores[r, j]·v[j],
#       first ≤ j < end; o has the layout [columns/32][r][32]. `shrink`: a line with a float32 for each
#       query, then LINE bytes of scratch memory.
#   key_floats(source, scales, target, size), value_floats(source, scales, target, size, n): the address of
#       the block (of its first n values) as float32: `target`, or `source` if it is stored as float32. They
#       prefetch the next block.
Reader = namedtuple("Reader", "width score weigh key_floats value_floats")


def make_reader(read, width):
    """Return the Reader of numbers of `width` bytes; `read(address)` returns 16 of them.

    If width is 0, they are float32 that were converted before and are in the CPU's first-level cache.
    """
    ahead, width = width, width or 4

    @inline
    def ask_for(address):
        """Prefetch a line for each 16 or 32 numbers that are read, one block ahead."""
        if ahead:
            prefetch(address)
            if ahead == 4:
                prefetch(address + 64)

    @inline
    def score(q, q_bytes, keys, scales, scores, size):
        sums = zero_sums()
        for i in range(size):
            k = keys + i * BLOCK * width
            ask_for(k + size * BLOCK * width)
            sums = add_outer(sums, read(k), read(k + 16 * width), q + i * 4, q_bytes)
        store_sums(scores, sums)

    @inline
    def weigh(o, scores, shrink, values, scales, size, first, end):
        for c in range(0, size, 32):
            second = 16 * width if c + 16 < size else 0  # else the same numbers again, whose sums aren't used
            place = o + c * QUERIES * 4
            sums = scale_sums(load_sums(place), shrink, 4)
            for j in range(first, end):
                v = values + (j * size + c) * width
                ask_for(v + size * BLOCK * width)
                sums = add_outer(sums, read(v), read(v + second), scores + j * 4, LINE)
            store_sums(place, sums)

    @inline
    def value_floats(source, scales, target, size, n):
        if width == 4:
            return source
        for i in range(0, n * size * width, 64):
            prefetch(source + n * size * width + i)
        for i in range(0, n * size, 16):
            store(target + i * 4, read(source + i * width))
        return target

    @inline
    def key_floats(source, scales, target, size):
        return value_floats(source, scales, target, size, BLOCK)

    return Reader(width, score, weigh, key_floats, value_floats)


@inline
def sixteen_codes(p, scale):
    """Return sixteen bytes times their scales; exact, because a byte times a float16 has 19 bits."""
    return to_f32(widen_i8(load_u8x16(p))) * scale


@inline
def score_q8_0(q, q_bytes, keys, scales, scores, size):
    sums = zero_sums()
    for g in range(0, size, 32):
        prefetch(scales + size * 2 + g * 2)
        s0, s1 = half_to_f32(load_u16x16(scales + g * 2)), half_to_f32(load_u16x16(scales + g * 2 + 32))
        for i in range(g, g + 32, 2):  # a line
            k = keys + i * BLOCK
            prefetch(k + size * BLOCK)
            sums = add_outer(sums, sixteen_codes(k, s0), sixteen_codes(k + 16, s1), q + i * 4, q_bytes)
            k += BLOCK
            sums = add_outer(sums, sixteen_codes(k, s0), sixteen_codes(k + 16, s1), q + i * 4 + 4, q_bytes)
    store_sums(scores, sums)


@inline
def spread_scales(scales, target):
    """Write the 32 scales of a block as float32."""
    store(target, half_to_f32(load_u16x16(scales)))
    store(target + 64, half_to_f32(load_u16x16(scales + 32)))


@inline
def weigh_q8_0(o, scores, shrink, values, scales, size, first, end):
    wide = shrink + 64
    for c in range(0, size, 32):
        spread_scales(scales + c * 2, wide)
        prefetch(scales + size * 2 + c * 2)
        place = o + c * QUERIES * 4
        sums = scale_sums(load_sums(place), shrink, 4)
        for j in range(first, end):
            v = values + j * size + c
            prefetch(v + size * BLOCK)
            scale = splat_f32x16(load_f32(wide + j * 4))
            u, v = sixteen_codes(v, scale), sixteen_codes(v + 16, scale)
            sums = add_outer(sums, u, v, scores + j * 4, LINE)
        store_sums(place, sums)


@inline
def key_floats_q8_0(source, scales, target, size):
    for g in range(0, size, 32):
        s0, s1 = half_to_f32(load_u16x16(scales + g * 2)), half_to_f32(load_u16x16(scales + g * 2 + 32))
        for i in range(g, g + 32):
            k = source + i * BLOCK
            prefetch(k + size * BLOCK)
            store(target + i * LINE, sixteen_codes(k, s0))
            store(target + i * LINE + 64, sixteen_codes(k + 16, s1))
    return target


@inline
def value_floats_q8_0(source, scales, target, size, n):
    for c in range(0, size, 32):
        for j in range(n):
            v, to = source + j * size + c, target + (j * size + c) * 4
            prefetch(v + size * BLOCK)
            scale = splat_f32x16(load_f16(scales + c * 2 + j * 2))
            store(to, sixteen_codes(v, scale))
            store(to + 64, sixteen_codes(v + 16, scale))
    return target


READERS = {
    "f32": make_reader(sixteen_f32, 4),
    "f16": make_reader(sixteen_f16, 2),
    "q8_0": Reader(1, score_q8_0, weigh_q8_0, key_floats_q8_0, value_floats_q8_0),
}
CONVERTED = make_reader(sixteen_f32, 0)
