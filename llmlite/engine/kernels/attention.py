"""Attention with an online softmax: scores of 32 positions at a time, never a whole row of them.

For a query q and the blocks of keys K and values V behind each other,

    s = scale · K q,   m' = max(m, max s),   l ← l·e^(m−m') + Σ e^(s−m'),   o ← o·e^(m−m') + Σ e^(s−m') V,   m
    ← m'

and o / l is softmax(scale · K q) · V in the end. (Milakov & Gimelshein 2018; Dao et al. 2022.)

A unit of work is one key/value head, a tile of tokens and a part of the positions; units go round robin,
because later tiles see more positions. A block of keys and values is converted to float32 once for all
queries of its unit. Positions are cut into parts only where a single token's heads are few: `merge_parts`
then puts the parts' o, m and l together.

Kernels come in three forms: for heads of 64 and of 128 numbers, whose loops the compiler unrolls, and for any
multiple of 16.
"""

from llmlite.engine.kernels.common import (
    K_CACHE,
    N_CTX,
    N_TOKENS,
    POSITION,
    V_CACHE,
    exp_or_zero,
    kernel,
    share,
    share_by,
)  # fmt: skip
from llmlite.engine.kernels.dense import sixteen_f16, sixteen_f32
from llmlite.engine.simd import (
    choose_above,
    counting_i32x16,
    divide,
    f32,
    fma,
    i32,
    inline,
    lane,
    load_f32,
    load_f32x16,
    load_i64,
    make_shuffle,
    maximum,
    prefetch,
    reduce_add,
    reduce_max,
    splat_f32x16,
    splat_i32x16,
    store,
)  # fmt: skip

BLOCK = 32  # positions
TILE = 16  # tokens
MASKED = -1e30
AHEAD = 4096  # bytes between what is converted and what is prefetched: a block of 32 heads of 64 float16

even_lanes, odd_lanes = make_shuffle(range(0, 32, 2)), make_shuffle(range(1, 32, 2))


@inline
def fold(a, b):
    """Sums of neighbouring lanes: of a in the first half, of b in the second."""
    return even_lanes(a, b) + odd_lanes(a, b)


@inline
def eight_dots(q, k, row_bytes):
    """Dot products of q with 8 rows of k, each as two neighbouring partial sums."""
    zero = splat_f32x16(f32(0))
    a, b, c, d, e, f, g, h = zero, zero, zero, zero, zero, zero, zero, zero
    for i in range(0, row_bytes, 64):
        v, p = load_f32x16(q + i), k + i
        a, b = fma(v, load_f32x16(p), a), fma(v, load_f32x16(p + row_bytes), b)
        c, d = fma(v, load_f32x16(p + 2 * row_bytes), c), fma(v, load_f32x16(p + 3 * row_bytes), d)
        e, f = fma(v, load_f32x16(p + 4 * row_bytes), e), fma(v, load_f32x16(p + 5 * row_bytes), f)
        g, h = fma(v, load_f32x16(p + 6 * row_bytes), g), fma(v, load_f32x16(p + 7 * row_bytes), h)
    return fold(fold(fold(a, b), fold(c, d)), fold(fold(e, f), fold(g, h)))


@inline
def sixteen_dots(q, k, row_bytes):
    """Dot products of q with 16 rows of k."""
    return fold(eight_dots(q, k, row_bytes), eight_dots(q, k + 8 * row_bytes, row_bytes))


@inline
def weigh(o, p, v, row_bytes, n, shrink):
    """o ← o·shrink + Σ p[j]·v[j] over j < n."""
    for c in range(0, row_bytes - 255, 256):
        a, b = load_f32x16(o + c) * shrink, load_f32x16(o + c + 64) * shrink
        d, e = load_f32x16(o + c + 128) * shrink, load_f32x16(o + c + 192) * shrink
        for j in range(n):
            w, u = splat_f32x16(load_f32(p + j * 4)), v + j * row_bytes + c
            a, b = fma(w, load_f32x16(u), a), fma(w, load_f32x16(u + 64), b)
            d, e = fma(w, load_f32x16(u + 128), d), fma(w, load_f32x16(u + 192), e)
        store(o + c, a)
        store(o + c + 64, b)
        store(o + c + 128, d)
        store(o + c + 192, e)
    for c in range(row_bytes // 256 * 256, row_bytes, 64):
        a = load_f32x16(o + c) * shrink
        for j in range(n):
            a = fma(splat_f32x16(load_f32(p + j * 4)), load_f32x16(v + j * row_bytes + c), a)
        store(o + c, a)


@inline
def attend(q, o, keys, values, state, p, row_bytes, scale, visible, n):
    """One query and one block: `state` holds m and l, `visible` is how many positions of the block q may
    see.
    """
    low = splat_f32x16(f32(MASKED))
    s0, s1 = (
        sixteen_dots(q, keys, row_bytes) * scale,
        sixteen_dots(q, keys + 16 * row_bytes, row_bytes) * scale,
    )
    seen = splat_i32x16(i32(visible))
    s0 = choose_above(seen, counting_i32x16(), s0, low)
    s1 = choose_above(seen, counting_i32x16() + splat_i32x16(i32(16)), s1, low)
    before, total = load_f32(state), load_f32(state + 4)
    m = max(before, reduce_max(maximum(s0, s1)))
    top = splat_f32x16(m)
    e0, e1 = exp_or_zero(s0 - top), exp_or_zero(s1 - top)
    store(p, e0)
    store(p + 64, e1)
    shrink = exp_or_zero(splat_f32x16(before) - top)
    store(state, f32(m))
    store(state + 4, f32(total * lane(shrink, 0) + reduce_add(e0 + e1)))
    weigh(o, p, values, row_bytes, n, shrink)


@inline
def begin(o, row_bytes, state):
    """o ← 0, m ← masked, l ← 0 for one query."""
    for i in range(0, row_bytes, 64):
        store(o + i, splat_f32x16(f32(0)))
    store(state, f32(MASKED))
    store(state + 4, f32(0))


@inline
def finish(o, row_bytes, state):
    """o ← o / l."""
    share_of_all = splat_f32x16(f32(1) / load_f32(state + 4))
    for i in range(0, row_bytes, 64):
        store(o + i, load_f32x16(o + i) * share_of_all)


def make_attention(sixteen, size, only=0):
    """Return the kernel for a cache of numbers of `size` bytes, of which `sixteen(address)` reads 16.

    `only`: the head size, if it is for one.
    """

    @inline
    def convert(source, target, n, head_size):
        """n rows as float32, and zeros up to the block's end."""
        for i in range(0, n * head_size * size, 64):
            prefetch(source + AHEAD + i)
        for i in range(0, n * head_size, 16):
            store(target + i * 4, sixteen(source + i * size))
        for i in range(n * head_size, BLOCK * head_size, 16):
            store(target + i * 4, splat_f32x16(f32(0)))

    @kernel
    def attention(
        step, rank, n_threads, q, out, layer, n_head, n_head_kv, any_size, scale: float, n_parts, states,
        scratch, scratch_bytes,
    ):  # fmt: skip
        """out[t, h, i]: of query row h of token t, what part i of the positions gives; states: its m and l.

        With one part, `out` is the answer and `states` is not written.
        """
        head_size = only if only else any_size  # a constant, or not
        n_tokens, position = load_i64(step + N_TOKENS), load_i64(step + POSITION)
        group, row_bytes = n_head // n_head_kv, head_size * 4
        keys = scratch + rank * scratch_bytes
        values = keys + BLOCK * row_bytes
        p = values + BLOCK * row_bytes
        mine = p + BLOCK * 4  # m and l of this unit's queries
        scales = splat_f32x16(scale)
        n_units = (n_tokens + TILE - 1) // TILE * n_head_kv * n_parts
        for unit in range(rank, n_units, n_threads):
            part, head, tile = unit % n_parts, unit // n_parts % n_head_kv, unit // n_parts // n_head_kv
            first, end = tile * TILE, min(tile * TILE + TILE, n_tokens)
            for t in range(first, end):
                for h in range(group):
                    row = (t * n_head + head * group + h) * n_parts + part
                    begin(out + row * row_bytes, row_bytes, mine + ((t - first) * group + h) * 8)
            cache = (layer * n_head_kv + head) * load_i64(step + N_CTX)
            low, high = share_by(position + end, BLOCK, part, n_parts)
            for j in range(low, high, BLOCK):
                n = min(BLOCK, high - j)
                place = (cache + j) * head_size * size
                convert(load_i64(step + K_CACHE) + place, keys, n, head_size)
                convert(load_i64(step + V_CACHE) + place, values, n, head_size)
                for t in range(max(first, j - position), end):
                    for h in range(group):
                        row = t * n_head + head * group + h
                        o, state = (
                            out + (row * n_parts + part) * row_bytes,
                            mine + ((t - first) * group + h) * 8,
                        )
                        visible = position + t + 1 - j
                        attend(q + row * row_bytes, o, keys, values, state, p, row_bytes, scales, visible, n)
            for t in range(first, end):
                for h in range(group):
                    row = (t * n_head + head * group + h) * n_parts + part
                    state = mine + ((t - first) * group + h) * 8
                    if n_parts == 1:
                        finish(out + row * row_bytes, row_bytes, state)
                    else:
                        store(states + row * 8, load_i64(state))

    return attention


attention_f32, attention_f16 = make_attention(sixteen_f32, 4), make_attention(sixteen_f16, 2)
attention_f32_64, attention_f16_64 = make_attention(sixteen_f32, 4, 64), make_attention(sixteen_f16, 2, 64)
attention_f32_128, attention_f16_128 = (
    make_attention(sixteen_f32, 4, 128),
    make_attention(sixteen_f16, 2, 128),
)


@kernel
def merge_parts(step, rank, n_threads, parts, states, out, n_head, head_size, n_parts):
    """out ← Σ oᵢ·e^(mᵢ−m) / Σ lᵢ·e^(mᵢ−m), m = max mᵢ, over the parts of every query row."""
    low, high = share(load_i64(step + N_TOKENS) * n_head, rank, n_threads)
    row_bytes = head_size * 4
    for row in range(low, high):
        state, target = states + row * n_parts * 8, out + row * row_bytes
        m = load_f32(state)
        for i in range(1, n_parts):
            m = max(m, load_f32(state + i * 8))
        total = splat_f32x16(f32(0))
        for at in range(0, row_bytes, 64):
            store(target + at, splat_f32x16(f32(0)))
        for i in range(n_parts):
            weight = exp_or_zero(splat_f32x16(load_f32(state + i * 8) - m))
            total = fma(splat_f32x16(load_f32(state + i * 8 + 4)), weight, total)
            source = parts + (row * n_parts + i) * row_bytes
            for at in range(0, row_bytes, 64):
                store(target + at, fma(load_f32x16(source + at), weight, load_f32x16(target + at)))
        for at in range(0, row_bytes, 64):
            store(target + at, divide(load_f32x16(target + at), total))
