"""Rolling, sealing and finding segments."""

import itertools
import os
import threading
import time
from random import Random
from typing import Any

import pytest

import segstore
from segstore.config import LogConfig
from segstore.disk import OsDisk
from segstore.format.frame import encode_frame
from segstore.format.names import RAW_INDEX_SUFFIX, RAW_SUFFIX, segment_file, temporary
from segstore.log import manager as manager_module
from segstore.log.log import Log
from segstore.log.manager import SegmentManager
from segstore.log.view import WriterView
from segstore.segment.catalog import Catalog
from segstore.testing.faulty import FaultyDisk
from segstore.testing.memory import MemoryDisk
from tests.directories import names_ending

OPTIONS = {"background": False, "compression": None}


def test_a_log_rolls_by_size_and_no_segment_is_larger_than_asked(path):
    with segstore.open(path, segment_size="16KiB", batch_size="1KiB", **OPTIONS) as log:
        values = [b"%0100d" % number for number in range(2000)]
        for start in range(0, 2000, 7):
            log.append_many(values[start : start + 7])
        log.maintain()
        infos = log.segments()
        assert len(infos) > 10
        assert all(info.size_bytes <= 16 * 1024 for info in infos)
        assert min(info.size_bytes for info in infos[:-1]) > 8 * 1024
        assert [info.state for info in infos] == ["sealed"] * (len(infos) - 1) + ["active"]
        assert [info.base_offset for info in infos[1:]] == [i.end_offset for i in infos[:-1]]
        assert list(log.values()) == values


def test_a_batch_larger_than_a_segment_gets_as_many_as_it_takes(path):
    with segstore.open(path, segment_size=4096, batch_size=4096, **OPTIONS) as log:
        values = [b"%01000d" % number for number in range(50)] + [bytes(20_000)]
        log.append_many(values)
        assert list(log.values()) == values
        assert len(log.segments()) > 10


def test_the_tail_takes_no_more_than_the_segment_has_room_for(path):
    """Else a segment would roll up to a tail's worth of records after it was due."""
    with segstore.open(path, segment_size=65536, batch_size=4096, **OPTIONS) as log:
        while log.stats().rolls < 3:
            for _ in range(10):
                log.append(bytes(1000))
            writer = log._writer
            staged_bytes = (writer.end_offset - writer.written_end) * 1000
            assert staged_bytes <= max(65536 - writer.manager.active.state.size_bytes, 4096)


def test_an_empty_segment_never_rolls(path):
    with segstore.open(path, segment_age=0.01, **OPTIONS) as log:
        assert log.roll() is False
        log.append(b"x")
        assert log.roll() is True
        assert log.roll() is False
        time.sleep(0.03)
        log.maintain()
        assert [info.base_offset for info in log.segments()] == [0, 1]


def test_a_staged_record_is_enough_to_roll_on_request(path):
    with segstore.open(path, **OPTIONS) as log:
        log.append(b"staged")
        assert log.roll() is True
        assert [(i.base_offset, i.end_offset) for i in log.segments()] == [(0, 1), (1, 1)]
        assert log.segments()[0].state == "sealed"


def test_an_idle_log_rolls_by_age_on_its_own(path):
    with segstore.open(path, segment_age=0.1, sync_interval=0.02, compression=None) as log:
        log.append(b"x")
        deadline = time.monotonic() + 10
        while len(log.segments()) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [info.base_offset for info in log.segments()] == [0, 1]
        time.sleep(0.3)
        assert len(log.segments()) == 2


def test_the_age_of_a_segment_goes_on_counting_while_the_log_is_closed(path):
    with segstore.open(path, segment_age=0.2, **OPTIONS) as log:
        log.append(b"x")
    time.sleep(0.25)
    with segstore.open(path, segment_age=0.2, **OPTIONS) as log:
        log.maintain()
        assert [info.base_offset for info in log.segments()] == [0, 1]


def test_a_wall_that_jumps_makes_no_segment_older():
    """As on a machine without a battery for its clock, which hears the time a little later."""
    config = LogConfig.of({**OPTIONS, "segment_size": 4096, "batch_size": 1024}, environment={})
    with Log(MemoryDisk(), "a", config) as log:
        log._writer.manager._wall_ns = lambda: time.time_ns() + 10**18
        log.append_many([b"x" * 1000] * 10)  # rolls by size
        log.maintain()
        assert [(info.base_offset, info.end_offset) for info in log.segments()[-2:]] == [
            (6, 9),
            (9, 10),
        ]
        log.truncate(7)
        log.maintain()
        last = log.segments()[-1]
        assert (last.base_offset, last.end_offset) == (6, 8)


def test_what_is_rolled_beside_a_look_is_still_among_those_without_a_seal(path):
    with segstore.open(path, **OPTIONS) as log:
        log.append_many([b"x"] * 10)
        log.sync()
        manager = log._writer.manager
        rolled = manager.active

        class Rolled(list):
            def __iter__(self):
                yield from self.copy()
                manager.roll()

        manager._rolled = Rolled()
        assert rolled in manager.writers()
        manager._rolled = [rolled]


def frame(base_offset):
    return encode_frame(
        base_offset, [b"x" * 100], 5, None, append_time=1, log_tag=0, durable_offset=0
    )


def test_a_full_index_rolls(path):
    class Small(SegmentManager):
        index_capacity = 3

    disk = OsDisk(path, create=True)
    manager = Small(
        disk, bytes(16), Catalog(), segment_size_bytes=10**6, segment_age_s=100,
        index_interval_bytes=64,
    )  # fmt: skip
    manager.start(0)
    for offset in range(10):
        manager.write([frame(offset)], 1)
    assert manager.roll_count == 3
    manager.write([frame(offset) for offset in range(10, 20)], 1)
    bases = [segment.base_offset for segment in manager.catalog.segments]
    assert bases == sorted(set(bases))
    assert max(b - a for a, b in itertools.pairwise(bases)) <= 10
    manager.close()
    disk.close()


def test_a_log_may_be_reopened_with_other_options(path):
    values = []
    for turn, options in enumerate(
        [
            {"segment_size": "1MiB", "index_interval": 64, "batch_size": 100},
            {"segment_size": 4096, "index_interval": 4096, "batch_size": 4000},
            {"segment_size": "64MiB", "index_interval": 128, "batch_size": 1},
            {"segment_size": "8KiB", "index_interval": "1MiB", "batch_size": 64},
        ]
    ):
        more = [b"%d %050d" % (turn, number) for number in range(200)]
        with segstore.open(path, **options, **OPTIONS) as log:
            log.append_many(more[:100])
            for value in more[100:]:
                log.append(value)
            values += more
            assert list(log.values()) == values
            assert [log[offset].value for offset in range(len(values))] == values
            assert log.verify().is_intact


def test_times_of_segments_are_of_their_records_or_unknown(path):
    with segstore.open(path, batch_size=1000, **OPTIONS) as log:
        for start in range(0, 500, 50):
            log.append_many([b"x" * 100] * 50, timestamps=range(start + 1, start + 51))
    with segstore.open(path, batch_size=1000, **OPTIONS) as log:
        log.append(b"last", timestamp=501)
        log.roll()
        first = log.segments()[0]
        assert first.max_timestamp == 501
        assert first.min_timestamp in (None, 1)


def test_a_log_of_a_thousand_segments_opens_and_reads(path):
    count = 1000
    files_before = len(os.listdir("/proc/self/fd"))
    started = time.monotonic()
    with segstore.open(path, segment_size=4096, batch_size=4000, **OPTIONS) as log:
        for number in range(count):
            log.append_many([b"%03900d" % number])
        log.sync()
        assert len(log.segments()) == count
    written = time.monotonic() - started
    started = time.monotonic()
    with segstore.open(path, segment_size=4096, batch_size=4000, **OPTIONS) as log:
        opened = time.monotonic() - started
        assert log.recovery.was_clean
        assert log.recovery.scanned_bytes < 64 * 1024
        for offset in range(0, count, 97):
            assert log[offset].value == b"%03900d" % offset
        assert sum(1 for _ in log.values()) == count
        assert len(os.listdir("/proc/self/fd")) < files_before + WriterView.open_files_max + 10
    with segstore.open(path, "r") as log:
        assert log[count // 2].value == b"%03900d" % (count // 2)
    assert len(names_ending(path, ".log")) == count
    assert opened < 5, opened
    assert written < 60, written


def test_what_is_rolled_while_others_are_sealed_waits_for_the_next_sync() -> None:
    disk = MemoryDisk()
    faulty = FaultyDisk(disk)
    log = Log(faulty, "a", LogConfig.of({**OPTIONS, "background": False}, environment={}))
    writer = log._writer
    assert writer is not None
    writer._unsealed_count_max = 8  # as with a background thread: here the append would seal
    values = [b"record %d" % number for number in range(20)]
    log.append_many(values[:10])
    writer.roll()

    def append_and_roll(kind: str, name: str) -> None:
        """As another thread does: behind the sync, and before all is sealed."""
        if (kind, name) == ("create", temporary(segment_file(0, RAW_INDEX_SUFFIX))):
            faulty.before = None
            log.append_many(values[10:])
            writer.roll()

    faulty.before = append_and_roll
    sealed_count = writer.seal_rolled()
    assert log.sync() == 20
    unsynced = disk.unsynced()
    for seed in range(30):
        with Log(unsynced.sample(Random(seed)), "a", log.config) as after:
            assert list(after.values()) == values
    assert sealed_count == 1
    log.close()


def test_a_segment_that_somebody_deleted_keeps_none_behind_it_from_its_seal() -> None:
    disk = MemoryDisk()
    log = Log(disk, "a", LogConfig.of({**OPTIONS, "background": False}, environment={}))
    writer = log._appending()
    writer._unsealed_count_max = 8
    for value in (b"deleted", b"kept"):
        log.append(value)
        writer.roll()
    disk.unlink(segment_file(0, RAW_SUFFIX))
    assert writer.seal_rolled() == 2
    assert [segment.state for segment in log.segments()] == ["sealed", "sealed", "active"]
    assert list(log.values(errors="skip")) == [b"kept"]
    log.close()


class HeldUp:
    """A thread that seals what was rolled, held up while it reads the keys of a segment."""

    def __init__(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        self._is_reading, self._may_go_on = threading.Event(), threading.Event()
        real = manager_module.key_filter_of

        def read(*arguments: Any) -> Any:
            found = real(*arguments)
            self._is_reading.set()
            assert self._may_go_on.wait(30)
            return found

        monkeypatch.setattr(manager_module, "key_filter_of", read)
        writer = log._appending()
        writer._unsealed_count_max = 8  # as where a thread in the background seals
        self._thread = threading.Thread(target=writer.seal_rolled)
        self._thread.start()
        assert self._is_reading.wait(30)

    def go_on(self) -> None:
        self._may_go_on.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


def keyed(log: Log, value: bytes) -> None:
    log.append_many([value] * 10, keys=[value] * 10)


@pytest.mark.timeout(60)
def test_a_durable_append_does_not_wait_for_what_a_seal_reads(monkeypatch) -> None:
    with Log(MemoryDisk(), "a", LogConfig.of({"background": False}, environment={})) as log:
        keyed(log, b"first")
        log._appending().roll()
        held_up = HeldUp(log, monkeypatch)
        assert log.append(b"durable", durability="durable") == 10
        assert log.sync() == 11
        assert log.segments()[0].state == "rolled"
        held_up.go_on()
        assert [segment.state for segment in log.segments()] == ["sealed", "active"]
        assert len(list(log.find(b"first"))) == 10


@pytest.mark.timeout(60)
@pytest.mark.parametrize("step", ["truncate", "trim"])
def test_what_goes_while_a_seal_reads_it_is_not_sealed(monkeypatch, step: str) -> None:
    disk = MemoryDisk()
    with Log(disk, "a", LogConfig.of({"background": False}, environment={})) as log:
        keyed(log, b"first")
        log._appending().roll()
        held_up = HeldUp(log, monkeypatch)
        if step == "truncate":
            log.truncate(4)
            keyed(log, b"second")
        else:
            keyed(log, b"second")
            log.trim(10)
        held_up.go_on()
        assert [segment.state for segment in log.segments()] == ["active"]
        first_count = 5 if step == "truncate" else 0
        for after in (log, Log(disk, "r", log.config), Log(disk.after_kill(), "a", log.config)):
            assert len(list(after.find(b"first"))) == first_count
            assert len(list(after.find(b"second"))) == 10
            assert after.verify().is_intact
