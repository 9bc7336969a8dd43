"""A matrix for each head: split rows by head, call one matrix kernel for each head, and merge the results.

Rows are (T, H·width) in the model. A kernel takes rows of a single width, so a head's parts of all rows are
copied one after another. They are the head's plane; planes are `plane` bytes apart.
"""

from llmlite.engine.kernels.common import kernel, routine, share
from llmlite.engine.kernels.experts import call_kernel
from llmlite.engine.simd import i64, load_f32x16, load_i64, store


@kernel
def split_heads(step, rank, n_threads, rows, x, out, n_head, width, plane):
    """out[h, t] = x[t, h]."""
    low, high = share(load_i64(step + rows) * n_head, rank, n_threads)
    for i in range(low, high):
        source, target = x + i * width * 4, out + i % n_head * plane + i // n_head * width * 4
        for c in range(0, width * 4, 64):
            store(target + c, load_f32x16(source + c))


@kernel
def merge_heads(step, rank, n_threads, rows, x, out, n_head, width, plane):
    """out[t, h] = x[h, t]."""
    low, high = share(load_i64(step + rows) * n_head, rank, n_threads)
    for i in range(low, high):
        source, target = x + i % n_head * plane + i // n_head * width * 4, out + i * width * 4
        for c in range(0, width * 4, 64):
            store(target + c, load_f32x16(source + c))


@routine(4)
def each_head(record, rank, n_threads, worker):
    """Call a kernel for every head's plane, one head after another.

    The record holds: step, n_head, the kernel, the number of its arguments, memory in which threads write its
    record, bytes of this memory for each thread, `strides` int64 (n_arguments,); then the arguments. For head
    h, argument i is moved by h · strides[i].
    """
    step, n_head = load_i64(record), load_i64(record + 8)
    run, n_arguments = load_i64(record + 16), load_i64(record + 24)
    frame = load_i64(record + 32) + worker * load_i64(record + 40)
    strides = load_i64(record + 48)
    for h in range(n_head):
        store(frame, step)
        for i in range(n_arguments):
            argument = load_i64(record + 56 + i * 8)
            store(frame + 8 + i * 8, i64(argument + h * load_i64(strides + i * 8)))
        call_kernel(run, frame, rank, n_threads, worker)
