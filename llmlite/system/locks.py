"""Provide locks that are free in a forked child, even if another thread held them at the fork."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TypeVar

Lock = TypeVar("Lock")
_locks: weakref.WeakSet = weakref.WeakSet()


def fork_safe(lock: Lock) -> Lock:
    """Make the lock free at the start of every forked child, and return it.

    fork() copies only the calling thread. A lock that another thread holds would stay locked in the child
    forever. The data that the lock guards must be usable at every moment, or be rebuilt in the child.

    Args:
        lock: a `threading.Lock()` or `threading.RLock()`.
    """
    _locks.add(lock)
    return lock


def _renew() -> None:
    for lock in list(_locks):
        lock._at_fork_reinit()  # the standard library does the same in threading and logging


def wait_before_fork(lock: threading.RLock) -> None:
    """Make fork() wait until no other thread holds the lock.

    This is for data that must not be left half changed in a child.
    """
    fork_safe(lock)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
