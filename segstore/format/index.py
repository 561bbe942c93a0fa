"""The sparse offset and time index of one segment: a header, a stamp, then entries.

    0              64                    192
    +--------------+---------------------+---------+---------+-----+--------------+------------+
    | file header  | stamp               | entry 0 | entry 1 | ... | chunk starts | key filter |
    | 64 bytes     | 128 bytes           | 16 bytes| 16 bytes|     | u64 x chunks |            |
    +--------------+---------------------+---------+---------+-----+--------------+------------+

    entry:  | position u32 | relative offset u32 | running maximum timestamp i64 |

An entry says: the frame at `position` of the plain segment starts with offset base + relative
offset, and no record up to and with that frame has a later timestamp. Read as one little-endian
u64, the first two fields sort by offset, so that a bisection of plain integers finds an offset.

While its segment is active the index has the stamp all zero and zeros after the last entry: a
position is never 0. Sealing cuts the file behind the last byte used and fills in the stamp. The
index of a compressed segment has one entry a chunk and, behind the entries, where each chunk
starts in the compressed file; positions stay those of the plain segment.
"""

from array import array
from bisect import bisect_left, bisect_right
from contextlib import suppress
from operator import le, lt
from struct import Struct
from typing import NamedTuple

from segstore.format.buffers import Buffer
from segstore.format.checksum import crc32c
from segstore.format.fileheader import FILE_HEADER_BYTES, KIND_INDEX, FileHeader, decode_file_header
from segstore.format.names import OFFSET_MAX

STAMP_BYTES = 128
ENTRIES_POSITION = FILE_HEADER_BYTES + STAMP_BYTES
ENTRY_BYTES = 16

# More than the index of any segment may be: a file that only asks for memory is not read.
INDEX_BYTES_MAX = 1 << 28
# What of that may be entries; the rest is for the key filter.
ENTRIES_BYTES_MAX = INDEX_BYTES_MAX // 2

# Do not change: these bits are on disk.
SEALED = 1 << 0
LZ4 = 1 << 1

_ENTRY = Struct("<Qq")
_STAMP = Struct("<IIQQQqqqqIIIII44x")
_CRC_START = 4
assert _ENTRY.size == ENTRY_BYTES
assert _STAMP.size == STAMP_BYTES


class Stamp(NamedTuple):
    """What opening a log needs to know of a sealed segment.

    Attributes:
        flags: SEALED, and LZ4 for a compressed segment.
        data_bytes: the size of the data file.
        raw_bytes: the size of the plain segment (the same, but for a compressed one).
        end_offset: one past the last offset of the segment.
        min_timestamp, max_timestamp: of its records, in ns since the epoch.
        first_append_time, last_append_time: of its frames, by the engine's clock, in ns.
        entry_count: how many index entries follow.
        chunk_count: how many chunk starts follow the entries; 0 for a plain segment.
        filter_bytes: how long the key filter behind them is; 0 where no record has a key.
        filter_hash_count: how many bits of the filter each key sets.
        body_crc: CRC-32C of everything behind the stamp.
    """

    flags: int
    data_bytes: int
    raw_bytes: int
    end_offset: int
    min_timestamp: int
    max_timestamp: int
    first_append_time: int
    last_append_time: int
    entry_count: int
    chunk_count: int
    filter_bytes: int
    filter_hash_count: int
    body_crc: int

    @property
    def body_bytes(self) -> int:
        """How many bytes follow the stamp."""
        return self.entry_count * ENTRY_BYTES + self.chunk_count * 8 + self.filter_bytes


# Of a place; half the price of a function of our own.
_position_of = 0xFFFFFFFF.__and__


class OffsetIndex:
    """The entries of one segment in memory, growing while it is active.

    Threads that read look into the one that the writer adds to, and cuts where it undoes a write.
    What they ask for an acknowledged record stays; an entry behind that may go between two steps.

    Attributes:
        places: one u64 an entry, ``relative offset << 32 | position``.
    """

    def __init__(self) -> None:
        self.places = array("Q")
        self._max_timestamps = array("q")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, entry_index: int) -> tuple[int, int, int]:
        """(relative offset, position, running maximum timestamp) of an entry."""
        place = self.places[entry_index]
        return place >> 32, place & 0xFFFFFFFF, self._max_timestamps[entry_index]

    def add(self, relative_offset: int, position: int, max_timestamp: int) -> None:
        """Append an entry; offsets and positions rise, `max_timestamp` never falls."""
        self._max_timestamps.append(max_timestamp)
        self.places.append(relative_offset << 32 | position)

    def store(self, slot: int, view: memoryview, at: int) -> None:
        """Put the 16 bytes of the entry `slot` in their place."""
        _ENTRY.pack_into(view, at, self.places[slot], self._max_timestamps[slot])

    def cut(self, entry_count: int) -> None:
        """Keep the first `entry_count` entries."""
        del self.places[entry_count:]
        del self._max_timestamps[entry_count:]

    def correct_time(self, entry_index: int, max_timestamp: int) -> None:
        """Put the running maximum of an entry right, if it is still there."""
        with suppress(IndexError):
            self._max_timestamps[entry_index] = max_timestamp

    def slot_of_offset(self, relative_offset: int) -> int:
        """The last entry at or below an offset; -1 when all are above it."""
        return bisect_right(self.places, relative_offset << 32 | 0xFFFFFFFF) - 1

    def bound(self, position: int, size_bytes: int) -> int:
        """The position of the last entry at most `size_bytes` behind `position`, or of the next.

        0 where no entry is behind that, as nothing tells where its frames end.
        """
        count = bisect_right(self.places, position + size_bytes, key=_position_of)
        places = self.places[max(0, count - 1) : count + 1]
        if len(places) < min(2, count + 1):
            return 0
        end = places[0] & 0xFFFFFFFF
        return end if end > position else places[-1] & 0xFFFFFFFF

    def slot_before_time(self, timestamp: int) -> int:
        """The last entry all of whose records, and all before them, are older; -1 for none."""
        return bisect_left(self._max_timestamps, timestamp) - 1

    def position(self, slot: int) -> int:
        """The position of the entry `slot`."""
        return self.places[slot] & 0xFFFFFFFF

    def next_position(self, slot: int) -> int | None:
        """The position of the entry behind `slot`; None where that is the last."""
        behind = self.places[slot + 1 : slot + 2]
        return behind[0] & 0xFFFFFFFF if behind else None

    def relative_offset(self, slot: int) -> int:
        """The offset of the entry `slot`, 0 where it is gone."""
        places = self.places[slot : slot + 1]
        return places[0] >> 32 if places else 0

    def encode(self) -> bytes:
        """All entries as bytes."""
        pairs = array("Q", bytes(len(self) * ENTRY_BYTES))
        view = memoryview(pairs)
        view[::2] = memoryview(self.places)
        view.cast("B").cast("q")[1::2] = memoryview(self._max_timestamps)
        return pairs.tobytes()

    @classmethod
    def decode(cls, data: Buffer) -> "OffsetIndex":
        """The entries in `data`, up to the first that is empty or doesn't rise."""
        index = cls()
        words = memoryview(data)[: len(data) - len(data) % ENTRY_BYTES].cast("B").cast("Q")
        # Most of an active index is empty; if an entry before that is too, `_rising` stops there.
        used = bisect_left(range(len(words) // 2), True, key=lambda slot: words[2 * slot] == 0)
        entries = words[: 2 * used].tobytes()
        index.places = array("Q", entries)[::2]
        index._max_timestamps = array("q", entries)[1::2]
        index.cut(index._rising())
        return index

    def _rising(self) -> int:
        """How many entries there are before the first that doesn't rise."""
        halves = array("I", self.places.tobytes())
        count = len(self) if any(halves[:1]) else 0
        # As lists, because an array makes each of its numbers anew for every look at it.
        columns = (
            (lt, halves[::2].tolist()),
            (lt, halves[1::2].tolist()),
            (le, self._max_timestamps.tolist()),
        )
        for rises, column in columns:
            first_bad = bytes(map(rises, column, column[1:])).find(False) + 1
            if first_bad:
                count = min(count, first_bad)
        return count


def encode_stamp(stamp: Stamp) -> bytes:
    """The 128 bytes of `stamp`."""
    crc = crc32c(_STAMP.pack(0, *stamp)[_CRC_START:])
    return _STAMP.pack(crc, *stamp)


def decode_stamp(data: Buffer, base_offset: int) -> tuple[FileHeader, Stamp] | None:
    """Header and stamp at the start of an index file, or None where they are not intact.

    Raises:
        UnsupportedFormatError: the file is of a later format version.
    """
    header = decode_file_header(data, KIND_INDEX)
    if header is None or header.base_offset != base_offset or len(data) < ENTRIES_POSITION:
        return None
    raw = bytes(data[FILE_HEADER_BYTES:ENTRIES_POSITION])
    crc, *fields = _STAMP.unpack(raw)
    stamp = Stamp._make(fields)
    if crc != crc32c(raw[_CRC_START:]) or not stamp.flags & SEALED:
        return None
    if stamp.end_offset > OFFSET_MAX:
        return None
    return header, stamp


def is_body_intact(stamp: Stamp, body: Buffer) -> bool:
    """Whether `body`, the bytes behind the stamp, is what was sealed."""
    return len(body) == stamp.body_bytes and crc32c(body) == stamp.body_crc
