"""Mixers that keep a state of a fixed size: convolutions over the latest tokens.

A step reads a sequence's state where its layer words say, and writes what follows `flip` bytes further
(`llmlite.recurrent`). Every token is computed in the same order, whatever steps a text is cut into.
"""

from llmlite.engine.contract import LAYER, LAYER_BYTES, SEQUENCE, SEQUENCE_BYTES, STEP
from llmlite.engine.kernels.common import kernel, share_by
from llmlite.engine.simd import f32, fma, load_f32x16, load_i64, splat_f32x16, store


@kernel
def multiply(step, rank, n_threads, rows, a, b, out, width):
    """out = a · b."""
    low, high = share_by(load_i64(step + rows) * width, 16, rank, n_threads)
    for i in range(low * 4, high * 4, 64):
        store(out + i, load_f32x16(a + i) * load_f32x16(b + i))


@kernel
def convolve(step, rank, n_threads, x, taps, bias, out, layer, n_taps, width):
    """out[t] = Σ taps[j] · x[t - n_taps + 1 + j] + bias, column by column; bias 0: none.

    Rows before the step are the layer's tail, (n_taps - 1, width); the last rows become the next tail. A
    thread takes a range of columns, so it reads and writes nothing of another's.
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
