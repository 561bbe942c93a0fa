"""A reader that is opened while the writer is in the middle of a write."""

from __future__ import annotations

import errno

import pytest

from segstore.config import LogConfig
from segstore.errors import StorageError
from segstore.format.names import LOCK
from segstore.log.log import Log
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import MemoryDisk

CONFIG = LogConfig.of(
    {"background": False, "segment_size": "64KiB", "batch_size": 1024}, environment={}
)
FIRST = [b"first %d" % number for number in range(10)]
UNACKNOWLEDGED = [b"%d" % number * 100 for number in range(50)]


def test_what_a_write_has_not_acknowledged_is_not_there_for_a_new_reader() -> None:
    disk = MemoryDisk()
    faulty = FaultyDisk(disk)
    log = Log(faulty, "a", CONFIG)
    log.append_many(FIRST)
    log.sync()
    readers: list[Log] = []

    def look(kind: str, name: str) -> None:
        if kind == "truncate" and name.endswith(".log"):  # the write's undoing
            with pytest.raises(OSError, match="descriptors"):
                Log(FaultyDisk(disk, before=short_of_descriptors), "r", CONFIG)
            reader = Log(disk, "r", CONFIG)
            readers.append(reader)
            assert reader.end_offset == len(FIRST)
            assert list(reader.values()) == FIRST
            with reader.consumer("c") as consumer:
                assert [record.value for record in consumer.poll()] == FIRST
                consumer.commit()

    faulty.before = look
    faulty.faults = [Fault("short_write", faulty.counts["short_write"] + 1, errno.ENOSPC)]
    with pytest.raises(StorageError, match="free some space"):
        log.append_many(UNACKNOWLEDGED)
    assert readers
    later = [b"later %d" % number for number in range(60)]
    log.append_many(later)
    with readers[0] as reader, reader.consumer("c") as consumer:
        assert list(reader.values()) == FIRST + later
        assert [record.value for record in consumer.poll()] == later
    log.close()


def short_of_descriptors(kind: str, name: str) -> None:
    """At the look whether there is a writer, without which the write can't be told from others."""
    if (kind, name) == ("open", LOCK):
        raise OSError(errno.EMFILE, "not enough descriptors")


def test_what_a_write_has_begun_is_not_kept_open_by_a_look_for_a_time() -> None:
    """Other records get the offsets of those in the segments that the undoing removes."""
    disk = MemoryDisk()
    faulty = FaultyDisk(disk)
    log = Log(faulty, "a", CONFIG)
    acknowledged = [bytes(1000)] * 60  # all but a full segment
    log.append_many(acknowledged)
    log.sync()
    readers: list[Log] = []

    def look(kind: str, name: str) -> None:
        if kind == "unlink" and name == f"{60:020}.log":  # which the write had filled
            reader = Log(disk, "r", CONFIG)
            readers.append(reader)
            assert len(reader.segments()) == 2
            assert reader.offset_for_time(2**62) is None

    faulty.before = look
    # The header and the frames of a segment, and the header of the one behind it.
    faulty.faults = [Fault("write", faulty.counts["write"] + 4, errno.ENOSPC)]
    with pytest.raises(StorageError, match="free some space"):
        log.append_many([bytes(5000)] * 30)
    later = [b"later %d" % number for number in range(20)]
    log.append_many(later)
    log.sync()
    (reader,) = readers
    assert [reader[60 + number].value for number in range(20)] == later
    assert list(reader.values()) == acknowledged + later
    log.close()
