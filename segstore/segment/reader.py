"""Reading one segment: by offset, by time and in order, from plain and compressed files alike."""

from collections.abc import Iterator
from copy import copy
from typing import NamedTuple

from segstore.disk import Disk, File
from segstore.format.batch import Record, RecordBatch
from segstore.format.fileheader import (
    FILE_HEADER_BYTES,
    KIND_SEGMENT,
    FileHeader,
    decode_file_header,
)
from segstore.format.frame import decode_frame
from segstore.format.framelayout import peek_header
from segstore.format.index import (
    ENTRIES_POSITION,
    ENTRY_BYTES,
    INDEX_BYTES_MAX,
    LZ4,
    OffsetIndex,
    Stamp,
    decode_stamp,
    is_body_intact,
)
from segstore.format.kernel import decode_head, read_record
from segstore.format.keyfilter import KeyFilter
from segstore.format.names import LZ4_INDEX_SUFFIX, RAW_INDEX_SUFFIX, segment_file
from segstore.format.pointread import Head
from segstore.format.scanner import Damage, Frame, Scanner, readable
from segstore.mutex import new_mutex
from segstore.segment.headcache import HeadCache
from segstore.segment.indexfile import read_entries, unreadable_as_missing
from segstore.segment.scanning import scan
from segstore.segment.source import (
    ChunkTable,
    Lz4Source,
    RawSource,
    Source,
    UnreadableError,
    is_unreadable,
)
from segstore.segment.state import NO_MAX


class SegmentReader:
    """One segment, open for reading.

    The index is a hint. It is believed as long as the frame it points at is the one it says; at
    the first contradiction it is made anew from the data, once.
    """

    def __init__(
        self,
        disk: Disk,
        base_offset: int,
        log_tag: int | None,
        *,
        is_compressed: bool,
        stamp: Stamp | None,
        index: OffsetIndex | None = None,
        with_file: bool = True,
    ) -> None:
        """Open the files.

        `stamp` is None for an unsealed segment; `index` is the writer's own, where there is one.
        Without `with_file` only the index is read, for `reopened` to go on from.

        Raises:
            OSError: the data file can't be opened (FileNotFoundError after a swap or retention).
        """
        self.base_offset = base_offset
        self.log_tag = log_tag
        self._disk = disk
        self.is_index_rebuilt = False
        # Somebody else's active segment: its index file grows with it.
        self._may_grow = stamp is None and index is None and not is_compressed
        self._are_times_doubtful = stamp is None
        self._growth_lock = new_mutex()
        self._is_compressed = is_compressed
        self._table: ChunkTable | None = None
        self.key_filter: KeyFilter | None = None
        if index is None:
            index, self._table, self.key_filter = load_index(
                disk, base_offset, is_compressed, stamp
            )
        self._index = index
        self._heads: list[Head | None] = []
        self._head_read_bytes = HEAD_READ_BYTES
        self.is_index_intact = index is not None and (self._table is not None or not is_compressed)
        self._chunks: Lz4Source | None = None
        if with_file:
            self._open()

    def _open(self) -> None:
        disk, base_offset = self._disk, self.base_offset
        self._chunks = Lz4Source(disk, base_offset, self._table) if self._is_compressed else None
        self.source: Source = self._chunks or RawSource(disk, base_offset, self._index)

    def without_file(self) -> "SegmentReader":
        """What was read of the index, to be had again from `reopened`; it can't read."""
        reader = copy(self)
        del reader.source
        reader._chunks = None
        return reader

    def reopened(self) -> "SegmentReader":
        """A reader that has its file open, of one without.

        Raises:
            OSError: the data file can't be opened (FileNotFoundError after a swap or retention).
        """
        reader = copy(self)
        reader._open()
        return reader

    def events(self, offset: int, stop: int | None = None) -> Iterator[Frame | Damage]:
        """Everything from the frame that holds `offset`, or shortly before, to the end.

        Whoever means to leave at the offset `stop` has no more read than that takes. Bad sectors
        are damage.

        Raises:
            OSError: the file can't be read.
            UnsupportedFormatError: a frame is of a later format version.
        """
        index, slot = self._find(offset)
        first_bytes = None
        if stop is not None and slot >= 0:
            last = index.slot_of_offset(stop - 1 - self.base_offset)
            end = index.next_position(last)
            if slot <= last and end is not None:
                first_bytes = end - index.position(slot)
        return self._events_from(index, slot, self.source.size(), first_bytes)

    def events_unindexed(self, *, reads_on: bool = False) -> Iterator[Frame | Damage]:
        """Everything from the first frame on, without a look at the index.

        Bad sectors are damage only to whoever `reads_on` (see `scan`).
        """
        size_bytes = self.source.size()
        return self.scan_from(FILE_HEADER_BYTES, self.base_offset, size_bytes, reads_on=reads_on)

    def header(self, *, reads_on: bool = False) -> FileHeader | None:
        """The file header, or None where it is damaged; for `reads_on` see `scan`.

        Raises:
            OSError: the file can't be read.
        """
        try:
            data = self.source.read(FILE_HEADER_BYTES, 0)
        except UnreadableError:
            return None
        except OSError as error:
            if not reads_on or not is_unreadable(error):
                raise
            return None
        return decode_file_header(data, KIND_SEGMENT)

    def has_intact_header(self) -> bool:
        """Whether the file header can be read, is intact and names this segment."""
        header = self.header(reads_on=True)
        return header is not None and header.base_offset == self.base_offset

    def record(self, offset: int, cache: HeadCache) -> Record | None:
        """The record with `offset`, without the whole frame.

        Only the head of the frame and the blocks with the value are read and checked, and the head
        is kept. None where that does not do, or anything is odd: `batch` and `events` tell.

        Raises:
            OSError: the file can't be read.
            UnsupportedFormatError: the frame is of a later format version.
        """
        heads = self._heads  # before the index, which may be made anew meanwhile, with new ones
        index = self._index
        if index is None or self._may_grow:
            index, _ = self._find(offset)
        source = self.source
        try:
            for _ in range(2):
                found: Record | int | None = read_record(
                    source.read,
                    source.descriptor,
                    index.places,
                    heads,
                    self.base_offset,
                    offset,
                    Record,
                )
                if not isinstance(found, int):
                    return found
                head = self._read_head(index.position(found))
                if head is None:
                    return None
                cache.add(heads, found, head)
        except (UnreadableError, OSError) as error:
            if not is_unreadable(error):
                raise
        return None

    def _read_head(self, position: int) -> Head | None:
        if self._chunks is not None and not self._chunks.keeps_chunk_at(position):
            return None
        # Frames in a row are alike, and so are their heads.
        wanted = self._head_read_bytes
        # With keys it takes two looks to know where the head ends.
        for _ in range(3):
            found = decode_head(self.source.read(wanted, position), self.log_tag)
            if found is None:
                return None
            if not isinstance(found, int):
                size_bytes = len(found[0])
                self._head_read_bytes = min(size_bytes + size_bytes // 16, HEAD_READ_BYTES_MAX)
                return found
            wanted = found
        return None

    def batch(self, offset: int) -> RecordBatch | None:
        """The batch with `offset`, for a point read, found among those of one index entry.

        Only that batch is checked; the headers of those before it merely lead to it, and one that
        leads astray is found out there. None then, or where anything else is odd: `events` tells.

        Raises:
            OSError: the file can't be read.
            UnsupportedFormatError: the batch is of a later format version.
        """
        index, slot = self._find(offset)
        if slot < 0:
            return None
        position = index.position(slot)
        end = index.next_position(slot)
        if end is None:
            end = self.source.size()
        if end - position > SPAN_BYTES_MAX:
            return None
        try:
            data = self.source.read(end - position, position)
        except (UnreadableError, OSError) as error:
            if not is_unreadable(error):
                raise
            return None
        view = memoryview(data)
        at = 0
        while (fields := peek_header(view, at)) is not None:
            size_bytes, base_offset, record_count = fields
            if offset < base_offset + record_count:
                batch = decode_frame(view, at, self.log_tag)
                if isinstance(batch, RecordBatch) and base_offset <= offset:
                    return batch
                return None
            at += size_bytes
        return None

    def _find(self, offset: int) -> tuple[OffsetIndex, int]:
        """The entry to start from for `offset`, and its index; -1 is the start of the segment.

        Both, because the next look may find another index, which another thread made anew.
        """
        index = self._index
        if index is None:
            index = self.index
        slot = index.slot_of_offset(offset - self.base_offset)
        if self._may_grow and slot == len(index) - 1:
            with self._growth_lock:
                known = index.position(len(index) - 1) if len(index) else 0
                if self.source.size() - known > GROWTH_BYTES:
                    self._extend(index)
                slot = index.slot_of_offset(offset - self.base_offset)
        return index, slot

    def offset_before_time(self, timestamp: int) -> int:
        """The offset to start from for the first record at or after `timestamp`."""
        if self._are_times_doubtful:
            self._correct_times()
        index = self.index
        slot = index.slot_before_time(timestamp)
        return self.base_offset + (index.relative_offset(slot) if slot >= 0 else 0)

    @property
    def size_bytes(self) -> int:
        """What is kept of the segment takes in memory: index, key filter and a decoded chunk."""
        entries_bytes = 0 if self._index is None else ENTRY_BYTES * len(self._index)
        filter_bytes = 0 if self.key_filter is None else self.key_filter.size_bytes
        return entries_bytes + filter_bytes + (self._chunks.kept_bytes if self._chunks else 0)

    @property
    def index(self) -> OffsetIndex:
        """The index entries, loaded or made anew."""
        if self._index is None:
            self.rebuild_index()
            assert self._index is not None
        return self._index

    def _correct_times(self) -> None:
        """Take the times of the entries from the frames, once.

        A position and an offset are checked against the frame they lead to. A wrong time would
        just lead elsewhere, and an index that is not sealed has no checksum that would tell.
        """
        index = self.index
        slot, count = 0, len(index)
        highest = NO_MAX
        for event in self.events_unindexed(reads_on=True):
            for batch in readable(event):
                highest = max(highest, batch.header.max_timestamp)
                if slot < count and index.next_position(slot - 1) == event.position:
                    index.correct_time(slot, highest)
                    slot += 1
        if slot < min(count, len(index)):  # an entry that leads to no frame
            self.rebuild_index()
        self._are_times_doubtful = False

    def rebuild_index(self) -> None:
        """Make the entries anew from the data: one a frame, or a chunk's worth of small ones."""
        index = OffsetIndex()
        max_timestamp = -(2**63)
        for event in self.events_unindexed(reads_on=True):  # it is a hint
            for batch in readable(event):
                header = batch.header
                max_timestamp = max(max_timestamp, header.max_timestamp)
                last = index.position(len(index) - 1) if len(index) else -REBUILD_INTERVAL_BYTES
                if event.position - last >= REBUILD_INTERVAL_BYTES:
                    relative_offset = header.base_offset - self.base_offset
                    index.add(relative_offset, event.position, max_timestamp)
        self._index = index
        self._heads = []
        self.is_index_rebuilt = True
        self._may_grow = False  # what was wrong once is not asked again

    def _extend(self, index: OffsetIndex) -> None:
        """Read the entries that a writer in another process has added since."""
        try:
            file = self._disk.open(segment_file(self.base_offset, RAW_INDEX_SUFFIX))
        except FileNotFoundError:  # swapped or deleted, while the data is still open here
            return
        at = ENTRIES_POSITION + len(index) * ENTRY_BYTES
        end = file.size()
        found = decode_stamp(file.read(ENTRIES_POSITION, 0), self.base_offset)
        if found is not None:  # sealed meanwhile, and other things follow the entries
            end = ENTRIES_POSITION + found[1].entry_count * ENTRY_BYTES
        if not at < end <= INDEX_BYTES_MAX:
            return
        more = read_entries(file, at, end)
        last = index[len(index) - 1] if len(index) else (-1, 0, NO_MAX)
        for slot in range(len(more)):
            entry = more[slot]
            if entry[0] <= last[0] or entry[1] <= last[1]:
                return
            index.add(*entry)
            last = entry

    def _events_from(
        self,
        index: OffsetIndex,
        slot: int,
        end_position: int,
        first_bytes: int | None = None,
    ) -> Iterator[Frame | Damage]:
        """Events from an entry; one that turns out wrong is replaced by what the data says."""
        if slot < 0:
            yield from self.scan_from(
                FILE_HEADER_BYTES, self.base_offset, end_position, reads_on=True
            )
            return
        relative_offset, position, _ = index[slot]
        offset = self.base_offset + relative_offset
        events = self.scan_from(position, offset, end_position, first_bytes, reads_on=True)
        first = next(events, None)
        if isinstance(first, Frame) or (first is not None and first.parts):
            yield first
            yield from events
        elif self.is_index_rebuilt:
            if first is not None:
                yield first
                yield from events
        else:
            # Either the entry or the frame is wrong, and only the data can tell.
            self.rebuild_index()
            yield from self._events_from(*self._find(offset), end_position)

    def scan_from(
        self,
        position: int,
        offset: int,
        end_position: int,
        first_bytes: int | None = None,
        *,
        reads_on: bool = False,
    ) -> Iterator[Frame | Damage]:
        """Events from a position where the frame of `offset` should start, without the index."""
        scanner = Scanner(self.log_tag, offset, position)
        return scan(self.source, scanner, end_position, first_bytes, reads_on=reads_on)


# A rebuilt index is as dense as the default one.
REBUILD_INTERVAL_BYTES = 4096

# How far a growing segment may be ahead of the entries known of it before more are read.
GROWTH_BYTES = 128 * 1024

# What the first point read of a segment reads first: the head of a frame of some 1,400 records.
HEAD_READ_BYTES = 6144
HEAD_READ_BYTES_MAX = 1 << 16

# A span between two index entries that is longer than this is read frame by frame.
SPAN_BYTES_MAX = 1 << 20


class Loaded(NamedTuple):
    """What an index file holds; None for what is not there or can't be trusted."""

    entries: OffsetIndex | None = None
    table: ChunkTable | None = None
    key_filter: KeyFilter | None = None


def load_index(disk: Disk, base_offset: int, is_compressed: bool, stamp: Stamp | None) -> Loaded:
    """Read the index file of a segment; what can't be read of it is not there.

    Raises:
        OSError: see `unreadable_as_missing`.
    """
    suffix = LZ4_INDEX_SUFFIX if is_compressed else RAW_INDEX_SUFFIX
    with unreadable_as_missing():
        file = disk.open(segment_file(base_offset, suffix))
        return _read_index(file, is_compressed, stamp)
    return Loaded()


def _read_index(file: File, is_compressed: bool, stamp: Stamp | None) -> Loaded:
    size = file.size()
    if not ENTRIES_POSITION <= size <= INDEX_BYTES_MAX:
        return Loaded()
    if stamp is None:
        return Loaded() if is_compressed else Loaded(read_entries(file, ENTRIES_POSITION, size))
    body = file.read(size - ENTRIES_POSITION, ENTRIES_POSITION)
    if bool(stamp.flags & LZ4) != is_compressed or not is_body_intact(stamp, body):
        return Loaded()
    entries_end = stamp.entry_count * ENTRY_BYTES
    starts_end = entries_end + 8 * stamp.chunk_count
    index = OffsetIndex.decode(body[:entries_end])
    key_filter = KeyFilter.from_bytes(body[starts_end:], stamp.filter_hash_count)
    if not is_compressed:
        return Loaded(index, None, key_filter)
    starts = memoryview(body)[entries_end:starts_end].cast("Q").tolist()
    if not starts or len(starts) != stamp.entry_count or len(index) != stamp.entry_count:
        return Loaded()
    raw_positions = [0, *(index.position(slot) for slot in range(1, len(index))), stamp.raw_bytes]
    positions = [*starts, stamp.data_bytes]
    if starts[0] != 0 or positions != sorted(positions) or raw_positions != sorted(raw_positions):
        return Loaded()
    return Loaded(index, ChunkTable(raw_positions, positions), key_filter)
