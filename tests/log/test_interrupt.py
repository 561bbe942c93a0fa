"""Ctrl-C, or whatever else a signal handler raises, may come at any moment: no call hangs after it,
and nothing acknowledged is lost.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import segstore

OPTIONS: dict[str, Any] = {"background": False, "segment_size": 4096, "batch_size": 1024}


def interrupted(
    call: Callable[[], object],
    step: int,
    error: type[BaseException] = KeyboardInterrupt,
    kept: list[BaseException] | None = None,
) -> bool:
    """Whether the call has that many steps; Ctrl-C, or another error, comes at that one.

    `kept` gets the error, with everything that the call had in hand.

    Python takes a signal where a function of Python begins and after one of C has returned, and
    there a profiler is called too, which so can raise what the signal would, at each such place in
    turn.
    """
    left = step

    def interrupt(frame: FrameType, event: str, what: object) -> None:
        nonlocal left
        # A profiler is called there from Python 3.14 on, a handler in 3.14 only: see
        # `segstore.mutex`. The locks of `threading` have no guard, and one that is left held keeps
        # every thread from starting.
        is_entering = event == "c_return" and getattr(what, "__name__", "") == "__enter__"
        is_in_threading = frame.f_code.co_filename == threading.__file__
        if is_entering and (sys.version_info[:2] != (3, 14) or is_in_threading):
            return
        if event in ("call", "c_return"):
            left -= 1
            if left < 0:
                sys.setprofile(None)
                raise error

    sys.setprofile(interrupt)
    try:
        call()
    except (error, segstore.StorageError) as met:  # of an OSError it makes one of its own
        if kept is not None:
            kept.append(met)
    finally:
        sys.setprofile(None)
    return left < 0


CALLS: dict[str, Callable[[segstore.Log], object]] = {
    "append": lambda log: log.append(b"try" + bytes(5000), key=b"key"),
    "append of another buffer to the tail": lambda log: log.append(bytearray(b"try")),
    "append to the tail": lambda log: log.append(b"try"),
    "append to the tail with a key": lambda log: log.append(b"try", key=b"key", timestamp=7),
    "append durable": lambda log: log.append(b"try", durability="durable"),
    "append_many": lambda log: log.append_many((b"try",) * 3, timestamps=range(3)),
    "append_many to the tail": lambda log: log.append_many([b"try"] * 3),
    "append_many to the tail with keys": lambda log: log.append_many(
        [b"try"] * 3, keys=[b"key", None, b""], timestamps=[3, 2, 1]
    ),
    "append_many that rolls": lambda log: log.append_many([b"try" + bytes(500)] * 10),
    "sync": lambda log: log.sync(),
    "roll": lambda log: log.roll(),
    "trim": lambda log: log.trim(5),
    "truncate": lambda log: log.truncate(10),
}


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a destructor
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RecursionError, TimeoutError])
def test_an_interrupt_at_any_step(tmp_path: Path, name: str, error: type[BaseException]) -> None:
    step = 0
    while check_interrupt(tmp_path / f"{step}", name, step, error):
        # There are a thousand in the long calls: others every time, and a failure says which.
        step += random.randint(1, 1 if step < 60 else 8)
    # The kernel takes an append to the tail in one step.
    assert step > (0 if "to the tail" in name else 20)


def check_interrupt(path: Path, name: str, step: int, error: type[BaseException]) -> bool:
    """Interrupt a call at a step, and look at all that it may have done; False if it was over."""
    log = segstore.open(path, **OPTIONS)
    known = [b"%d" % place for place in range(12)]
    log.append_many(known[:10])
    log.roll()
    for value in known[10:]:
        log.append(value)
    was_interrupted = interrupted(lambda: CALLS[name](log), step, error)
    offset, said = None, ""
    try:
        offset = log.append(b"after", key=b"k")
    except segstore.StorageError as error:
        said = str(error)
    if offset is not None:
        assert log[offset].value == b"after"
        assert [record.value for record in log.read(offset)] == [b"after"]
        log.sync()
    if "a truncation" in said or "a sync failed" in said:
        with pytest.raises(segstore.StorageError, match="open it again"):
            log.close()
    else:
        log.close()
    with segstore.open(path, **OPTIONS) as log:
        found = {record.offset: record.value for record in log.read()}
        assert len(found) == len(list(log.read()))
        assert log.start_offset in (0, 5)
        kept = range(log.start_offset, 12 if name != "truncate" else 11)
        assert [found[place] for place in kept] == [known[place] for place in kept]
        assert log.recovery is not None
        assert log.recovery.lost == ()
        new = {found[place] for place in found if place >= kept.stop}
        assert {value[:3] for value in new} <= {b"try", b"aft", known[11]}
        if offset is None:
            assert any(why in said for why in ("was interrupted", "a truncation", "a sync failed"))
            assert f"{log.path}: " in said
            assert was_interrupted
        else:
            assert found[offset] == b"after"
            assert offset + 1 == log.end_offset
        assert log.verify().is_intact
    return was_interrupted


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["append durable", "sweep", "truncate"])
def test_nobody_waits_for_who_was_interrupted_and_keeps_the_error(
    tmp_path: Path, name: str
) -> None:
    """As ``with segstore.open(...)`` keeps it while it closes the log."""
    call = CALLS.get(name, lambda log: log.sweep())

    def open_log(place: object) -> segstore.Log:
        log = segstore.open(tmp_path / f"{place}", **OPTIONS)
        log.append_many([b"x"] * 10)
        log.roll()
        log.append(b"x")
        return log

    def use(log: segstore.Log) -> None:
        for act in (lambda: log.append(b"y", durability="durable"), log.sweep, log.close):
            with suppress(segstore.SegstoreError):
                act()

    with open_log("whole") as log:
        count = count_steps(lambda: call(log))
    for step in sorted({*range(min(220, count)), *range(max(0, count - 100), count)}):
        log, kept = open_log(step), list[BaseException]()
        interrupted(lambda log=log: call(log), step, kept=kept)
        other = threading.Thread(target=use, args=(log,), daemon=True)
        other.start()
        other.join(20)
        assert not other.is_alive(), step
        log.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("is_in_the_tail", [False, True])
def test_a_sync_that_failed_is_not_forgotten_where_an_interrupt_comes_upon_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_in_the_tail: bool
) -> None:
    """The next one would say yes, and the device may never get what this one was to bring there."""
    has_failed = False

    def fail(_: int) -> None:
        nonlocal has_failed
        has_failed = True
        raise OSError(errno.EIO, "gone")

    step, was_interrupted, failure_count = 0, True, 0
    while was_interrupted:
        log = segstore.open(tmp_path / f"{step}", **OPTIONS)
        log.append_many([b"x"] * 10)
        if is_in_the_tail:
            log.sync()
        has_failed = False
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            patch.setattr(os, "fdatasync", fail)
            was_interrupted = interrupted(lambda log=log: CALLS["append durable"](log), step)
        if has_failed:
            failure_count += 1
            with pytest.raises(segstore.StorageError, match=r"sync failed|interrupted"):
                log.append(b"y", durability="durable")
        with suppress(segstore.StorageError):
            log.close()
        step += 1
    assert failure_count > 5


def test_a_signal_while_the_log_waits(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with segstore.open(tmp_path / "log") as log:
        log.append(b"before")
        signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                for _ in log.follow():
                    pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        assert log.append(b"after") == 1
        assert list(log.values()) == [b"before", b"after"]


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a destructor
def test_a_close_that_was_interrupted_can_be_called_again(tmp_path: Path) -> None:
    step, was_interrupted = 0, True
    while was_interrupted:
        path = tmp_path / f"{step}"
        log = segstore.open(path)
        log.append(b"x")
        kept_from_before = log.append, log.append_many
        was_interrupted = interrupted(log.close, step)
        with suppress(segstore.StorageError):  # which says that it was interrupted
            log.close()
        with segstore.open(path, background=False) as again:
            for append, value in zip(kept_from_before, (b"y", [b"y"]), strict=True):
                with pytest.raises(segstore.SegstoreError):
                    append(value)  # type: ignore[operator]
            assert list(again.values()) == [b"x"]
        step += 1 if step < 40 else 3
    assert step > 40


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_opening_that_is_interrupted_lets_go_of_the_log(
    path: str, background: bool, error: type[BaseException]
) -> None:
    options = {**OPTIONS, "background": background}
    segstore.open(path, **options).close()
    opened: list[segstore.Log] = []
    kept: list[BaseException] = []

    def open_log() -> None:
        opened[:] = [segstore.open(path, **options)]

    steps = count_steps(open_log)
    opened.pop().close()
    for step in sorted({*random.Random(7).sample(range(steps), 60), *range(steps - 200, steps)}):
        interrupted(open_log, step, error, kept)
        if opened:  # by a step less than the first time
            opened.pop().close()
        segstore.open(path, **OPTIONS).close()
        for thread in threading.enumerate():  # also those whose start was interrupted
            if thread.name == "segstore" and thread.is_alive():
                thread.join(10)
                assert not thread.is_alive()
        kept.clear()


def count_steps(call: Callable[[], object]) -> int:
    """In how many places `interrupted` can interrupt."""
    count = 0

    def note(_: object, event: str, __: object) -> None:
        nonlocal count
        count += event in ("call", "c_return")

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count
