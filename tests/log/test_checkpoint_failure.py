"""A trim or a commit whose sync fails raises, and does not take effect later on."""

from __future__ import annotations

import errno
from collections.abc import Callable
from random import Random

import pytest

from segstore import StorageError
from segstore.config import LogConfig
from segstore.log.log import Log, Mode
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import MemoryDisk

CONFIG = LogConfig.of({"background": False, "segment_size": "4KiB"}, environment={})
VALUES = [b"%02d" % number * 50 for number in range(100)]
BEFORE = (0, 10, VALUES)
TRIMMED = (60, 10, VALUES[60:])
COMMITTED = (0, 60, VALUES)
Act = Callable[[], None]


def trim(log: Log) -> Act:
    return lambda: log.trim(60)


def commit(log: Log) -> Act:
    consumer = log.consumer("one")
    return lambda: consumer.commit(60)


CASES = pytest.mark.parametrize(
    ("prepare", "name", "after"), [(trim, "start", TRIMMED), (commit, "one.consumer", COMMITTED)]
)


def state_of(disk: MemoryDisk, mode: Mode = "a") -> tuple[int, int, list[bytes]]:
    """Where the log starts, where the consumer is, and what can be read."""
    with Log(disk, mode, CONFIG) as log:
        return log.start_offset, log.consumers()[0].committed, list(log.values())


@pytest.fixture
def memory() -> MemoryDisk:
    disk = MemoryDisk()
    with Log(disk, "a", CONFIG) as log:
        log.append_many(VALUES)
        with log.consumer("one") as consumer:
            consumer.commit(10)
    return disk


def fail_sync_of(disk: FaultyDisk, name: str, *, is_lasting: bool) -> None:
    """From the next sync of that file on, or just that one."""

    def before(kind: str, of: str) -> None:
        if (kind, of) == ("sync", name):
            number = disk.counts["sync"] + 1
            disk.faults = [Fault("sync", number, errno.EIO, is_lasting, drops_data=True)]
            disk.before = None

    disk.before = before


def failed(
    memory: MemoryDisk, prepare: Callable[[Log], Act], name: str, *, is_lasting: bool
) -> tuple[FaultyDisk, Log, Act]:
    """A log in which it was done, and raised; to be done again."""
    disk = FaultyDisk(memory)
    log = Log(disk, "a", CONFIG)
    act = prepare(log)
    fail_sync_of(disk, name, is_lasting=is_lasting)
    with pytest.raises(StorageError):
        act()
    return disk, log, act


@CASES
def test_what_failed_at_its_sync_was_not_done(memory, prepare, name, after):
    disk, log, act = failed(memory, prepare, name, is_lasting=False)
    assert disk.failures == 1
    assert (log.start_offset, log.consumers()[0].committed, list(log.values())) == BEFORE
    assert state_of(memory, "r") == BEFORE
    assert state_of(memory.after_kill()) == BEFORE
    for seed in range(20):  # the power goes
        assert state_of(memory.unsynced().sample(Random(seed))) == BEFORE
    act()
    log.close()
    assert state_of(memory.after_kill()) == after


@CASES
def test_where_the_old_value_can_not_be_synced_either_a_power_cut_may_find_both(
    memory, prepare, name, after
):
    _log = failed(memory, prepare, name, is_lasting=True)  # still open
    assert state_of(memory, "r") == BEFORE
    assert state_of(memory.after_kill()) == BEFORE
    found = [state_of(memory.unsynced().sample(Random(seed))) for seed in range(20)]
    assert all(state in (BEFORE, after) for state in found)


def test_a_commit_of_the_last_one_takes_one_back_that_may_turn_up(memory):
    disk = FaultyDisk(memory)
    log = Log(disk, "a", CONFIG)
    consumer = log.consumer("one")
    fail_sync_of(disk, "one.consumer", is_lasting=True)
    with pytest.raises(StorageError):
        consumer.commit(60)
    with pytest.raises(StorageError):
        consumer.commit(10)
    disk.faults = []
    consumer.commit(10)
    for seed in range(20):
        assert state_of(memory.unsynced().sample(Random(seed))) == BEFORE
