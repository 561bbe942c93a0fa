"""What is known of a segment, kept up frame by frame, and how that becomes its sealed index.

The writer, recovery, resealing and compression all count the same way, here.
"""

from collections.abc import Sequence
from typing import NamedTuple

from segstore.disk import Disk, written_aside
from segstore.format.checksum import crc32c
from segstore.format.fileheader import FILE_HEADER_BYTES, KIND_INDEX, FileHeader, encode_file_header
from segstore.format.index import LZ4, SEALED, OffsetIndex, Stamp, encode_stamp
from segstore.format.keyfilter import KeyFilter
from segstore.format.names import temporary

# The identities of min and max over int64.
NO_MIN = 2**63 - 1
NO_MAX = -(2**63)


class Mark(NamedTuple):
    """A state to return to."""

    size_bytes: int
    end_offset: int
    min_timestamp: int
    max_timestamp: int
    first_append_time: int
    last_append_time: int
    has_keys: bool
    entry_count: int


class SegmentState:
    """The facts of one segment up to some frame.

    Attributes:
        base_offset: its first offset.
        size_bytes: where the next frame goes, in the plain segment.
        end_offset: the offset of the next record.
        min_timestamp, max_timestamp: of the records so far; the first above the second for none.
        first_append_time, last_append_time: of the frames, by the engine's clock; 0 for none.
        has_keys: whether any record has a key.
        is_inherited: some of it was taken over from an unsealed index, and not read again.
        index: the sparse index so far.
    """

    def __init__(self, base_offset: int, index_interval_bytes: int) -> None:
        self.base_offset = base_offset
        self.index = OffsetIndex()
        self.index_interval_bytes = index_interval_bytes
        self.size_bytes = FILE_HEADER_BYTES
        self.end_offset = base_offset
        self.min_timestamp = NO_MIN
        self.max_timestamp = NO_MAX
        self.first_append_time = 0
        self.last_append_time = 0
        self.has_keys = False
        self.is_inherited = False

    @property
    def is_empty(self) -> bool:
        """Whether there is no record."""
        return self.end_offset == self.base_offset

    def add(
        self,
        position: int,
        size_bytes: int,
        base_offset: int,
        record_count: int,
        min_timestamp: int,
        max_timestamp: int,
        append_time: int,
        *,
        has_keys: bool,
        entry_count_max: int | None = None,
        wants_entry: bool | None = None,
    ) -> bool:
        """Count a frame; True if it got an index entry, which is then the last one.

        `wants_entry` says whether it gets one; None leaves that to the index interval.
        """
        self.size_bytes = position + size_bytes
        self.end_offset = base_offset + record_count
        self.stretch(min_timestamp, max_timestamp, append_time, has_keys=has_keys)
        index = self.index
        count = len(index.places)
        if wants_entry is None:
            wants_entry = not count or position - index.position(-1) >= self.index_interval_bytes
        if not wants_entry:
            return False
        if entry_count_max is not None and count >= entry_count_max:
            return False
        relative_offset = base_offset - self.base_offset
        if relative_offset >> 32 or position >> 32:  # no entry holds that, and no writer makes it
            return False
        index.add(relative_offset, position, self.max_timestamp)
        return True

    def stretch(
        self, min_timestamp: int, max_timestamp: int, append_time: int, *, has_keys: bool
    ) -> None:
        """Count the times and keys of a frame, but not the frame."""
        if min_timestamp < self.min_timestamp:
            self.min_timestamp = min_timestamp
        if max_timestamp > self.max_timestamp:
            self.max_timestamp = max_timestamp
        self.first_append_time = self.first_append_time or append_time
        if append_time > self.last_append_time:
            self.last_append_time = append_time
        if has_keys:
            self.has_keys = True

    def mark(self) -> Mark:
        """The state as it is now."""
        return Mark(
            self.size_bytes,
            self.end_offset,
            self.min_timestamp,
            self.max_timestamp,
            self.first_append_time,
            self.last_append_time,
            self.has_keys,
            len(self.index),
        )

    def restore(self, mark: Mark) -> None:
        """Return to an earlier state."""
        (
            self.size_bytes,
            self.end_offset,
            self.min_timestamp,
            self.max_timestamp,
            self.first_append_time,
            self.last_append_time,
            self.has_keys,
            entry_count,
        ) = mark
        self.index.cut(entry_count)


def write_sealed_index(
    disk: Disk,
    name: str,
    header: FileHeader,
    state: SegmentState,
    key_filter: KeyFilter | None,
    *,
    data_bytes: int,
    chunk_starts: Sequence[int] = (),
) -> Stamp:
    """Put the finished index of a segment in place, durably but for its name.

    `chunk_starts` are those of a compressed segment. The caller syncs the directory. Written aside
    and renamed, and not trimmed in place: a reader in another process may have the old file
    mapped, and a mapped file must never get shorter.

    Raises:
        OSError: it can't be written; the old index, if any, is still there.
    """
    starts = b"".join(start.to_bytes(8, "little") for start in chunk_starts)
    filter_bytes = b"" if key_filter is None else key_filter.to_bytes()
    body = state.index.encode() + starts + filter_bytes
    stamp = Stamp(
        flags=SEALED | (LZ4 if chunk_starts else 0),
        data_bytes=data_bytes,
        raw_bytes=state.size_bytes,
        end_offset=state.end_offset,
        min_timestamp=state.min_timestamp,
        max_timestamp=state.max_timestamp,
        first_append_time=state.first_append_time,
        last_append_time=state.last_append_time,
        entry_count=len(state.index),
        chunk_count=len(chunk_starts),
        filter_bytes=len(filter_bytes),
        filter_hash_count=0 if key_filter is None else key_filter.hash_count,
        body_crc=crc32c(body),
    )
    with written_aside(disk, temporary(name), name) as file:
        head = encode_file_header(header._replace(kind=KIND_INDEX))
        file.write([head, encode_stamp(stamp), body], 0)
    return stamp
