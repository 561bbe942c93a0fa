"""Mending one sealed segment: a new index, and damaged bytes out of the way.

What is readable is never at risk: damaged bytes are set aside before anything is replaced, and the
mended segment is written aside, synced and renamed into place. Offsets that are lost stay lost, as
a hole that reading reports.
"""

from typing import NamedTuple

from segstore.disk import Disk
from segstore.format.fileheader import KIND_SEGMENT, FileHeader, log_tag
from segstore.format.scanner import Damage, Frame
from segstore.segment.aside import set_aside
from segstore.segment.catalog import Segment
from segstore.segment.keys import add_keys, filter_of
from segstore.segment.reader import SegmentReader
from segstore.segment.recovery import count_event
from segstore.segment.rewrite import rewrite_segment
from segstore.segment.source import Lz4Source
from segstore.segment.state import SegmentState, write_sealed_index


class Survey(NamedTuple):
    """What a full look at a sealed segment found.

    Attributes:
        damage: bytes that are no frames; a mere hole in the offsets has none and is not listed.
        needs_index: its index is missing, damaged or contradicts the data.
    """

    damage: list[Damage]
    needs_index: bool


def survey(reader: SegmentReader, segment: Segment) -> Survey:
    """Look at every byte of a sealed segment.

    Raises:
        OSError: it can't be read.
        UnsupportedFormatError: a frame is of a later format version.
    """
    damage = [
        event
        for event in reader.events_unindexed()
        if isinstance(event, Damage) and event.end_position > event.position
    ]
    return Survey(damage, segment.stamp is None or not reader.is_index_intact)


def mend(
    disk: Disk,
    segment: Segment,
    reader: SegmentReader,
    found: Survey,
    log_id: bytes,
    end_offset: int,
    index_interval_bytes: int,
) -> tuple[Segment, list[str]]:
    """Mend a segment; what it is then, and the names of what was set aside.

    Raises:
        OSError: a step failed; the segment is as it was, or without damage and without its index.
    """
    kept: list[str] = []
    if found.damage:
        kept = [_set_aside(disk, segment, reader, damage) for damage in found.damage]
        rewrite_segment(disk, reader, log_id, end_offset)
        segment = Segment(segment.base_offset, False, 0, None)
        reader = SegmentReader(
            disk, segment.base_offset, log_tag(log_id), is_compressed=False, stamp=None
        )
    return _index(disk, segment, reader, log_id, end_offset, index_interval_bytes), kept


def _set_aside(disk: Disk, segment: Segment, reader: SegmentReader, damage: Damage) -> str:
    file = disk.open(segment.data_name)
    try:
        start, end = damage.position, damage.end_position
        if isinstance(reader.source, Lz4Source):
            start, end = reader.source.file_span(start, end)
        return set_aside(disk, segment.data_name, start, file.read(end - start, start))
    finally:
        file.close()


def _index(
    disk: Disk,
    segment: Segment,
    reader: SegmentReader,
    log_id: bytes,
    end_offset: int,
    index_interval_bytes: int,
) -> Segment:
    source = reader.source
    starts: list[int] = source.chunk_starts() if isinstance(source, Lz4Source) else []
    state = SegmentState(segment.base_offset, 0 if starts else index_interval_bytes)
    keys: set[bytes] = set()
    chunk = -1
    for event in reader.events_unindexed():
        if not isinstance(event, Frame):
            continue
        if isinstance(source, Lz4Source):
            is_first, chunk = (
                source.chunk_of(event.position) != chunk,
                source.chunk_of(event.position),
            )
            count_event(state, event, wants_entry=is_first)
        else:
            count_event(state, event)
        add_keys(keys, event.batch)
    state.size_bytes = source.size()
    state.end_offset = end_offset
    data_bytes = disk.size_of(segment.data_name) or 0
    stamp = write_sealed_index(
        disk,
        segment.index_name,
        FileHeader(KIND_SEGMENT, segment.base_offset, log_id, 0),
        state,
        filter_of(keys) if keys else None,
        data_bytes=data_bytes,
        chunk_starts=starts,
    )
    disk.sync_directory()
    return Segment(segment.base_offset, segment.is_compressed, data_bytes, stamp)
