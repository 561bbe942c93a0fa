"""Group commit: the threads that wait for the device take turns, and one sync serves all of them.

Each waits on a lock of its own: a condition wakes all of them into one shared lock, where they
queue a second time. The first one back sleeps until the last one is back, and then syncs; to poll
for the others would take the interpreter's lock from them.
"""

from __future__ import annotations

import threading
from collections import deque
from operator import methodcaller

from segstore.mutex import new_mutex

# A turn is not held back any longer once nobody has come for so long.
GATHER_S = 0.0002

_release = methodcaller("release")


class _Waiter:
    """One thread that waits until `target` is durable, or for its turn."""

    __slots__ = ("has_turn", "lock", "target", "thread")

    def __init__(self, target: int, thread: int) -> None:
        self.target = target
        self.thread = thread
        self.has_turn = False
        self.lock = threading.Lock()
        self.lock.acquire()


class SyncTurn:
    """The right to sync, which one thread at a time has; any number may wait for it.

    While some wait and nobody has it, the first of them looks after a while whether to take it.
    """

    def __init__(self) -> None:
        self._mutex = new_mutex()
        self._owner: int | None = None  # the thread that has it
        self._waiting: list[_Waiter] = []
        self._expected_count = 1

    def take(self, target: int) -> bool:
        """Wait for the turn, or until somebody's sync covers `target`; whether it is the turn.

        Those that were just set free are waited for, as threads that only append come back at
        once; else two groups of half of them take turns. Who does not come back is waited for once.

        Whoever asks calls `pass_on`, whatever happens, also where this raises.
        """
        thread = threading.get_ident()
        waiter = None
        try:
            with self._mutex:
                is_first = self._owner is None and not self._waiting
                # Whoever has it already was interrupted before it could pass it on.
                if (is_first and self._expected_count == 1) or self._owner == thread:
                    self._owner = thread
                    return True
                waiter = _Waiter(target, thread)
                timeout = GATHER_S if is_first else -1
                self._waiting.append(waiter)
                if self._owner is None and len(self._waiting) >= self._expected_count:
                    first = self._waiting[0]
                    self._give_turn(first)
                    first.lock.release()
            self._wait(waiter, timeout)
        except BaseException:  # an interrupt: nobody may be waited for who is gone
            if waiter is not None:
                self._give_up(waiter)
            raise
        return waiter.has_turn

    def pass_on(self, reached: int) -> None:
        """Set free whoever waits for less than `reached`, and give the turn to the next.

        Nothing is done where this thread does not have it.
        """
        if self._owner != threading.get_ident():
            return
        with self._mutex:
            if not self._waiting:
                self._owner = None
                self._expected_count = 1
                return
            count = len(self._waiting) + 1
            woken = [waiter for waiter in self._waiting if waiter.target <= reached]
            rest = [waiter for waiter in self._waiting if waiter.target > reached]
            # Woken last: the others may be back with their next record before the next sync.
            following = rest.pop(0) if rest else None
            if following is not None:
                woken.append(following)
            locks = [waiter.lock for waiter in woken]
            self._expected_count = count
            self._waiting = rest
            if following is None:
                self._owner = None
            else:
                self._owner = following.thread
                following.has_turn = True
            # In one call into C: an interrupt between two releases would leave the others waiting.
            # Each waking the next takes a tenth less, and twice as long where a thread computes
            # beside them, which then has the interpreter's lock for 5 ms before each hand-over.
            deque(map(_release, locks), maxlen=0)

    def _wait(self, waiter: _Waiter, timeout: float) -> None:
        count = 1
        while not waiter.lock.acquire(True, timeout):
            with self._mutex:
                if waiter.has_turn:
                    return
                if self._owner is not None or waiter not in self._waiting:
                    timeout = -1
                elif len(self._waiting) == count:
                    self._give_turn(waiter)
                    return
                else:
                    count = len(self._waiting)

    def _give_turn(self, waiter: _Waiter) -> None:
        self._owner = waiter.thread
        waiter.has_turn = True
        self._waiting.remove(waiter)

    def _give_up(self, waiter: _Waiter) -> None:
        following = None
        with self._mutex:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            if self._owner is None and self._waiting:  # it may have been the one that looks
                following = self._waiting[0]
                self._give_turn(following)
        if following is not None:
            following.lock.release()
