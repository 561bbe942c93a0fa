"""The index file of the active segment: allocated, mapped, trimmed when the segment is sealed.

The file is a copy of what `OffsetIndex` holds in memory, for readers in other processes and for
the next open. It is a hint: whatever it says is checked against the frame it points at, and a
missing or wrong one is made anew from the data.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from segstore.disk import Disk, File, open_anew
from segstore.format.fileheader import FileHeader, encode_file_header
from segstore.format.index import (
    ENTRIES_POSITION,
    ENTRY_BYTES,
    INDEX_BYTES_MAX,
    OffsetIndex,
    Stamp,
    decode_stamp,
)
from segstore.format.names import RAW_INDEX_SUFFIX, segment_file

# Most of an active index is empty, and what is empty is neither read nor held at once.
PIECE_BYTES = 4096 * ENTRY_BYTES
_EMPTY_PIECE = bytes(PIECE_BYTES)
_PAGE_BYTES = 4096  # the system brings nothing smaller to the device

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@contextmanager
def unreadable_as_missing() -> Iterator[None]:
    """Go on behind the block where an index can't be read: it is made anew, as one that is lost.

    A shortage says nothing of the index, though, and another try may find it whole.

    Raises:
        OSError: there were not enough descriptors, or not enough memory.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise


class IndexFile:
    """The mapped index file of an active segment."""

    def __init__(self, file: File, capacity: int) -> None:
        self._file = file
        self._mapping = file.map(ENTRIES_POSITION + capacity * ENTRY_BYTES)
        self.capacity = capacity

    @classmethod
    def create(cls, disk: Disk, header: FileHeader, capacity: int) -> IndexFile:
        """A new index file with room for `capacity` entries, in place of any other.

        Raises:
            OSError: its blocks can't be allocated; nothing is left behind.
        """
        name = segment_file(header.base_offset, RAW_INDEX_SUFFIX)
        file = open_anew(disk, name)
        try:
            file.allocate(ENTRIES_POSITION + capacity * ENTRY_BYTES)
            file.write([encode_file_header(header)], 0)
            return cls(file, capacity)
        except OSError:
            file.close()
            disk.unlink(name)
            raise

    @classmethod
    def resume(cls, disk: Disk, header: FileHeader, capacity: int, index: OffsetIndex) -> IndexFile:
        """The index file of a segment that is written on, made to hold exactly `index`.

        On a full disk the one at hand does, if it has room: the log has to open there.

        Raises:
            OSError: it can't be opened, or its blocks can't be allocated.
        """
        name = segment_file(header.base_offset, RAW_INDEX_SUFFIX)
        capacity = max(capacity, len(index) + 1)
        size_bytes = disk.size_of(name)
        if size_bytes is None or size_bytes > INDEX_BYTES_MAX:
            resumed = cls.create(disk, header, capacity)
        else:
            found = (size_bytes - ENTRIES_POSITION) // ENTRY_BYTES
            room = max(capacity, found)
            file = disk.open(name, write=True)
            try:
                # Also where it is as large: a copy may have holes, and on a full disk a store into
                # one is SIGBUS.
                try:
                    file.allocate(ENTRIES_POSITION + room * ENTRY_BYTES)
                except OSError:
                    if not len(index) < found < room:
                        raise
                    room = found
                    file.allocate(ENTRIES_POSITION + room * ENTRY_BYTES)
                resumed = cls(file, room)
            except OSError:
                file.close()
                raise
        view = resumed._mapping.view
        head = encode_file_header(header)
        wanted = head + bytes(ENTRIES_POSITION - len(head)) + index.encode()
        # As bytes, because views are compared item by item, which takes ten times as long.
        if view[: len(wanted)].tobytes() != wanted:
            was_stamped = any(view[len(head) : ENTRIES_POSITION])
            view[: len(wanted)] = wanted
            if was_stamped:
                # Of a segment that a copy or damage made shorter: a power cut must not bring the
                # stamp back once there are as many bytes again.
                try:
                    resumed.sync()
                except OSError:
                    resumed.close()
                    raise
        for at in range(len(wanted), len(view), PIECE_BYTES):
            size_bytes = min(PIECE_BYTES, len(view) - at)
            # Read, because to look at a page of the mapping for the first time takes longer.
            if resumed._file.read(size_bytes, at) != _EMPTY_PIECE[:size_bytes]:
                view[at : at + size_bytes] = _EMPTY_PIECE[:size_bytes]
        return resumed

    def put_last(self, index: OffsetIndex) -> None:
        """Store the last entry of `index`, in its slot."""
        slot = len(index.places) - 1
        index.store(slot, self._mapping.view, ENTRIES_POSITION + slot * ENTRY_BYTES)

    def clear_from(self, slot: int) -> None:
        """Empty the entries from `slot` on."""
        at = ENTRIES_POSITION + slot * ENTRY_BYTES
        self._mapping.view[at:] = bytes(len(self._mapping.view) - at)

    def rewrite(self, entry_count: int) -> None:
        """Write so many entries once more, and an empty one: see `SegmentWriter.rewrite`.

        Raises:
            OSError: they can't be written.
        """
        end = ENTRIES_POSITION + (entry_count + 1) * ENTRY_BYTES
        self._file.write([self._mapping.view[: -(-end // _PAGE_BYTES) * _PAGE_BYTES].tobytes()], 0)

    def sync(self) -> None:
        """Bring the entries to the device."""
        self._file.sync()

    def close(self) -> None:
        """Unmap and close."""
        self._mapping.close()
        self._file.close()


def read_stamp(disk: Disk, name: str, base_offset: int) -> Stamp | None:
    """The stamp of an index file, or None where there is no intact one that can be read.

    Raises:
        OSError: see `unreadable_as_missing`.
        UnsupportedFormatError: the file is of a later format version.
    """
    data = b""
    with unreadable_as_missing():
        file = disk.open(name)
        try:
            data = file.read(ENTRIES_POSITION, 0)
        finally:
            file.close()
    found = decode_stamp(data, base_offset)
    return None if found is None else found[1]


def read_entries(file: File, position: int, end_position: int) -> OffsetIndex:
    """The entries of an active index between two positions, up to the first that is empty.

    Raises:
        OSError: the file can't be read.
    """
    pieces = []
    for at in range(position, end_position, PIECE_BYTES):
        pieces.append(file.read(min(PIECE_BYTES, end_position - at), at))
        if not any(pieces[-1][-ENTRY_BYTES:]):
            break
    return OffsetIndex.decode(b"".join(pieces))
