"""A record, and a batch of them as columns over the bytes of its frame."""

from array import array
from collections.abc import Iterator, Sequence
from struct import unpack_from
from typing import Any, NamedTuple, SupportsIndex

from segstore.errors import OffsetOutOfRangeError
from segstore.format.buffers import as_offset
from segstore.format.checksum import crc32c
from segstore.format.framelayout import (
    BLOCK_BYTES,
    CRC_START,
    FRAME_HEADER_BYTES,
    HAS_KEYS,
    HAS_NULL_KEYS,
    HAS_TIMESTAMPS,
    FrameHeader,
    column_item,
    has_key,
    last_offset,
    lay_out,
)
from segstore.format.kernel import iter_column, iter_records


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
        "_checks_at",
        "_data",
        "_key_data_at",
        "_key_offsets_at",
        "_timestamps_at",
        "_validity_at",
        "_values_at",
        "base_offset",
        "end_offset",
        "header",
    )

    def __init__(self, data: memoryview, header: FrameHeader) -> None:
        """Lay the columns of a frame over `data`, the whole frame.

        Raises:
            ValueError: the columns don't fit the body.
        """
        self.header = header
        self._data = data
        count = header.record_count
        (
            self._timestamps_at,
            self._validity_at,
            self._key_offsets_at,
            self._key_data_at,
            self._checks_at,
            self._values_at,
        ) = lay_out(data, header.body_bytes, count, header.attributes, header.version)
        self.base_offset: int = header.base_offset
        self.end_offset: int = self.base_offset + count

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
        size = last_offset(self._data, FRAME_HEADER_BYTES, self.header.record_count)
        return self._data[self._values_at : self._values_at + size]

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
        return list(values_of(self))

    def keys(self) -> list[bytes | None]:
        """The keys, None for a record without one.

        Raises:
            ValueError: the key column is not well formed, though its checksum holds.
        """
        keys = self._keys()
        return [None] * len(self) if keys is None else keys

    def records(self) -> list[Record]:
        """The records.

        Raises:
            ValueError: a column is not well formed, though its checksum holds.
        """
        return list(records_of(self))

    def record(self, offset: SupportsIndex) -> Record:
        """The one record at `offset`, without making the others.

        Raises:
            OffsetOutOfRangeError: it is not one of the batch.
            TypeError: it is not an int.
            ValueError: a column is not well formed, though its checksum holds.
        """
        if type(offset) is not int:
            offset = as_offset(offset)
        if not self.base_offset <= offset < self.end_offset:
            raise OffsetOutOfRangeError(offset, self.base_offset, self.end_offset, "the batch")
        header, data = self.header, self._data
        index = offset - header.base_offset
        value = column_item(data, index, FRAME_HEADER_BYTES, self._values_at, len(data))
        times = self._timestamps()
        key = None
        if header.attributes & HAS_KEYS and (
            not header.attributes & HAS_NULL_KEYS or has_key(data, index, self._validity_at)
        ):
            key = column_item(data, index, self._key_offsets_at, self._key_data_at, len(data))
        return Record(offset, times if isinstance(times, int) else times[index], key, value)

    def slice(self, start: SupportsIndex, stop: SupportsIndex) -> "RecordBatch":
        """The part with offsets from `start` to below `stop`, over the same bytes.

        Raises:
            TypeError: one of them is not an int.
        """
        first, last = as_offset(start), as_offset(stop)
        part = RecordBatch.__new__(RecordBatch)
        for name in RecordBatch.__slots__:
            setattr(part, name, getattr(self, name))
        part.base_offset = min(max(self.base_offset, first), self.end_offset)
        part.end_offset = max(part.base_offset, min(self.end_offset, last))
        return part

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: to other processes goes the whole frame, also of a slice."""
        return _sliced, (bytes(self._data), self.header, self.base_offset, self.end_offset)

    @property
    def _first(self) -> int:
        """The place of the first record among those of the frame."""
        return self.base_offset - self.header.base_offset

    @property
    def _last(self) -> int:
        return self.end_offset - self.header.base_offset

    def _timestamps(self) -> int | memoryview:
        if not self.header.attributes & HAS_TIMESTAMPS:
            return self.header.min_timestamp
        column = self._data[self._timestamps_at :][: 8 * self.header.record_count]
        return column.cast("q")

    def _keys(self) -> list[bytes | None] | None:
        header = self.header
        if not header.attributes & HAS_KEYS:
            return None
        first, last = self._first, self._last
        keys: list[bytes | None] = list(
            iter_column(self._data, self._key_offsets_at, first, last, self._key_data_at)
        )
        if header.attributes & HAS_NULL_KEYS:
            bits = int.from_bytes(self._data[self._validity_at :][: (last + 7) // 8], "little")
            for index in range(first, last):
                if not bits >> index & 1:
                    keys[index - first] = None
        return keys


def _sliced(data: bytes, header: FrameHeader, start: int, stop: int) -> RecordBatch:
    return RecordBatch(memoryview(data), header).slice(start, stop)


def values_of(batch: RecordBatch) -> Iterator[bytes]:
    """The values, each made when it is asked for.

    Raises:
        ValueError: as `RecordBatch.values`, and before any is given out.
    """
    first, last = batch._first, batch._last
    return iter_column(batch._data, FRAME_HEADER_BYTES, first, last, batch._values_at)


def records_of(batch: RecordBatch) -> Iterator[Record]:
    """The records, each made when it is asked for.

    Raises:
        ValueError: as `RecordBatch.records`, and before any is given out.
    """
    values, times, keys = values_of(batch), batch._timestamps(), batch._keys()
    count = len(batch)
    if count != batch.header.record_count and not isinstance(times, int):
        times = times[batch._first : batch._last]
    return iter_records(Record, batch.base_offset, times, keys, values, count)


def is_head_intact(batch: RecordBatch) -> bool:
    """Whether the checksum of a frame of version BLOCKS holds, which is that of its head."""
    return crc32c(batch._data[CRC_START : batch._values_at]) == batch.header.crc


def are_values_intact(batch: RecordBatch) -> bool:
    """Whether the last check of a frame of version BLOCKS holds, which is that of all values."""
    data, values_at = batch._data, batch._values_at
    block_count = -(-(len(data) - values_at) // BLOCK_BYTES)
    last: int = unpack_from("<I", data, batch._checks_at + 4 * block_count - 4)[0]
    return crc32c(data[values_at:]) == last
