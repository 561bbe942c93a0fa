"""Rewriting a sealed segment as independent LZ4 chunks, with small batches merged on the way.

The swap has one commit point, the rename of the finished data file:

    1 write base.log.lz4.tmp, reading every chunk back and comparing   2 fsync it
    3 put base.lz4.index in place   4 rename to base.log.lz4, fsync the directory   <- commit
    5 (the caller) remove base.log and base.index

Killed before 4, opening removes what 1 and 3 left; killed after it, what 5 had not removed yet.
The index is named before the data because a data file without its index is still whole: the
chunks can be found by their own headers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from segstore.disk import FULL, Disk, File, open_anew
from segstore.errors import CorruptionError
from segstore.format.batch import RecordBatch
from segstore.format.buffers import Buffer
from segstore.format.chunk import Codec, decode_chunk, encode_chunk
from segstore.format.fileheader import (
    FILE_HEADER_BYTES,
    KIND_SEGMENT,
    FileHeader,
    encode_file_header,
    log_tag,
)
from segstore.format.frame import EncodedFrame, encode_frame
from segstore.format.framelayout import RECORD_COUNT_MAX
from segstore.format.names import LZ4_INDEX_SUFFIX, LZ4_SUFFIX, RAW_SUFFIX, segment_file, temporary
from segstore.format.scanner import Damage
from segstore.segment.catalog import Segment
from segstore.segment.keys import key_filter_of
from segstore.segment.reader import SegmentReader
from segstore.segment.state import SegmentState, write_sealed_index

# Below this LZ4 finds too little that repeats.
CHUNK_BYTES_MIN = 16 * 1024
# Plain bytes that are written and read back at a time: few calls, and still in the cache of a core
# when they are compared.
GROUP_BYTES = 512 * 1024
# The device gets to work on what is written after each so many bytes.
UNCACHE_BYTES = 1024 * 1024


class NoRoomError(OSError):
    """The disk is too full for the compressed form of a segment.

    Attributes:
        room_bytes: what it takes at least, as far as is known now.
    """

    def __init__(self, error: OSError, room_bytes: int) -> None:
        super().__init__(error.errno, error.strerror, error.filename)
        self.room_bytes = room_bytes


def compress_segment(
    disk: Disk,
    reader: SegmentReader,
    log_id: bytes,
    created: int,
    end_offset: int,
    codec: Codec,
    batch_size_bytes: int,
    room_bytes: int,
    between_chunks: Callable[[], None],
) -> Segment:
    """Write the compressed form of a sealed plain segment and commit it.

    How much it takes is known only once the disk was too full for it. The next try has that as
    `room_bytes`, and asks for it before it does all the work once more.

    A chunk is about a full batch: damage to it costs that batch and no other, and so does reading
    one offset. Larger ones are smaller on disk (64 KiB: 6.1 % above the whole file at once, 128
    KiB: 2.9 %, 192 KiB: 1.8 %). `between_chunks` is called behind each, as all may take a while.

    Raises:
        CorruptionError: the segment is damaged; it is left as it is.
        NoRoomError: the disk was full in the middle; nothing is left behind.
        OSError: the disk is full or failed; nothing is left behind.
    """
    base_offset = reader.base_offset
    header = FileHeader(KIND_SEGMENT, base_offset, log_id, created)
    name = segment_file(base_offset, LZ4_SUFFIX)
    aside = temporary(name)
    index_name = segment_file(base_offset, LZ4_INDEX_SUFFIX)
    file = open_anew(disk, aside)
    writer = _ChunkWriter(file, codec)
    try:
        if room_bytes:
            file.allocate(room_bytes)
        state = SegmentState(base_offset, index_interval_bytes=0)
        chunk_bytes = max(CHUNK_BYTES_MIN, batch_size_bytes)
        items = _merged(_batches(reader, end_offset), chunk_bytes)
        for chunk in _chunks(items, chunk_bytes, header, state):
            writer.add(chunk)
            between_chunks()
        writer.flush()
        if room_bytes:
            file.truncate(writer.position)
        file.sync()
        if state.is_empty:
            raise _damage(reader, base_offset, end_offset, "no record of it can be read")
        state.end_offset = end_offset  # a repair may have left a hole at the end
        key_filter = reader.key_filter
        if key_filter is None and state.has_keys:  # its index was damaged
            key_filter = key_filter_of(disk, base_offset, log_tag(log_id))
        stamp = write_sealed_index(
            disk,
            index_name,
            header,
            state,
            key_filter,
            data_bytes=writer.position,
            chunk_starts=writer.starts,
        )
        file.close()
        disk.rename(aside, name)
    except Exception as error:
        file.close()
        disk.unlink(aside)
        if disk.size_of(index_name) is not None:
            disk.unlink(index_name)
        if isinstance(error, OSError) and error.errno in FULL and writer.position:
            # A group more, as it is the index that may have found no room.
            raise NoRoomError(error, max(room_bytes, writer.position) + GROUP_BYTES) from error
        raise
    disk.sync_directory()
    return Segment(base_offset, True, writer.position, stamp)


def _batches(reader: SegmentReader, end_offset: int) -> Iterator[RecordBatch]:
    for event in reader.events_unindexed():
        if isinstance(event, Damage):
            if event.position == event.end_position:  # a hole in the offsets, which a repair left
                continue
            stop = end_offset if event.end_offset is None else event.end_offset
            raise _damage(reader, event.offset, stop, event.reason, event.position)
        yield event.batch


def _damage(
    reader: SegmentReader, start: int, stop: int, reason: str, position: int = 0
) -> CorruptionError:
    return CorruptionError(reader.source.name, position, range(start, max(stop, start + 1)), reason)


def _merged(
    batches: Iterator[RecordBatch], chunk_bytes: int
) -> Iterator[RecordBatch | list[RecordBatch]]:
    """Runs of small batches as lists of about a chunk, every other batch as it is."""
    run: list[RecordBatch] = []
    size = count = 0
    for batch in batches:
        body_bytes = batch.header.body_bytes
        is_small = body_bytes < chunk_bytes // 2
        if run and (
            not is_small
            or batch.base_offset != run[-1].end_offset
            or size + body_bytes > chunk_bytes
            or count + len(batch) > RECORD_COUNT_MAX
        ):
            yield run if len(run) > 1 else run[0]
            run, size, count = [], 0, 0
        if is_small:
            run.append(batch)
            size += body_bytes
            count += len(batch)
        else:
            yield batch
    if run:
        yield run if len(run) > 1 else run[0]


def _chunks(
    items: Iterator[RecordBatch | list[RecordBatch]],
    chunk_bytes: int,
    header: FileHeader,
    state: SegmentState,
) -> Iterator[Buffer]:
    """The plain bytes of each chunk; `state` counts the first frame of each as its entry."""
    parts: list[Buffer] = [encode_file_header(header)]
    size = FILE_HEADER_BYTES
    position = FILE_HEADER_BYTES
    is_first = True
    for item in items:
        if isinstance(item, list):
            try:
                frame = _merge(item)
            except ValueError as error:  # columns that are not well formed under a good checksum
                first, last = item[0].base_offset, item[-1].end_offset
                name = segment_file(header.base_offset, RAW_SUFFIX)
                raise CorruptionError(name, 0, range(first, last), str(error)) from None
            data: Buffer = frame.data
            fields = item[0].header
            extremes = frame.min_timestamp, frame.max_timestamp
            count = frame.record_count
            append_time = max(batch.header.append_time for batch in item)
            has_keys = frame.has_keys
        else:
            data, fields = item.frame, item.header
            extremes = fields.min_timestamp, fields.max_timestamp
            count, append_time, has_keys = len(item), fields.append_time, item.has_keys
        frame_bytes = len(data)
        if size + frame_bytes > chunk_bytes and not is_first:
            yield parts[0] if len(parts) == 1 else b"".join(parts)
            parts, size, is_first = [], 0, True
        state.add(
            position,
            frame_bytes,
            fields.base_offset,
            count,
            *extremes,
            append_time,
            has_keys=has_keys,
            wants_entry=is_first,
        )
        parts.append(data)
        size += frame_bytes
        position += frame_bytes
        is_first = False
    if parts:
        yield parts[0] if len(parts) == 1 else b"".join(parts)


def _merge(batches: list[RecordBatch]) -> EncodedFrame:
    keys = None
    if any(batch.has_keys for batch in batches):
        keys = list(chain.from_iterable(map(RecordBatch.keys, batches)))
    times = list(chain.from_iterable(batch.timestamps for batch in batches))
    last = batches[-1].header
    return encode_frame(
        batches[0].base_offset,
        list(chain.from_iterable(map(RecordBatch.values, batches))),
        times if min(times) != max(times) else times[0],
        keys,
        append_time=max(batch.header.append_time for batch in batches),
        log_tag=last.log_tag,
        durable_offset=last.durable_offset,
    )


class _ChunkWriter:
    """Writes chunks in groups, and reads each group back.

    Attributes:
        starts: where each chunk starts in the file.
        position: where the next one will.
    """

    def __init__(self, file: File, codec: Codec) -> None:
        self._file = file
        self._codec = codec
        self.starts: list[int] = []
        self.position = 0
        self._uncached = 0
        self._written = 0
        self._group: list[tuple[Buffer, bytes]] = []
        self._group_bytes = 0

    def add(self, chunk: Buffer) -> None:
        """Take the plain bytes of the next chunk.

        Raises:
            OSError: chunks can't be written, or did not come back as they were written.
        """
        data = encode_chunk(chunk, self._codec)
        self.starts.append(self.position)
        self.position += len(data)
        self._group.append((chunk, data))
        self._group_bytes += len(chunk)
        if self._group_bytes >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write and read back what was added.

        Raises:
            OSError: see `add`.
        """
        start, group = self._written, self._group
        self._file.write([data for _, data in group], start)
        found = memoryview(self._file.read(self.position - start, start))
        at = 0
        for chunk, data in group:
            if not _holds(found[at : at + len(data)], chunk):
                name = self._file.name
                raise OSError(5, "a compressed chunk did not read back as it was written", name)
            at += len(data)
        self._written = self.position
        self._group, self._group_bytes = [], 0
        # Only once it was read back: what the device has may leave the cache.
        if self._written - self._uncached >= UNCACHE_BYTES:
            self._file.uncache(self._written - self._uncached, self._uncached)
            self._uncached = self._written


def _holds(data: Buffer, chunk: Buffer) -> bool:
    try:
        found = decode_chunk(data)
    except ValueError:
        return False
    # `==` on a view compares item by item, some twenty times slower.
    return len(found) == len(chunk) and found.startswith(chunk)
