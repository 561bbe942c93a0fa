"""The thread that looks after a log, and what a forked child may do."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import segstore
from segstore import LogClosedError
from segstore.format.keyfilter import KeyFilter
from segstore.log import log as log_module
from segstore.log.view import FileView
from segstore.segment import compress

from .records import lines
from .steps import StepDisk, open_on


def until(is_so: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not is_so() and time.monotonic() < end:
        time.sleep(0.01)
    return is_so()


def threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "segstore"]


def test_sync_compression_and_retention_happen_by_themselves(path: str) -> None:
    with segstore.open(
        path, segment_size="8KiB", batch_size=1024, sync_interval=0.02, retention_records=500
    ) as log:
        values = lines(2000)
        for start in range(0, len(values), 20):
            log.append_many(values[start : start + 20])
        assert until(lambda: log.durable_offset == 2000)
        assert until(lambda: all(s.state in ("compressed", "active") for s in log.segments()))
        assert until(lambda: 1300 < log.start_offset <= 1600)
        assert until(lambda: any(s.state == "compressed" for s in log.segments()))
        assert list(log.values()) == values[log.start_offset :]
        assert log.stats().background_error is None


def test_no_sync_waits_for_what_keeps_house_in_another_thread(path: str) -> None:
    """A snapshot to a slow disk, for one."""
    with segstore.open(path, sync_interval=0.02, retention_records=10) as log, log._housekeeping:
        for offset in range(3):
            assert log.append(b"x") == offset
            assert until(lambda: log.durable_offset == len(log))
        log.roll()
        assert until(lambda: [s.state for s in log.segments()] == ["sealed", "active"])


def test_a_log_can_be_closed_by_what_compress_calls(path: str) -> None:
    log = segstore.open(path, sync_interval=0.02, compression=None, retention_records=1000)

    def close(done: int, count: int) -> None:
        for _ in range(2):  # a round that keeps house as well: the first, or at the latest the next
            log.append(b"x")
            assert until(lambda: log.durable_offset == log.end_offset)
        log.close()

    log.append_many(lines(100))
    log.roll()
    compressing = threading.Thread(target=log.compress, args=(close,), daemon=True)
    compressing.start()
    compressing.join(30)
    assert not compressing.is_alive()
    with pytest.raises(LogClosedError):
        log.append(b"x")
    with segstore.open(path, background=False) as log:
        assert list(log.values()) == [*lines(100), b"x", b"x"]


def test_an_idle_log_rolls_by_age(path: str) -> None:
    with segstore.open(path, segment_age=0.2, sync_interval=0.05) as log:
        log.append(b"x")
        assert until(lambda: [s.state for s in log.segments()] == ["compressed", "active"])
        time.sleep(0.5)
        assert log.stats().rolls == 1  # an empty segment never rolls


def test_errors_are_reported_once_and_go_away(path: str, caplog: pytest.LogCaptureFixture) -> None:
    disk = StepDisk(path, create=True)
    with caplog.at_level(logging.ERROR, logger="segstore"):
        log = open_on(disk, background=True, sync_interval=0.02)
        disk.full = True
        log.append(b"x")
        assert until(lambda: log.stats().background_error is not None)
        assert "full" in str(log.stats().background_error)
        time.sleep(0.2)
        assert len([r for r in caplog.records if "maintenance" in r.message]) == 1
        disk.full = False
        assert until(lambda: log.stats().background_error is None)
    assert log.durable_offset == 1
    log.close()


def test_the_thread_dies_with_the_log(path: str) -> None:
    before = len(threads())
    log = segstore.open(path)
    assert len(threads()) == before + 1
    log.close()
    assert len(threads()) == before
    log = segstore.open(path)
    log.append(b"x")
    del log
    gc.collect()
    assert until(lambda: len(threads()) == before)
    with segstore.open(path, background=False) as log:  # its lock went with it
        assert len(threads()) == before
        assert [r.value for r in log] == [b"x"]


def test_an_interpreter_that_exits_without_close_ends_and_loses_nothing(path: str) -> None:
    code = f"import segstore; log = segstore.open({path!r}); log.append(b'x')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, b"")
    with segstore.open(path) as log:
        assert log.recovery.was_clean
        assert [r.value for r in log] == [b"x"]


def in_child(work: Callable[[], object]) -> int:
    """The exit status of a forked child that does `work`, killed after a while."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -99


def test_a_forked_child_can_change_nothing_and_the_parent_goes_on(path: str) -> None:
    log = segstore.open(path, retention_records=1, compression=None)
    append = log.append
    for number in range(3):
        log.append(b"%d" % number)
        log.roll()
    log.sync()

    def work() -> None:
        calls = [
            lambda: log.append(b"no"),
            lambda: append(b"no"),
            lambda: log.append_many([b"no"]),
            log.sync,
            log.roll,
            log.compress,
            log.sweep,
            log.maintain,
            lambda: log.trim(log.end_offset),
            lambda: log.truncate(0),
            lambda: log.remove_consumer("x"),
        ]
        for call in calls:
            with pytest.raises(LogClosedError):
                call()
        assert "belongs to the parent" in repr(log)
        log.close()

    # While another thread of the parent is in the middle of an append and a sync.
    writer = log._writer
    assert writer is not None
    with log._housekeeping, writer._device_lock, writer._append_lock:
        before = sorted(os.listdir(path))
        start = log.start_offset
        held = threading.Thread(target=log.append, args=(b"waits",), daemon=True)
        held.start()
        assert in_child(work) == 0
        assert sorted(os.listdir(path)) == before
        assert log.start_offset == start
    held.join(10)
    assert log.append(b"on") == 4
    with pytest.raises(segstore.LogLockedError):
        segstore.open(path)
    log.close()
    with segstore.open(path, "r") as log:
        assert log[4].value == b"on"


class JustTaken:
    """What a fork leaves of a lock that a thread had got, and not yet the interpreter's lock."""

    def locked(self) -> bool:
        return False

    def __enter__(self) -> None:
        pytest.fail("it would wait for ever")

    def __exit__(self, *_: object) -> None:
        pass


def test_a_forked_child_waits_for_no_lock_that_a_thread_was_just_taking(path: str) -> None:
    log = segstore.open(path, background=False)
    log.append(b"x")
    writer = log._writer
    assert writer is not None
    writer._append_lock = writer._device_lock = JustTaken()  # type: ignore[assignment]
    log._abandon()
    uses: list[Callable[[], object]] = [
        lambda: log.append(b"y"),
        lambda: log.append_many([b"y"]),
        lambda: log.append(b"y", durability="durable"),
        log.sync,
        log.roll,
        log.maintain,
    ]
    for use in uses:
        with pytest.raises(LogClosedError):
            use()


def test_a_forked_child_does_not_read_through_what_the_parent_knows_as_a_writer(path: str) -> None:
    with segstore.open(path, compression=None, background=False) as log:
        log.append(b"before")

        def work() -> None:
            os.read(told, 1)
            for call in (lambda: log[0], lambda: list(log), lambda: log.end_offset, log.verify):
                with pytest.raises(LogClosedError, match="open it here with mode='r'"):
                    call()
            with segstore.open(path, "r") as reader:
                assert list(reader.values()) == [b"before", b"after"]

        told, tell = os.pipe()
        threading.Timer(
            0.2, lambda: (log.append(b"after"), log.sync(), os.write(tell, b"x"))
        ).start()
        assert in_child(work) == 0
        os.close(told)
        os.close(tell)


def test_a_forked_child_reads_whatever_threads_of_the_parent_were_reading(path: str) -> None:
    values = [b"%d" % number * 50 for number in range(400)]
    with segstore.open(path, compression=None, background=False) as log:
        for start in range(0, 400, 100):
            log.append_many(values[start : start + 100])
            log.roll()

    with segstore.open(path, "r") as log:
        assert log[150].value == values[150]

        def work() -> None:
            assert log[150].value == values[150]
            assert log[350].value == values[350]
            assert list(log.values()) == values
            log.snapshot(f"{path}.{os.getpid()}")

        # While other threads of the parent open a segment, keep a head, and read on in an index.
        reader = log._reader
        segment = reader.catalog().segments[1]
        opened = reader._open(segment)
        assert opened is not None
        tail = reader.view.tail
        assert tail is not None
        with (
            log._housekeeping,
            reader._segments._lock,
            reader._heads._lock,
            opened._growth_lock,
            tail._lock,
        ):
            assert in_child(work) == 0
        work()


def test_a_forked_child_looks_at_the_directory_while_a_thread_of_the_parent_does(path: str) -> None:
    segstore.open(path, background=False).close()
    with segstore.open(path, "r") as log:
        view = log._reader.view
        assert isinstance(view, FileView)
        held, done = threading.Event(), threading.Event()

        def look() -> None:
            with view._refreshing:
                held.set()
                assert done.wait(60)

        thread = threading.Thread(target=look)
        thread.start()
        assert held.wait(30)
        try:
            assert in_child(log.segments) == 0
        finally:
            done.set()
            thread.join()


@pytest.mark.parametrize(
    ("owner", "name", "count"), [(compress, "encode_chunk", 100), (KeyFilter, "add", 10)]
)
def test_the_sync_of_the_interval_waits_for_no_end_of_a_compression_or_a_seal(
    path: str, owner: Any, name: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with segstore.open(path, background=False, segment_size="16MiB", batch_size=16384) as log:
        keys = [b"%d" % number for number in range(8000)]
        log.append_many([os.urandom(300) for _ in keys], keys=keys)
        log._appending().roll()
        real, were_durable = getattr(owner, name), []

        def work_while_others_append(*arguments: Any) -> Any:
            were_durable.append(log.durable_offset == log.end_offset)
            log._appending().buffer.append(b"meanwhile")
            return real(*arguments)

        monkeypatch.setattr(owner, name, work_while_others_append)
        seconds = itertools.count(step=10)
        clock = SimpleNamespace(monotonic=lambda: next(seconds), time_ns=time.time_ns)
        monkeypatch.setattr(log_module, "time", clock)
        log.maintain()
        assert log.segments()[0].state == "compressed"
        assert were_durable.count(True) > count


def test_retention_keeps_up_while_compression_has_more_to_do_all_the_time(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 200_000
    with segstore.open(
        path, background=False, segment_size="16KiB", batch_size=4096, retention_size=limit
    ) as log:
        compress, bites, sizes = log._compress, 0, []

        def compress_while_others_append(*args: object, **options: object) -> int:
            nonlocal bites
            bites += 1
            if bites <= 40:
                log.append_many([os.urandom(1000) for _ in range(32)])
            sizes.append(sum(segment.size_bytes for segment in log.segments()))
            return compress(*args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(log, "_compress", compress_while_others_append)
        log.append_many([b"x" * 1000] * 40)
        log.maintain()
        assert bites > 40
        assert max(sizes) < limit + 100_000
