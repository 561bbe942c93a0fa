"""What has to be read again when a segment is sealed: its keys, and what was only taken over."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import islice

from segstore.disk import Disk
from segstore.format.batch import RecordBatch
from segstore.format.keyfilter import KeyFilter
from segstore.format.scanner import readable
from segstore.segment.reader import SegmentReader
from segstore.segment.recovery import count_event
from segstore.segment.state import SegmentState

# Of the filter: about a millisecond, and for as long that others wait.
_BITE_KEYS = 500
_PAUSE_S = 0.00005


def pause() -> None:
    """Between two bites the interpreter's lock is for whoever appends meanwhile."""
    time.sleep(_PAUSE_S)


def key_filter_of(
    disk: Disk, base_offset: int, log_tag: int, between_bites: Callable[[], None] = pause
) -> KeyFilter | None:
    """The filter of a plain segment's keys, or None where no record has one.

    Raises:
        OSError: the segment can't be read.
    """
    reader = SegmentReader(disk, base_offset, log_tag, is_compressed=False, stamp=None)
    keys: set[bytes] = set()
    for event in reader.events_unindexed():
        for batch in readable(event):
            add_keys(keys, batch)
        between_bites()
    return filter_of(keys, between_bites) if keys else None


def filter_of(keys: Collection[bytes], between_bites: Callable[[], None] = pause) -> KeyFilter:
    """The filter of all keys of a segment, which are distinct."""
    made = KeyFilter.sized(len(keys))
    rest = iter(keys)
    while bite := tuple(islice(rest, _BITE_KEYS)):
        made.add(bite)
        between_bites()
    return made


def add_keys(keys: set[bytes], batch: RecordBatch) -> None:
    """Add the keys of a batch to those of its segment."""
    if batch.has_keys:
        # Columns that are not well formed have no record that anybody could find.
        with suppress(ValueError):
            keys.update(key for key in batch.keys() if key is not None)  # noqa: SIM118


def read_again(
    disk: Disk, inherited: SegmentState, log_tag: int, between_bites: Callable[[], None]
) -> SegmentState:
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
        between_bites()
    state.size_bytes, state.end_offset = inherited.size_bytes, inherited.end_offset
    return state
