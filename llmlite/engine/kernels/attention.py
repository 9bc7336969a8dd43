"""Attention with an online softmax: scores of 32 positions at a time, never a whole row of them.

For a query q and the blocks of keys K and values V behind each other,

    s = scale · K q,   m' = max(m, max s),   l ← l·e^(m−m') + Σ e^(s−m'),   o ← o·e^(m−m') + Σ e^(s−m') V

and o / l is softmax(scale · K q) · V in the end. (Milakov & Gimelshein 2018; Dao et al. 2022.)

A unit of work is one key/value head, a tile of tokens and a part of the positions; units go round robin,
because later tiles see more positions. Positions are cut into parts only where a single token's heads are
few: `merge_parts` then puts the parts' o, m and l together.

The queries of a unit (all tokens and heads that share the key/value head) are taken QUERIES at a time, so a
key or value that has been loaded serves as many. The cache keeps keys transposed within each block
(`KVCache`): element i of 32 keys lies side by side, so scores are multiples of whole vectors and no lanes are
summed up.

A single token reads the cache as it is; for a prompt, whose queries are many, each block is converted to
float32 once. Kernels come in three forms: for heads of 64 and of 128 numbers, whose loops the compiler
unrolls, and for any multiple of 16.
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
    QUERIES,
    add_outer,
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
    make_load_sums,
    make_zero_sums,
    maximum,
    prefetch,
    reduce_add,
    reduce_max,
    scale_sums,
    splat_f32x16,
    splat_i32x16,
    store,
    store_sums,
)  # fmt: skip

BLOCK = 32  # positions
LINE = BLOCK * 4  # bytes of one row of scores, and of 32 columns of an output row
TILE = 16  # tokens
MASKED = -1e30

load_sums, zero_sums = make_load_sums(QUERIES), make_zero_sums(QUERIES)


@inline
def softmax_step(scores, state, shrink, visible):
    """One query's scores of a block become e^(s−m), in place; `state` holds m and l, `shrink` gets e^(m−m').

    `visible`: how many positions of the block the query may see.
    """
    seen, low = splat_i32x16(i32(visible)), splat_f32x16(f32(MASKED))
    s0 = choose_above(seen, counting_i32x16(), load_f32x16(scores), low)
    s1 = choose_above(seen, counting_i32x16() + splat_i32x16(i32(16)), load_f32x16(scores + 64), low)
    before, total = load_f32(state), load_f32(state + 4)
    m = max(before, reduce_max(maximum(s0, s1)))
    top = splat_f32x16(m)
    e0, e1 = exp_or_zero(s0 - top), exp_or_zero(s1 - top)
    store(scores, e0)
    store(scores + 64, e1)
    factor = lane(exp_or_zero(splat_f32x16(before) - top), 0)
    store(shrink, factor)
    store(state, f32(m))
    store(state + 4, f32(total * factor + reduce_add(e0 + e1)))


def make_attention(sixteen, size, only=0, convert_first=False):
    """Return the kernel for a cache of numbers of `size` bytes, of which `sixteen(address)` reads 16.

    `only`: the head size, if it is for one. `convert_first`: every block to float32, before its queries come.
    """
    read, width = (sixteen_f32, 4) if convert_first else (sixteen, size)

    @inline
    def convert(source, target, n):
        """n numbers as float32; the block behind it is asked for."""
        for i in range(0, n * size, 64):
            prefetch(source + n * size + i)
        for i in range(0, n, 16):
            store(target + i * 4, sixteen(source + i * size))

    @inline
    def ask_for(address):
        """A line per 16 or 32 numbers that are read, a block ahead."""
        if not convert_first:
            prefetch(address)
            if width == 4:
                prefetch(address + 64)

    @inline
    def score(q, keys, scores, head_size):
        """scores[r, j] = q[r] · key j, of QUERIES queries and a block."""
        sums = zero_sums()
        for i in range(head_size):
            k = keys + i * BLOCK * width
            ask_for(k + head_size * BLOCK * width)
            sums = add_outer(sums, read(k), read(k + 16 * width), q + i * 4, head_size * 4)
        store_sums(scores, sums)

    @inline
    def weigh(o, scores, shrink, values, head_size, n):
        """o[r] ← o[r]·shrink[r] + Σ scores[r, j]·value j, j < n, of QUERIES queries.

        o is laid out as [columns/32][r][32].
        """
        for c in range(0, head_size, 32):
            second = 16 * width if c + 16 < head_size else 0  # past an odd 16 the same again, read by nobody
            place = o + c * QUERIES * 4
            sums = scale_sums(load_sums(place), shrink, 4)
            for j in range(n):
                v = values + (j * head_size + c) * width
                ask_for(v + head_size * BLOCK * width)
                sums = add_outer(sums, read(v), read(v + second), scores + j * 4, LINE)
            store_sums(place, sums)

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
        group, row_bytes, o_bytes = n_head // n_head_kv, head_size * 4, (head_size + 31) // 32 * LINE
        scores = scratch + rank * scratch_bytes
        shrink = scores + QUERIES * LINE
        floats = shrink + 64
        queries = floats + (2 * BLOCK * row_bytes if convert_first else 0)
        scales = splat_f32x16(scale)
        n_units = (n_tokens + TILE - 1) // TILE * n_head_kv * n_parts
        for unit in range(rank, n_units, n_threads):
            part, head, tile = unit % n_parts, unit // n_parts % n_head_kv, unit // n_parts // n_head_kv
            first, end = tile * TILE, min(tile * TILE + TILE, n_tokens)
            n_rows = (end - first) * group
            n_padded = (n_rows + QUERIES - 1) // QUERIES * QUERIES
            outputs = queries + n_padded * row_bytes
            mine = outputs + n_padded * o_bytes  # m and l of this unit's queries
            for r in range(n_padded):
                row = min(r, n_rows - 1)
                source = q + ((first + row // group) * n_head + head * group + row % group) * row_bytes
                for i in range(0, row_bytes, 64):
                    store(queries + r * row_bytes + i, load_f32x16(source + i) * scales)
                for i in range(0, o_bytes, 64):
                    store(outputs + r * o_bytes + i, splat_f32x16(f32(0)))
                store(mine + r * 8, f32(MASKED))
                store(mine + r * 8 + 4, f32(0))
            cache = (layer * n_head_kv + head) * load_i64(step + N_CTX)
            low, high = share_by(position + end, BLOCK, part, n_parts)
            for j in range(low, high, BLOCK):
                n = min(BLOCK, high - j)
                place = (cache + j) * head_size * size
                keys, values = load_i64(step + K_CACHE) + place, load_i64(step + V_CACHE) + place
                if convert_first:
                    convert(keys, floats, BLOCK * head_size)
                    convert(values, floats + BLOCK * row_bytes, n * head_size)
                    keys, values = floats, floats + BLOCK * row_bytes
                for r in range(0, n_rows, QUERIES):
                    visible = position + first + 1 - j  # to the unit's first token; one more to each next
                    if visible + min(r + QUERIES - 1, n_rows - 1) // group > 0:
                        score(queries + r * row_bytes, keys, scores, head_size)
                        for i in range(QUERIES):
                            token = min(r + i, n_rows - 1) // group
                            state = mine + (r + i) * 8
                            softmax_step(scores + i * LINE, state, shrink + i * 4, visible + token)
                        weigh(outputs + r * o_bytes, scores, shrink, values, head_size, n)
            for r in range(n_rows):
                row = ((first + r // group) * n_head + head * group + r % group) * n_parts + part
                o, state = outputs + r // QUERIES * QUERIES * o_bytes + r % QUERIES * LINE, mine + r * 8
                factor = splat_f32x16(f32(1))
                if n_parts == 1:
                    factor = splat_f32x16(f32(1) / load_f32(state + 4))
                else:
                    store(states + row * 8, load_i64(state))
                for i in range(0, head_size, 16):
                    v = load_f32x16(o + i // 32 * QUERIES * LINE + i % 32 * 4)
                    store(out + row * row_bytes + i * 4, v * factor)

    return attention


attention_f32, attention_f16 = make_attention(sixteen_f32, 4), make_attention(sixteen_f16, 2)
attention_f32_64, attention_f16_64 = make_attention(sixteen_f32, 4, 64), make_attention(sixteen_f16, 2, 64)
attention_f32_128, attention_f16_128 = (
    make_attention(sixteen_f32, 4, 128),
    make_attention(sixteen_f16, 2, 128),
)
attention_prompt_f16, attention_prompt_f16_64, attention_prompt_f16_128 = (
    make_attention(sixteen_f16, 2, only, convert_first=True) for only in (0, 64, 128)
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
