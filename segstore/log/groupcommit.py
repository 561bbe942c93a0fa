"""Group commit: the threads that wait for the device take turns, and one sync serves all of them.

Each waits on a lock of its own. A condition instead wakes all of them into one shared lock, where
they queue a second time: with 16 threads that took longer than the sync.
"""

from __future__ import annotations

import threading
import time

# How often the one whose turn it is looks whether the others of the last group are back.
GATHER_LOOKS = 20


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
    """The right to sync, which one thread at a time has; any number may wait for it."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._owner: int | None = None  # the thread that has it
        self._waiting: list[_Waiter] = []
        self._reached = 0
        self._expected_count = 1

    def take(self, target: int) -> bool:
        """Wait for the turn, or until somebody's sync covers `target`; whether it is the turn.

        Whoever has it calls `pass_on`, whatever happens.
        """
        thread = threading.get_ident()
        with self._mutex:
            # Whoever has it already was interrupted before it could pass it on.
            waiter = None if self._owner in (None, thread) else _Waiter(target, thread)
            if waiter is None:
                self._owner = thread
            else:
                self._waiting.append(waiter)
        if waiter is not None:
            try:
                waiter.lock.acquire()
            except BaseException:  # an interrupt: nobody may be waited for who is gone
                self._give_up(waiter)
                raise
            if not waiter.has_turn:
                return False
        self._gather()
        return True

    def pass_on(self, reached: int) -> None:
        """Set free whoever waits for less than `reached`, and give the turn to the next."""
        with self._mutex:
            self._reached = reached
            if not self._waiting:
                self._owner = None
                self._expected_count = 1
                return
            served = [waiter for waiter in self._waiting if waiter.target <= reached]
            self._waiting = [waiter for waiter in self._waiting if waiter.target > reached]
            self._expected_count = len(served) + 1 + len(self._waiting)
            following = self._waiting.pop(0) if self._waiting else None
            self._owner = None if following is None else following.thread
            if following is not None:
                following.has_turn = True
        # The served ones first: they may be back with their next record before the next sync.
        for waiter in served:
            waiter.lock.release()
        if following is not None:
            following.lock.release()

    def _gather(self) -> None:
        """Let those that were just set free come back, as threads that only append do.

        Else two groups of half of them take turns. Who does not come back is waited for once, and
        not longer than for the others to run.
        """
        for _ in range(GATHER_LOOKS):
            if len(self._waiting) + 1 >= self._expected_count:
                return
            time.sleep(0)

    def _give_up(self, waiter: _Waiter) -> None:
        with self._mutex:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                return
        if waiter.has_turn:
            self.pass_on(self._reached)
