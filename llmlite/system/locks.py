"""Locks that a forked child finds free, although another thread held them when the process forked."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TypeVar

Lock = TypeVar("Lock")
_locks: weakref.WeakSet = weakref.WeakSet()


def fork_safe(lock: Lock) -> Lock:
    """Return the lock, which is from now on free at the start of every forked child.

    fork() copies only the calling thread: a lock that another one holds stays locked in the child for ever.
    What the lock guards must be fit for use at every moment, or be made anew in the child.
    lock: a `threading.Lock()` or `threading.RLock()`.
    """
    _locks.add(lock)
    return lock


def _renew() -> None:
    for lock in list(_locks):
        lock._at_fork_reinit()  # the standard library's own way, as in threading and logging


def wait_before_fork(lock: threading.RLock) -> None:
    """Let fork() wait until nobody else holds the lock: for what can't be left half done in a child."""
    fork_safe(lock)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
