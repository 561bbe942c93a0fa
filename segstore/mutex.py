"""Locks that ``with lock:`` lets go of whatever comes, Ctrl-C in the middle of it too.

A handler's exception comes between two instructions of Python. In CPython 3.14, and not before or
after, one such place is between the call of `__enter__` and the block that `__exit__` belongs to:
two of three signals in a loop of ``with lock: pass`` leave the lock held, for which everybody else
then waits for ever. Elsewhere a plain lock does.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

Mutex = AbstractContextManager[object]

_NEEDS_GUARD = sys.version_info[:2] == (3, 14)
_ONCE = (True,)


class GuardedLock:
    """A lock that no signal leaves held, at the price of an `__enter__` in Python.

    That has a place to let go: behind its last instruction no handler is called before the block
    begins. `__exit__` is the lock's own, because one in Python may be interrupted as it begins.
    """

    __slots__ = ("__exit__", "_acquire", "_release")

    __exit__: Callable[..., bool | None]

    def __init__(self, lock: threading.Lock | threading.RLock) -> None:
        self.__exit__ = lock.__exit__
        self._acquire = lock.acquire
        self._release = lock.release

    def __enter__(self) -> None:
        taken: list[bool] = []
        try:
            # One call into C takes it and notes that it did.
            taken.extend(map(self._acquire, _ONCE))
        except BaseException:
            if taken:
                self._release()
            raise


def new_mutex() -> Mutex:
    """A lock for `with`."""
    return _guarded(threading.Lock())


def new_recursive_mutex() -> Mutex:
    """A lock for `with` that the thread that has it may take again."""
    return _guarded(threading.RLock())


def take_at_once(lock: Mutex) -> bool:
    """Take a lock unless another thread has it; for threads in which no signal handler runs.

    Its `__exit__` lets go of it.
    """
    acquire = lock._acquire if isinstance(lock, GuardedLock) else lock.acquire  # type: ignore[attr-defined]
    return bool(acquire(blocking=False))


def _guarded(lock: threading.Lock | threading.RLock) -> Mutex:
    return GuardedLock(lock) if _NEEDS_GUARD else lock
