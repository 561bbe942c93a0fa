"""A truncation that fails behind its commit point leaves a handle that says so."""

from __future__ import annotations

import errno

import pytest

from segstore import StorageError
from segstore.config import LogConfig
from segstore.log.log import Log
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import MemoryDisk


# The first sync of the directory is that of the commit, whose file has its name by then.
@pytest.mark.parametrize("kind", ["unlink", "sync_directory"])
def test_a_truncation_that_fails_behind_its_commit_point_is_for_the_next_opening(kind):
    memory = MemoryDisk()
    disk = FaultyDisk(memory)
    config = LogConfig.of({"background": False}, environment={})
    log = Log(disk, "a", config)
    values = [b"%d" % number for number in range(20)]
    log.append_many(values)
    log.roll()
    log.append_many(values)
    log.sync()
    disk.faults = [Fault(kind, disk.counts[kind] + 1, errno.EIO)]
    with pytest.raises(StorageError):
        log.truncate(9)
    disk.faults = []
    for call in (
        lambda: log[0],
        lambda: list(log),
        lambda: log.end_offset,
        lambda: log.append(b""),
    ):
        with pytest.raises(StorageError, match="open it again"):
            call()
    with pytest.raises(StorageError, match="open it again"):  # closed all the same
        log.close()
    with Log(memory, "a", config) as log:
        assert list(log.values()) == values[:10]
        assert log.append(b"next") == 10
