from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from segstore.mutex import GuardedLock, new_mutex, new_recursive_mutex


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
    count = 0
    stop = time.monotonic() + 1
    with signals_raise():
        while time.monotonic() < stop:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002)
                while True:
                    with lock:
                        pass
            except Signalled:
                count += 1
            assert is_free(lock)
    assert count > 100


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
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002)
                while True:
                    with lock:
                        pass
            except Signalled:
                if lock.locked():
                    return
    pytest.fail("of this Python a guarded lock is not needed any more")


def test_an_error_at_any_step_of_guarding_leaves_it_free() -> None:
    for step in range(20):
        lock = GuardedLock(threading.Lock())
        left = step

        def interrupt(_: object, event: str, __: object) -> None:
            nonlocal left
            if event in ("call", "c_return"):
                left -= 1
                if left < 0:
                    sys.setprofile(None)
                    raise Signalled

        sys.setprofile(interrupt)
        try:
            with lock:
                pass
        except Signalled:
            pass
        finally:
            sys.setprofile(None)
        assert is_free(lock)


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
