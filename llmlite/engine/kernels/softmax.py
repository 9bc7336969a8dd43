"""The arithmetic of attention's softmax: scores become weights, and parts are folded into earlier ones.

Nothing here may be reordered or contracted: a query has the same bits in any unit of work.

A row (a query of one head) has a line of facts: the maximum m and the sum l of a part, m and l of the earlier
parts (MERGED), the positions that it sees (LOW, HIGH), its own position (PLACE), the loss of a score for each
position of distance (SLOPE), and the query's number in the step (QUERY).
"""

import numpy as np

from llmlite.engine.kernels.common import exp
from llmlite.engine.simd import (
    QUERIES,
    absolute,
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
    reduce_add,
    reduce_max,
    splat_f32x16,
    splat_i32x16,
    store,
    to_f32,
)  # fmt: skip

BLOCK = 32  # positions
LINE = BLOCK * 4  # bytes of one row of scores, and of 32 columns of an output row
LOWEST = -3e38  # the maximum of no scores
UNSEEN = -np.inf
ROW, MERGED, LOW, HIGH, PLACE, SLOPE, QUERY = 64, 8, 16, 24, 32, 40, 48

# The first vector, with one lane replaced by lane 0 of the second
put1, put2, put3 = (make_shuffle([16 + i if i == place else i for i in range(16)]) for place in (1, 2, 3))


@inline
def exp_or_zero(x):
    """Return `exp` of x ≤ 0, exactly 0 below -80 ("unseen"), and NaN if x is NaN."""
    return choose_above(splat_f32x16(f32(-80.0)), x, splat_f32x16(f32(0.0)), exp(x) + (x - x))


@inline
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


@inline
def scaled(v, scale):
    return v * splat_f32x16(scale)


@inline
def inverse(x):
    return f32(f32(1) / x)


@inline
def only_seen(s, low, high):
    """Return the scores of positions `low` … `high - 1` of sixteen, and UNSEEN for the others."""
    unseen = splat_f32x16(f32(UNSEEN))
    s = choose_above(splat_i32x16(i32(high)), counting_i32x16(), s, unseen)
    return choose_above(counting_i32x16(), splat_i32x16(i32(low - 1)), s, unseen)


@inline
def changed(s, distance, softcap, slope):
    """Return scores with soft cap and ALiBi; `distance` is from the first of 16 positions to the query's."""
    if softcap != f32(0):
        s = tanh(s * splat_f32x16(f32(f32(1) / softcap))) * splat_f32x16(softcap)
    if slope != f32(0):
        away = absolute(to_f32(splat_i32x16(i32(distance)) - counting_i32x16()))
        s = fma(splat_f32x16(f32(-slope)), away, s)
    return s


@inline
def softmax_row(scores, fact, block, softcap):
    """Turn one query's scores of a block into e^(s−m'), in place; return m − m' in all lanes, and their sum.

    `fact` is the query's line of facts, and `block` the block's first position.
    """
    s0, s1 = load_f32x16(scores), load_f32x16(scores + 64)
    slope, low, high = load_f32(fact + SLOPE), load_i64(fact + LOW) - block, load_i64(fact + HIGH) - block
    if softcap != f32(0) or slope != f32(0):
        distance = load_i64(fact + PLACE) - block
        s0, s1 = changed(s0, distance, softcap, slope), changed(s1, distance - 16, softcap, slope)
    if low > 0 or high < BLOCK:
        s0, s1 = only_seen(s0, low, high), only_seen(s1, low - 16, high - 16)
    before = load_f32(fact)
    m = max(before, reduce_max(maximum(s0, s1)))
    top = splat_f32x16(m)
    e0, e1 = exp_or_zero(s0 - top), exp_or_zero(s1 - top)
    store(scores, e0)
    store(scores + 64, e1)
    store(fact, f32(m))
    return splat_f32x16(before) - top, reduce_add(e0 + e1)


@inline
def add_up(fact, factor, added):
    """l ← l·e^(m−m') + Σ e^(s−m')."""
    store(fact + 4, f32(f32(load_f32(fact + 4) * factor) + added))


@inline
def softmax_step(scores, facts, shrink, block, softcap, n):
    """Apply `softmax_row` to n ≤ QUERIES queries; `shrink` gets their e^(m−m'), one in each lane."""
    fell, sum0 = softmax_row(scores, facts, block, softcap)
    sum1 = sum2 = sum3 = sum0
    if n > 1:
        other, sum1 = softmax_row(scores + LINE, facts + ROW, block, softcap)
        fell = put1(fell, other)
    if QUERIES > 2:
        if n > 2:
            other, sum2 = softmax_row(scores + 2 * LINE, facts + 2 * ROW, block, softcap)
            fell = put2(fell, other)
        if n > 3:
            other, sum3 = softmax_row(scores + 3 * LINE, facts + 3 * ROW, block, softcap)
            fell = put3(fell, other)
    factors = exp_or_zero(fell)
    store(shrink, factors)
    add_up(facts, lane(factors, 0), sum0)
    if n > 1:
        add_up(facts + ROW, lane(factors, 1), sum1)
    if QUERIES > 2:
        if n > 2:
            add_up(facts + 2 * ROW, lane(factors, 2), sum2)
        if n > 3:
            add_up(facts + 3 * ROW, lane(factors, 3), sum3)


@inline
def fold_state(state, m, added):
    """Fold the maximum and the sum of a part into those of earlier parts, at `state`; return the factors for
    the sums of earlier parts and of this part.
    """
    before = load_f32(state)
    top = max(before, m)
    old = exp_or_zero(splat_f32x16(before) - splat_f32x16(top))
    new = exp_or_zero(splat_f32x16(m) - splat_f32x16(top))
    store(state, f32(top))
    total = f32(load_f32(state + 4) * lane(old, 0))
    store(state + 4, f32(total + f32(added * lane(new, 0))))
    return old, new


@inline
def fold(outputs, state, part, m, added, size, jump):
    """Fold a part's sums (`size` numbers, every 32 of them `jump` bytes apart), m and l into earlier ones."""
    old, new = fold_state(state, m, added)
    for c in range(0, size, 16):
        at = c // 32 * jump + c % 32 * 4
        store(outputs + at, fma(load_f32x16(outputs + at), old, load_f32x16(part + at) * new))


@inline
def times(v, factor):
    """Return v · factor, without the sign of zeros, which depends on how often a zero was added."""
    return fma(v, splat_f32x16(factor), splat_f32x16(f32(0)))


@inline
def finish(outputs, state, out, size, jump):
    """out ← o / l, `size` numbers."""
    factor = inverse(load_f32(state + 4))
    whole = size // 16 * 16
    for c in range(0, whole, 16):
        store(out + c * 4, times(load_f32x16(outputs + c // 32 * jump + c % 32 * 4), factor))
    for c in range(whole, size):
        one = splat_f32x16(load_f32(outputs + c // 32 * jump + c % 32 * 4))
        store(out + c * 4, lane(times(one, factor), 0))


@inline
def add_sink(outputs, state, sink, size, jump):
    """Fold a sink in: a position that has the score at `sink`, and no value."""
    old, _ = fold_state(state, load_f32(sink), f32(1))
    for c in range(0, size, 16):
        at = c // 32 * jump + c % 32 * 4
        store(outputs + at, load_f32x16(outputs + at) * old)
