"""Whatever operation fails, what was acknowledged is read back."""

from __future__ import annotations

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
