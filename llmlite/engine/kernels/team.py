"""The loop of a team of threads: it runs the plan's operations one after another, in pieces.

Operations between two barriers are a stage. Each operation is cut into pieces, the same number for every
thread. A thread takes its own pieces in order, then those that others have not begun. So a preempted thread
delays at most the piece that it is computing. A stage is over when all its pieces are done, not when all
threads have arrived; a late thread continues with the current stage. A piece is always computed by one
thread, with the same arithmetic, so results don't depend on the thread.

All shared data are in one block of int64 words, each on its own cache line (byte offsets below). A worker
that finds no new job for a while parks on a semaphore, and the leader posts it. Both happen in compiled code,
so no Python exception (Ctrl-C) can occur between the announcement of a job and its end.

A job is over when its last stage is. The leader then closes it and waits until no worker uses the plan any
more. Each worker shows this by its `ACTIVE` word, which it clears before it lets another process run.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llmlite.engine import emit
from llmlite.engine.atomics import atomic_add, atomic_exchange, atomic_load, compare_exchange
from llmlite.engine.kernels.common import routine
from llmlite.engine.simd import i64, inline, load_i64, store
from llmlite.engine.system_calls import (
    AFFINITY,
    SEMAPHORES,
    await_semaphore,
    post_semaphore,
    sched_getaffinity,
    sched_getcpu,
    sched_setaffinity,
    write_time,
    yield_core,
)

# JOB: incremented at the beginning and at the end of a job, so it is even if none is running. DONE: finished
# pieces of the current stage. STAGE: counts the stages of all jobs. FIRST, on the line of N_THREADS: the
# job's first stage.
JOB, DONE, STAGE, STOP, TABLE, N_OPS, CLOCK, N_THREADS = range(0, 512, 64)
FIRST = N_THREADS + 8
THREADS = 512  # then for each thread four lines:
THREAD = 256
PARKED, SEMAPHORE, TAKEN, ACTIVE = range(
    0, 256, 64
)  # TAKEN: a stage, and the number of the thread's own pieces that are taken
PIECE_BITS = 16  # bits of TAKEN that count pieces; the others are the stage
ROW = 32  # bytes of a row of the table (`plan.ROW_WORDS`)
SPINS = 200  # pauses before the first yield_core; more would only help on an otherwise idle machine
# A thread's own lines, five of them: a clock, the core it runs on, two masks of 1,024 cores
SCRATCH, CORE, MASK = 320, 32, 64
MASK_BYTES = 128


@intrinsic
def pause(typing):
    """Tell the core that this is a waiting loop."""

    def codegen(context, builder, sig, args):
        emit.pause(builder, emit.current_target())
        return context.get_dummy_value()

    return types.none(), codegen


@intrinsic
def call(typing, function, record, piece, n_pieces, rank):
    """Call the kernel at address `function` for a piece of its work."""

    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(ir.VoidType(), [emit.I64] * 4)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.none(*[i64] * 5), codegen


@inline
def thread_lines(team, rank):
    return team + THREADS + rank * THREAD


@inline
def take(word, stage, n):
    """Take one of the n pieces of a stage that `word` counts; return its number, or -1 if none is left.

    If the word is of an older stage, no piece is taken yet. If it is of a later one, this stage is over.
    """
    while True:
        found = atomic_load(word)
        of, number = found >> PIECE_BITS, i64(0)
        if of == stage:
            number = found & ((1 << PIECE_BITS) - 1)
        if of > stage or number >= n:
            return i64(-1)
        if compare_exchange(word, found, (stage << PIECE_BITS) + number + 1):
            return number


@inline
def end_of_stage(team, i):
    """Return the row after the stage that begins with row i, and the number of pieces that a thread owns."""
    row = load_i64(team + TABLE) + i * ROW
    n = load_i64(row + 24)
    if load_i64(team + CLOCK) == 0:  # while profiling, every operation is its own stage
        while load_i64(row + 16) == 0:
            i, row = i + 1, row + ROW
            n += load_i64(row + 24)
    return i + 1, n


@inline
def run_pieces(team, rank, i, n, owner, stage):
    """Run the pieces of `owner` that no thread has taken; return their number."""
    n_threads, n_run = load_i64(team + N_THREADS), i64(0)
    word = thread_lines(team, owner) + TAKEN
    number = take(word, stage, n)
    while number >= 0:
        row = load_i64(team + TABLE) + i * ROW
        while number >= load_i64(row + 24):
            number -= load_i64(row + 24)
            row += ROW
        each = load_i64(row + 24)
        call(load_i64(row), load_i64(row + 8), owner * each + number, n_threads * each, rank)
        n_run += 1
        number = take(word, stage, n)
    return n_run


@inline
def note_time(team, op, column):
    """Write the time to the job's clock: a row for each operation, (1 + n_threads) times of 16 bytes."""
    columns = load_i64(team + N_THREADS) + 1
    write_time(load_i64(team + CLOCK) + (op * columns + column) * 16)


@inline
def finish(team, i, n_run, n):
    """Count finished pieces of the stage at row i; the last of n ends it. Return whether it ended."""
    if n_run == 0 or atomic_add(team + DONE, n_run) + n_run != n:
        return False
    atomic_exchange(team + DONE, 0)
    if load_i64(team + CLOCK) != 0:
        note_time(team, i + 1, 0)
    atomic_add(team + STAGE, 1)
    return True


@inline
def pause_until(team, stage, spins):
    """Pause up to `spins` times; return whether the stage is over."""
    for _ in range(spins):
        if atomic_load(team + STAGE) != stage:
            return True
        pause()
    return atomic_load(team + STAGE) != stage


@inline
def stand_aside(team, rank, job):
    """Yield the core, without using the plan meanwhile; return whether the job continues."""
    active = thread_lines(team, rank) + ACTIVE
    if rank == 0:
        yield_core()
        return True
    atomic_exchange(active, 0)
    yield_core()
    atomic_exchange(active, 1)
    return atomic_load(team + JOB) == job


@inline
def execute(team, rank, job):
    """Take part in the job until it is over.

    A table row is (kernel, record, whether its stage ends, pieces that a thread owns). The last row ends a
    stage.
    """
    n_ops, n_threads = load_i64(team + N_OPS), load_i64(team + N_THREADS)
    profiled = load_i64(team + CLOCK) != 0
    i, stage = i64(0), load_i64(team + FIRST)
    now = atomic_load(team + STAGE)
    while True:
        while stage < now:  # skip stages that ended without us
            i, _ = end_of_stage(team, i)
            stage += 1
        if i >= n_ops:
            return
        end, n = end_of_stage(team, i)
        n_run = run_pieces(team, rank, i, n, rank, stage)
        if profiled:
            note_time(team, i + 1, rank + 1)
        over = finish(team, i, n_run, n * n_threads)
        # In a stage with little work, a thread that has not begun by now is asleep.
        if not over and n == end - i and n_run > 0:
            over = pause_until(team, stage, SPINS)
        if not over:
            n_run = 0
            for other in range(1, n_threads):
                n_run += run_pieces(team, rank, i, n, (rank + other) % n_threads, stage)
            if profiled and n_run > 0:
                note_time(team, i + 1, rank + 1)
            finish(team, i, n_run, n * n_threads)
        if not pause_until(team, stage, SPINS):
            while atomic_load(team + STAGE) == stage:
                if not stand_aside(team, rank, job):
                    return
        now = atomic_load(team + STAGE)


@inline
def execute_alone(team):
    """Run the job on one thread."""
    table, profiled = load_i64(team + TABLE), load_i64(team + CLOCK) != 0
    for i in range(load_i64(team + N_OPS)):
        row = table + i * ROW
        call(load_i64(row), load_i64(row + 8), i64(0), i64(1), i64(0))
        if profiled:
            note_time(team, i + 1, 1)
            note_time(team, i + 1, 0)


@routine(6)
def run(team, table, n_ops, n_threads, clock, scratch):
    """Announce a job, wake sleeping workers, take part as rank 0, and return when all threads are done."""
    store(team + TABLE, table)
    store(team + N_OPS, n_ops)
    store(team + N_THREADS, n_threads)
    store(team + CLOCK, clock)
    if clock != 0:
        write_time(clock)
    if n_threads == 1:
        execute_alone(team)
        return
    store(team + FIRST, atomic_load(team + STAGE))
    if AFFINITY:
        store(scratch + CORE, i64(sched_getcpu()))
    announce(team, n_threads)
    execute(team, i64(0), atomic_load(team + JOB))
    atomic_add(team + JOB, 1)
    for rank in range(1, n_threads):
        spins = 0
        while atomic_load(thread_lines(team, rank) + ACTIVE) != 0:
            spins += 1
            if spins > SPINS:
                yield_core()
            else:
                pause()


@inline
def announce(team, n_threads):
    """Increment JOB, and wake the workers that are parked."""
    atomic_add(team + JOB, 1)
    for rank in range(1, n_threads):
        lines = thread_lines(team, rank)
        if atomic_exchange(lines + PARKED, 0) == 1:  # noqa: SIM102  (a constant, removed by the compiler)
            if SEMAPHORES:
                post_semaphore(lines + SEMAPHORE)


@routine(2)
def stop(team, n_threads):
    """Make every worker return. Call it only between jobs."""
    atomic_exchange(team + STOP, 1)
    announce(team, n_threads)


@routine(4)
def work(team, rank, linger_ns, scratch):
    """Wait for the next job and take part in it, until stopped. `scratch` is the worker's own lines."""
    seen = i64(0)
    lines = thread_lines(team, rank)
    while True:
        seen = await_job(team, seen, lines, linger_ns, scratch)
        if atomic_load(team + STOP) != 0:
            return
        if AFFINITY:
            step_aside(rank, scratch)
        atomic_exchange(lines + ACTIVE, 1)
        if atomic_load(team + JOB) == seen:
            execute(team, rank, seen)
        atomic_exchange(lines + ACTIVE, 0)


@inline
def step_aside(rank, scratch):
    """Move to another core if the system has put a lower rank on ours.

    Two threads that wait for each other by yielding can share a core for seconds while another core is idle.
    Each has run so recently that the system's balancer considers its cache hot and doesn't move it. If a
    thread excludes the other threads' cores from its own mask for a moment, the system moves it at once.
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
def is_new(job, seen):
    """Return whether a job is running in which this worker hasn't taken part."""
    return job != seen and job & 1 == 1


@inline
def await_job(team, seen, lines, linger_ns, scratch):
    """Spin, then yield, then park; return the job. The leader wakes workers whose `PARKED` is set."""
    spins = 0
    while True:
        job = atomic_load(team + JOB)
        if is_new(job, seen):
            return job
        spins += 1
        if spins < SPINS:
            pause()
            continue
        yield_core()
        now = nanoseconds(scratch)
        if spins == SPINS:
            store(scratch + 16, now)
        if now - load_i64(scratch + 16) > linger_ns:
            park(team, seen, lines)
            spins = 0


@inline
def park(team, seen, lines):
    """Sleep until the leader posts. If a job came in between, the thread that clears `PARKED` sees it."""
    if not SEMAPHORES:
        await_semaphore(lines + SEMAPHORE)
        return
    atomic_exchange(lines + PARKED, 1)
    if is_new(atomic_load(team + JOB), seen) and atomic_exchange(lines + PARKED, 0) == 1:
        return  # a job came in between, and the leader has not posted for us
    await_semaphore(lines + SEMAPHORE)


@inline
def nanoseconds(scratch):
    write_time(scratch)
    return load_i64(scratch) * 1000000000 + load_i64(scratch + 8)
