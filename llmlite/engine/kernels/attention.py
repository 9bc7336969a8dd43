"""Attention with an online softmax: scores of 32 positions at a time, never a whole row of them.

For a query q, the blocks of keys K and values V are taken one after another:

    s = scale · K q,   m' = max(m, max s),   l ← l·e^(m−m') + Σ e^(s−m'),   o ← o·e^(m−m') + Σ e^(s−m') V

At the end, o / l is softmax(scale · K q) · V. (Milakov & Gimelshein 2018; Dao et al. 2022.)

Only positions determine the order of the sums. Blocks of 32 and parts of ATTENTION_PART positions are counted
from position 0. Every part starts from m = LOWEST, l = 0, o = 0, and parts are folded together in order
(`fold`). A position that a query doesn't see has exactly the weight 0, and doesn't change m, l and o. So a
query's result has the same bits with any other tokens in its step, and on any thread.

A unit of work is a sequence's key/value head and a tile of its rows. A row is a token's query of one of the
heads that share the key/value head. A unit takes its parts one after another. If there are few units (a
single token), a unit is only one part: o, m and l go to memory, and `merge_parts` folds them.

A unit takes QUERIES queries at a time, so each loaded key or value serves all of them. The cache keeps keys
transposed within each block (`AttentionState`): element i of 32 keys is stored side by side, so scores are
sums of whole vectors, without sums over lanes. If a unit has many rows, each float16 block is converted to
float32 first, which is exact.

If a value is the beginning of its key, the cache keeps only keys. A block of them, as float32, is transposed
into values. Every head reads the same block, so this happens once for all rows of a unit.

There are kernels for heads of 64, 128 and 256 numbers, whose loops the compiler unrolls, and one for any
size.
"""

from llmlite.engine.contract import (
    ATTENTION,
    ATTENTION_PART,
    LAYER,
    LAYER_BYTES,
    SEQUENCE,
    SEQUENCE_BYTES,
    STEP,
)  # fmt: skip
from llmlite.engine.kernels.cache import CONVERTED, READERS
from llmlite.engine.kernels.common import kernel
from llmlite.engine.kernels.softmax import (
    BLOCK,
    HIGH,
    LINE,
    LOW,
    LOWEST,
    MERGED,
    PLACE,
    QUERY,
    ROW,
    SLOPE,
    add_sink,
    finish,
    fold,
    scaled,
    softmax_step,
)
from llmlite.engine.simd import (
    QUERIES,
    f32,
    i64,
    inline,
    lane,
    load_f32,
    load_f32x16,
    load_f64,
    load_i64,
    make_transpose16,
    splat_f32x16,
    store,
)  # fmt: skip

transpose16 = make_transpose16(16)
PART = ATTENTION_PART
WORK = QUERIES * LINE  # scores; then a line of factors of older sums, and a block's scales
KINDS = ("f32", "f16", "q8_0")
FLOATS = WORK + 64 + LINE  # then a block as float32


# ---- the positions that a query sees, and the units --------------------------------------------------------


@inline
def sees(position, end, window, causal):
    """Return the positions that the query at `position` sees, as a range; `end` is its sequence's end."""
    low, high = i64(0), end
    if causal:
        high = position + 1
        if window:
            low = max(low, position - window + 1)
    elif window:
        low, high = max(low, position - window // 2), min(end, position + window // 2 + 1)
    return low, high


@inline
def parts_of(position, n, end, window, causal):
    """Return the parts that the `n` queries from `position` on see, as a range."""
    low, _ = sees(position, end, window, causal)
    _, high = sees(position + n - 1, end, window, causal)
    return low // PART, (high + PART - 1) // PART


@inline
def is_shared(n_parts, room, n_units, n_threads):
    """Return whether parts are units: not if whole rows occupy all threads, or there is no room for parts."""
    return 1 < n_parts <= room and n_units < 8 * n_threads and n_units % n_threads != 0


@inline
def turn(keys, target, value_size):
    """Write the first numbers of 32 keys, which are stored transposed, as rows: (32, value_size) float32."""
    for i in range(0, value_size, 16):
        for j in range(0, BLOCK, 16):
            source, place = keys + (i * BLOCK + j) * 4, target + (j * value_size + i) * 4
            transpose16(source, i64(BLOCK * 4), place, i64(value_size * 4), i64(0))
    return target


@inline
def place_of(r, o_bytes):
    """Return the offset of row r in sums with the layout [rows/QUERIES][columns/32][QUERIES][32]."""
    return r // QUERIES * QUERIES * o_bytes + r % QUERIES * LINE


# ---- a unit's rows -----------------------------------------------------------------------------------------


@inline
def take_rows(spec, sequence, queries, facts, first, last, head, group, key_size, q_bytes):
    """Copy the queries of rows `first` … `last - 1` of a head, times the scale, and write their facts.

    Zeros follow up to a multiple of QUERIES. `sequence` is its first row, position, and end.
    """
    begin, position, end = sequence
    q, scale = load_i64(spec + ATTENTION.q), f32(load_f64(spec + ATTENTION.scale))
    window, causal = load_i64(spec + ATTENTION.window), load_i64(spec + ATTENTION.causal)
    slopes, n_head = load_i64(spec + ATTENTION.slopes), load_i64(spec + ATTENTION.n_head)
    token, member, whole = first // group, first % group, key_size // 16 * 16
    for r in range(last - first):
        query = (begin + token) * n_head + head * group + member
        source, target, fact = q + query * key_size * 4, queries + r * q_bytes, facts + r * ROW
        for i in range(0, whole, 16):
            store(target + i * 4, scaled(load_f32x16(source + i * 4), scale))
        for i in range(whole, key_size):
            store(target + i * 4, lane(scaled(splat_f32x16(load_f32(source + i * 4)), scale), 0))
        low, high = sees(position + token, end, window, causal)
        store(fact + LOW, low)
        store(fact + HIGH, high)
        store(fact + PLACE, position + token)
        store(fact + SLOPE, load_f32(slopes + (head * group + member) * 4) if slopes else f32(0))
        store(fact + QUERY, query)
        member += 1
        if member == group:
            token, member = token + 1, i64(0)
    rest = (first - last) % QUERIES
    for i in range(queries + (last - first) * q_bytes, queries + (last - first + rest) * q_bytes, 64):
        store(i, splat_f32x16(f32(0)))


@inline
def clear(outputs, states, n_rows, o_bytes):
    """Start without positions: o = 0, m = LOWEST and l = 0."""
    for i in range(outputs, outputs + (n_rows + QUERIES - 1) // QUERIES * QUERIES * o_bytes, 64):
        store(i, splat_f32x16(f32(0)))
    for r in range(n_rows):
        store(states + r * ROW, f32(LOWEST))
        store(states + r * ROW + 4, f32(0))


@inline
def keep_part(spec, outputs, fact, place, value_size):
    """Write a row's o, m and l of a part to number `place` of the shared parts."""
    store(load_i64(spec + ATTENTION.states) + place * 8, load_i64(fact))
    target = load_i64(spec + ATTENTION.parts) + place * ((value_size + 15) // 16 * 64)
    for c in range(0, value_size, 16):
        store(target + c * 4, load_f32x16(outputs + c // 32 * QUERIES * LINE + c % 32 * 4))


# ---- kernels -----------------------------------------------------------------------------------------------


def make_attend(reader, in_keys):
    """Return the function that adds one part of the positions to a unit's rows; see `make_attention`."""
    size, score, weigh, key_floats, value_floats = reader
    score_floats, weigh_floats = CONVERTED.score, CONVERTED.weigh

    @inline
    def attend(spec, words, head, part, n_rows, key_size, value_size, scores, queries, outputs, facts):
        """Attend to one part of the positions, for a unit's rows, whose o, m and l begin empty."""
        softcap = f32(load_f64(spec + ATTENTION.softcap))
        q_bytes, o_bytes = (key_size + 15) // 16 * 64, (value_size + 31) // 32 * LINE
        shrink, floats = scores + WORK, scores + FLOATS
        n_places, many = load_i64(words + LAYER.size), in_keys or n_rows > 2 * QUERIES
        low = max(load_i64(facts + LOW) // BLOCK * BLOCK, part * PART)
        high = min(load_i64(facts + (n_rows - 1) * ROW + HIGH), part * PART + PART)
        for j in range(low, high, BLOCK):
            place = head * n_places + j % n_places
            keys = load_i64(words + LAYER.k) + place * key_size * size
            values = load_i64(words + LAYER.v) + place * value_size * size
            key_scales = load_i64(words + LAYER.k_scales) + place * key_size // 16
            value_scales = load_i64(words + LAYER.v_scales) + place * value_size // 16
            if many:
                keys = key_floats(keys, key_scales, floats, key_size)
                target, n = floats + BLOCK * key_size * 4, min(BLOCK, high - j)
                if in_keys:
                    values = turn(keys, target, value_size)
                else:
                    values = value_floats(values, value_scales, target, value_size, n)
            for r in range(0, n_rows, QUERIES):
                fact, n = facts + r * ROW, min(QUERIES, n_rows - r)
                q, o = queries + r * q_bytes, outputs + r * o_bytes
                first = max(load_i64(fact + LOW) - j, 0)
                end = min(load_i64(fact + (n - 1) * ROW + HIGH) - j, BLOCK)
                if first < end:
                    if many and (in_keys or size != 4 or r > 0):  # already in the first-level cache
                        score_floats(q, q_bytes, keys, 0, scores, key_size)
                        softmax_step(scores, fact, shrink, j, softcap, n)
                        weigh_floats(o, scores, shrink, values, 0, value_size, first, end)
                    else:
                        score(q, q_bytes, keys, key_scales, scores, key_size)
                        softmax_step(scores, fact, shrink, j, softcap, n)
                        weigh(o, scores, shrink, values, value_scales, value_size, first, end)

    return attend


def make_attention(reader, only=0, in_keys=False):
    """Return the kernel for a kind of cache.

    Args:
        reader: reads the cache.
        only: the size of keys and values, if the kernel is for one size; 0 for any.
        in_keys: whether a value is the first numbers of its key, a multiple of 16.
    """
    attend = make_attend(reader, in_keys)

    # Its last two loops are not routines of their own: LLVM made more code of that (docs/engine.md).
    @kernel
    def attention(step, rank, n_threads, worker, spec):
        """out[t, h] = Σ softmax(scale · q[t, h] · k) v; if parts are shared, each part's o, m and l."""
        key_size = only if only else load_i64(spec + ATTENTION.key_size)  # a constant in most kernels
        value_size = only if only else load_i64(spec + ATTENTION.value_size)
        n_head, n_head_kv = load_i64(spec + ATTENTION.n_head), load_i64(spec + ATTENTION.n_head_kv)
        window, causal = load_i64(spec + ATTENTION.window), load_i64(spec + ATTENTION.causal)
        tile, group = load_i64(spec + ATTENTION.tile_rows), n_head // n_head_kv
        q_bytes, o_bytes = (key_size + 15) // 16 * 64, (value_size + 31) // 32 * LINE
        out = load_i64(spec + ATTENTION.out)
        scores = load_i64(spec + ATTENTION.scratch) + worker * load_i64(spec + ATTENTION.scratch_bytes)
        queries = scores + FLOATS + BLOCK * (key_size + value_size) * 4 + 64
        outputs = queries + tile * q_bytes
        merged = outputs + tile * o_bytes
        facts = merged + tile * o_bytes
        sequence, turn = load_i64(step + STEP.sequences), i64(0)
        for _ in range(load_i64(step + STEP.n_sequences)):
            begin, position = load_i64(sequence + SEQUENCE.first), load_i64(sequence + SEQUENCE.position)
            n_tokens = load_i64(sequence + SEQUENCE.end) - begin
            words = load_i64(sequence + SEQUENCE.states) + load_i64(spec + ATTENTION.layer) * LAYER_BYTES
            sequence += SEQUENCE_BYTES
            n_rows, end = n_tokens * group, position + n_tokens
            n_units = (n_rows + tile - 1) // tile * n_head_kv
            first_part, end_part = parts_of(position, n_tokens, end, window, causal)
            n_parts = end_part - first_part
            shared = is_shared(n_parts, load_i64(spec + ATTENTION.n_parts), n_units, n_threads)
            cut = n_parts if shared else i64(1)
            all_units = n_units * cut
            start, end_unit, stride = (rank - turn) % n_threads, all_units, n_threads
            turn += all_units
            if shared:  # neighbouring parts to each thread: it reads the cache in long runs
                start, end_unit, stride = (
                    start * all_units // n_threads,
                    (start + 1) * all_units // n_threads,
                    i64(1),
                )
            for unit in range(start, end_unit, stride):
                whole = unit // cut
                head, first = whole % n_head_kv, whole // n_head_kv * tile
                last = min(first + tile, n_rows)
                n = last - first
                take_rows(
                    spec, (begin, position, end), queries, facts, first, last, head, group, key_size, q_bytes
                )
                low = load_i64(facts + LOW) // PART
                high = (load_i64(facts + (n - 1) * ROW + HIGH) + PART - 1) // PART
                if shared:
                    low = first_part + unit % cut
                    high = low + 1
                for part in range(low, high):
                    target = merged if part == low else outputs
                    clear(target, facts, n, o_bytes)
                    attend(spec, words, head, part, n, key_size, value_size, scores, queries, target, facts)
                    for r in range(n):
                        fact = facts + r * ROW
                        if part == low:
                            store(fact + MERGED, load_i64(fact))
                        else:
                            o, m, added = place_of(r, o_bytes), load_f32(fact), load_f32(fact + 4)
                            fold(merged + o, fact + MERGED, outputs + o, m, added, value_size, QUERIES * LINE)
                for r in range(n):
                    o, fact = merged + place_of(r, o_bytes), facts + r * ROW
                    query = load_i64(fact + QUERY)
                    if shared:
                        query += (low - first_part) * load_i64(step + STEP.n_tokens) * n_head
                        keep_part(spec, o, fact, query, value_size)
                    else:
                        to, sinks = out + query * value_size * 4, load_i64(spec + ATTENTION.sinks)
                        if sinks:
                            add_sink(o, fact + MERGED, sinks + query % n_head * 4, value_size, QUERIES * LINE)
                        finish(o, fact + MERGED, to, value_size, QUERIES * LINE)

    return attention


# One for each kind of cache and each of `contract.ATTENTION_FORMS`, and one for any size
attention_f32, attention_f16, attention_q8_0 = (make_attention(READERS[kv]) for kv in KINDS)
attention_f32_64, attention_f16_64, attention_q8_0_64 = (make_attention(READERS[kv], 64) for kv in KINDS)
attention_f32_128, attention_f16_128, attention_q8_0_128 = (make_attention(READERS[kv], 128) for kv in KINDS)
attention_f32_256, attention_f16_256, attention_q8_0_256 = (make_attention(READERS[kv], 256) for kv in KINDS)

attention_f32_in_keys, attention_f16_in_keys, attention_q8_0_in_keys = (
    make_attention(READERS[kv], in_keys=True) for kv in KINDS
)


@kernel
def merge_parts(step, rank, n_threads, worker, spec):
    """Fold the parts of every row that threads have shared; the record is the same as that of `attention`."""
    value_size, tile = load_i64(spec + ATTENTION.value_size), load_i64(spec + ATTENTION.tile_rows)
    n_head, n_head_kv = load_i64(spec + ATTENTION.n_head), load_i64(spec + ATTENTION.n_head_kv)
    window, causal = load_i64(spec + ATTENTION.window), load_i64(spec + ATTENTION.causal)
    part_bytes, n_rows = (value_size + 15) // 16 * 64, load_i64(step + STEP.n_tokens) * n_head
    outputs = load_i64(spec + ATTENTION.scratch) + worker * load_i64(spec + ATTENTION.scratch_bytes) + 64
    state = outputs - 64
    sequence = load_i64(step + STEP.sequences)
    for _ in range(load_i64(step + STEP.n_sequences)):
        begin, position = load_i64(sequence + SEQUENCE.first), load_i64(sequence + SEQUENCE.position)
        n_tokens = load_i64(sequence + SEQUENCE.end) - begin
        sequence += SEQUENCE_BYTES
        end = position + n_tokens
        n_units = (n_tokens * (n_head // n_head_kv) + tile - 1) // tile * n_head_kv
        first_part, end_part = parts_of(position, n_tokens, end, window, causal)
        n_parts = end_part - first_part
        if is_shared(n_parts, load_i64(spec + ATTENTION.n_parts), n_units, n_threads):
            for i in range(rank, n_tokens * n_head, n_threads):
                row, head = begin * n_head + i, i % n_head
                for c in range(0, part_bytes, 64):
                    store(outputs + c, splat_f32x16(f32(0)))
                store(state, f32(LOWEST))
                store(state + 4, f32(0))
                low, high = parts_of(position + i // n_head, 1, end, window, causal)
                for part in range(low - first_part, high - first_part):
                    place = part * n_rows + row
                    mine = load_i64(spec + ATTENTION.states) + place * 8
                    source = load_i64(spec + ATTENTION.parts) + place * part_bytes
                    fold(outputs, state, source, load_f32(mine), load_f32(mine + 4), value_size, LINE)
                to = load_i64(spec + ATTENTION.out) + row * value_size * 4
                sinks = load_i64(spec + ATTENTION.sinks)
                if sinks:
                    add_sink(outputs, state, sinks + head * 4, value_size, LINE)
                finish(outputs, state, to, value_size, LINE)
