"""Where the bytes of a plain segment come from: its own file, or the chunks of a compressed one.

Both answer `read` in positions of the plain segment, so that everything above (index, scanner,
verify) is the same for both.
"""

from __future__ import annotations

import errno
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from segstore.disk import Disk, File
from segstore.format.buffers import ALIGNMENT_BYTES
from segstore.format.chunk import (
    BLOCK_RAW_BYTES_MIN,
    CHUNK_BYTES_MAX,
    DESCRIPTOR_BYTES,
    LZ4_MAGIC,
    STORED_BLOCK,
    chunk_raw_bytes,
    decode_chunk,
)
from segstore.format.fileheader import FILE_HEADER_BYTES
from segstore.format.index import OffsetIndex
from segstore.format.names import LZ4_SUFFIX, RAW_SUFFIX, segment_file

# Two full frames of records from about 25 bytes on.
READ_BYTES = 320 * 1024
# Index entries that are further apart say too little of where frames end.
_ENTRY_SPAN_BYTES_MAX = 4 << 20
# A larger chunk is not kept: there is one for each open segment.
KEPT_BYTES_MAX = 1 << 20
# Of the system's cache: the least that a bad sector costs.
PAGE_BYTES = 4096
NOT_READ = "the device can't read it"


class UnreadableError(Exception):
    """The bytes up to `end_position` can't be had; `reason` says why.

    `error` is that of the device, where it is one: another try may have them.
    """

    def __init__(self, end_position: int, reason: str, error: OSError | None = None) -> None:
        super().__init__(reason)
        self.end_position = end_position
        self.reason = reason
        self.error = error


def is_unreadable(error: UnreadableError | OSError) -> bool:
    """Whether it is of the bytes that were asked for, and others may well be read."""
    return isinstance(error, UnreadableError) or error.errno == errno.EIO


class Source(Protocol):
    """The plain bytes of one segment."""

    name: str

    @property
    def descriptor(self) -> int | None:
        """Of a file that holds these very bytes, if there is one."""

    @property
    def size(self) -> Callable[[], int]:
        """How many there are, by now."""

    @property
    def read(self) -> Callable[[int, int], bytes]:
        """`size_bytes` from `position`, or fewer where they end before.

        Raises:
            UnreadableError: damage that is known before any frame is looked at, or a chunk that
                the device can't read.
            OSError: the file can't be read.
        """

    def can_read(self, position: int) -> bool:
        """Whether the device gives the byte there, whatever the system has in its cache."""

    def ahead(self, position: int) -> int:
        """How much to ask for when reading on from a frame that starts there."""


class RawSource:
    """The file of a plain segment."""

    def __init__(self, disk: Disk, base_offset: int, index: OffsetIndex | None = None) -> None:
        """`index` tells how much to read at a time, and nothing depends on it."""
        self._index = index
        self.name = segment_file(base_offset, RAW_SUFFIX)
        self._file = file = disk.open(self.name)
        # As they are: a point read makes two, and each call in between costs a part of it.
        self.size = file.size
        self.read = file.read
        self.descriptor = file.descriptor

    def can_read(self, position: int) -> bool:
        """By its page."""
        return _is_on_device(self._file, PAGE_BYTES, position // PAGE_BYTES * PAGE_BYTES)

    def ahead(self, position: int) -> int:
        """So much that it ends where a frame does, as far as the index knows.

        The rest of a frame that was read in part is read again with what follows.
        """
        if self._index is None:
            return READ_BYTES
        size_bytes = self._index.bound(position, READ_BYTES) - position
        return size_bytes if 0 < size_bytes <= _ENTRY_SPAN_BYTES_MAX else READ_BYTES


class ChunkTable:
    """Which chunk of a compressed file holds which bytes of the plain segment.

    `raw_positions` and `positions` have one item a chunk, and each ends with one for the end.
    """

    def __init__(self, raw_positions: Sequence[int], positions: Sequence[int]) -> None:
        self.raw_positions = raw_positions
        self.positions = positions

    def find(self, raw_position: int) -> int:
        """The chunk that holds a byte of the plain segment."""
        return bisect_right(self.raw_positions, raw_position, hi=len(self.positions) - 1) - 1


class Lz4Source:
    """The chunks of a compressed segment."""

    def __init__(self, disk: Disk, base_offset: int, table: ChunkTable | None) -> None:
        """`table` None finds the chunks by their own headers."""
        self.name = segment_file(base_offset, LZ4_SUFFIX)
        self.descriptor: int | None = None
        self._file = disk.open(self.name)
        self._table = table or walk_chunks(self._file)
        # The chunk that was decoded last: point reads look into it two or three times.
        self._last: tuple[int, bytes] = -1, b""

    def size(self) -> int:
        """The size of the plain segment."""
        return self._table.raw_positions[-1]

    def read(self, size_bytes: int, position: int) -> bytes:
        """From as many chunks as it takes."""
        if position >= self.size():
            return b""
        table = self._table
        chunk = table.find(position)
        start = position - table.raw_positions[chunk]
        data = self._decode(chunk)[start : start + size_bytes]
        if len(data) == size_bytes:
            return data
        # Only a header that claims more than its chunk asks for this: frames never span chunks.
        pieces = [data]
        missing = size_bytes - len(data)
        while missing > 0 and (chunk := chunk + 1) < len(table.positions) - 1:
            try:
                pieces.append(self._decode(chunk)[:missing])
            except UnreadableError as unreadable:
                # Zeros in its place, which are no frame either: what is behind it can be read.
                size = unreadable.end_position - table.raw_positions[chunk]
                pieces.append(bytes(min(size, missing)))
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def can_read(self, position: int) -> bool:
        """By its chunk."""
        start, end = self.file_span(position, position + 1)
        return _is_on_device(self._file, end - start, start)

    def ahead(self, position: int) -> int:
        """One chunk at a time, whatever is in it."""
        table = self._table
        return table.raw_positions[table.find(position) + 1] - position

    def keeps_chunk_at(self, position: int) -> bool:
        """Whether the chunk there stays decoded, so that it can be read piece by piece."""
        table = self._table
        chunk = table.find(position)
        return table.raw_positions[chunk + 1] - table.raw_positions[chunk] <= KEPT_BYTES_MAX

    @property
    def kept_bytes(self) -> int:
        """About how large the chunk is that stays decoded; those of a segment are alike."""
        size_bytes = self._table.raw_positions[1] if len(self._table.positions) > 1 else 0
        return size_bytes if size_bytes <= KEPT_BYTES_MAX else 0

    def chunk_of(self, position: int) -> int:
        """The number of the chunk that holds a byte of the plain segment."""
        return self._table.find(position)

    def chunk_starts(self) -> list[int]:
        """Where each chunk starts in the compressed file."""
        return list(self._table.positions[:-1])

    def file_span(self, start: int, end: int) -> tuple[int, int]:
        """Where the chunks stand in the compressed file that hold some plain bytes."""
        table = self._table
        first, last = table.find(start), table.find(max(start, end - 1))
        return table.positions[max(first, 0)], table.positions[last + 1]

    def _decode(self, chunk: int) -> bytes:
        last, raw = self._last
        if chunk == last:
            return raw
        table = self._table
        start, end = table.positions[chunk], table.positions[chunk + 1]
        raw_start, raw_end = table.raw_positions[chunk], table.raw_positions[chunk + 1]
        try:
            if end - start > CHUNK_BYTES_MAX:
                raise ValueError(f"{end - start} bytes are more than any chunk has")
            data = self._file.read(end - start, start)
            if chunk_raw_bytes(data, 0) != raw_end - raw_start:
                raise ValueError("the chunk is not of the size it should be")
            raw = decode_chunk(data)
        except ValueError as error:
            raise UnreadableError(raw_end, f"chunk at byte {start}: {error}") from None
        except OSError as error:
            if not is_unreadable(error):
                raise
            raise UnreadableError(raw_end, f"chunk at byte {start}: {NOT_READ}", error) from None
        if len(raw) <= KEPT_BYTES_MAX:
            self._last = chunk, raw
        return raw


def _is_on_device(file: File, size_bytes: int, position: int) -> bool:
    # All of it: of a large piece of the cache no part goes alone.
    file.uncache(file.size() + PAGE_BYTES, 0)
    with suppress(OSError):
        return bool(file.read(size_bytes, position))
    return False


def walk_chunks(file: File) -> ChunkTable:
    """Find the chunks of a compressed file without an index, by their LZ4 headers.

    Where a header is damaged the search goes on at the next LZ4 magic; the bytes between count as
    one chunk, which then can't be decoded. A false magic inside such bytes makes one more chunk
    that can't be decoded, and nothing worse. What stands behind keeps its alignment, and the work
    is in proportion to the file, whatever is in it.
    """
    size = file.size()
    raw_positions, positions = array("Q", [0]), array("Q", [0])
    search = _MagicSearch(file, size)
    at = 0
    is_odd = False
    while at < size:
        raw_bytes = chunk_raw_bytes(file.read(DESCRIPTOR_BYTES, at), 0)
        end = None if raw_bytes is None else _chunk_end(file, at, raw_bytes, size)
        if end is None or raw_bytes is None:
            end, raw_bytes = search.find(at + 1), ALIGNMENT_BYTES
            if at == 0:  # it had the file header, too, behind which every scan starts
                raw_bytes += FILE_HEADER_BYTES
            if is_odd:  # one chunk, however many magics turn up in it
                positions[-1] = at = end
                continue
            is_odd = True
        else:
            is_odd = False
        positions.append(end)
        raw_positions.append(raw_positions[-1] + raw_bytes)
        at = end
    return ChunkTable(raw_positions, positions)


def _chunk_end(file: File, at: int, raw_bytes: int, size: int) -> int | None:
    """Where the LZ4 frame at `at` ends, by its block sizes; None if they can't be right."""
    at += DESCRIPTOR_BYTES
    for _ in range(raw_bytes // BLOCK_RAW_BYTES_MIN + 2):
        if at + 4 > size:
            return None
        block_bytes = int.from_bytes(file.read(4, at), "little") & ~STORED_BLOCK
        at += 4 + block_bytes
        if not block_bytes:
            return at
    return None


class _MagicSearch:
    """Finds LZ4 magics in a file from front to back, reading every byte about once."""

    def __init__(self, file: File, size: int) -> None:
        self._file = file
        self._size = size
        self._start = 0
        self._data = b""

    def find(self, at: int) -> int:
        """The first magic at or after `at`, or the end of the file."""
        while at < self._size:
            if not self._start <= at < self._start + len(self._data):
                self._start, self._data = at, self._file.read(READ_BYTES, at)
            found = self._data.find(LZ4_MAGIC, at - self._start)
            if found >= 0:
                return self._start + found
            # Its last bytes may be the start of a magic, and are read again with the next ones.
            at = max(at + 1, self._start + len(self._data) - len(LZ4_MAGIC) + 1)
            self._data = b""
        return self._size
