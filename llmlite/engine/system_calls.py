"""System calls of compiled code: yield a core, read the clock, sleep, move to another core.

Each function has a form for Linux, for Windows and for macOS, chosen at compile time; the object has no
symbols of the other forms. On Windows, they are functions of kernel32.dll, whose addresses are registered
with LLVM here, because its C runtime has none of the POSIX names. Importing this module imports numba.

Sources: POSIX.1-2017; learn.microsoft.com/windows/win32/api (SwitchToThread, QueryPerformanceCounter,
WaitForSingleObject, ReleaseSemaphore); macOS has no sched_getcpu, sched_setaffinity nor working sem_init.
"""

import time

import llvmlite.binding as llvm
from numba import types

from llmlite.engine.simd import i64, inline, load_i64, store
from llmlite.engine.systems import LINUX, WINDOWS, kernel32_addresses

CLOCK_ID = getattr(time, "CLOCK_MONOTONIC", 1)
FOREVER = 0xFFFFFFFF  # INFINITE
SEMAPHORES = LINUX or WINDOWS
AFFINITY = LINUX  # whether threads can be kept away from certain cores

i32 = types.int32
if WINDOWS:
    for _name, _address in kernel32_addresses().items():
        llvm.add_symbol(_name, _address)
# POSIX
sched_yield = types.ExternalFunction("sched_yield", i32())
clock_gettime = types.ExternalFunction("clock_gettime", i32(i32, i64))
usleep = types.ExternalFunction("usleep", i32(types.uint32))
# Linux
sem_wait = types.ExternalFunction("sem_wait", i32(i64))
sem_post = types.ExternalFunction("sem_post", i32(i64))
sched_getcpu = types.ExternalFunction("sched_getcpu", i32())
sched_getaffinity = types.ExternalFunction("sched_getaffinity", i32(i32, i64, i64))
sched_setaffinity = types.ExternalFunction("sched_setaffinity", i32(i32, i64, i64))
# Windows; a handle and a pointer are 64 bits there
switch_to_thread = types.ExternalFunction("SwitchToThread", i32())
performance_counter = types.ExternalFunction("QueryPerformanceCounter", i32(i64))
performance_frequency = types.ExternalFunction("QueryPerformanceFrequency", i32(i64))
wait_for = types.ExternalFunction("WaitForSingleObject", types.uint32(i64, types.uint32))
release_semaphore = types.ExternalFunction("ReleaseSemaphore", i32(i64, i32, i64))


@inline
def yield_core():
    """Let another thread run on this core, if one is waiting for it."""
    if WINDOWS:
        switch_to_thread()
    else:
        sched_yield()


@inline
def write_time(address):
    """Write seconds and nanoseconds, two int64, of a clock that only goes forward."""
    if WINDOWS:
        performance_frequency(address)
        frequency = load_i64(address)
        performance_counter(address)
        ticks = load_i64(address)
        store(address, ticks // frequency)
        store(address + 8, ticks % frequency * 1000000000 // frequency)
    else:
        clock_gettime(CLOCK_ID, address)


@inline
def await_semaphore(address):
    """Sleep until the semaphore at `address` is posted; without semaphores, sleep for a short time."""
    if WINDOWS:
        wait_for(load_i64(address), FOREVER)
    elif LINUX:
        while sem_wait(address) != 0:
            pass  # a signal interrupted the wait
    else:
        usleep(200)


@inline
def post_semaphore(address):
    """Wake the thread that waits for the semaphore at `address`, or the next one that will wait."""
    if WINDOWS:
        release_semaphore(load_i64(address), 1, 0)
    elif LINUX:
        sem_post(address)
