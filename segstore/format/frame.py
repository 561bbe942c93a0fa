"""A frame to bytes and back, the checksums made and checked; `framelayout` shows the bytes."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from segstore.errors import RecordTooLargeError, UnsupportedFormatError
from segstore.format.batch import RecordBatch, are_values_intact, is_head_intact
from segstore.format.buffers import Buffer
from segstore.format.checksum import crc32c
from segstore.format.framelayout import (
    BLOCKS,
    BODY_BYTES_MAX,
    CRC_START,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    FRAME_MAGIC_BYTES,
    HEADER,
    KNOWN_ATTRIBUTES,
    MISMATCH,
    RECORD_BYTES_MAX,
    RECORD_COUNT_MAX,
    WHOLE,
    FrameHeader,
    Invalid,
    NeedData,
)
from segstore.format.kernel import join_frame
from segstore.format.names import OFFSET_MAX
from segstore.format.salvage import HoledBatch, find_holes


class EncodedFrame(NamedTuple):
    """A frame ready to be written: its bytes, and what an index says of it."""

    data: bytes
    base_offset: int
    record_count: int
    min_timestamp: int
    max_timestamp: int
    has_keys: bool


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
    ends: Sequence[int] | None = None,
) -> EncodedFrame:
    """One batch as a frame: the records from `start` to below `stop`.

    `base_offset` is the offset of the first of them. `timestamps` is one number where all are the
    same; `keys` is None where there are none. `ends` is what `measure` gave for `values`, if it was
    asked.

    Raises:
        TypeError: a value or key is not a buffer of bytes.
        RecordTooLargeError: a record is over RECORD_BYTES_MAX.
        ValueError: the batch is empty or has over RECORD_COUNT_MAX records.
    """
    stop = len(values) if stop is None else stop
    count = stop - start
    if not 0 < count <= RECORD_COUNT_MAX:
        raise ValueError(f"a frame holds 1 to {RECORD_COUNT_MAX} records, not {count}")
    lowest, highest, data = join_frame(
        values,
        ends,
        start,
        stop,
        timestamps,
        keys,
        base_offset,
        append_time,
        log_tag,
        durable_offset,
    )
    body_bytes = len(data) - FRAME_HEADER_BYTES
    if body_bytes > RECORD_BYTES_MAX:  # only then can a single record be
        check_record_sizes(values[start:stop], None if keys is None else keys[start:stop])
    if body_bytes > BODY_BYTES_MAX:
        raise ValueError(f"a frame's body of {body_bytes} bytes is over {BODY_BYTES_MAX}")
    return EncodedFrame(data, base_offset, count, lowest, highest, keys is not None)


def encode_batch(batch: RecordBatch, durable_offset_max: int) -> EncodedFrame:
    """A part of a frame as a frame of its own, which vouches for no more than `durable_offset_max`.

    Raises:
        ValueError: a column is not well formed, though its checksum holds.
    """
    header = batch.header
    return encode_frame(
        batch.base_offset,
        batch.values(),
        list(batch.timestamps),
        batch.keys() if batch.has_keys else None,
        append_time=header.append_time,
        log_tag=header.log_tag,
        durable_offset=min(header.durable_offset, durable_offset_max),
    )


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


def decode_frame(
    view: memoryview, at: int, log_tag: int | None
) -> RecordBatch | HoledBatch | NeedData | Invalid:
    """The frame that starts at `at`, checked, what is left of it, or why there is none.

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
    fields = HEADER.unpack_from(view, at)
    magic, _, body_bytes = fields[:3]
    if magic != FRAME_MAGIC:
        return Invalid("no frame magic")
    if body_bytes > BODY_BYTES_MAX or body_bytes % 8:
        return Invalid(f"impossible body size {body_bytes}")
    size = FRAME_HEADER_BYTES + body_bytes
    if available < size:
        return NeedData(size)
    header = FrameHeader._make(fields)
    frame = view[at : at + size]
    is_whole = header.version != BLOCKS
    if is_whole:
        if header.crc != crc32c(frame[CRC_START:]):
            return Invalid(MISMATCH)
        unfit = _unfit(header, log_tag)
        if unfit is not None:
            return unfit
    # Of BLOCKS, where the head ends follows from numbers that are not checked yet; wrong ones lead
    # to a checksum that does not hold.
    try:
        batch = RecordBatch(frame, header)
    except ValueError as error:
        return Invalid(str(error))
    if is_whole:
        return batch
    if not is_head_intact(batch):
        return Invalid(MISMATCH)
    unfit = _unfit(header, log_tag)
    if unfit is not None:
        return unfit
    return batch if are_values_intact(batch) else find_holes(batch)


def _unfit(header: FrameHeader, log_tag: int | None) -> Invalid | None:
    """Why an intact frame can't be used, or None.

    Raises:
        UnsupportedFormatError: it is of a version or with attributes that this release does not
            know.
    """
    if log_tag is not None and header.log_tag != log_tag:
        return Invalid("frame of another log")
    if header.version not in (WHOLE, BLOCKS) or header.attributes & ~KNOWN_ATTRIBUTES:
        raise UnsupportedFormatError(
            f"the frame of offset {header.base_offset} is of version {header.version} with "
            f"attributes {header.attributes:#x}; this release reads versions up to {BLOCKS} with "
            f"attributes up to {KNOWN_ATTRIBUTES:#x}. Install a release that knows it; nothing "
            f"was changed."
        )
    if not 0 < header.record_count <= RECORD_COUNT_MAX:
        return Invalid(f"impossible record count {header.record_count}")
    if header.base_offset + header.record_count > OFFSET_MAX:
        return Invalid(f"impossible offset {header.base_offset}")
    return None
