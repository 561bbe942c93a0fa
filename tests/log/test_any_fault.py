"""Whatever operation fails, what was acknowledged is read back."""

from __future__ import annotations

import errno
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from segstore.config import LogConfig
from segstore.errors import SegstoreError
from segstore.log.log import Log
from segstore.testing.faulty import Fault, FaultyDisk
from segstore.testing.memory import MemoryDisk
from segstore.testing.strategies import Batch, batches, faults

CONFIG = LogConfig.of({"background": False, "segment_size": "4 KiB", "compression": "lz4"})
STEPS = ("sync", "roll", "compress", "sweep", "maintain")


@given(st.lists(batches(max_size=6) | st.sampled_from(STEPS), max_size=20), faults(60))
@settings(max_examples=150, deadline=None)
def test_what_was_acknowledged_is_read_back_whatever_fails(
    steps: list[Batch | str], fault: Fault
) -> None:
    memory = MemoryDisk()
    disk = FaultyDisk(memory)
    log = Log(disk, "a", CONFIG)
    disk.faults = [fault._replace(number=fault.number + disk.counts[fault.kind])]
    acknowledged: dict[int, tuple[int, bytes | None, bytes]] = {}
    for step in steps:
        with suppress(SegstoreError, OSError):
            if isinstance(step, str):
                getattr(log, step)()
                continue
            offsets = log.append_many(step.values, keys=step.keys, timestamps=step.times())
            keys = step.keys or [None] * len(offsets)
            rows = zip(step.times(), keys, step.values, strict=True)
            acknowledged.update(zip(offsets, rows, strict=True))
    with Log(memory.after_kill(), "a", CONFIG) as after:
        found = {record.offset: tuple(record[1:]) for record in after.read()}
        assert after.recovery is not None
        assert after.recovery.lost == ()
    assert found.items() >= acknowledged.items()


def test_what_a_failed_sync_left_in_the_cache_alone_is_on_the_device_after_the_next_close() -> None:
    """The segment, and its index, of which the recovery point says that it is."""
    values = [b"value %d" % number * 20 for number in range(40)]
    config = CONFIG._replace(index_interval=64, batch_size=256, segment_size=1 << 20)
    failures = 0
    for number in range(1, 8):
        memory = MemoryDisk()
        disk = FaultyDisk(memory)
        log = Log(disk, "a", config)
        log.append_many(values[:20])
        log.maintain()
        log.append_many(values[20:])
        at = disk.counts["sync"] + number
        disk.faults = [Fault("sync", at, errno.EIO, drops_data=True)]
        with suppress(SegstoreError):
            log.maintain()
        failures += disk.failures
        left = memory.after_kill()
        Log(left, "a", config).close()
        before = left.contents()
        left.drop_caches()
        after = left.contents()
        for name in before:
            if name.endswith((".log", ".index")):
                assert after[name] == before[name], (number, name)
        assert list(Log(left, "r", config).values()) == values
    assert failures
