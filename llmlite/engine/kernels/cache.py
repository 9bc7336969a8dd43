"""Writing a step's keys and values to the caches of its sequences."""

from llmlite.engine.contract import LAYER, LAYER_BYTES, SEQUENCE, SEQUENCE_BYTES, STEP
from llmlite.engine.kernels.common import kernel, share
from llmlite.engine.simd import (
    f32_to_half,
    inline,
    lane,
    load_f32,
    load_f32x16,
    load_i64,
    scatter_words,
    splat_f32x16,
    store,
)  # fmt: skip

BLOCK = 32  # positions whose keys lie transposed


def make_store(of_f32, size):
    """Return the kernel that writes a step's keys and values to caches of `size` bytes a number.

    k is float32 (T, K, Dk), v (T, K, Dv). Values go to (K, size, Dv), keys to (K, size/32, Dk, 32): see
    `llmlite.kv_cache.AttentionState`.
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
                block = (place // BLOCK * BLOCK * key_size + place % BLOCK) * size
                keys, values = load_i64(words + LAYER.k) + block, load_i64(words + LAYER.v)
                values += place * value_size * size
                source = k + row * key_size * 4
                whole = key_size // 16 * 16
                for i in range(0, whole, 16):
                    scatter_words(of_f32(load_f32x16(source + i * 4)), keys + i * BLOCK * size, BLOCK * size)
                for i in range(whole, key_size):
                    one = of_f32(splat_f32x16(load_f32(source + i * 4)))
                    store(keys + i * BLOCK * size, lane(one, 0))
                source = v + row * value_size * 4
                whole = value_size // 16 * 16
                for i in range(0, whole, 16):
                    store(values + i * size, of_f32(load_f32x16(source + i * 4)))
                for i in range(whole, value_size):
                    store(values + i * size, lane(of_f32(splat_f32x16(load_f32(source + i * 4))), 0))
            sequence += SEQUENCE_BYTES

    return store_kv


@inline
def as_it_is(v):
    return v


store_f32, store_f16 = make_store(as_it_is, 4), make_store(f32_to_half, 2)
