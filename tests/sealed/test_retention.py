"""What goes, when and why; held against a plain list of segments."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import segstore
from segstore import Log, OffsetOutOfRangeError, StorageError
from segstore.log import clock as clock_module
from segstore.log import starting
from segstore.log.consumer import Consumer
from segstore.log.startoffset import HeldStart, StartOffset
from segstore.segment.catalog import list_segments
from segstore.segment.writer import SegmentWriter

from .steps import StepDisk, dying_at, open_on

S = 1_000_000_000


class Times:
    """The two clocks that the engine's is made of, set by hand."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000 * S
        self.monotonic = 5 * S

    def pass_(self, seconds: float) -> None:
        self.wall += int(seconds * S)
        self.monotonic += int(seconds * S)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    made = Times()
    use(made, monkeypatch)
    return made


def use(made: Times, monkeypatch: pytest.MonkeyPatch) -> None:
    def clock(last_append_time: int) -> clock_module.EngineClock:
        return clock_module.EngineClock(
            last_append_time,
            wall_ns=lambda: made.wall,
            monotonic_ns=lambda: made.monotonic,
        )

    monkeypatch.setattr(starting, "EngineClock", clock)


def open_log(path: str, **options: Any) -> Log:
    options.setdefault("segment_size", "4KiB")
    options.setdefault("batch_size", 512)
    return segstore.open(path, background=False, **options)


def segment_of(log: Log, count: int, size: int = 10, timestamp: int | None = None) -> None:
    """One sealed segment of so many records."""
    times = None if timestamp is None else [timestamp] * count
    log.append_many([bytes(size)] * count, timestamps=times)
    log.roll()


def test_a_record_appended_after_an_idle_time_is_not_old(path: str, times: Times) -> None:
    with open_log(path, retention_age=100) as log:
        log.append(b"old")
        log.sync()
        times.pass_(1000)
        log.append(b"fresh")
        log.append(b"with a key", key=b"k")
        log.roll()
        assert log.sweep().segments == ()
        times.pass_(101)
        assert [s.reasons for s in log.sweep().segments] == [("age",)]


def test_what_is_sealed_beside_a_pass_is_counted_with_its_size(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_log(path, retention_records=1) as log:
        writer = log._writer
        assert writer is not None
        log.append_many([bytes(100)] * 10)
        writer.roll()
        log.append(b"x")
        size_bytes = log.segments()[0].size_bytes
        writers = writer.manager.writers

        def sealed_before() -> list[SegmentWriter]:
            monkeypatch.setattr(writer.manager, "writers", writers)
            writer.seal_rolled()  # as the thread in the background does
            return writers()

        monkeypatch.setattr(writer.manager, "writers", sealed_before)
        assert log.sweep().size_bytes == size_bytes


@pytest.mark.parametrize("has_index", [True, False])
def test_what_is_merged_by_compression_is_as_old_as_the_newest_of_it(
    path: str, times: Times, has_index: bool
) -> None:
    with open_log(path) as log:
        log.append(b"old")
        log.sync()
        times.pass_(60)
        log.append(b"fresh")
        log.roll()
        assert log.compress() == 1
        assert len(list(log.batches())) == 1
    if not has_index:
        (index,) = Path(path).glob("*.lz4.index")
        index.unlink()
    with open_log(path, retention_age=100) as log:
        times.pass_(60)
        assert log.sweep().segments == ()
        times.pass_(41)
        assert [s.reasons for s in log.sweep().segments] == [("age",)]


def test_an_idle_active_segment_is_rolled_and_goes_when_it_expires(path: str, times: Times) -> None:
    with open_log(path, retention_age=100) as log:
        log.append(b"old")
        log.sync()
        times.pass_(101)
        planned = log.sweep(dry_run=True)
        done = log.sweep()
        assert planned._replace(dry_run=False) == done
        assert log.start_offset == 1
        assert log.append(b"next") == 1


def test_a_staged_record_keeps_the_active_segment_from_expiring(path: str, times: Times) -> None:
    with open_log(path, retention_age=100) as log:
        log.append(b"old")
        log.sync()
        times.pass_(101)
        log.append(b"fresh")
        planned = log.sweep(dry_run=True)
        assert planned._replace(dry_run=False) == log.sweep()
        assert log.start_offset == 0
        assert [r.value for r in log] == [b"old", b"fresh"]


@pytest.mark.parametrize("year", [1970, 2100])
def test_caller_timestamps_do_not_change_what_goes(path: str, times: Times, year: int) -> None:
    with open_log(path, retention_age=100) as log:
        segment_of(log, 5, timestamp=(year - 1970) * 365 * 86400 * S)
        assert log.sweep().segments == ()
        times.pass_(101)
        assert len(log.sweep().segments) == 1


def test_a_step_of_the_wall_clock_while_the_log_is_open_deletes_nothing(
    path: str, times: Times
) -> None:
    with open_log(path, retention_age=100) as log:
        segment_of(log, 5)
        times.wall += 10 * 365 * 86400 * S
        assert log.sweep().segments == ()
        times.wall -= 20 * 365 * 86400 * S
        segment_of(log, 5)
        assert log.sweep().segments == ()
        times.pass_(101)
        assert len(log.sweep().segments) == 2


def test_a_copied_directory_keeps_its_age(path: str, times: Times) -> None:
    with open_log(path, retention_age=100) as log:
        segment_of(log, 5)
        log.compress()
    times.pass_(101)
    copy = path + "-copy"
    shutil.copytree(path, copy, copy_function=shutil.copyfile)
    with open_log(copy, retention_age=100) as log:
        assert len(log.sweep().segments) == 1


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("harm", ["missing", "garbage"])
def test_a_damaged_index_does_not_keep_segments_for_ever(
    path: str, times: Times, compressed: bool, harm: str
) -> None:
    with open_log(path, retention_age=100, retention_records=1000) as log:
        for _ in range(4):
            segment_of(log, 5)
        if compressed:
            log.compress()
    for name in os.listdir(path):
        if name.endswith(".index") and name.startswith("00000000000000000005"):
            full = os.path.join(path, name)
            if harm == "missing":
                os.unlink(full)
            else:
                with open(full, "r+b") as file:
                    file.write(os.urandom(os.path.getsize(full)))
    with open_log(path, retention_age=100, retention_records=1000) as log:
        assert log.sweep().segments == ()
        assert [r.offset for r in log] == list(range(20))
        times.pass_(101)
        assert [s.base_offset for s in log.sweep().segments] == [0, 5, 10, 15]
        assert log.start_offset == 20


def test_a_segment_without_its_index_is_as_old_as_its_own_last_append(
    path: str, times: Times
) -> None:
    with open_log(path, retention_age=100) as log:
        segment_of(log, 5)
        log.compress()
        times.pass_(60)
        segment_of(log, 5)
    os.unlink(os.path.join(path, f"{0:020d}.lz4.index"))
    times.pass_(60)
    with open_log(path, retention_age=100) as log:
        assert [s.base_offset for s in log.sweep().segments] == [0]


def test_a_segment_that_lost_everything_goes_with_the_one_behind_it(
    path: str, times: Times
) -> None:
    with open_log(path, retention_age=100) as log:
        for _ in range(2):
            segment_of(log, 5)
        log.compress()
    os.unlink(os.path.join(path, f"{0:020d}.lz4.index"))
    os.truncate(os.path.join(path, f"{0:020d}.log.lz4"), 0)
    with open_log(path, retention_age=100) as log:
        assert log.sweep().segments == ()
        times.pass_(101)
        assert [s.base_offset for s in log.sweep().segments] == [0, 5]


def test_a_file_that_can_not_be_removed_goes_in_the_next_pass(path: str) -> None:
    disk = StepDisk(path, create=True)
    log = open_on(disk, segment_size="4KiB", batch_size=512, retention_records=3)
    for _ in range(4):
        segment_of(log, 5)
    disk.stop_at, disk.dies = None, False
    unlink = disk.unlink
    refused = []

    def refuse(name: str) -> None:
        if not refused and name.startswith("00000000000000000005"):
            refused.append(name)
            raise OSError(errno.EIO, "can't be removed")
        unlink(name)

    disk.unlink = refuse  # type: ignore[method-assign]
    with pytest.raises(segstore.StorageError):
        log.sweep()
    assert log.start_offset == 20
    report = log.sweep()
    assert [s.base_offset for s in report.segments] == [5, 10, 15]
    assert {s.reasons for s in report.segments} == {("trimmed",)}
    assert report.record_count == 0
    assert [s.base_offset for s in log.segments()] == [20]
    assert [n for n in os.listdir(path) if n.startswith("0000000000000000000")] == []
    log.close()


def test_the_start_offset_is_durable_before_a_file_goes(path: str) -> None:
    events: list[str] = []

    class Noting(StepDisk):
        def step(self, what: str, half: Any = None) -> None:
            events.append(what)

    log = open_on(
        Noting(path, create=True), segment_size="4KiB", batch_size=512, retention_records=3
    )
    for _ in range(4):
        segment_of(log, 5)
    log.compress()
    events.clear()
    log.sweep()
    assert [event.split(".")[0] for event in events[:2]] == ["write start", "sync start"]
    assert events[2].startswith("unlink 00000000000000000000.log.lz4")
    data_files = [e for e in events if e.endswith((".log", ".log.lz4"))]
    assert data_files == sorted(data_files)
    log.close()


def test_an_interrupted_pass_is_finished_by_the_next(path: str, tmp_path: Any) -> None:
    k = 0
    while True:
        k += 1
        here = str(tmp_path / f"at{k}")
        disk = StepDisk(here, create=True)
        log = open_on(disk, segment_size="4KiB", batch_size=512, retention_records=7)
        for number in range(6):
            segment_of(log, 5)
            if number == 2:
                log.compress()
        with dying_at(disk, k) as stopped:
            log.sweep()
        copy = here + "-copy"
        shutil.copytree(here, copy)
        again = open_log(copy, retention_records=7)
        assert again.start_offset in (0, 25), k
        assert [r.offset for r in again] == list(range(again.start_offset, 30))
        again.sweep()
        assert again.start_offset == 25
        assert [r.offset for r in again] == list(range(25, 30))
        assert [s.base_offset for s in again.segments()] == [25, 30]
        left = [n for n in os.listdir(copy) if n[:4] == "0000" and int(n[:20]) < 25]
        assert left == [], k
        assert again.sweep().segments == ()
        again.close()
        shutil.rmtree(copy)
        if not stopped[0]:
            break
    assert k > 12


def test_a_full_disk_does_not_stop_the_pass(path: str) -> None:
    disk = StepDisk(path, create=True)
    log = open_on(disk, segment_size="4KiB", batch_size=512, retention_records=8)
    for _ in range(5):
        segment_of(log, 5)
    disk.full = True
    with pytest.raises(segstore.StorageError):
        log.append_many([bytes(3000)] * 4)
    log.append(b"staged")
    with pytest.raises(segstore.StorageError):
        log.maintain()
    assert log.start_offset == 20
    assert {s.base_offset for s in log.segments()} == {20, 25}
    disk.full = False
    log.maintain()
    assert log.append(b"goes on") == 26
    log.close()


def test_a_full_disk_does_not_stop_the_sealed_from_going_when_the_active_is_expired(
    path: str, times: Times
) -> None:
    disk = StepDisk(path, create=True)
    log = open_on(disk, segment_size="4KiB", batch_size=512, retention_age=100)
    for _ in range(3):
        segment_of(log, 5)
    log.append(b"active")
    log.sync()
    times.pass_(101)
    disk.full = True
    log.sweep()
    assert log.start_offset == 15
    disk.full = False
    log.sweep()
    assert log.start_offset == 16
    log.close()


def test_deleted_files_are_let_go_of_by_the_log_itself(path: str) -> None:
    with open_log(path, retention_records=5) as log:
        for _ in range(6):
            segment_of(log, 5)
        assert len(list(log)) == 30
        assert log[3].offset == 3
        log.compress()
        log.sweep()
        held = [
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{fd}")
        ]
        assert [name for name in held if name.startswith(path) and "(deleted)" in name] == []


def test_retention_waits_for_registered_consumers(path: str) -> None:
    with open_log(path, retention_records=5, retention_waits_for_consumers=True) as log:
        for _ in range(6):
            segment_of(log, 5)
        slow, fast = log.consumer("slow"), log.consumer("fast", start=20)
        slow.poll(7)
        slow.commit()
        report = log.sweep()
        assert [s.base_offset for s in report.segments] == [0]
        assert report.held_by == ("slow",)
        assert report.lost_by_consumer == {}
        slow.seek(25)
        slow.commit()
        report = log.sweep()
        assert log.start_offset == 20
        assert report.held_by == ("fast",)
        slow.close()
        fast.close()
        log.remove_consumer("fast")
        assert log.sweep().start_offset == 25


def test_retention_keeps_all_for_a_consumer_whose_offset_is_damaged(path: str) -> None:
    with open_log(path, retention_records=5, retention_waits_for_consumers=True) as log:
        for _ in range(3):
            segment_of(log, 5)
        log.consumer("one", start=15).close()
        file = Path(path, "one.consumer")
        file.write_bytes(file.read_bytes().replace((15).to_bytes(8, "little"), bytes(8)))
        assert log.sweep().held_by == ("one",)
        assert log.start_offset == 0
        assert [info.committed for info in log.consumers()] == [0]
        log.remove_consumer("one")
        assert log.sweep().start_offset == 10


@pytest.mark.parametrize("start", ["start", 0])
def test_a_consumer_that_is_registered_while_a_pass_plans_loses_nothing(
    path: str, monkeypatch: pytest.MonkeyPatch, start: Any
) -> None:
    """It is registered before the pass, which then waits for it, or behind it."""
    options = {"retention_records": 50, "retention_waits_for_consumers": True}
    with open_log(path, **options) as log, segstore.open(path, "r") as reader:
        log.append_many([b"x" * 90] * 100)
        log.roll()
        move = StartOffset.move
        found: list[Any] = []
        swept = threading.Event()

        def register() -> None:
            try:
                consumer = reader.consumer("late", start)
            except OffsetOutOfRangeError as error:
                found.append(error)
                return
            with consumer:
                assert swept.wait(30)
                first = consumer.poll(1)[0].offset
                found.append((consumer.lost_count, first - consumer.committed))

        registering = threading.Thread(target=register)

        def move_late(*arguments: Any) -> None:
            registering.start()
            registering.join(0.3)
            move(*arguments)

        monkeypatch.setattr(StartOffset, "move", move_late)
        assert log.sweep().record_count
        swept.set()
        registering.join(30)
        if start == "start":
            assert found == [(0, 0)]
        else:
            assert isinstance(found[0], OffsetOutOfRangeError)


def test_a_pass_that_finds_a_consumer_registered_meanwhile_leaves_what_it_needs(path: str) -> None:
    options = {"retention_records": 50, "retention_waits_for_consumers": True}
    with open_log(path, **options) as log:
        log.append_many([b"x" * 90] * 100)
        log.roll()
        with HeldStart(log._disk, 1):
            sweeping = threading.Thread(target=log.sweep)
            sweeping.start()
            sweeping.join(0.2)
            Consumer(log._disk, log._reader, log._bell, "late", log._log_id or b"", 0).close()
        sweeping.join(30)
        assert log.start_offset == 0
        assert log.sweep().held_by == ("late",)


def test_a_registration_that_never_ends_holds_a_pass_up_for_a_moment_only(path: str) -> None:
    options = {"retention_records": 50, "retention_waits_for_consumers": True}
    with open_log(path, **options) as log:
        log.append_many([b"x" * 90] * 100)
        log.roll()
        with HeldStart(log._disk, 1), pytest.raises(StorageError, match="registered"):
            log.sweep()
        assert log.sweep().record_count


def test_the_hard_size_overrides_consumers_and_counts_their_loss(path: str) -> None:
    with open_log(
        path,
        retention_records=5,
        retention_waits_for_consumers=True,
        retention_hard_size=700,
    ) as log:
        slow = log.consumer("slow")
        slow.poll(2)
        for _ in range(6):
            segment_of(log, 5)
        slow.poll(2)
        slow.commit()
        slow.close()
        size = sum(s.size_bytes for s in log.segments())
        assert size > 700
        planned = log.sweep(dry_run=True)
        report = log.sweep()
        assert planned._replace(dry_run=False) == report
        assert sum(s.size_bytes for s in log.segments()) <= 700
        assert log.start_offset % 5 == 0
        assert 0 < log.start_offset < 25
        assert report.lost_by_consumer == {"slow": log.start_offset - 2}
        assert report.held_by == ("slow",)
        with log.consumer("slow") as slow:
            assert slow.poll(1)[0].offset == log.start_offset
            assert slow.lost_count == log.start_offset - 2
        assert log.consumers()[0].lost_count == log.start_offset - 2


# The reference model.


class Model:
    """Segments as (base, end, bytes, last append time), and the three policies in plain words."""

    def __init__(self, age: int | None, size: int | None, count: int | None) -> None:
        self.age, self.size, self.count = age, size, count
        self.segments: list[tuple[int, int, int, int]] = []

    def expired(self, now: int, active_bytes: int, end: int) -> list[int]:
        left = list(self.segments)
        gone: list[int] = []
        while left:
            base, _, _, last = left[0]
            total = active_bytes + sum(s[2] for s in left)
            is_old = self.age is not None and now - last > self.age * S
            is_big = self.size is not None and total > self.size
            are_many = self.count is not None and end - base > self.count
            if not (is_old or is_big or are_many):
                break
            gone.append(base)
            del left[0]
        return gone


OPTIONAL = st.none()
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("segment"), st.integers(1, 9), st.integers(0, 80)),
        st.tuples(st.just("pass"), st.integers(0, 80), st.just(0)),
        st.tuples(st.just("wall"), st.integers(-(10**9), 10**9), st.just(0)),
        st.tuples(st.just("sweep"), st.just(0), st.just(0)),
        st.tuples(st.just("compress"), st.just(0), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0), st.just(0)),
        st.tuples(st.just("copy"), st.just(0), st.just(0)),
    ),
    min_size=1,
    max_size=25,
)


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as made:
        yield made


@settings(max_examples=60, deadline=None)
@given(
    steps=STEPS,
    age=OPTIONAL | st.integers(1, 200),
    size=OPTIONAL | st.integers(64, 3000),
    count=OPTIONAL | st.integers(1, 30),
    future=st.integers(-(2**62), 2**62),
)
def test_a_pass_removes_what_the_model_says(
    steps: list[tuple[str, int, int]],
    age: int | None,
    size: int | None,
    count: int | None,
    future: int,
) -> None:
    options = {"retention_age": age, "retention_size": size, "retention_records": count}
    times, model = Times(), Model(age, size, count)
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        use(times, patch)
        path = os.path.join(root, "log")
        log = open_log(path, **options)
        now = times.wall
        for number, (step, value, bytes_) in enumerate(steps):
            if step == "segment":
                base = log.end_offset
                segment_of(log, value, bytes_, timestamp=future)
                info = log.segments()[-2]
                assert info.base_offset == base
                model.segments.append((base, base + value, info.size_bytes, now))
            elif step == "pass":
                times.pass_(value)
                now += value * S
            elif step == "wall":
                times.wall += value * S
            elif step == "compress":
                log.compress()
                sizes = {s.base_offset: s.size_bytes for s in log.segments()}
                model.segments = [(b, e, sizes[b], t) for b, e, _, t in model.segments]
            elif step in ("reopen", "copy"):
                log.close()
                if step == "copy":
                    moved = os.path.join(root, f"copy{number}")
                    shutil.copytree(path, moved, copy_function=shutil.copyfile)
                    path = moved
                # A clock that stands before the last append is carried on from there.
                last = max([s[3] for s in model.segments], default=0)
                now = max(times.wall, last)
                log = open_log(path, **options)
            else:
                active = next(s for s in log.segments() if s.state == "active")
                expected = model.expired(now, active.size_bytes, log.end_offset)
                planned = log.sweep(dry_run=True)
                report = log.sweep()
                assert planned._replace(dry_run=False) == report
                assert [s.base_offset for s in report.segments] == expected
                model.segments = model.segments[len(expected) :]
                start = model.segments[0][0] if model.segments else log.end_offset
                assert log.start_offset == start
                assert report.start_offset == start
                assert log.sweep().segments == ()
                assert [r.offset for r in log] == list(range(start, log.end_offset))
        log.close()


def test_the_catalog_and_the_directory_agree_after_every_pass(path: str) -> None:
    with open_log(path, retention_size=2000) as log:
        for _ in range(20):
            segment_of(log, 9)
            log.sweep()
            listed = list_segments(log._disk)
            assert listed.leftovers == []
            assert [s.base_offset for s in listed.catalog.segments] == [
                s.base_offset for s in log.segments()
            ]
            assert sum(s.size_bytes for s in log.segments()) <= 2000


def test_consumers_that_commit_all_the_time_leave_room_for_retention_and_truncation(
    path: str,
) -> None:
    """At no moment is there none of them; whoever waits shuts the gate behind those there are."""
    with segstore.open(path, background=False) as log:
        first = HeldStart(log._disk, shared=True)
        first.__enter__()
        is_in = threading.Event()

        def wait() -> None:
            with HeldStart(log._disk, 10) as held, held:
                is_in.set()

        def keep_coming() -> None:
            for _ in range(1000):
                with HeldStart(log._disk, 0.01, shared=True) as later, later:
                    time.sleep(0.001)

        waiting = threading.Thread(target=wait)
        waiting.start()
        with pytest.raises(OSError, match="registered"):
            keep_coming()
        assert not is_in.is_set()
        first.__exit__()
        waiting.join(10)
        assert is_in.is_set()
        with log.consumer("c") as consumer:
            assert consumer.poll() == []
