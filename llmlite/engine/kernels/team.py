"""What a team of threads runs: the plan's operations one after the other, meeting at a barrier.

Everything the threads share lies in one block of int64 words, each on a cache line of its own (byte offsets
below). A worker that finds no new job for a while parks on a semaphore; the leader posts it. Both happen in
compiled code, so no Python exception (Ctrl-C) can come between a job's announcement and its end.
"""

import sys
import time

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llmlite.engine import emit
from llmlite.engine.kernels.common import routine
from llmlite.engine.simd import i64, inline, load_i64, store

JOB, ARRIVED, PHASE, STOP, TABLE, N_OPS, CLOCK, N_THREADS = range(0, 512, 64)
WORKERS = 512  # then for each worker a line "parked" and a line with its semaphore
SPINS = 200  # pauses before the first sched_yield: longer only helps where nothing else runs
CLOCK_ID = getattr(time, "CLOCK_MONOTONIC", 1)
SEMAPHORES = sys.platform.startswith("linux")
AFFINITY = sys.platform.startswith("linux")
# A thread's own lines, five of them: a clock, the core it runs on, two masks of 1,024 cores
SCRATCH, CORE, MASK = 320, 32, 64
MASK_BYTES = 128

sched_yield = types.ExternalFunction("sched_yield", types.int32())
clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, i64))
sem_wait = types.ExternalFunction("sem_wait", types.int32(i64))
sem_post = types.ExternalFunction("sem_post", types.int32(i64))
sched_getcpu = types.ExternalFunction("sched_getcpu", types.int32())
sched_getaffinity = types.ExternalFunction("sched_getaffinity", types.int32(types.int32, i64, i64))
sched_setaffinity = types.ExternalFunction("sched_setaffinity", types.int32(types.int32, i64, i64))
usleep = types.ExternalFunction("usleep", types.int32(types.uint32))


def _word(builder, address):
    return emit.pointer(builder, address, emit.I64)


@intrinsic
def atomic_load(typing, address):
    """The int64 at `address`, ordered after everything its writer did before."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(_word(builder, args[0]), "seq_cst", 8)

    return i64(i64), codegen


@intrinsic
def atomic_add(typing, address, value):
    """Add and return the value before."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", _word(builder, args[0]), args[1], "seq_cst")

    return i64(i64, i64), codegen


@intrinsic
def atomic_exchange(typing, address, value):
    """Write and return the value before."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("xchg", _word(builder, args[0]), args[1], "seq_cst")

    return i64(i64, i64), codegen


@intrinsic
def pause(typing):
    """Tell the core that this is a waiting loop."""

    def codegen(context, builder, sig, args):
        emit.pause(builder, emit.current_target())
        return context.get_dummy_value()

    return types.none(), codegen


@intrinsic
def call(typing, function, record, rank, n_threads):
    """Call the kernel at address `function`."""

    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(ir.VoidType(), [emit.I64] * 3)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.none(i64, i64, i64, i64), codegen


@inline
def barrier(team, n_threads):
    """Wait until all threads have come here."""
    phase = atomic_load(team + PHASE)  # read before arriving: the last to arrive moves it on
    if atomic_add(team + ARRIVED, 1) == n_threads - 1:
        atomic_exchange(team + ARRIVED, 0)
        atomic_add(team + PHASE, 1)
        return
    spins = 0
    while atomic_load(team + PHASE) == phase:
        spins += 1
        if spins > SPINS:
            sched_yield()
        else:
            pause()


@inline
def execute(team, rank):
    """Run the job. A table row is (kernel, record, whether a barrier follows); the last one has a barrier."""
    table, n_ops, n_threads = load_i64(team + TABLE), load_i64(team + N_OPS), load_i64(team + N_THREADS)
    clock = load_i64(team + CLOCK)
    for i in range(n_ops):
        row = table + i * 24
        call(load_i64(row), load_i64(row + 8), rank, n_threads)
        if clock != 0:  # profiling: every operation for itself, and the time when all are through with it
            barrier(team, n_threads)
            if rank == 0:
                clock_gettime(CLOCK_ID, clock + i * 16 + 16)
        elif n_threads > 1 and load_i64(row + 16) != 0:
            barrier(team, n_threads)


@routine(6)
def run(team, table, n_ops, n_threads, clock, scratch):
    """Announce a job, wake who sleeps, take part as rank 0, return when everyone is done."""
    store(team + TABLE, table)
    store(team + N_OPS, n_ops)
    store(team + N_THREADS, n_threads)
    store(team + CLOCK, clock)
    if clock != 0:
        clock_gettime(CLOCK_ID, clock)
    if n_threads > 1:
        if AFFINITY:
            store(scratch + CORE, i64(sched_getcpu()))
        announce(team, n_threads)
    execute(team, 0)


@inline
def announce(team, n_threads):
    """Count the job up and wake the workers that are parked."""
    atomic_add(team + JOB, 1)
    for rank in range(1, n_threads):
        line = team + WORKERS + (rank - 1) * 128
        if atomic_exchange(line, 0) == 1:  # noqa: SIM102  (a constant, pruned while compiling)
            if SEMAPHORES:
                sem_post(line + 64)


@routine(2)
def stop(team, n_threads):
    """Make every worker return; only between jobs."""
    atomic_exchange(team + STOP, 1)
    announce(team, n_threads)


@routine(4)
def work(team, rank, linger_ns, scratch):
    """A worker's life: wait for the next job, run it, until stopped. `scratch`: its own lines."""
    seen = 0
    line = team + WORKERS + (rank - 1) * 128
    while True:
        await_job(team, seen, line, linger_ns, scratch)
        seen += 1
        if atomic_load(team + STOP) != 0:
            return
        if AFFINITY:
            step_aside(rank, scratch)
        execute(team, rank)


@inline
def step_aside(rank, scratch):
    """Move to another core where a lower rank has been put on ours.

    Two threads that wait for each other by yielding can share a core for seconds while another one idles:
    each has run so recently that the system's balancer takes its cache for hot and leaves it where it is.
    To forbid ourselves the cores of the others, for a moment, makes the system move us at once.
    """
    core = i64(sched_getcpu())
    store(scratch + CORE, core)
    shared = False
    for other in range(1, rank + 1):
        shared |= load_i64(scratch - other * SCRATCH + CORE) == core
    if not shared or sched_getaffinity(0, MASK_BYTES, scratch + MASK) < 0:
        return
    left = 0
    for word in range(0, MASK_BYTES, 8):
        mask = load_i64(scratch + MASK + word)
        for other in range(1, rank + 1):
            taken = load_i64(scratch - other * SCRATCH + CORE)
            if taken >> 6 == word >> 3:
                mask &= ~(i64(1) << (taken & 63))
        store(scratch + MASK + MASK_BYTES + word, mask)
        left |= mask
    if left != 0 and sched_setaffinity(0, MASK_BYTES, scratch + MASK + MASK_BYTES) == 0:
        store(scratch + CORE, i64(sched_getcpu()))
        sched_setaffinity(0, MASK_BYTES, scratch + MASK)


@inline
def await_job(team, seen, line, linger_ns, scratch):
    """Spin, then yield, then park. The leader wakes only those whose `parked` it finds set, and clears it."""
    spins = 0
    while atomic_load(team + JOB) == seen:
        spins += 1
        if spins < SPINS:
            pause()
            continue
        sched_yield()
        now = nanoseconds(scratch)
        if spins == SPINS:
            store(scratch + 16, now)
        if now - load_i64(scratch + 16) > linger_ns:
            park(team, seen, line)
            spins = 0


@inline
def park(team, seen, line):
    """Sleep until the leader posts; a job that came meanwhile is seen by whoever clears `parked`."""
    if not SEMAPHORES:
        usleep(200)
        return
    atomic_exchange(line, 1)
    if atomic_load(team + JOB) != seen and atomic_exchange(line, 0) == 1:
        return  # it came in between, and the leader has not posted for us
    while sem_wait(line + 64) != 0:
        pass  # a signal interrupted the wait


@inline
def nanoseconds(scratch):
    clock_gettime(CLOCK_ID, scratch)
    return load_i64(scratch) * 1000000000 + load_i64(scratch + 8)
