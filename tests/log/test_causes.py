"""What an error says it came from: whoever walks up from cause to cause has to arrive."""

from __future__ import annotations

import errno
import gc
import weakref
from collections.abc import Callable

import pytest

from segstore import CorruptionError, Log, LogClosedError, StorageError, SyncFailedError
from segstore.config import LogConfig
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import MemoryDisk

CONFIG = LogConfig.of(
    {"background": False, "segment_size": 4096, "batch_size": 1024}, environment={}
)


def causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = [error]
    while (cause := found[-1].__cause__) is not None:
        assert cause not in found
        found.append(cause)
    return found


def failing(kind: str, number: int = 1) -> tuple[FaultyDisk, Log]:
    """From the next such operation on, or a later one."""
    disk = FaultyDisk(MemoryDisk())
    log = Log(disk, "a", CONFIG)
    log.append_many([b"some record"] * 500)
    disk.faults = [Fault(kind, disk.counts[kind] + number, errno.EIO, is_lasting=True)]
    return disk, log


@pytest.mark.parametrize(
    ("kind", "use"),
    [
        ("write", lambda log: log.append_many([b"x" * 100] * 500)),
        ("sync", lambda log: log.append(b"x", durability="durable")),
        ("sync", Log.close),
        ("create", Log.roll),
        ("read", lambda log: list(log.read())),
        ("read", lambda log: log[0]),
        ("open", lambda log: log.offset_for_time(0)),
        ("read", lambda log: list(log.find(b"key"))),
    ],
)
def test_a_failed_call_is_the_cause_and_no_error_its_own(
    kind: str, use: Callable[[Log], object]
) -> None:
    disk, log = failing(kind)
    with pytest.raises(StorageError) as caught:
        use(log)
    assert disk.path in str(caught.value)
    assert type(causes(caught.value)[-1]) is OSError
    disk.faults = []


def test_the_last_sync_of_a_close_is_of_the_tail() -> None:
    disk, log = failing("sync", 1000)
    count = disk.counts["sync"]
    log.close()
    disk, log = failing("sync", disk.counts["sync"] - count)
    with pytest.raises(SyncFailedError, match="a sync failed") as caught:
        log.close()
    assert type(causes(caught.value)[-1]) is OSError


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("is_halfway", [False, True])
def test_a_sync_that_failed_is_what_closing_says(number: int, is_halfway: bool) -> None:
    """Also with the number of a full disk, on which nothing acknowledged would be in danger."""
    disk, log = failing("sync")
    disk.faults = [disk.faults[0]._replace(errno=number)]
    if is_halfway:  # as an interrupt leaves it
        log._writer._gate.is_entered = True  # type: ignore[union-attr]
    else:
        with pytest.raises(SyncFailedError):
            log.append(b"x", durability="durable")
    with pytest.raises(SyncFailedError, match="a sync failed"):
        log.close()


def test_damage_is_not_its_own_cause() -> None:
    disk = MemoryDisk()
    with Log(disk, "a", CONFIG) as log:
        log.append_many([b"some record"] * 500)
    name = min(name for name in disk.names() if name.endswith(".log"))
    file = disk.open(name, write=True)
    file.write([bytes(500)], 700)
    file.close()
    with Log(disk, "r", CONFIG) as log:
        for use in (lambda: list(log.read()), lambda: list(log.values()), lambda: log[20]):
            with pytest.raises(CorruptionError) as caught:
                use()
            assert causes(caught.value) == [caught.value]


def test_what_is_refused_again_and_again_keeps_nobody_alive() -> None:
    class Witness:
        pass

    def be_refused(use: Callable[[], object]) -> weakref.ref[Witness]:
        witness = Witness()
        with pytest.raises((LogClosedError, StorageError)):
            use()
        return weakref.ref(witness)

    disk, log = failing("sync")
    append = lambda: log.append(b"x", durability="durable")  # noqa: E731
    for use in (
        append,
        append,
        log.sync,
        log.close,
        append,
        lambda: log[0],
        lambda: list(log.read()),
    ):
        witness = be_refused(use)
        gc.collect()
        assert witness() is None
    assert disk.failures == 1


def test_a_directory_that_nobody_may_look_into_any_more_is_named_as_the_cause() -> None:
    """Where not even that can be asked whether a new segment is there."""
    disk = FaultyDisk(MemoryDisk())
    log = Log(disk, "a", CONFIG)
    log.append_many([b"x" * 100] * 20)
    disk.faults = [Fault(kind, 1, errno.EACCES, is_lasting=True) for kind in ("create", "size_of")]
    disk.counts.clear()
    for _ in range(2):
        with pytest.raises(StorageError, match="Permission denied"):
            log.append_many([b"x" * 100] * 40)
    disk.faults = []
    log.close()
    with Log(disk, "a", CONFIG) as log:
        assert list(log.values())[:20] == [b"x" * 100] * 20
