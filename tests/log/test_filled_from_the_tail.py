"""What segments lost and the tail still has: it is read, kept, and only the rest reported."""

from __future__ import annotations

import errno

import pytest

from segstore.config import LogConfig
from segstore.errors import CorruptionError
from segstore.format.names import segment_file
from segstore.format.scanner import Frame
from segstore.log.log import Log, Mode
from segstore.segment.reader import SegmentReader
from segstore.segment.tail import Tail
from segstore.testing.faulty import FaultyDisk
from segstore.testing.memory import MemoryDisk

CONFIG = LogConfig.of(
    {"background": False, "compression": None, "batch_size": 1000, "durability": "durable"},
    environment={},
)
LARGE = 40_000  # goes past the tail
TIME = 2**62  # behind any clock


def sent(offset: int, size_bytes: int = 200) -> bytes:
    return b"%d " % offset + bytes(size_bytes)


def small(log: Log, count: int) -> None:
    for _ in range(count):
        offset = log.end_offset
        log.append(sent(offset), durability="written", key=b"small", timestamp=TIME + offset)
    log.sync()


def large(log: Log, count: int) -> None:
    for _ in range(count):
        log.append_many([sent(log.end_offset, LARGE)])


def begun() -> tuple[MemoryDisk, Log]:
    """A sealed segment of ten records, and one to go on in."""
    disk = MemoryDisk()
    log = Log(disk, "a", CONFIG)
    large(log, 10)
    log.roll()
    return disk, log


def without(disk: MemoryDisk, base_offset: int) -> MemoryDisk:
    """A copy that has lost a segment, its index with it."""
    gone = {segment_file(base_offset, suffix) for suffix in (".log", ".index")}
    return MemoryDisk.of({n: data for n, data in disk.contents().items() if n not in gone})


def check(disk: MemoryDisk, end_offset: int, *lost: range) -> None:
    """Exactly `lost` is gone, for a reader, for the writer, and whoever comes behind."""
    missing = {offset for offsets in lost for offset in offsets}
    for mode in ("r", "a", "a", "r"):
        log = Log(disk, mode, CONFIG)
        assert log.end_offset == end_offset
        found = {record.offset: record.value for record in log.read(errors="skip")}
        assert sorted(found) == [at for at in range(end_offset) if at not in missing]
        for offset, value in found.items():
            assert value.startswith(b"%d " % offset)
            assert log[offset].value == value
        for offsets in lost:
            with pytest.raises(CorruptionError) as caught:
                log[offsets.start]
            assert set(caught.value.offsets) == set(offsets)
        log.close()
    verified = Log(disk, "r", CONFIG).verify().lost
    assert {offset for one in verified for offset in one.offsets} == missing
    log = Log(disk, "a", CONFIG)
    assert log.append(b"next") == end_offset
    assert log.durable_offset == end_offset + 1


def reported(disk: MemoryDisk) -> list[range]:
    copy = MemoryDisk.of(disk.contents())
    return [lost.offsets for mode in ("r", "a") for lost in Log(copy, mode, CONFIG).recovery.lost]


def test_a_tail_that_goes_on_at_the_gap_and_ends_below_what_was_durable():
    disk, log = begun()
    small(log, 10)
    large(log, 5)
    left = without(disk, 10)
    assert reported(left) == [range(20, 25)] * 2
    check(left, 25, range(20, 25))


def test_a_tail_in_the_middle_of_what_is_gone():
    disk, log = begun()
    large(log, 5)
    small(log, 10)
    large(log, 5)
    left = without(disk, 10)
    assert reported(left) == [range(10, 15), range(25, 30)] * 2
    check(left, 30, range(10, 15), range(25, 30))


def test_a_missing_segment_with_nothing_but_an_empty_one_behind():
    disk, log = begun()
    large(log, 5)
    small(log, 10)
    log.roll()
    assert segment_file(25, ".log") in disk.names()
    left = without(disk, 10)
    assert reported(left) == [range(10, 15)] * 2
    check(left, 25, range(10, 15))


@pytest.mark.parametrize("mode", ["a", "r"])
def test_a_missing_segment_is_found_by_key_and_time_in_the_tail(mode: Mode):
    disk, log = begun()
    small(log, 10)
    log.roll()
    large(log, 5)
    left = without(disk, 10)
    with Log(left, mode, CONFIG) as log:
        assert log.offset_for_time(TIME) == 10
        assert log.offset_for_time(TIME + 19) == 19
        assert log.offset_for_time(TIME + 20) is None
        assert [record.offset for record in log.find(b"small")] == list(range(10, 20))


@pytest.mark.parametrize("mode", ["a", "r"])
def test_what_is_lost_before_the_tails_first_record_ends_there(mode: Mode):
    disk, log = begun()
    large(log, 5)
    small(log, 10)
    log.roll()
    large(log, 5)
    with Log(without(disk, 10), mode, CONFIG) as log:
        with pytest.raises(CorruptionError) as caught:
            list(log)
        assert caught.value.offsets == range(10, 15)
        kept = [*range(10), *range(15, 30)]
        assert [record.offset for record in log.read(errors="skip")] == kept
        assert [log[offset].value for offset in kept[10:20]] == [sent(at) for at in kept[10:20]]


def test_a_time_is_found_in_the_tail_where_the_file_of_the_last_segment_went():
    disk, log = begun()
    small(log, 10)
    for name in (".log", ".index"):
        disk.unlink(segment_file(10, name))
    assert log.offset_for_time(TIME + 15) == 15


def frames(disk: MemoryDisk, base_offset: int) -> list[Frame]:
    reader = SegmentReader(disk, base_offset, None, is_compressed=False, stamp=None)
    return [event for event in reader.events_unindexed() if isinstance(event, Frame)]


def test_damage_from_before_the_tails_first_record_to_behind_it():
    disk, log = begun()
    large(log, 5)
    small(log, 10)
    files = disk.contents()
    name = segment_file(10, ".log")
    first = next(frame for frame in frames(disk, 10) if frame.batch.base_offset == 15)
    data = bytearray(files[name])
    data[first.position - 8 : first.position + 8] = b"damaged!" * 2
    left = MemoryDisk.of({**files, name: bytes(data)})
    tail = Tail.open(left, write=True)
    tail.recovery_point.set(0)  # as before the last sync, which looks at nothing below it
    tail.close()
    assert reported(left) == [range(14, 15)] * 2
    check(left, 25, range(14, 15))


@pytest.mark.parametrize("is_synced", [False, True])
@pytest.mark.parametrize("is_full", [False, True])
def test_a_reader_of_before_has_what_the_next_writer_took_from_the_tail(is_synced, is_full):
    """Also once that is stored over, though the segments end where they were said to before."""
    disk, log = begun()
    name = segment_file(10, ".log")
    segment = disk.contents()[name]
    for _ in range(10):
        log.append(sent(log.end_offset), durability="written")
    if is_synced:
        log.sync()
    log._writer.drain()
    left = MemoryDisk.of({**disk.contents(), name: segment})
    disk = FaultyDisk(left)
    with Log(left, "r", CONFIG) as reader, reader.consumer("one") as consumer:
        assert reader.end_offset == 20
        disk.before = fill if is_full else None
        log = Log(disk, "a", CONFIG)
        disk.before = None
        log.sync()
        assert reader.end_offset == 20
        log.append(sent(20), durability="written")
        assert reader.end_offset == 21
        assert [record.offset for record in reader] == list(range(21))
        assert reader[15].value == sent(15)
        assert [record.offset for record in consumer.poll()] == list(range(21))


def fill(kind: str, name: str) -> None:
    if kind == "write" and name.endswith(".log"):
        raise OSError(errno.ENOSPC, "No space left on device")
