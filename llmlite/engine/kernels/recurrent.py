"""Mixers that keep a state of a fixed size: convolutions over the latest tokens, and state-space models.

A step reads a sequence's state at the addresses in its layer words, and writes the next state `flip` bytes
further (`llmlite.engine.recurrent`). Tokens are computed in the same order for any cut of a text into steps.
"""

from llmlite.engine.contract import LAYER, LAYER_BYTES, SEQUENCE, SEQUENCE_BYTES, STEP
from llmlite.engine.kernels.common import exp, kernel, share, share_by
from llmlite.engine.simd import (
    absolute,
    divide,
    f32,
    fma,
    inline,
    load_f32,
    load_f32x16,
    load_i64,
    maximum,
    splat_f32x16,
    store,
)  # fmt: skip


@kernel
def multiply(step, rank, n_threads, rows, a, b, out, width):
    """out = a · b."""
    low, high = share_by(load_i64(step + rows) * width, 16, rank, n_threads)
    for i in range(low * 4, high * 4, 64):
        store(out + i, load_f32x16(a + i) * load_f32x16(b + i))


@kernel
def multiply_row(step, rank, n_threads, rows, x, row, out, width):
    """out[t] = x[t] · row."""
    low, high = share(load_i64(step + rows), rank, n_threads)
    for t in range(low, high):
        for i in range(0, width * 4, 64):
            at = t * width * 4 + i
            store(out + at, load_f32x16(x + at) * load_f32x16(row + i))


@inline
def number(value):
    """Return a constant in every lane."""
    return splat_f32x16(f32(value))


@inline
def log_of_one_plus(u):
    """ln(1 + u) for 0 ≤ u ≤ 1: 2·atanh(z), z = u / (2 + u) ≤ 1/3, by its series to z¹⁵ (error 1e-8)."""
    z = divide(u, number(2) + u)
    s = z * z
    p = fma(number(1 / 15), s, number(1 / 13))
    p = fma(p, s, number(1 / 11))
    p = fma(p, s, number(1 / 9))
    p = fma(p, s, number(1 / 7))
    p = fma(p, s, number(1 / 5))
    p = fma(p, s, number(1 / 3))
    p = fma(p, s, number(1))
    return (z + z) * p


@inline
def softplus(x):
    """ln(1 + eˣ) = max(x, 0) + ln(1 + e^-|x|)."""
    return maximum(x, number(0)) + log_of_one_plus(exp(number(0) - absolute(x)))


@kernel
def scan(
    step, rank, n_threads, x, dt, a, d, dt_bias, out, layer, n_head, head_size, n_group, state_size
):  # fmt: skip
    """Mamba-2, token by token: S ← e^(δ·a) · S + b ⊗ δ·x, out = Sᵀ·c + d·x; see eager_recurrent.py.

    The state is (n_head, state_size, head_size). A unit of work is 16 columns of a head, from the first token
    of a sequence to its last: no thread reads what another writes, and sums over the state have one order.
    """
    parts, inner = head_size // 16, n_head * head_size
    low, high = share(n_head * parts, rank, n_threads)
    row_bytes, group_bytes = (inner + 2 * n_group * state_size) * 4, n_group * state_size * 4
    sequence = load_i64(step + STEP.sequences)
    for _ in range(load_i64(step + STEP.n_sequences)):
        first, end = load_i64(sequence + SEQUENCE.first), load_i64(sequence + SEQUENCE.end)
        words = load_i64(sequence + SEQUENCE.states) + layer * LAYER_BYTES
        state, flip = load_i64(words + LAYER.state), load_i64(words + LAYER.flip)
        for unit in range(low, high):
            head = unit // parts
            place = head * state_size * head_size * 4 + unit % parts * 64
            before, after = state + place, state + flip + place
            rate, skip = splat_f32x16(load_f32(a + head * 4)), splat_f32x16(load_f32(d + head * 4))
            bias = splat_f32x16(load_f32(dt_bias + head * 4))
            group = (inner + head // (n_head // n_group) * state_size) * 4
            for row in range(first, end):
                delta = softplus(splat_f32x16(load_f32(dt + (row * n_head + head) * 4)) + bias)
                decay = exp(delta * rate)
                token = load_f32x16(x + row * row_bytes + unit * 64)
                added, total = token * delta, token * skip
                b = x + row * row_bytes + group
                for n in range(state_size):
                    at = n * head_size * 4
                    new = added * splat_f32x16(load_f32(b + n * 4))
                    new = fma(load_f32x16(before + at), decay, new)
                    store(after + at, new)
                    total = fma(new, splat_f32x16(load_f32(b + group_bytes + n * 4)), total)
                store(out + row * inner * 4 + unit * 64, total)
                before = after
        sequence += SEQUENCE_BYTES


@inline
def change_row(before, after, k, q, change, decay, total):
    """S[n] ← decay · S[n] + k[n] · change, for a row n of 16 columns; return total + S[n] · q[n]."""
    new = fma(change, splat_f32x16(load_f32(k)), load_f32x16(before) * decay)
    store(after, new)
    return fma(new, splat_f32x16(load_f32(q)), total)


@kernel
def delta_rule(
    step, rank, n_threads, x, qk, beta, alpha, a, dt_bias, out, layer, n_head, n_head_k, head_size, tiled,
    scale: float,
):  # fmt: skip
    """The gated delta rule, token by token: S ← e^g · S, S ← S + k ⊗ β·(v − Sᵀ·k), out = Sᵀ·q · scale; see
    eager_recurrent.py.

    The state is (n_head, head_size, head_size). A unit of work is 16 columns of a head, as in `scan`. Sums
    over the state go into four accumulators, row n into the one of n % 4; head_size is a multiple of 16.
    """
    parts, key_width = head_size // 16, n_head_k * head_size
    low, high = share(n_head * parts, rank, n_threads)
    row_bytes, out_bytes = (2 * key_width + n_head * head_size) * 4, n_head * head_size * 4
    line = head_size * 4
    zero = number(0)
    sequence = load_i64(step + STEP.sequences)
    for _ in range(load_i64(step + STEP.n_sequences)):
        first, end = load_i64(sequence + SEQUENCE.first), load_i64(sequence + SEQUENCE.end)
        words = load_i64(sequence + SEQUENCE.states) + layer * LAYER_BYTES
        state, flip = load_i64(words + LAYER.state), load_i64(words + LAYER.flip)
        for unit in range(low, high):
            head = unit // parts
            place = head * head_size * line + unit % parts * 64
            before, after = state + place, state + flip + place
            rate, bias = splat_f32x16(load_f32(a + head * 4)), splat_f32x16(load_f32(dt_bias + head * 4))
            key_head = head // (n_head // n_head_k)
            if tiled != 0:
                key_head = head % n_head_k
            for row in range(first, end):
                at = (row * n_head + head) * 4
                decay = exp(softplus(splat_f32x16(load_f32(alpha + at)) + bias) * rate)
                strength = divide(number(1), number(1) + exp(zero - splat_f32x16(load_f32(beta + at))))
                q = qk + (row * 2 * key_width + key_head * head_size) * 4
                k = q + key_width * 4
                s0, s1, s2, s3 = zero, zero, zero, zero
                for n in range(0, head_size, 4):
                    s, c = before + n * line, k + n * 4
                    s0 = fma(load_f32x16(s), splat_f32x16(load_f32(c)), s0)
                    s1 = fma(load_f32x16(s + line), splat_f32x16(load_f32(c + 4)), s1)
                    s2 = fma(load_f32x16(s + 2 * line), splat_f32x16(load_f32(c + 8)), s2)
                    s3 = fma(load_f32x16(s + 3 * line), splat_f32x16(load_f32(c + 12)), s3)
                held = ((s0 + s1) + (s2 + s3)) * decay
                value = load_f32x16(x + row * row_bytes + 2 * key_width * 4 + unit * 64)
                change = (value - held) * strength
                s0, s1, s2, s3 = zero, zero, zero, zero
                for n in range(0, head_size, 4):
                    s, to, c, r = before + n * line, after + n * line, k + n * 4, q + n * 4
                    s0 = change_row(s, to, c, r, change, decay, s0)
                    s1 = change_row(s + line, to + line, c + 4, r + 4, change, decay, s1)
                    s2 = change_row(s + 2 * line, to + 2 * line, c + 8, r + 8, change, decay, s2)
                    s3 = change_row(s + 3 * line, to + 3 * line, c + 12, r + 12, change, decay, s3)
                total = ((s0 + s1) + (s2 + s3)) * splat_f32x16(f32(scale))
                store(out + row * out_bytes + unit * 64, total)
                before = after
        sequence += SEQUENCE_BYTES


@kernel
def project(step, rank, n_threads, x, x_width, w, bias, out, n_columns, width):
    """out[t] = Σ x[t, k] · w[k] + bias over the first n_columns of x, one by one; w is (n_columns, width)."""
    low, high = share_by(width, 16, rank, n_threads)
    for t in range(load_i64(step + STEP.n_tokens)):
        for i in range(low * 4, high * 4, 64):
            total = load_f32x16(bias + i)
            for k in range(n_columns):
                factor = splat_f32x16(load_f32(x + (t * x_width + k) * 4))
                total = fma(factor, load_f32x16(w + k * width * 4 + i), total)
            store(out + t * width * 4 + i, total)


@kernel
def scan_columns(
    step, rank_of_thread, n_threads, x, dt, db, a, d, out, layer, width, rank, state_size
):  # fmt: skip
    """Mamba, token by token: S ← e^(δ·a) · S + b ⊗ δ·x, out = Σ c[n]·S[n] + d·x; see eager_recurrent.py.

    The state and a are (state_size, width). A unit of work is 16 columns, from the first token of a sequence
    to its last.
    """
    low, high = share_by(width, 16, rank_of_thread, n_threads)
    row_bytes, db_bytes = width * 4, (rank + 2 * state_size) * 4
    sequence = load_i64(step + STEP.sequences)
    for _ in range(load_i64(step + STEP.n_sequences)):
        first, end = load_i64(sequence + SEQUENCE.first), load_i64(sequence + SEQUENCE.end)
        words = load_i64(sequence + SEQUENCE.states) + layer * LAYER_BYTES
        state, flip = load_i64(words + LAYER.state), load_i64(words + LAYER.flip)
        for i in range(low * 4, high * 4, 64):
            before, after = state + i, state + flip + i
            skip = load_f32x16(d + i)
            for row in range(first, end):
                delta = softplus(load_f32x16(dt + row * row_bytes + i))
                token = load_f32x16(x + row * row_bytes + i)
                added, total = token * delta, token * skip
                b = db + row * db_bytes + rank * 4
                for n in range(state_size):
                    at = n * row_bytes
                    decay = exp(delta * load_f32x16(a + at + i))
                    new = added * splat_f32x16(load_f32(b + n * 4))
                    new = fma(load_f32x16(before + at), decay, new)
                    store(after + at, new)
                    total = fma(new, splat_f32x16(load_f32(b + (state_size + n) * 4)), total)
                store(out + row * row_bytes + i, total)
                before = after
        sequence += SEQUENCE_BYTES


@kernel
def convolve(step, rank, n_threads, x, taps, bias, out, layer, n_taps, width):
    """out[t] = Σ taps[j] · x[t - n_taps + 1 + j] + bias, column by column; bias 0: none.

    Rows before the step are the layer's tail, (n_taps - 1, width); the last rows become the next tail. A
    thread takes a range of columns, so threads don't share memory that is written.
    """
    low, high = share_by(width, 16, rank, n_threads)
    row_bytes, before = width * 4, n_taps - 1
    sequence = load_i64(step + STEP.sequences)
    for _ in range(load_i64(step + STEP.n_sequences)):
        first, end = load_i64(sequence + SEQUENCE.first), load_i64(sequence + SEQUENCE.end)
        words = load_i64(sequence + SEQUENCE.states) + layer * LAYER_BYTES
        tail = load_i64(words + LAYER.conv)
        following = tail + load_i64(words + LAYER.flip)
        for i in range(low * 4, high * 4, 64):
            for row in range(first, end):
                total = splat_f32x16(f32(0))
                if bias != 0:
                    total = load_f32x16(bias + i)
                for j in range(n_taps):
                    at = row - before + j  # a row of the step, or before it one of the tail
                    source = x + at * row_bytes
                    if at < first:
                        source = tail + (at - first + before) * row_bytes
                    total = fma(load_f32x16(taps + j * row_bytes + i), load_f32x16(source + i), total)
                store(out + row * row_bytes + i, total)
            for j in range(before):
                at = end - before + j
                source = x + at * row_bytes
                if at < first:
                    source = tail + (at - first + before) * row_bytes
                store(following + j * row_bytes + i, load_f32x16(source + i))
        sequence += SEQUENCE_BYTES
