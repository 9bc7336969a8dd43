"""Mixtures of experts: the routing of rows, and one matrix kernel called for each expert's rows.

A step has T rows, and each goes through n_used of n_expert experts. The S = T · n_used rows are sorted by
expert, so that an expert's weights are read once for all its rows. `counts` is int64 (2, n_expert): the
number of rows of each expert, and the index of its first row.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llmlite.engine import emit
from llmlite.engine.kernels.common import exp, kernel, routine, share
from llmlite.engine.simd import (
    f32,
    fma,
    i64,
    inline,
    lane,
    load_f32,
    load_f32x16,
    load_i64,
    splat_f32x16,
    store,
)  # fmt: skip

SMALLEST_SUM = 6.103515625e-5  # the smallest divisor of llama.cpp: F16's smallest normal number


@inline
def exp_scalar(x):
    """eˣ."""
    return f32(lane(exp(splat_f32x16(f32(x))), 0))


@inline
def worth(row, bias, e):
    """Return the score for the choice of expert e: row[e], plus bias[e] unless `bias` is 0."""
    s = load_f32(row + e * 4)
    if bias != 0:
        s = f32(s + load_f32(bias + e * 4))
    return s


@inline
def choose_groups(row, bias, n_expert, n_group, n_used, by_two):
    """Return the best `n_used` of n_group groups, as a bit for each; of equal groups, the first wins.

    A group's score is that of its best expert, or the sum of its two best (`by_two`).
    """
    if n_used >= n_group:
        return (i64(1) << n_group) - 1
    size, chosen = n_expert // n_group, i64(0)
    for _ in range(n_used):
        best, best_group = f32(0), i64(-1)
        for g in range(n_group):
            if (chosen >> g) & 1 == 0:
                first, second = f32(-np.inf), f32(-np.inf)
                for e in range(g * size, g * size + size):
                    s = worth(row, bias, e)
                    if s > first:
                        first, second = s, first
                    elif s > second:
                        second = s
                good = f32(first + second) if by_two else first
                if best_group < 0 or good > best:
                    best, best_group = good, i64(g)
        chosen |= i64(1) << best_group
    return chosen


@inline
def choose(row, bias, last, last_id, is_first, n_expert, n_group, groups):
    """Return the best expert after `last_id` in the order of scores; of equal experts, the first comes first.

    Only experts in `groups`, which has a bit for each of n_group, are considered.
    """
    best, best_id, size = f32(0), i64(-1), n_expert // n_group
    for g in range(n_group):
        if (groups >> g) & 1:
            for e in range(g * size, g * size + size):
                s = worth(row, bias, e)
                behind = is_first or s < last or (s == last and e > last_id)  # not chosen yet
                if behind and (best_id < 0 or s > best):
                    best, best_id = s, i64(e)
    return best, max(best_id, 0)  # if all scores are NaN, the first expert is chosen


@kernel
def route_share(
    step, rank, n_threads, rows, scores, ids, weights, n_expert, n_used, n_group, n_group_used, factor: float
):
    """Choose the n_used highest scores of each row; the weights are their softmax:

        weight[t, j] = factor · e^score[t, j] / Σ e^score[t, j'] over the chosen j'

    Args:
        scores: float32 (T, n_expert).
        ids: int64 (T, n_used).
        weights: float32 (T, n_used).
    """
    low, high = share(load_i64(step + rows), rank, n_threads)
    for t in range(low, high):
        row, chosen, out = scores + t * n_expert * 4, ids + t * n_used * 8, weights + t * n_used * 4
        groups = choose_groups(row, i64(0), n_expert, n_group, n_group_used, False)
        last, last_id, top, total = f32(0), i64(-1), f32(0), f32(0)
        for j in range(n_used):
            last, last_id = choose(row, i64(0), last, last_id, j == 0, n_expert, n_group, groups)
            top = last if j == 0 else top
            weight = exp_scalar(last - top)
            total = f32(total + weight)
            store(chosen + j * 8, last_id)
            store(out + j * 4, weight)
        for j in range(n_used):
            store(out + j * 4, f32(f32(load_f32(out + j * 4) / total) * factor))


@kernel
def route_softmax(
    step, rank, n_threads, rows, scores, ids, weights, n_expert, n_used, n_group, n_group_used, factor: float
):
    """Choose the n_used highest scores of each row; the weights are their shares in the softmax of all:

    weight[t, j] = factor · e^score[t, j] / Σ e^score[t, e] over every e
    """
    low, high = share(load_i64(step + rows), rank, n_threads)
    for t in range(low, high):
        row, chosen, out = scores + t * n_expert * 4, ids + t * n_used * 8, weights + t * n_used * 4
        groups = choose_groups(row, i64(0), n_expert, n_group, n_group_used, False)
        last, last_id, top, total = f32(0), i64(-1), f32(0), f32(0)
        for j in range(n_used):
            last, last_id = choose(row, i64(0), last, last_id, j == 0, n_expert, n_group, groups)
            top = last if j == 0 else top
            store(chosen + j * 8, last_id)
            store(out + j * 4, exp_scalar(last - top))
        for e in range(n_expert):
            total = f32(total + exp_scalar(load_f32(row + e * 4) - top))
        for j in range(n_used):
            store(out + j * 4, f32(f32(load_f32(out + j * 4) / total) * factor))


@kernel
def route_sigmoid(
    step, rank, n_threads, rows, scores, bias, ids, weights, n_expert, n_used, n_group, n_group_used,
    factor: float, normalized,
):  # fmt: skip
    """Choose the n_used highest p + bias of each row, p = sigmoid(score); bias 0 means none.

    weight[t, j] = factor · p[t, j], divided by Σ p[t, j'] over the chosen j' if `normalized`. The scores are
    overwritten with p.
    """
    low, high = share(load_i64(step + rows), rank, n_threads)
    for t in range(low, high):
        row, chosen, out = scores + t * n_expert * 4, ids + t * n_used * 8, weights + t * n_used * 4
        for e in range(n_expert):
            store(row + e * 4, f32(f32(1) / f32(f32(1) + exp_scalar(-load_f32(row + e * 4)))))
        groups = choose_groups(row, bias, n_expert, n_group, n_group_used, True)
        last, last_id, total = f32(0), i64(-1), f32(0)
        for j in range(n_used):
            last, last_id = choose(row, bias, last, last_id, j == 0, n_expert, n_group, groups)
            weight = load_f32(row + last_id * 4)
            total = f32(total + weight)
            store(chosen + j * 8, last_id)
            store(out + j * 4, weight)
        for j in range(n_used):
            weight = load_f32(out + j * 4)
            if normalized != 0:
                weight = f32(weight / max(total, f32(SMALLEST_SUM)))
            store(out + j * 4, f32(weight * factor))


@kernel
def sort_rows(step, rank, n_threads, rows, ids, counts, token_of, slot_of, n_expert, n_used):
    """Give every (row, choice) its place among S, by expert: token_of[slot] and slot_of[row, choice]."""
    n = load_i64(step + rows) * n_used
    if rank == 0:
        starts = counts + n_expert * 8
        for e in range(n_expert):
            store(counts + e * 8, i64(0))
        for i in range(n):
            count = counts + load_i64(ids + i * 8) * 8
            store(count, i64(load_i64(count) + 1))
        start = i64(0)
        for e in range(n_expert):
            store(starts + e * 8, start)
            start += load_i64(counts + e * 8)
        for i in range(n):
            cursor = starts + load_i64(ids + i * 8) * 8
            slot = load_i64(cursor)
            store(token_of + slot * 8, i64(i // n_used))
            store(slot_of + i * 8, slot)
            store(cursor, i64(slot + 1))
        for e in range(n_expert):
            store(starts + e * 8, i64(load_i64(starts + e * 8) - load_i64(counts + e * 8)))


@kernel
def spread(step, rank, n_threads, slots, x, token_of, out, width):
    """out[s] = x[token_of[s]]."""
    low, high = share(load_i64(step + slots), rank, n_threads)
    for s in range(low, high):
        source = x + load_i64(token_of + s * 8) * width * 4
        for i in range(0, width * 4, 64):
            store(out + s * width * 4 + i, load_f32x16(source + i))


@kernel
def gather(step, rank, n_threads, rows, x, slot_of, weights, out, width, n_used):
    """out[t] = Σ weight[t, j] · x[slot_of[t, j]]."""
    low, high = share(load_i64(step + rows), rank, n_threads)
    for t in range(low, high):
        for i in range(0, width * 4, 64):
            total = splat_f32x16(f32(0))
            for j in range(t * n_used, (t + 1) * n_used):
                v = load_f32x16(x + load_i64(slot_of + j * 8) * width * 4 + i)
                total = fma(splat_f32x16(load_f32(weights + j * 4)), v, total)
            store(out + t * width * 4 + i, total)


@kernel
def add_expert_rows(step, rank, n_threads, x, bias, counts, out, width, n_expert):
    """out[s] = x[s] + bias[expert of s]; bias: float32 (n_expert, width)."""
    for e in range(n_expert):
        first = load_i64(counts + (n_expert + e) * 8)
        low, high = share(load_i64(counts + e * 8), rank, n_threads)
        row = bias + e * width * 4
        for s in range(first + low, first + high):
            o = s * width * 4
            for i in range(0, width * 4, 64):
                store(out + o + i, load_f32x16(x + o + i) + load_f32x16(row + i))


@kernel
def scale_expert_rows(step, rank, n_threads, x, factors, counts, out, width, n_expert):
    """out[s] = x[s] · factor[expert of s]; factors: float32 (n_expert,)."""
    for e in range(n_expert):
        first = load_i64(counts + (n_expert + e) * 8)
        low, high = share(load_i64(counts + e * 8), rank, n_threads)
        factor = splat_f32x16(load_f32(factors + e * 4))
        for s in range(first + low, first + high):
            o = s * width * 4
            for i in range(0, width * 4, 64):
                store(out + o + i, load_f32x16(x + o + i) * factor)


@intrinsic
def call_kernel(typing, function, record, rank, n_threads, worker):
    """Call a kernel's entry at address `function`."""

    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(ir.VoidType(), [emit.I64] * 4)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.none(*[i64] * 5), codegen


@routine(4)
def each_expert(record, rank, n_threads, worker):
    """out[s] = weight[expert of s] · x[s]: call a matrix kernel of the weights' type once for each expert.

    The record holds: step, counts, n_expert, the matrix kernel, the number of its arguments, memory in which
    threads write its record, bytes of this memory for each thread, `strides` int64 (n_arguments, 2); then the
    arguments. For expert e, whose rows begin at f, argument i is moved by e · strides[i, 0] + f · strides[i,
    1]. As its step record, the kernel gets e's count, which it reads as the number of rows.
    """
    counts, n_expert = load_i64(record + 8), load_i64(record + 16)
    run, n_arguments = load_i64(record + 24), load_i64(record + 32)
    frame = load_i64(record + 40) + worker * load_i64(record + 48)
    strides = load_i64(record + 56)
    for e in range(n_expert):
        if load_i64(counts + e * 8) > 0:
            first = load_i64(counts + (n_expert + e) * 8)
            store(frame, i64(counts + e * 8))
            for i in range(n_arguments):
                by_expert, by_row = load_i64(strides + i * 16), load_i64(strides + i * 16 + 8)
                argument = load_i64(record + 64 + i * 8)
                store(frame + 8 + i * 8, i64(argument + e * by_expert + first * by_row))
            call_kernel(run, frame, rank, n_threads, worker)
