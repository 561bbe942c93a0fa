from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import segstore
from segstore.log import groupcommit
from segstore.log.groupcommit import SyncTurn
from tests.log.test_interrupt import interrupted

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


class Others:
    """Threads that sync through a turn, as a log does."""

    def __init__(self, turn: SyncTurn) -> None:
        self.turn = turn
        self.threads: list[threading.Thread] = []

    def wait_for(self, *targets: int) -> None:
        """One more that waits for each target, in this order."""
        for target in targets:
            count = len(self.turn._waiting)
            self.start(lambda target=target: self.sync(target))
            while len(self.turn._waiting) == count:
                time.sleep(0.0001)

    def sync(self, target: int) -> None:
        try:
            self.turn.take(target)
        finally:
            self.turn.pass_on(target)

    def start(self, work: Callable[[], None]) -> None:
        self.threads.append(threading.Thread(target=work, daemon=True))
        self.threads[-1].start()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in self.threads)
        assert self.turn._waiting == []
        assert self.turn._owner is None


def test_an_interrupt_while_the_turn_is_passed_on_leaves_nobody_behind() -> None:
    step = 0
    was_interrupted = True
    while was_interrupted:
        turn = SyncTurn()
        others = Others(turn)
        assert turn.take(1)
        others.wait_for(2, 9, 3, 8)
        was_interrupted = interrupted(lambda turn=turn: turn.pass_on(3), step)
        turn.pass_on(3)  # as closing does
        others.join()
        step += 1
    assert step > 5


@pytest.mark.parametrize("reached", [0, 3, 5])
def test_an_interrupt_while_a_thread_waits_leaves_nobody_behind(reached: int) -> None:
    step = 0
    was_interrupted = True
    while was_interrupted:
        turn = SyncTurn()
        others = Others(turn)
        is_over = threading.Event()

        def own(turn: SyncTurn = turn, is_over: threading.Event = is_over) -> None:
            assert turn.take(1)
            while len(turn._waiting) < 3 and not is_over.is_set():
                time.sleep(0.0001)
            turn.pass_on(reached)

        others.start(own)
        while turn._owner is None:
            time.sleep(0.0001)
        others.wait_for(2, 4)
        was_interrupted = interrupted(lambda others=others: others.sync(5), step)
        is_over.set()
        turn.pass_on(5)
        others.join()
        step += 1
    assert step > 5


@pytest.mark.parametrize("count", [2, 3])
def test_an_interrupt_while_a_group_gathers_leaves_nobody_behind(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(groupcommit, "GATHER_S", 0.005)
    step = 0
    was_interrupted = True
    while was_interrupted:
        turn = SyncTurn()
        turn._expected_count = count
        others = Others(turn)
        is_over = threading.Event()

        def come(others: Others = others, is_over: threading.Event = is_over) -> None:
            while not others.turn._waiting and not is_over.is_set():
                time.sleep(0.0001)
            others.sync(3)

        others.start(come)
        was_interrupted = interrupted(lambda others=others: others.sync(5), step)
        is_over.set()
        turn.pass_on(5)
        others.join()
        step += 1
    assert step > 10


def test_an_interrupt_of_the_last_of_a_group_leaves_nobody_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groupcommit, "GATHER_S", 0.05)  # so that the first one waits for the last
    step = 0
    was_interrupted = True
    while was_interrupted:
        turn = SyncTurn()
        turn._expected_count = 2
        others = Others(turn)
        others.wait_for(2)
        was_interrupted = interrupted(lambda others=others: others.sync(5), step)
        turn.pass_on(5)
        others.join()
        step += 1
    assert step > 10


def test_closing_frees_those_that_wait_for_a_thread_that_was_interrupted(tmp_path: Path) -> None:
    log = segstore.open(tmp_path / "log", background=False)
    turn = log._writer._sync_turn  # type: ignore[union-attr]
    assert turn.take(1)
    outcomes: list[object] = []

    def append() -> None:
        try:
            outcomes.append(log.append(b"x", durability="durable"))
        except segstore.StorageError as error:
            outcomes.append(error)

    others = Others(turn)
    others.start(append)
    while not turn._waiting:
        time.sleep(0.001)
    log.close()
    others.join()
    assert outcomes == [0]  # closing has synced it


def test_a_sync_from_before_a_truncation_acknowledges_nothing_behind_it(tmp_path: Path) -> None:
    with segstore.open(tmp_path / "log", background=False) as log:
        turn = log._writer._sync_turn  # type: ignore[union-attr]
        log.append_many([b"old"] * 10)
        has_synced, may_go_on = threading.Event(), threading.Event()

        def pass_on(reached: int) -> None:
            if threading.current_thread() is others.threads[0]:
                has_synced.set()
                may_go_on.wait(10)
            SyncTurn.pass_on(turn, reached)

        turn.pass_on = pass_on  # type: ignore[method-assign]
        durable: list[bool] = []
        others = Others(turn)
        others.start(log.sync)
        assert has_synced.wait(10)
        log.truncate(4)

        def append() -> None:
            offset = log.append(b"new", durability="durable")
            durable.append(log.durable_offset > offset)

        others.start(append)
        while not turn._waiting:
            time.sleep(0.001)
        may_go_on.set()
        others.join()
        assert durable == [True]


def test_who_does_not_come_back_is_waited_for_once() -> None:
    turn = SyncTurn()
    others = Others(turn)
    assert turn.take(1)
    others.wait_for(2, 3)
    turn.pass_on(3)
    others.join()
    assert turn._expected_count == 3
    assert turn.take(4)
    assert turn._waiting == []
    turn.pass_on(4)
    assert turn._expected_count == 1


def test_the_last_of_a_group_gives_the_turn_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groupcommit, "GATHER_S", 60)
    turn = SyncTurn()
    turn._expected_count = 3
    others = Others(turn)
    others.wait_for(1, 2)
    assert turn._owner is None
    assert turn.take(3)  # after two syncs that did not reach as far
    turn.pass_on(3)
    others.join()


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
