"""Writing a segment anew from what can be read of it, as a plain and unsealed one in its place.

Repair does it to get damage out of the way, truncation to end a segment earlier. The new file is
written aside, synced and renamed into place; until then nothing has changed.
"""

from collections.abc import Iterator
from contextlib import suppress

from segstore.disk import Disk, written_aside
from segstore.format.buffers import Buffer
from segstore.format.fileheader import KIND_SEGMENT, FileHeader, encode_file_header
from segstore.format.frame import encode_batch
from segstore.format.names import (
    LZ4_INDEX_SUFFIX,
    LZ4_SUFFIX,
    RAW_INDEX_SUFFIX,
    RAW_SUFFIX,
    segment_file,
    temporary,
)
from segstore.format.scanner import Damage, Frame, readable
from segstore.segment.reader import SegmentReader

_SUFFIXES = (LZ4_SUFFIX, LZ4_INDEX_SUFFIX, RAW_SUFFIX, RAW_INDEX_SUFFIX)
_OTHER_SUFFIXES = (LZ4_SUFFIX, LZ4_INDEX_SUFFIX, RAW_INDEX_SUFFIX)


def rewrite_segment(disk: Disk, reader: SegmentReader, log_id: bytes, end_offset: int) -> None:
    """Put the records below `end_offset` that can be read in place of a segment's files.

    Damage leaves a hole in the offsets, as it does where it stands now.

    Raises:
        OSError: a step failed.
        UnsupportedFormatError: a frame is of a later format version.
    """
    name = segment_file(reader.base_offset, RAW_SUFFIX)
    with written_aside(disk, temporary(name), name) as file:
        header = encode_file_header(FileHeader(KIND_SEGMENT, reader.base_offset, log_id, 0))
        file.write([header], 0)
        position = len(header)
        for event in reader.events_unindexed():
            start = event.batch.base_offset if isinstance(event, Frame) else event.offset
            if start >= end_offset:
                break
            for data in _kept(event, end_offset):
                file.write([data], position)
                position += len(data)
    disk.sync_directory()  # or a power cut could take the new name and the old file
    # The compressed file counts as long as it is there: removing it is what commits the plain one.
    remove_files(disk, reader.base_offset, _OTHER_SUFFIXES)
    disk.sync_directory()


def _kept(event: Frame | Damage, end_offset: int) -> Iterator[Buffer]:
    """The frame, or new ones of what can be read below `end_offset`."""
    if isinstance(event, Frame) and event.batch.end_offset <= end_offset:
        yield event.batch.frame
        return
    for batch in readable(event):
        if batch.base_offset < end_offset:
            part = batch.slice(batch.base_offset, end_offset)
            # A forged one can't be read: its checksum fits, and its columns don't. And a merged
            # batch may vouch for records of its own that go now.
            with suppress(ValueError):
                yield encode_batch(part, durable_offset_max=end_offset).data


def remove_files(disk: Disk, base_offset: int, suffixes: tuple[str, ...] = _SUFFIXES) -> None:
    """Remove the files of a segment with these suffixes (by default all) that are there.

    Raises:
        OSError: one can't be removed.
    """
    for suffix in suffixes:
        name = segment_file(base_offset, suffix)
        if disk.size_of(name) is not None:
            disk.unlink(name)
