from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from segstore.mutex import GuardedLock, new_mutex, new_recursive_mutex, take_at_once
from tests.log.test_interrupt import interrupted


class Signalled(BaseException):
    pass


@contextmanager
def signals_raise() -> Iterator[None]:
    def handle(*_: object) -> None:
        raise Signalled

    before = signal.signal(signal.SIGALRM, handle)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


KINDS: dict[str, Callable[[], Any]] = {
    "mutex": new_mutex,
    "recursive": new_recursive_mutex,
    "guarded": lambda: GuardedLock(threading.Lock()),
    "guarded, recursive": lambda: GuardedLock(threading.RLock()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_signal_leaves_it_held(kind: str) -> None:
    """Real ones, since which instructions they come behind is what this is about."""
    lock = KINDS[kind]()
    with signals_raise():
        for _ in range(500):
            take_until_a_signal(lock)
            assert is_free(lock)


def take_until_a_signal(lock: Any) -> None:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002)
        while True:
            with lock:
                pass
    except Signalled:
        pass


def is_free(lock: Any) -> bool:
    """Whether another thread can take it."""
    taken: list[bool] = []

    def take() -> None:
        with lock:
            taken.append(True)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(10)
    return bool(taken)


@pytest.mark.skipif(sys.version_info[:2] != (3, 14), reason="elsewhere it never is")
def test_a_plain_lock_is_left_held_which_is_why() -> None:
    lock = threading.Lock()
    with signals_raise():
        for _ in range(1000):
            take_until_a_signal(lock)
            if lock.locked():
                return
    pytest.fail("of this Python a guarded lock is not needed any more")


def test_an_error_at_any_step_of_guarding_leaves_it_free() -> None:
    def use(lock: GuardedLock) -> None:
        with lock:
            pass

    step = 0
    lock = GuardedLock(threading.Lock())
    while interrupted(lambda: use(lock), step):
        assert is_free(lock)
        step += 1
    assert step > 2


def test_guarded_locks_exclude() -> None:
    lock = GuardedLock(threading.Lock())
    inside = 0

    def work() -> None:
        nonlocal inside
        for _ in range(300):
            with lock:
                inside += 1
                assert inside == 1
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(KeyError), lock:
        raise KeyError
    assert inside == 0
    assert is_free(lock)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_is_taken_at_once_or_not_at_all(kind: str) -> None:
    lock = KINDS[kind]()
    taken: list[bool] = []

    def take() -> None:
        taken.append(take_at_once(lock))
        if taken[-1]:
            lock.__exit__(None, None, None)

    def in_a_thread() -> bool:
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
        return taken[-1]

    assert take_at_once(lock)
    assert not in_a_thread()
    lock.__exit__(None, None, None)
    assert in_a_thread()
    assert is_free(lock)
