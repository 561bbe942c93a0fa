"""A truncation that fails behind its commit point leaves a handle that says so."""

from __future__ import annotations

import errno
from random import Random

import pytest

from segstore import StorageError
from segstore.config import LogConfig
from segstore.format.fileheader import FILE_HEADER_BYTES
from segstore.log.log import Log
from segstore.segment.tail import FRAMES_POSITION
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import Event, MemoryDisk


# The first sync of the directory is that of the commit, whose file has its name by then, which a
# look may not tell.
@pytest.mark.parametrize("kinds", [["unlink"], ["sync_directory"], ["sync_directory", "size_of"]])
def test_a_truncation_that_fails_behind_its_commit_point_is_for_the_next_opening(kinds):
    memory = MemoryDisk()
    disk = FaultyDisk(memory)
    config = LogConfig.of({"background": False}, environment={})
    log = Log(disk, "a", config)
    values = [b"%d" % number for number in range(20)]
    log.append_many(values)
    log.roll()
    log.append_many(values)
    log.sync()

    def fail(kind: str, _name: str) -> None:
        if kind == kinds[0]:
            disk.before = None
            disk.faults = [Fault(kind, disk.counts[kind] + 1, errno.EIO) for kind in kinds]

    disk.before = fail
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


@pytest.mark.parametrize("after", [9, 7])  # 7 is the last of a segment, which stays as it is
def test_a_truncation_killed_at_its_commit_is_all_or_nothing_for_a_power_cut_as_well(after):
    log, disk, values = make()
    killed = []

    def kill(disk: MemoryDisk, event: Event) -> None:
        if event.kind == "sync directory" and "truncate" in disk.contents() and not killed:
            killed.append(disk.after_kill())

    disk.watch = kill
    log.truncate(after)
    states = []

    def cut(disk: MemoryDisk, _event: Event) -> None:
        unsynced = disk.unsynced()
        states.extend(unsynced.sample(Random(seed)) for seed in range(8))

    killed[0].watch = cut
    Log(killed[0], "a", log.config)
    for state in states:
        with Log(state, "a", log.config) as again:
            assert list(again.values()) in (values, values[: after + 1])


@pytest.mark.parametrize("after", [9, 7])
def test_a_power_cut_does_not_bring_a_truncation_back(after):
    log, disk, values = make()
    log.truncate(after)
    log.append(b"next", durability="durable")
    unsynced = disk.unsynced()
    for seed in range(20):
        with Log(unsynced.sample(Random(seed)), "a", log.config) as again:
            assert list(again.values()) == [*values[: after + 1], b"next"]


def test_a_log_with_damaged_registers_is_truncated():
    log, disk, values = make()
    log.close()
    contents = disk.contents()
    tail = bytearray(contents["tail"])
    tail[FILE_HEADER_BYTES:FRAMES_POSITION] = b"?" * (FRAMES_POSITION - FILE_HEADER_BYTES)
    with Log(MemoryDisk.of({**contents, "tail": bytes(tail)}), "a", log.config) as again:
        again.truncate(9)
        assert list(again.values()) == values[:10]


def make() -> tuple[Log, MemoryDisk, list[bytes]]:
    """A log of five sealed segments of four records, and an empty one."""
    disk = MemoryDisk()
    config = LogConfig.of({"background": False, "compression": None}, environment={})
    log = Log(disk, "a", config)
    values = [b"%d" % number for number in range(20)]
    for at in range(0, 20, 4):
        log.append_many(values[at : at + 4])
        log.roll()
    log.maintain()
    return log, disk, values
