"""Threads that wait for plans to run, started once for the whole process, without a threading layer.

The compiled side is `kernels/team.py`. Workers run in compiled code without the GIL; after `LINGER_NS`
without a job, they wait on a semaphore. Plans of several models and several Python threads take turns.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from typing import Any

from llmlite.engine.signatures import RUN, STOP, WORK
from llmlite.engine.systems import make_semaphores
from llmlite.system.locks import fork_safe

LINGER_NS = 2_000_000  # how long a worker yields before it sleeps: longer than sampling one token takes
LINE = 64
SCRATCH = 5 * LINE  # as in kernels/team.py

_INT64 = ctypes.c_int64


class Team:
    """A team of `n_threads` threads; the calling thread is rank 0.

    Use `team(n_threads)`: a process needs only one team of each size.
    """

    def __init__(self, n_threads: int) -> None:
        self._lock = threading.Lock()
        self._run = ctypes.CFUNCTYPE(None, *[_INT64] * 6)(RUN.address)
        self._memory = _shared_memory((9 + 4 * n_threads) * LINE + SCRATCH * n_threads)
        self._base = -(-ctypes.addressof(self._memory) // LINE) * LINE
        self._scratch = self._base + (8 + 4 * n_threads) * LINE
        self.n_threads = 1 + self._start_workers(n_threads - 1) if n_threads > 1 else 1

    def run(self, table: int, n_ops: int, clock: int = 0) -> None:
        """Run `n_ops` rows of the plan's table at address `table`; return when all threads have finished.

        Args:
            table: address of the plan's table.
            n_ops: number of its rows to run.
            clock: address of the times for profiling (see `Plan.run`), or 0.
        """
        with self._lock:
            self._run(self._base, table, n_ops, self.n_threads, clock, self._scratch)

    def _start_workers(self, n: int) -> int:
        """Start n threads; return how many the system granted."""
        work = ctypes.CFUNCTYPE(None, *[_INT64] * 4)(WORK.address)
        make_semaphores([self._base + (8 + 4 * rank + 1) * LINE for rank in range(1, n + 1)])
        for rank in range(1, n + 1):
            arguments = (self._base, rank, LINGER_NS, self._scratch + rank * SCRATCH)
            thread = threading.Thread(target=work, args=arguments, name=f"llmlite-{rank}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system's limit of threads: continue with fewer
                return rank - 1
        return n

    def close(self) -> None:
        """End the workers; the team can't be used afterwards."""
        if self.n_threads > 1 and self._lock.acquire(timeout=1):  # else a plan still runs: leave it alone
            ctypes.CFUNCTYPE(None, _INT64, _INT64)(STOP.address)(self._base, self.n_threads)
            self.n_threads = 1
            self._lock.release()


def _shared_memory(n_bytes: int) -> ctypes.Array:
    """Return zeroed memory that is never freed: a worker may read it while the interpreter ends."""
    memory = (ctypes.c_char * n_bytes)()
    _kept.append(memory)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))
    return memory


_kept: list[ctypes.Array] = []
_teams: dict[int, Team] = {}
_teams_lock = fork_safe(threading.Lock())


def team(n_threads: int) -> Team:
    """Return the process's team of this size, started on first use; a forked child has its own."""
    with _teams_lock:
        if n_threads not in _teams:
            _teams[n_threads] = Team(n_threads)
        return _teams[n_threads]


def renew_lock_after_fork(plan: Any) -> None:
    """Make sure that forked children find `plan.lock` free, because they lack the thread that held it."""
    fork_safe(plan.lock)


def _after_fork() -> None:
    """Forget the workers, which a forked child doesn't have; new ones start with the next plan."""
    _teams.clear()


def _close_all() -> None:
    for each in list(_teams.values()):
        each.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_close_all)
