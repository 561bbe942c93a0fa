"""A shortage (of space, descriptors or memory) is no damage, and costs no more than the call."""

from __future__ import annotations

import errno

import pytest

from segstore.config import LogConfig
from segstore.errors import StorageError
from segstore.format.names import LZ4_SUFFIX, RAW_SUFFIX, segment_file
from segstore.log.log import Log
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import MemoryDisk

CONFIG = LogConfig.of(
    {"background": False, "segment_size": "64KiB", "batch_size": "1KiB", "compression": "lz4"},
    environment={},
)
VALUES = [b"%4d" % number * 250 for number in range(50)]


def sealed() -> MemoryDisk:
    """A log with one sealed segment, not compressed, and an empty one behind it."""
    disk = MemoryDisk()
    with Log(disk, "a", CONFIG) as log:
        log.append_many(VALUES)
        log.roll()
    return disk


def damage(disk: MemoryDisk, name: str, position: int) -> None:
    """Turn some bits of a file."""
    file = disk.open(name, write=True)
    file.write([bytes(byte ^ 0xFF for byte in file.read(8, position))], position)
    file.close()


@pytest.mark.parametrize("kind", ["open", "create", "write", "sync", "rename", "unlink"])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_repair_that_a_shortage_stops_costs_no_record(kind: str, is_compressed: bool) -> None:
    disk = sealed()
    if is_compressed:
        with Log(disk, "a", CONFIG) as log:
            log.compress()
    data_name = segment_file(0, LZ4_SUFFIX if is_compressed else RAW_SUFFIX)
    damage(disk, data_name, 100)
    with Log(disk, "r", CONFIG) as log:
        left = list(log.values(errors="skip"))
    assert 0 < len(left) < len(VALUES)
    failure_count = 0
    for number in range(1, 20):
        faulty = FaultyDisk(disk.after_kill())
        with Log(faulty, "a", CONFIG) as log:
            faulty.faults = [Fault(kind, faulty.counts[kind] + number, errno.ENOSPC)]
            try:
                log.repair()
            except StorageError:
                failure_count += 1
            faulty.faults = []
            assert list(log.values(errors="skip")) == left
            log.repair()
            assert log.repair() == (False, (), (), ())
            assert list(log.values(errors="skip")) == left
    assert failure_count
