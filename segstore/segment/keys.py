"""What has to be read again when a segment is sealed: its keys, and what was only taken over."""

from __future__ import annotations

from contextlib import suppress

from segstore.disk import Disk
from segstore.format.batch import RecordBatch
from segstore.format.keyfilter import KeyFilter
from segstore.format.scanner import readable
from segstore.segment.reader import SegmentReader
from segstore.segment.recovery import count_event
from segstore.segment.state import SegmentState


def key_filter_of(disk: Disk, base_offset: int, log_tag: int) -> KeyFilter | None:
    """The filter of a plain segment's keys, or None where no record has one.

    Raises:
        OSError: the segment can't be read.
    """
    reader = SegmentReader(disk, base_offset, log_tag, is_compressed=False, stamp=None)
    keys: set[bytes] = set()
    for event in reader.events_unindexed():
        for batch in readable(event):
            add_keys(keys, batch)
    return KeyFilter.of(keys) if keys else None


def add_keys(keys: set[bytes], batch: RecordBatch) -> None:
    """Add the keys of a batch to those of its segment."""
    if batch.has_keys:
        # Columns that are not well formed have no record that anybody could find.
        with suppress(ValueError):
            keys.update(key for key in batch.keys() if key is not None)  # noqa: SIM118


def read_again(disk: Disk, inherited: SegmentState, log_tag: int) -> SegmentState:
    """The state of a plain segment from its frames, where some of it had been taken over.

    An unsealed index has no checksum; what is sealed gets one, and must be right.

    Raises:
        OSError: the segment can't be read.
    """
    base_offset = inherited.base_offset
    reader = SegmentReader(disk, base_offset, log_tag, is_compressed=False, stamp=None)
    state = SegmentState(base_offset, inherited.index_interval_bytes)
    for event in reader.events_unindexed():
        count_event(state, event)
    state.size_bytes, state.end_offset = inherited.size_bytes, inherited.end_offset
    return state
