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
