"""Cutting the tail of a log back to an offset: all or nothing, whenever it is interrupted.

A truncation touches many files, so it begins by saying durably what it wants: a checkpoint named
`truncate` with the new end offset. That is the commit point. From there on it is only carried
out, by the same steps here and at the next opening, and each step can be done again:

    1 void the tail, which tells readers in other processes where the log ends
    2 remove the segments at or above the new end, highest first
    3 write the part of the segment below the new end aside, rename it into place
    4 void the tail again, so that nobody goes on with a file that was open before
    5 remove the checkpoint

Before it commits it looks whether the disk has room for step 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from segstore.disk import Disk, open_anew
from segstore.format.fileheader import KIND_TRUNCATE, FileHeader, log_tag
from segstore.format.names import RAW_SUFFIX, TRUNCATE, segment_file, temporary
from segstore.segment.catalog import Segment, list_segments
from segstore.segment.checkpointfile import CheckpointFile
from segstore.segment.reader import SegmentReader
from segstore.segment.rewrite import remove_files, rewrite_segment
from segstore.segment.tail import Tail

# What the file system takes for it, whose name is new as well.
_CHECKPOINT_ROOM_BYTES = 16 * 1024


def check_room(disk: Disk, log_id: bytes, end_offset: int) -> None:
    """Refuse a truncation that the disk is too full for: once committed, it could not be undone.

    Raises:
        OSError: there is no room for the checkpoint, and the part of a segment written aside.
    """
    segments = list_segments(disk).catalog.segments
    reader = _reader_to_cut(disk, segments, log_id, end_offset)
    if reader is None:
        return
    index = reader.index
    slot = index.slot_of_offset(end_offset - 1 - reader.base_offset)
    wanted_bytes = _CHECKPOINT_ROOM_BYTES + (index.next_position(slot) or reader.source.size())
    for segment in segments:
        if segment.base_offset >= end_offset:  # these go first
            for name in (segment.data_name, segment.index_name):
                wanted_bytes -= disk.size_of(name) or 0
    if wanted_bytes <= 0:
        return
    name = temporary(segment_file(reader.base_offset, RAW_SUFFIX))
    file = open_anew(disk, name)
    try:
        file.allocate(wanted_bytes)
    finally:
        file.close()
        disk.unlink(name)


def begin_truncation(disk: Disk, log_id: bytes, created: int, end_offset: int) -> None:
    """Commit to cutting the log back to `end_offset`.

    Raises:
        OSError: it can't be written; nothing has changed unless `may_be_pending`.
    """
    header = FileHeader(KIND_TRUNCATE, 0, log_id, created)
    CheckpointFile.create(disk, TRUNCATE, header, end_offset).close()


def pending_truncation(disk: Disk) -> int | None:
    """The end offset that a truncation was committed to and has not reached yet, or None.

    Raises:
        OSError: it can't be read.
    """
    checkpoint = CheckpointFile.open(disk, TRUNCATE, KIND_TRUNCATE, write=False)
    if checkpoint is None:
        return None
    end_offset = checkpoint.current.value
    checkpoint.close()
    return end_offset


def may_be_pending(disk: Disk) -> bool:
    """Whether the next opening may carry a truncation out."""
    try:
        return disk.size_of(TRUNCATE) is not None
    except OSError:
        return True


def finish_truncation(disk: Disk, tail: Tail | None) -> None:
    """Carry out a truncation that was committed to, if there is one.

    Raises:
        OSError: a step failed; the next opening goes on from there.
    """
    checkpoint = CheckpointFile.open(disk, TRUNCATE, KIND_TRUNCATE, write=False)
    if checkpoint is None:
        return
    end_offset, log_id = checkpoint.current.value, checkpoint.log_id
    checkpoint.close()
    disk.sync_directory()  # the process that committed may have died before it did
    if tail is not None:
        tail.void(end_offset)
    segments = list_segments(disk).catalog.segments
    for segment in reversed(segments):
        if segment.base_offset >= end_offset:
            remove_files(disk, segment.base_offset)
    disk.sync_directory()
    reader = _reader_to_cut(disk, segments, log_id, end_offset)
    if reader is not None:
        rewrite_segment(disk, reader, log_id, end_offset)
    if tail is not None:
        tail.void(end_offset)
    disk.unlink(TRUNCATE)
    disk.sync_directory()


def _reader_to_cut(
    disk: Disk, segments: Sequence[Segment], log_id: bytes, end_offset: int
) -> SegmentReader | None:
    """Of the segment of which a part stays, to be replaced by that as a plain and unsealed one."""
    kept = [segment for segment in segments if segment.base_offset < end_offset]
    if not kept:
        return None
    segment = kept[-1]
    if segment.stamp is not None and segment.stamp.end_offset <= end_offset:
        return None
    return SegmentReader(
        disk,
        segment.base_offset,
        log_tag(log_id),
        is_compressed=segment.is_compressed,
        stamp=segment.stamp,
    )
