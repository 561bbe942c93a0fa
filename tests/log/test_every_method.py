"""Every public method fails with a documented error, whatever the disk does and whoever closes."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from segstore import Log, LogClosedError, StorageError
from segstore.config import LogConfig
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import MemoryDisk

CONFIG = LogConfig.of(
    {"background": False, "segment_size": 4096, "batch_size": 1024}, environment={}
)

READING: dict[str, Callable[[Log], object]] = {
    "start_offset": lambda log: log.start_offset,
    "end_offset": lambda log: log.end_offset,
    "durable_offset": lambda log: log.durable_offset,
    "len": len,
    "log[offset]": lambda log: log[150],
    "read": lambda log: list(log.read()),
    "values": lambda log: list(log.values(100)),
    "batches": lambda log: list(log.batches()),
    "find": lambda log: list(log.find(b"key")),
    "offset_for_time": lambda log: log.offset_for_time(0),
    "follow": lambda log: list(log.follow("start", timeout=0)),
    "consumers": Log.consumers,
    "segments": Log.segments,
    "verify": Log.verify,
    "stats": Log.stats,
    "consumer": lambda log: log.consumer("two").close(),
    "remove_consumer": lambda log: log.remove_consumer("one"),
}
WRITING: dict[str, Callable[[Log], object]] = {
    "append": lambda log: log.append(b"x"),
    "append durable": lambda log: log.append(b"x", durability="durable"),
    "append_many": lambda log: log.append_many([b"x" * 500] * 20),
    "sync": Log.sync,
    "roll": Log.roll,
    "maintain": Log.maintain,
    "compress": Log.compress,
    "sweep": Log.sweep,
    "repair": Log.repair,
    "trim": lambda log: log.trim(10),
    "truncate": lambda log: log.truncate(200),
}


def filled() -> MemoryDisk:
    disk = MemoryDisk()
    with Log(disk, "a", CONFIG) as log:
        log.append_many([b"record %d" % number for number in range(250)], keys=[b"key"] * 250)
        log.consumer("one").close()
    return disk


@pytest.mark.parametrize("mode", ["r", "a"])
@pytest.mark.parametrize("kind", ["open", "read", "names", "size_of", "write", "sync"])
def test_a_failing_disk_is_a_storage_error(mode: str, kind: str) -> None:
    for name, method in (READING | (WRITING if mode == "a" else {})).items():
        disk = FaultyDisk(filled())
        log = Log(disk, mode, CONFIG)  # type: ignore[arg-type]
        disk.faults = [Fault(kind, disk.counts[kind] + 1, errno.EMFILE, is_lasting=True)]
        failure = None
        try:
            method(log)
        except OSError as error:
            failure = error
        if failure is not None:
            assert isinstance(failure, StorageError), (name, failure)
            assert failure.errno == errno.EMFILE
        disk.faults = []
        if mode == "r":
            assert len(list(log.read())) == 250


@pytest.mark.parametrize("name", READING)
def test_a_log_closed_in_another_thread_is_a_closed_log(path: str, name: str) -> None:
    """As it is for a call that found the log open, and goes on behind the close."""
    import segstore

    with segstore.open(path, background=False) as log:
        log.append_many([b"some record"] * 200)
        with segstore.open(path, "r") as reader:
            view = reader._reader.view
            reader.close()
            reader._reader.refusal = None
            reader._is_closed = False
            with pytest.raises(LogClosedError):
                READING[name](reader)
            for look in (
                view.end_offset,
                view.durable_offset,
                view.epoch,
                view.glance,
                view.refresh,
            ):
                with pytest.raises(LogClosedError):
                    look()
