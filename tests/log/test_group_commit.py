from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

import segstore
from segstore.log.groupcommit import SyncTurn

THREAD_COUNT = 16
RECORD_COUNT_EACH = 12


def test_threads_that_wait_for_durable_share_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fdatasync

    def slow(number: int) -> None:
        time.sleep(0.005)  # as a disk does; on a memory file system nobody would have to share
        real(number)

    monkeypatch.setattr(os, "fdatasync", slow)
    with segstore.open(tmp_path / "log", durability="durable", sync_interval="1h") as log:

        def append(thread: int) -> None:
            for number in range(RECORD_COUNT_EACH):
                offset = log.append(b"%d %d" % (thread, number))
                assert log.durable_offset > offset

        threads = [threading.Thread(target=append, args=(n,)) for n in range(THREAD_COUNT)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(log) == THREAD_COUNT * RECORD_COUNT_EACH
        # One sync runs while nearly everybody appends for the next one: about 8 records each.
        assert len(log) / log.stats().syncs > 4


def test_the_turn_goes_to_whoever_waits_for_more_and_others_go_free() -> None:
    turn = SyncTurn()
    assert turn.take(1)
    results: dict[int, bool] = {}

    def wait(target: int) -> None:
        results[target] = turn.take(target)
        if results[target]:
            turn.pass_on(target)

    threads = []
    for target in (2, 3, 9, 4):
        threads.append(threading.Thread(target=wait, args=(target,)))
        threads[-1].start()
        while len(turn._waiting) < len(threads):
            time.sleep(0.001)
    turn.pass_on(3)
    for thread in threads:
        thread.join(10)
    assert results == {2: False, 3: False, 9: True, 4: False}
    assert turn.take(10)  # nobody has it


def test_after_a_sync_that_failed_everybody_gets_a_turn_to_find_out() -> None:
    turn = SyncTurn()
    assert turn.take(1)
    turns: list[int] = []

    def wait(target: int) -> None:
        assert turn.take(target)
        turns.append(target)
        turn.pass_on(0)

    threads = [threading.Thread(target=wait, args=(target,)) for target in range(2, 10)]
    for thread in threads:
        thread.start()
    while len(turn._waiting) < len(threads):
        time.sleep(0.001)
    turn.pass_on(0)
    for thread in threads:
        thread.join(10)
    assert sorted(turns) == list(range(2, 10))


@pytest.mark.parametrize("has_turn", [False, True])
def test_a_thread_that_is_interrupted_while_it_waits_is_not_waited_for(has_turn: bool) -> None:
    turn = SyncTurn()
    other = threading.Thread(target=turn.take, args=(1,))
    other.start()
    other.join()
    real = threading.Lock

    class Interrupted:
        """A lock whose second acquire is interrupted, before or after it was given the turn."""

        def __init__(self) -> None:
            self.lock = real()
            self.count = 0

        def acquire(self) -> None:
            self.count += 1
            if self.count == 2:
                if has_turn:
                    turn.pass_on(1)
                raise KeyboardInterrupt
            self.lock.acquire()

        def release(self) -> None:
            self.lock.release()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "Lock", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            turn.take(2)
    if not has_turn:
        assert turn._waiting == []
        turn.pass_on(1)
    assert turn.take(3)


def test_a_thread_that_was_interrupted_before_it_could_pass_on_may_take_its_turn_again() -> None:
    turn = SyncTurn()
    assert turn.take(1)
    assert turn.take(2)
    turn.pass_on(2)
    other = threading.Thread(target=lambda: turn.take(3) and turn.pass_on(3))
    other.start()
    other.join(10)
    assert not other.is_alive()


def test_the_turn_is_the_next_ones_from_the_moment_it_is_passed_on() -> None:
    turn = SyncTurn()
    assert turn.take(1)
    took = threading.Event()
    let_go = threading.Event()

    def wait() -> None:
        assert turn.take(2)
        took.set()
        let_go.wait(10)
        turn.pass_on(2)

    other = threading.Thread(target=wait)
    other.start()
    while not turn._waiting:
        time.sleep(0.001)
    turn.pass_on(1)
    # Before the other has woken up: else whoever passed it on could take it a second time.
    assert turn._owner == other.ident
    assert took.wait(10)
    let_go.set()
    other.join(10)
    assert turn._owner is None
