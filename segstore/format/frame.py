"""A frame: the bytes of one record batch, a header of 64 bytes and then columns.

    0        4        8        12       16            24            32        40        48
    +--------+--------+--------+--------+-------------+-------------+---------+---------+
    | magic  | crc32c | body   | record | base offset | append time | min     | max     |
    | u32    | u32    | bytes  | count  | u64         | i64 ns      | time i64| time i64|
    +--------+--------+--------+--------+-------------+-------------+---------+---------+
    48       52           54        55       56               64
    +--------+------------+---------+--------+----------------+
    | log tag| attributes | version | zero   | durable offset |
    | u32    | u16        | u8      | u8     | u64            |
    +--------+------------+---------+--------+----------------+

    body, every column padded with zeros to 8 bytes:
    value offsets  int32 x (count + 1)
    timestamps     int64 x count            only with HAS_TIMESTAMPS, else all are `min time`
    key validity   1 bit a record, LSB first  only with HAS_NULL_KEYS
    key offsets    int32 x (count + 1)      only with HAS_KEYS
    key bytes                               only with HAS_KEYS
    value bytes

The CRC covers every byte after itself. The durable offset says that every record below it had been
fsynced before this frame was written: it is what tells a torn tail from damage.
"""

from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from struct import Struct, unpack_from
from typing import NamedTuple

from segstore.errors import RecordTooLargeError, UnsupportedFormatError
from segstore.format.buffers import Buffer, padding
from segstore.format.checksum import crc32c
from segstore.format.columns import join_times
from segstore.format.kernel import join_body, join_column, make_records, split_column
from segstore.format.names import OFFSET_MAX

FRAME_HEADER_BYTES = 64
FRAME_MAGIC = 0x4D524653  # b"SFRM"; not zero, so that zeroed space is never a frame
FRAME_MAGIC_BYTES = FRAME_MAGIC.to_bytes(4, "little")
FRAME_VERSION = 1

# Do not change: these bits are on disk. Bits 3 (headers) and 4 (explicit offsets, for key
# compaction) are reserved.
HAS_TIMESTAMPS = 1 << 0
HAS_KEYS = 1 << 1
HAS_NULL_KEYS = 1 << 2
_KNOWN_ATTRIBUTES = HAS_TIMESTAMPS | HAS_KEYS | HAS_NULL_KEYS

# What can be written can be read: both sides enforce the same limits.
RECORD_BYTES_MAX = 16 * 1024 * 1024
BODY_BYTES_MAX = 2 * RECORD_BYTES_MAX
FRAME_BYTES_MAX = FRAME_HEADER_BYTES + BODY_BYTES_MAX
RECORD_COUNT_MAX = 1 << 20

_HEADER = Struct("<IIIIQqqqIHBBQ")
_PEEK = Struct("<IIIIQ")
_PREFIX = Struct("<II")
_COVERED_HEADER = Struct("<IIQqqqIHBBQ")  # the part of the header that the CRC covers
_CRC_START = _PREFIX.size
assert _HEADER.size == FRAME_HEADER_BYTES
assert _COVERED_HEADER.size == FRAME_HEADER_BYTES - _CRC_START

_ZEROS = (b"", *(bytes(n) for n in range(1, 8)))


class Record(NamedTuple):
    """One record.

    Attributes:
        offset: its place in the log, from 0.
        timestamp: ns since the epoch; the caller's, or the wall clock at the append.
        key: the key, or None.
        value: the value.
    """

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes


class FrameHeader(NamedTuple):
    """The fields of a frame's header, in the order of the bytes."""

    magic: int
    crc: int
    body_bytes: int
    record_count: int
    base_offset: int
    append_time: int
    min_timestamp: int
    max_timestamp: int
    log_tag: int
    attributes: int
    version: int
    reserved: int
    durable_offset: int


class EncodedFrame(NamedTuple):
    """A frame ready to be written: `parts` one after another are its bytes."""

    parts: list[Buffer]
    size_bytes: int
    base_offset: int
    record_count: int
    min_timestamp: int
    max_timestamp: int
    has_keys: bool

    def to_bytes(self) -> bytes:
        """The frame as one piece."""
        return b"".join(self.parts)


class RecordBatch:
    """A run of records as columns: what one frame holds, or a part of it.

    The columns are views of the bytes that were read, and nothing is copied until `values`, `keys`
    or `records` asks for Python objects. `value_offsets` and `value_data` are an Arrow
    variable-size binary array as they stand.

    Attributes:
        header: of the frame; it tells of all its records, also in a slice.
        base_offset: the offset of the first record.
        end_offset: one past the offset of the last record.
    """

    __slots__ = (
        "_data",
        "_key_data_at",
        "_key_offsets_at",
        "_timestamps_at",
        "_validity_at",
        "_value_data_at",
        "base_offset",
        "end_offset",
        "header",
    )

    def __init__(self, data: memoryview, header: FrameHeader) -> None:
        """Lay the columns of a frame whose checksum held over `data`, the whole frame.

        Raises:
            ValueError: the columns don't fit the body.
        """
        self.header = header
        self._data = data
        count, attributes = header.record_count, header.attributes
        self.base_offset: int = header.base_offset
        self.end_offset: int = self.base_offset + count
        position = FRAME_HEADER_BYTES + (4 * count + 11 & ~7)
        self._timestamps_at = position
        if attributes & HAS_TIMESTAMPS:
            position += 8 * count
        self._validity_at = self._key_offsets_at = self._key_data_at = position
        size = len(data)
        if attributes & HAS_KEYS:
            if attributes & HAS_NULL_KEYS:
                position += _aligned((count + 7) // 8)
            self._key_offsets_at = position
            position += _aligned(4 * (count + 1))
            self._key_data_at = position
            if position > size:
                raise ValueError("columns reach past the end of the frame")
            position += _aligned(_last_offset(data, self._key_offsets_at, count))
        self._value_data_at = position
        if position > size:
            raise ValueError("columns reach past the end of the frame")
        if position + _aligned(_last_offset(data, FRAME_HEADER_BYTES, count)) != size:
            raise ValueError("columns don't add up to the size of the frame")

    def __len__(self) -> int:
        return self.end_offset - self.base_offset

    def __repr__(self) -> str:
        return f"<RecordBatch of offsets {self.base_offset} to {self.end_offset - 1}>"

    @property
    def value_offsets(self) -> memoryview:
        """int32, one more than there are records: where each value starts in `value_data`."""
        column = self._data[FRAME_HEADER_BYTES:][: 4 * (self.header.record_count + 1)]
        return column.cast("i")[self._first : self._last + 1]

    @property
    def value_data(self) -> memoryview:
        """The bytes of all values of the frame, one after another."""
        size = _last_offset(self._data, FRAME_HEADER_BYTES, self.header.record_count)
        return self._data[self._value_data_at : self._value_data_at + size]

    @property
    def timestamps(self) -> Sequence[int]:
        """int64 ns since the epoch, one a record."""
        times = self._timestamps()
        if isinstance(times, int):
            return array("q", [times]) * len(self)
        return times[self._first : self._last]

    @property
    def frame(self) -> memoryview:
        """The whole frame, header and all, also of a slice."""
        return self._data

    @property
    def has_keys(self) -> bool:
        """Whether any record of the frame has a key."""
        return bool(self.header.attributes & HAS_KEYS)

    def values(self) -> list[bytes]:
        """The values.

        Raises:
            ValueError: the value column is not well formed, though its checksum holds.
        """
        count = self.header.record_count
        values = split_column(self._data, FRAME_HEADER_BYTES, count, self._value_data_at)
        return values if len(self) == count else values[self._first : self._last]

    def keys(self) -> list[bytes | None]:
        """The keys, None for a record without one.

        Raises:
            ValueError: the key column is not well formed, though its checksum holds.
        """
        keys = self._keys()
        return [None] * len(self) if keys is None else keys[self._first : self._last]

    def records(self) -> list[Record]:
        """The records.

        Raises:
            ValueError: a column is not well formed, though its checksum holds.
        """
        count = self.header.record_count
        values = split_column(self._data, FRAME_HEADER_BYTES, count, self._value_data_at)
        records: list[Record] = make_records(
            Record, self.header.base_offset, self._timestamps(), self._keys(), values
        )
        return records if len(self) == count else records[self._first : self._last]

    def record(self, offset: int) -> Record:
        """The one record at `offset`, without making the others.

        Raises:
            ValueError: a column is not well formed, though its checksum holds.
        """
        header = self.header
        index = offset - header.base_offset
        value = self._item(index, FRAME_HEADER_BYTES, self._value_data_at)
        times = self._timestamps()
        key = None
        if header.attributes & HAS_KEYS:
            is_null = (
                header.attributes & HAS_NULL_KEYS
                and not self._data[self._validity_at + index // 8] >> index % 8 & 1
            )
            key = None if is_null else self._item(index, self._key_offsets_at, self._key_data_at)
        return Record(offset, times if isinstance(times, int) else times[index], key, value)

    def slice(self, start: int, stop: int) -> "RecordBatch":
        """The part with offsets from `start` to below `stop`, over the same bytes."""
        part = RecordBatch.__new__(RecordBatch)
        for name in RecordBatch.__slots__:
            setattr(part, name, getattr(self, name))
        part.base_offset = max(self.base_offset, start)
        part.end_offset = max(part.base_offset, min(self.end_offset, stop))
        return part

    @property
    def _first(self) -> int:
        """The place of the first record among those of the frame."""
        return self.base_offset - self.header.base_offset

    @property
    def _last(self) -> int:
        return self.end_offset - self.header.base_offset

    def _item(self, index: int, offsets_at: int, data_at: int) -> bytes:
        start, stop = unpack_from("<ii", self._data, offsets_at + 4 * index)
        if not 0 <= start <= stop <= len(self._data) - data_at:
            raise ValueError("column offsets don't rise from 0")
        return bytes(self._data[data_at + start : data_at + stop])

    def _timestamps(self) -> int | memoryview:
        if not self.header.attributes & HAS_TIMESTAMPS:
            return self.header.min_timestamp
        column = self._data[self._timestamps_at :][: 8 * self.header.record_count]
        return column.cast("q")

    def _keys(self) -> list[bytes | None] | None:
        header = self.header
        if not header.attributes & HAS_KEYS:
            return None
        count = header.record_count
        keys: list[bytes | None] = list(
            split_column(self._data, self._key_offsets_at, count, self._key_data_at)
        )
        if header.attributes & HAS_NULL_KEYS:
            bits = int.from_bytes(self._data[self._validity_at :][: (count + 7) // 8], "little")
            for index in range(count):
                if not bits >> index & 1:
                    keys[index] = None
        return keys


class NeedData(NamedTuple):
    """The bytes end inside the frame; it takes `size_bytes` from its start to go on."""

    size_bytes: int


class Invalid(NamedTuple):
    """There is no intact frame here, and `reason` says which check failed."""

    reason: str


def encode_frame(
    base_offset: int,
    values: Sequence[Buffer],
    timestamps: int | Sequence[int],
    keys: Sequence[Buffer | None] | None,
    *,
    append_time: int,
    log_tag: int,
    durable_offset: int,
    start: int = 0,
    stop: int | None = None,
) -> EncodedFrame:
    """One batch as a frame: the records from `start` to below `stop`.

    `base_offset` is the offset of the first of them. `timestamps` is one number where all are the
    same; `keys` is None where there are none.

    Raises:
        TypeError: a value or key is not a buffer of bytes.
        RecordTooLargeError: a record is over RECORD_BYTES_MAX.
        ValueError: the batch is empty or has over RECORD_COUNT_MAX records.
    """
    stop = len(values) if stop is None else stop
    count = stop - start
    if not 0 < count <= RECORD_COUNT_MAX:
        raise ValueError(f"a frame holds 1 to {RECORD_COUNT_MAX} records, not {count}")
    if keys is None:
        min_timestamp, max_timestamp, body = join_body(values, start, stop, timestamps)
        attributes = 0 if min_timestamp == max_timestamp else HAS_TIMESTAMPS
    else:
        times = timestamps if isinstance(timestamps, int) else timestamps[start:stop]
        min_timestamp, max_timestamp, attributes, body = _join_body_with_keys(
            values[start:stop], times, keys[start:stop]
        )
    body_bytes = len(body)
    if body_bytes > RECORD_BYTES_MAX:  # only then can a single record be
        check_record_sizes(values[start:stop], None if keys is None else keys[start:stop])
    if body_bytes > BODY_BYTES_MAX:
        raise ValueError(f"a frame's body of {body_bytes} bytes is over {BODY_BYTES_MAX}")
    covered = _COVERED_HEADER.pack(
        body_bytes,
        count,
        base_offset,
        append_time,
        min_timestamp,
        max_timestamp,
        log_tag,
        attributes,
        FRAME_VERSION,
        0,
        durable_offset,
    )
    head = _PREFIX.pack(FRAME_MAGIC, crc32c(body, crc32c(covered))) + covered
    return EncodedFrame(
        [head, body],
        FRAME_HEADER_BYTES + body_bytes,
        base_offset,
        count,
        min_timestamp,
        max_timestamp,
        keys is not None,
    )


def _join_body_with_keys(
    values: Sequence[Buffer], timestamps: int | Sequence[int], keys: Sequence[Buffer | None]
) -> tuple[int, int, int, bytes]:
    """(lowest timestamp, highest timestamp, attributes, the body)."""
    offsets, data = join_column(values)
    columns: list[Buffer] = [offsets]
    attributes = HAS_KEYS
    if isinstance(timestamps, int):
        lowest = highest = timestamps
    else:
        lowest, highest, times = join_times(timestamps)
        if lowest != highest:
            attributes |= HAS_TIMESTAMPS
            columns.append(times)
    if None in keys:
        attributes |= HAS_NULL_KEYS
        bits = sum(1 << index for index, key in enumerate(keys) if key is not None)
        columns.append(bits.to_bytes((len(keys) + 7) // 8, "little"))
    columns += join_column([key if key is not None else b"" for key in keys])
    columns.append(data)
    padded = chain.from_iterable((part, _ZEROS[padding(len(part))]) for part in columns)
    return lowest, highest, attributes, b"".join(padded)


def check_record_sizes(values: Sequence[Buffer], keys: Sequence[Buffer | None] | None) -> None:
    """Refuse records over the limit.

    Raises:
        RecordTooLargeError: key and value of a record are over RECORD_BYTES_MAX together.
    """
    key_sizes: Iterable[int] = (
        [0] * len(values) if keys is None else (0 if key is None else len(key) for key in keys)
    )
    largest = max(map(int.__add__, map(len, values), key_sizes), default=0)
    if largest > RECORD_BYTES_MAX:
        raise RecordTooLargeError(largest, RECORD_BYTES_MAX)


def peek_header(view: memoryview, at: int) -> tuple[int, int, int] | None:
    """(size in bytes, base offset, record count) as a header claims, unchecked; None for none."""
    if len(view) - at < FRAME_HEADER_BYTES:
        return None
    magic, _, body_bytes, record_count, base_offset = _PEEK.unpack_from(view, at)
    if magic != FRAME_MAGIC:
        return None
    return FRAME_HEADER_BYTES + body_bytes, base_offset, record_count


def decode_frame(
    view: memoryview, at: int, log_tag: int | None
) -> RecordBatch | NeedData | Invalid:
    """The frame that starts at `at`, checked, or why there is none.

    `log_tag` None takes a frame of any log. Nothing is allocated or believed before the checksum
    held, but for the length, which is first held against the limits.

    Raises:
        UnsupportedFormatError: the frame is intact, and of a version or with attributes that this
            release does not know.
    """
    available = len(view) - at
    if available < FRAME_HEADER_BYTES:
        # Without this a few bytes of garbage at the end of a file would ask for more for ever.
        if view[at : at + 4] != FRAME_MAGIC_BYTES[: min(available, 4)]:
            return Invalid("no frame magic")
        return NeedData(FRAME_HEADER_BYTES)
    fields = _HEADER.unpack_from(view, at)
    magic, crc, body_bytes = fields[:3]
    if magic != FRAME_MAGIC:
        return Invalid("no frame magic")
    if body_bytes > BODY_BYTES_MAX or body_bytes % 8:
        return Invalid(f"impossible body size {body_bytes}")
    size = FRAME_HEADER_BYTES + body_bytes
    if available < size:
        return NeedData(size)
    if crc != crc32c(view[at + _CRC_START : at + size]):
        return Invalid("checksum mismatch")
    header = FrameHeader._make(fields)
    if log_tag is not None and header.log_tag != log_tag:
        return Invalid("frame of another log")
    if header.version != FRAME_VERSION or header.attributes & ~_KNOWN_ATTRIBUTES:
        raise UnsupportedFormatError(
            f"the frame of offset {header.base_offset} is of version {header.version} with "
            f"attributes {header.attributes:#x}; this release reads version {FRAME_VERSION} with "
            f"attributes up to {_KNOWN_ATTRIBUTES:#x}. Install a release that knows it; nothing "
            f"was changed."
        )
    if not 0 < header.record_count <= RECORD_COUNT_MAX:
        return Invalid(f"impossible record count {header.record_count}")
    if header.base_offset + header.record_count > OFFSET_MAX:
        return Invalid(f"impossible offset {header.base_offset}")
    try:
        return RecordBatch(view[at : at + size], header)
    except ValueError as error:
        return Invalid(str(error))


def _aligned(size_bytes: int) -> int:
    return size_bytes + padding(size_bytes)


def _last_offset(data: memoryview, offsets_at: int, count: int) -> int:
    at = offsets_at + 4 * count
    if at + 4 > len(data):
        raise ValueError("columns reach past the end of the frame")
    last: int = unpack_from("<i", data, at)[0]
    if last < 0:
        raise ValueError("a column has a negative size")
    return last
