"""Attention with an online softmax: scores of 32 positions at a time, never a whole row of them.

For a query q and the blocks of keys K and values V one after the other,

    s = scale · K q,   m' = max(m, max s),   l ← l·e^(m−m') + Σ e^(s−m'),   o ← o·e^(m−m') + Σ e^(s−m') V

and o / l is softmax(scale · K q) · V in the end. (Milakov & Gimelshein 2018; Dao et al. 2022.)

The sums have one order, which only positions decide: blocks of 32 and parts of ATTENTION_PART positions are
counted from position 0; every part starts from m = LOWEST, l = 0, o = 0; parts are folded together in order
(`fold`). A position that a query doesn't see has the weight 0, exactly, and leaves m, l and o as they are. So
a query's answer has the same bits, whichever tokens share its step and whichever thread computes what.

A unit of work is a sequence's key/value head and a tile of its rows: a row is a token's query of one of the
heads that share the key/value head. A unit takes its parts one after the other. Where units are few (a single
token), a unit is one part only: o, m and l go to memory, and `merge_parts` folds them.

The queries of a unit are taken QUERIES at a time, so a key or value that has been loaded serves as many. The
cache keeps keys transposed within each block (`AttentionState`): element i of 32 keys lies side by side, so
scores are multiples of whole vectors and no lanes are summed up. If a unit has many rows, each float16 block
is converted to float32 first, which is exact.

Kernels come in forms for heads of 64, 128 and 256 numbers, whose loops the compiler unrolls, and for any.
"""

import numpy as np

from llmlite.engine.contract import (
    ATTENTION,
    ATTENTION_PART,
    LAYER,
    LAYER_BYTES,
    SEQUENCE,
    SEQUENCE_BYTES,
    STEP,
)  # fmt: skip
from llmlite.engine.kernels.common import exp, kernel
from llmlite.engine.kernels.dense import sixteen_f16, sixteen_f32
from llmlite.engine.simd import (
    QUERIES,
    absolute,
    add_outer,
    choose_above,
    counting_i32x16,
    divide,
    f32,
    fma,
    i32,
    i64,
    inline,
    inline_exact,
    lane,
    load_f32,
    load_f32x16,
    load_f64,
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
    to_f32,
)  # fmt: skip

BLOCK = 32  # positions
LINE = BLOCK * 4  # bytes of one row of scores, and of 32 columns of an output row
PART = ATTENTION_PART
LOWEST = -3e38  # the maximum of no scores
UNSEEN = -np.inf
# A unit keeps a line for each of its rows: m and l of a part, m and l of the parts before, which positions
# the row sees, its own, what a score loses for each position of distance, and the query's number in the step.
ROW, MERGED, LOW, HIGH, PLACE, SLOPE, QUERY = 64, 8, 16, 24, 32, 40, 48

load_sums, zero_sums = make_load_sums(QUERIES), make_zero_sums(QUERIES)


# ---- which positions a query sees, and which units there are -----------------------------------------------


@inline
def sees(position, end, window, causal):
    """The positions that the query at `position` sees, as a range; `end`: of its sequence."""
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
    """The parts that the `n` queries from `position` on see, as a range."""
    low, _ = sees(position, end, window, causal)
    _, high = sees(position + n - 1, end, window, causal)
    return low // PART, (high + PART - 1) // PART


@inline
def is_shared(n_parts, room, n_units, n_threads):
    """Whether parts are units: not if whole rows occupy all threads, or the parts have no room."""
    return 1 < n_parts <= room and n_units < 8 * n_threads and n_units % n_threads != 0


# ---- numbers: nothing here may be reordered or contracted --------------------------------------------------


@inline_exact
def exp_or_zero(x):
    """`exp` of x ≤ 0, exactly 0 below -80 ("unseen"), and not a number if x is not."""
    return choose_above(splat_f32x16(f32(-80.0)), x, splat_f32x16(f32(0.0)), exp(x) + (x - x))


@inline_exact
def tanh(x):
    """tanh of sixteen float32: an odd polynomial near 0 (Moshier's Cephes), else 1 − 2 / (e^2|x| + 1)."""
    size, one = absolute(x), splat_f32x16(f32(1))
    square = x * x
    p = splat_f32x16(f32(-5.70498872745e-3))
    p = fma(p, square, splat_f32x16(f32(2.06390887954e-2)))
    p = fma(p, square, splat_f32x16(f32(-5.37397155531e-2)))
    p = fma(p, square, splat_f32x16(f32(1.33314422036e-1)))
    p = fma(p, square, splat_f32x16(f32(-3.33332819422e-1)))
    near = fma(p * square, x, x)
    far = one - divide(splat_f32x16(f32(2)), exp(size + size) + one)
    far = choose_above(splat_f32x16(f32(0)), x, -far, far)
    return choose_above(splat_f32x16(f32(0.625)), size, near, far)


@inline_exact
def scaled(v, scale):
    return v * splat_f32x16(scale)


@inline_exact
def inverse(x):
    return f32(f32(1) / x)


@inline_exact
def only_seen(s, low, high):
    """The scores of positions `low` … `high - 1` of sixteen; UNSEEN for others."""
    unseen = splat_f32x16(f32(UNSEEN))
    s = choose_above(splat_i32x16(i32(high)), counting_i32x16(), s, unseen)
    return choose_above(counting_i32x16(), splat_i32x16(i32(low - 1)), s, unseen)


@inline_exact
def changed(s, distance, softcap, slope):
    """Scores with soft cap and ALiBi; `distance`: from the first of sixteen positions to the query's."""
    if softcap != f32(0):
        s = tanh(s * splat_f32x16(f32(f32(1) / softcap))) * splat_f32x16(softcap)
    if slope != f32(0):
        away = absolute(to_f32(splat_i32x16(i32(distance)) - counting_i32x16()))
        s = fma(splat_f32x16(f32(-slope)), away, s)
    return s


@inline_exact
def softmax_step(scores, fact, shrink, block, softcap):
    """One query's scores of a block become e^(s−m), in place; `shrink` gets e^(m−m').

    `fact`: the query's line. `block`: the first position of the block.
    """
    s0, s1 = load_f32x16(scores), load_f32x16(scores + 64)
    slope, low, high = load_f32(fact + SLOPE), load_i64(fact + LOW) - block, load_i64(fact + HIGH) - block
    if softcap != f32(0) or slope != f32(0):
        distance = load_i64(fact + PLACE) - block
        s0, s1 = changed(s0, distance, softcap, slope), changed(s1, distance - 16, softcap, slope)
    if low > 0 or high < BLOCK:
        s0, s1 = only_seen(s0, low, high), only_seen(s1, low - 16, high - 16)
    before, total = load_f32(fact), load_f32(fact + 4)
    m = max(before, reduce_max(maximum(s0, s1)))
    top = splat_f32x16(m)
    e0, e1 = exp_or_zero(s0 - top), exp_or_zero(s1 - top)
    store(scores, e0)
    store(scores + 64, e1)
    factor = lane(exp_or_zero(splat_f32x16(before) - top), 0)
    store(shrink, factor)
    store(fact, f32(m))
    store(fact + 4, f32(f32(total * factor) + reduce_add(e0 + e1)))


@inline_exact
def fold_state(state, m, added):
    """Fold the maximum and the sum of a part into those of the parts before, at `state`; return what sums of
    the parts before and of this part are multiplied by.
    """
    before = load_f32(state)
    top = max(before, m)
    old = exp_or_zero(splat_f32x16(before) - splat_f32x16(top))
    new = exp_or_zero(splat_f32x16(m) - splat_f32x16(top))
    store(state, f32(top))
    total = f32(load_f32(state + 4) * lane(old, 0))
    store(state + 4, f32(total + f32(added * lane(new, 0))))
    return old, new


@inline_exact
def fold(outputs, state, part, m, added, size, jump):
    """Fold a part's sums (`size` numbers, every 32 of them `jump` bytes apart), m and l into those before."""
    old, new = fold_state(state, m, added)
    for c in range(0, size, 16):
        at = c // 32 * jump + c % 32 * 4
        store(outputs + at, fma(load_f32x16(outputs + at), old, load_f32x16(part + at) * new))


@inline_exact
def times(v, factor):
    """v · factor; a zero loses its sign, which depends on how often a zero was added to it."""
    return fma(v, splat_f32x16(factor), splat_f32x16(f32(0)))


@inline_exact
def finish(outputs, state, out, size, jump):
    """out ← o / l, `size` numbers."""
    factor = inverse(load_f32(state + 4))
    whole = size // 16 * 16
    for c in range(0, whole, 16):
        store(out + c * 4, times(load_f32x16(outputs + c // 32 * jump + c % 32 * 4), factor))
    for c in range(whole, size):
        one = splat_f32x16(load_f32(outputs + c // 32 * jump + c % 32 * 4))
        store(out + c * 4, lane(times(one, factor), 0))


@inline_exact
def add_sink(outputs, state, sink, size, jump):
    """Fold a sink in: a position that has the score at `sink`, and no value."""
    old, _ = fold_state(state, load_f32(sink), f32(1))
    for c in range(0, size, 16):
        at = c // 32 * jump + c % 32 * 4
        store(outputs + at, load_f32x16(outputs + at) * old)


def make_products(read, width):
    """Return `score` and `weigh` for keys and values of `width` bytes, of which `read(address)` gives 16.

    width 0: float32 that was converted from the cache and lies in the first-level cache already.
    """
    ahead, width = width, width or 4

    @inline
    def ask_for(address):
        """A line per 16 or 32 numbers that are read, a block ahead."""
        if ahead:
            prefetch(address)
            if ahead == 4:
                prefetch(address + 64)

    @inline_exact
    def score(q, q_bytes, keys, scores, size):
        """scores[r, j] = q[r] · key j, of QUERIES queries and a block."""
        sums = zero_sums()
        for i in range(size):
            k = keys + i * BLOCK * width
            ask_for(k + size * BLOCK * width)
            sums = add_outer(sums, read(k), read(k + 16 * width), q + i * 4, q_bytes)
        store_sums(scores, sums)

    @inline_exact
    def weigh(o, scores, shrink, values, size, first, end):
        """o[r] ← o[r]·shrink[r] + Σ scores[r, j]·value j, first ≤ j < end, of QUERIES queries.

        o is laid out as [columns/32][r][32].
        """
        for c in range(0, size, 32):
            second = 16 * width if c + 16 < size else 0  # else the same again, read by nobody
            place = o + c * QUERIES * 4
            sums = scale_sums(load_sums(place), shrink, 4)
            for j in range(first, end):
                v = values + (j * size + c) * width
                ask_for(v + size * BLOCK * width)
                sums = add_outer(sums, read(v), read(v + second), scores + j * 4, LINE)
            store_sums(place, sums)

    return score, weigh


@inline
def place_of(r, o_bytes):
    """Where row r begins among sums that are laid out as [rows/QUERIES][columns/32][QUERIES][32]."""
    return r // QUERIES * QUERIES * o_bytes + r % QUERIES * LINE


# ---- kernels -----------------------------------------------------------------------------------------------


def make_attention(sixteen, size, only=0):
    """Return the kernel for a cache of numbers of `size` bytes, of which `sixteen(address)` reads 16.

    `only`: the size of keys and values, if it is for one.
    """
    score, weigh = make_products(sixteen, size)
    score_floats, weigh_floats = make_products(sixteen_f32, 0)

    @inline
    def as_floats(source, target, n):
        """Where n numbers lie as float32: at `target` unless they are; the next n are fetched."""
        if size == 4:
            return source
        for i in range(0, n * size, 64):
            prefetch(source + n * size + i)
        for i in range(0, n, 16):
            store(target + i * 4, sixteen(source + i * size))
        return target

    @inline
    def take_rows(spec, sequence, queries, facts, first, last, head, group, key_size, q_bytes):
        """Copy the queries of rows `first` … `last - 1` of a head, times the scale, and note their facts.

        The last row once more up to whole QUERIES. `sequence`: its first row, position, and end.
        """
        begin, position, end = sequence
        q, scale = load_i64(spec + ATTENTION.q), f32(load_f64(spec + ATTENTION.scale))
        window, causal = load_i64(spec + ATTENTION.window), load_i64(spec + ATTENTION.causal)
        slopes, n_head = load_i64(spec + ATTENTION.slopes), load_i64(spec + ATTENTION.n_head)
        token, member, whole = first // group, first % group, key_size // 16 * 16
        for r in range((last - first + QUERIES - 1) // QUERIES * QUERIES):
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
            if first + r + 1 < last:
                member += 1
                if member == group:
                    token, member = token + 1, i64(0)

    @inline
    def clear(outputs, states, n_rows, o_bytes):
        """No positions yet: o = 0, m = LOWEST and l = 0."""
        for i in range(outputs, outputs + n_rows * o_bytes, 64):
            store(i, splat_f32x16(f32(0)))
        for r in range(n_rows):
            store(states + r * ROW, f32(LOWEST))
            store(states + r * ROW + 4, f32(0))

    @inline
    def attend(spec, words, head, part, n_rows, key_size, value_size, scores, queries, outputs, facts):
        """One part of the positions for a unit's rows, whose o, m and l begin empty."""
        softcap = f32(load_f64(spec + ATTENTION.softcap))
        q_bytes, o_bytes = (key_size + 15) // 16 * 64, (value_size + 31) // 32 * LINE
        shrink = scores + QUERIES * LINE
        floats = shrink + 64
        n_places, many = load_i64(words + LAYER.size), n_rows > 2 * QUERIES
        low = max(load_i64(facts + LOW) // BLOCK * BLOCK, part * PART)
        high = min(load_i64(facts + (n_rows - 1) * ROW + HIGH), part * PART + PART)
        for j in range(low, high, BLOCK):
            place = head * n_places + j % n_places
            keys = load_i64(words + LAYER.k) + place * key_size * size
            values = load_i64(words + LAYER.v) + place * value_size * size
            if many:
                keys = as_floats(keys, floats, BLOCK * key_size)
                values = as_floats(values, floats + BLOCK * key_size * 4, min(BLOCK, high - j) * value_size)
            for r in range(0, n_rows, QUERIES):
                fact = facts + r * ROW
                first = max(load_i64(fact + LOW) - j, 0)
                end = min(load_i64(fact + (QUERIES - 1) * ROW + HIGH) - j, BLOCK)
                if first < end:
                    near = many and (size != 4 or r > 0)  # in the first-level cache already
                    if near:
                        score_floats(queries + r * q_bytes, q_bytes, keys, scores, key_size)
                    else:
                        score(queries + r * q_bytes, q_bytes, keys, scores, key_size)
                    for i in range(QUERIES):
                        softmax_step(scores + i * LINE, fact + i * ROW, shrink + i * 4, j, softcap)
                    if near:
                        weigh_floats(outputs + r * o_bytes, scores, shrink, values, value_size, first, end)
                    else:
                        weigh(outputs + r * o_bytes, scores, shrink, values, value_size, first, end)

    @inline
    def keep_part(spec, outputs, fact, place, value_size):
        """Write a row's o, m and l of a part to the place that has its number."""
        store(load_i64(spec + ATTENTION.states) + place * 8, load_i64(fact))
        target = load_i64(spec + ATTENTION.parts) + place * ((value_size + 15) // 16 * 64)
        for c in range(0, value_size, 16):
            store(target + c * 4, load_f32x16(outputs + c // 32 * QUERIES * LINE + c % 32 * 4))

    @kernel
    def attention(step, rank, n_threads, spec):
        """out[t, h] = Σ softmax(scale · q[t, h] · k) v; if parts are shared, each part's share of it."""
        key_size = only if only else load_i64(spec + ATTENTION.key_size)  # a constant, or not
        value_size = only if only else load_i64(spec + ATTENTION.value_size)
        n_head, n_head_kv = load_i64(spec + ATTENTION.n_head), load_i64(spec + ATTENTION.n_head_kv)
        window, causal = load_i64(spec + ATTENTION.window), load_i64(spec + ATTENTION.causal)
        tile, group = load_i64(spec + ATTENTION.tile_rows), n_head // n_head_kv
        q_bytes, o_bytes = (key_size + 15) // 16 * 64, (value_size + 31) // 32 * LINE
        out = load_i64(spec + ATTENTION.out)
        scores = load_i64(spec + ATTENTION.scratch) + rank * load_i64(spec + ATTENTION.scratch_bytes)
        queries = scores + QUERIES * LINE + 64 + BLOCK * (key_size + value_size) * 4 + 64
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
            all_units = n_units * n_parts if shared else n_units
            start = (rank - turn) % n_threads
            turn += all_units
            for unit in range(start, all_units, n_threads):
                head, first = unit % n_head_kv, unit % n_units // n_head_kv * tile
                last = min(first + tile, n_rows)
                padded = (last - first + QUERIES - 1) // QUERIES * QUERIES
                take_rows(
                    spec, (begin, position, end), queries, facts, first, last, head, group, key_size, q_bytes
                )
                low = load_i64(facts + LOW) // PART
                high = (load_i64(facts + (padded - 1) * ROW + HIGH) + PART - 1) // PART
                if shared:
                    low = first_part + unit // n_units
                    high = low + 1
                for part in range(low, high):
                    target = merged if part == low else outputs
                    clear(target, facts, padded, o_bytes)
                    attend(
                        spec, words, head, part, padded, key_size, value_size, scores, queries, target, facts
                    )
                    for r in range(last - first):
                        fact = facts + r * ROW
                        if part == low:
                            store(fact + MERGED, load_i64(fact))
                        else:
                            o, m, added = place_of(r, o_bytes), load_f32(fact), load_f32(fact + 4)
                            fold(merged + o, fact + MERGED, outputs + o, m, added, value_size, QUERIES * LINE)
                for r in range(last - first):
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


attention_f32, attention_f16 = make_attention(sixteen_f32, 4), make_attention(sixteen_f16, 2)
attention_f32_64, attention_f16_64 = make_attention(sixteen_f32, 4, 64), make_attention(sixteen_f16, 2, 64)
attention_f32_128, attention_f16_128 = (
    make_attention(sixteen_f32, 4, 128),
    make_attention(sixteen_f16, 2, 128),
)
attention_f32_256, attention_f16_256 = (
    make_attention(sixteen_f32, 4, 256),
    make_attention(sixteen_f16, 2, 256),
)


@kernel
def merge_parts(step, rank, n_threads, spec):
    """Fold the parts of every row that threads have shared; the record is that of `attention`."""
    value_size, tile = load_i64(spec + ATTENTION.value_size), load_i64(spec + ATTENTION.tile_rows)
    n_head, n_head_kv = load_i64(spec + ATTENTION.n_head), load_i64(spec + ATTENTION.n_head_kv)
    window, causal = load_i64(spec + ATTENTION.window), load_i64(spec + ATTENTION.causal)
    part_bytes, n_rows = (value_size + 15) // 16 * 64, load_i64(step + STEP.n_tokens) * n_head
    outputs = load_i64(spec + ATTENTION.scratch) + rank * load_i64(spec + ATTENTION.scratch_bytes) + 64
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
