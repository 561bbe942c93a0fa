"""Threads of which one runs at a time, and a seed says which: the same seed, the same steps.

A `Schedule` puts locks, threads and clocks of its own in the place of those of the engine. Whoever
is about to take a lock or to use the disk asks it who goes on; with `by_line` it also is asked now
and then between two lines of the engine. A wait with a timeout may end at any time.
"""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import segstore.log
import segstore.mutex
import segstore.segment
from segstore.log.clock import EngineClock
from segstore.log.manager import SegmentManager
from segstore.testing import memory
from tests.torture.campaign import BrokenError

STEP_NS = 1_000_000
_STARTED_NS = 1_700_000_000 * 10**9
# Whose wait could only time out runs so much less often.
_TIMEOUT_SHARE = 0.02
_ENGINE = tuple(
    str(Path(package.__path__[0]).resolve()) for package in (segstore.log, segstore.segment)
)


class StoppedError(BaseException):
    """The process is gone, and this thread with it."""


class ScheduledThread:
    """A thread that runs when it is its turn; in the place of `threading.Thread`."""

    def __init__(
        self, schedule: Schedule, target: Callable[[], object], name: str, daemon: bool = True
    ) -> None:
        self.name = name
        self.baton = threading.Lock()
        self.baton.acquire()
        self.weight = 1.0
        self.is_ready: Callable[[], bool] | None = None
        self.may_time_out = False
        self.is_over = False
        self._schedule = schedule
        self._target = target
        self._thread = threading.Thread(target=self._run, name=name, daemon=daemon)

    def start(self) -> None:
        self._schedule.add(self)
        self._thread.start()
        self._schedule.switch()

    def is_alive(self) -> bool:
        return not self.is_over

    def join(self) -> None:
        self._schedule.switch(lambda: self.is_over)

    def end(self) -> None:
        """Wait for the thread behind it, once everything is over."""
        self._thread.join()

    def _run(self) -> None:
        self.baton.acquire()
        self._schedule.carry(self, self._target)


class ScheduledLock:
    """In the place of `threading.Lock`."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._is_held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self._schedule.switch()
        if self._is_held and blocking:
            self._schedule.switch(lambda: not self._is_held, may_time_out=timeout >= 0)
        if self._is_held:
            return False
        self._is_held = True
        return True

    def release(self) -> None:
        if not self._is_held:
            raise RuntimeError("release unlocked lock")
        self._is_held = False
        if not self._schedule.is_stopped:
            self._schedule.switch()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class ScheduledRLock:
    """In the place of `threading.RLock`."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._lock = ScheduledLock(schedule)
        self._owner: ScheduledThread | None = None
        self._depth = 0

    def acquire(self, blocking: bool = True) -> bool:
        if self._depth == 0 or self._owner is not self._schedule.current:
            if not self._lock.acquire(blocking):
                return False
            self._owner = self._schedule.current
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
            self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Schedule:
    """Which of its threads runs.

    Attributes:
        current: the one that runs; None while nothing does.
        is_stopped: every thread ends at its next step.
        steps: how often it was asked.
    """

    def __init__(self, random: Random, *, by_line: bool = False) -> None:
        self.current: ScheduledThread | None = None
        self.is_stopped = False
        self.steps = 0
        self._random = random
        self._by_line = by_line
        self.random_bytes = Random(random.getrandbits(32)).randbytes
        # Long stretches of one thread and changes all the time find different things.
        self._stays = random.choice((0.0, 0.3, 0.8, 0.95))
        self._spread = random.choice((0.5, 1.0, 2.0))
        self._lines_max = random.choice((8, 60))
        self._lines_left = 1
        self._threads: list[ScheduledThread] = []
        self._ended: list[ScheduledThread] = []
        self._is_paused = False
        self._error: BaseException | None = None
        self._all_over = threading.Lock()
        self._all_over.acquire()

    def run(self, main: Callable[[], object]) -> None:
        """Run `main` in a thread, and whatever threads it starts, until the last has ended.

        Raises:
            BrokenError: all of them wait for one another.
            BaseException: what one of them raised first; the others were stopped then.
        """
        with _in_place(self), _without_collector():
            first = ScheduledThread(self, main, "main")
            first.start()
            self._go_on_with(first)
            self._all_over.acquire()
            for thread in self._ended:
                thread.end()
        if self._error is not None:
            raise self._error

    def thread(self, target: Callable[[], object], name: str) -> ScheduledThread:
        """Another thread, not started."""
        return ScheduledThread(self, target, name)

    def stop(self) -> None:
        """Kill the process: no thread does another step.

        Raises:
            StoppedError: always, in the thread that calls.
        """
        self.is_stopped = True
        raise StoppedError

    def fail(self, error: BaseException) -> None:
        """As `stop`, where the engine, which called, might take an error for one of its own.

        Raises:
            StoppedError: always; `run` raises `error`, unless another came first.
        """
        self._error = self._error or error
        self.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nobody else runs meanwhile."""
        trace = sys.gettrace()
        sys.settrace(None)
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False
            sys.settrace(trace)

    def switch(
        self, is_ready: Callable[[], bool] | None = None, *, may_time_out: bool = False
    ) -> None:
        """Let the seed choose who goes on; return once it is this thread, and `is_ready` holds.

        Raises:
            StoppedError: the process is gone.
        """
        current = self.current
        if current is None or self._is_paused:
            return
        if self.is_stopped:
            raise StoppedError
        self.steps += 1
        current.is_ready, current.may_time_out = is_ready, may_time_out
        following = self._choose()
        if following is not current:
            self._go_on_with(following)
            current.baton.acquire()
        current.is_ready, current.may_time_out = None, False
        if self.is_stopped:
            raise StoppedError

    def sleep(self, steps: int) -> None:
        """Let the others do so many steps, or fewer."""
        until = self.steps + steps
        self.switch(lambda: self.steps >= until, may_time_out=True)

    def add(self, thread: ScheduledThread) -> None:
        """A thread that may run from now on."""
        thread.weight = self._weight()
        self._threads.append(thread)

    def carry(self, thread: ScheduledThread, target: Callable[[], object]) -> None:
        """The whole life of a thread, from its first turn on."""
        try:
            if not self.is_stopped:
                sys.settrace(self._trace if self._by_line else None)
                target()
        except StoppedError:
            pass
        except BaseException as error:
            self._error = self._error or error
            self.is_stopped = True
        finally:
            sys.settrace(None)
            thread.is_over = True
            self._threads.remove(thread)
            self._ended.append(thread)
            if self._threads:
                self._go_on_with(self._choose())
            else:
                self.current = None
                self._all_over.release()

    def time_ns(self) -> int:
        """A clock that goes by the steps."""
        return _STARTED_NS + self.steps * STEP_NS

    def _choose(self) -> ScheduledThread:
        ready, weights = [], []
        for thread in self._threads:
            is_ready = thread.is_ready is None or self.is_stopped or thread.is_ready()
            if is_ready or thread.may_time_out:
                ready.append(thread)
                weights.append(thread.weight * (1 if is_ready else _TIMEOUT_SHARE))
        if not ready:
            waiting = ", ".join(thread.name for thread in self._threads)
            with suppress(StoppedError):
                self.fail(BrokenError(f"I7: {waiting} wait for one another"))
            return self._threads[0]
        random = self._random
        if self.current in ready and random.random() < self._stays:
            return self.current
        if random.random() < 0.02:
            for thread in self._threads:
                thread.weight = self._weight()
        return random.choices(ready, weights)[0]

    def _weight(self) -> float:
        return 10.0 ** self._random.uniform(-self._spread, self._spread)

    def _go_on_with(self, thread: ScheduledThread) -> None:
        self.current = thread
        thread.baton.release()

    def _trace(self, frame: Any, event: str, arg: object) -> Any:
        return self._trace_line if frame.f_code.co_filename.startswith(_ENGINE) else None

    def _trace_line(self, frame: Any, event: str, arg: object) -> Any:
        if event == "line":
            self._lines_left -= 1
            if self._lines_left <= 0:
                self._lines_left = self._random.randrange(1, self._lines_max)
                self.switch()
        return self._trace_line


@contextmanager
def _in_place(schedule: Schedule) -> Iterator[None]:
    """The schedule's locks, threads and clocks instead of those of Python, in the engine only."""
    clock = schedule.time_ns
    modules = {
        threading: SimpleNamespace(
            Lock=lambda: ScheduledLock(schedule),
            RLock=lambda: ScheduledRLock(schedule),
            Thread=lambda target, name, daemon: ScheduledThread(schedule, target, name, daemon),
            current_thread=lambda: schedule.current,
            get_ident=threading.get_ident,
        ),
        time: SimpleNamespace(
            time_ns=clock,
            monotonic_ns=clock,
            monotonic=lambda: clock() / 10**9,
            sleep=lambda _: schedule.switch(),
            strftime=time.strftime,
            gmtime=lambda: time.gmtime(clock() // 10**9),
        ),
    }
    defaults: dict[Any, dict[str, Any]] = {
        EngineClock.__init__: {"wall_ns": clock, "monotonic_ns": clock},
        SegmentManager.__init__: {"wall_ns": clock, "now": clock},
    }
    with ExitStack() as stack:
        for module in _engine_modules():
            for real, ours in modules.items():
                if vars(module).get(real.__name__) is real:
                    stack.enter_context(patch.object(module, real.__name__, ours))
        for function, values in defaults.items():
            stack.enter_context(patch.dict(function.__kwdefaults__, values))
        stack.enter_context(patch.object(os, "urandom", schedule.random_bytes))
        yield


def _engine_modules() -> list[Any]:
    """All of them: one that is first imported by a thread could make another wait for it.

    And the disk, on which whoever waits for records sleeps.
    """
    return [memory, segstore.mutex] + [
        importlib.import_module(found.name)
        for package in (segstore.log, segstore.segment)
        for found in pkgutil.iter_modules(package.__path__, package.__name__ + ".")
    ]


@contextmanager
def _without_collector() -> Iterator[None]:
    """What it calls would come between any two steps."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
