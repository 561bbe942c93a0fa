"""Columns to the bytes of a frame: the checks of the blocks, the header and its checksum."""

from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, repeat
from operator import sub

from segstore.format.buffers import Buffer, padding
from segstore.format.checksum import crc32c
from segstore.format.columns import join_column, join_times, measure, pack_offsets
from segstore.format.cutting import PIECE_RECORDS_MAX
from segstore.format.framelayout import (
    BLOCK_BYTES,
    BLOCKS,
    COVERED_HEADER,
    FRAME_MAGIC,
    HAS_KEYS,
    HAS_NULL_KEYS,
    HAS_TIMESTAMPS,
    PREFIX,
    WHOLE,
)

_ZEROS = (b"", *(bytes(n) for n in range(1, 8)))


def join_frame(
    values: Sequence[Buffer],
    ends: Sequence[int] | None,
    start: int,
    stop: int,
    timestamps: int | Sequence[int],
    keys: Sequence[Buffer | None] | None,
    base_offset: int,
    append_time: int,
    log_tag: int,
    durable_offset: int,
    /,
) -> tuple[int, int, bytes]:
    """The frame of some records: (lowest timestamp, highest timestamp, its bytes).

    It holds the values from `start` to below `stop`, of which the first gets `base_offset`, and
    the timestamps and keys at the same places. `ends` is what `measure` gave for these values, or
    None. `timestamps` is one number where all are the same, `keys` None where there are none.

    The C kernel has the same function; this is its specification.

    Raises:
        TypeError: a value or key is not bytes, a bytearray or a contiguous memoryview; a timestamp
            is not an int.
        OverflowError: the values are over 2 GiB together; a timestamp does not fit 64 bits.
        ValueError: there are not as many values, timestamps or keys.
        struct.error: a number does not fit its field of the header.
    """
    count = len(values)
    if not isinstance(timestamps, int):
        count = min(count, len(timestamps))
    if keys is not None:
        count = min(count, len(keys))
    if not 0 <= start < stop <= count:
        raise ValueError(f"there are no records {start} to {stop} among {count}")
    if ends is None:
        offsets, data = join_column(values[start:stop])
    else:
        data = b"".join(values[start:stop])
        places = ends[start : stop + 1]
        if start:
            places = list(map(sub, places, repeat(places[0])))
        offsets = pack_offsets(places)
    columns: list[Buffer] = [offsets]
    attributes = 0
    if isinstance(timestamps, int):
        lowest = highest = timestamps
    else:
        lowest, highest, column_of_times = join_times(timestamps[start:stop])
        if lowest != highest:
            attributes |= HAS_TIMESTAMPS
            columns.append(column_of_times)
    if keys is not None:
        some_keys = keys[start:stop]
        attributes |= HAS_KEYS
        if None in some_keys:
            attributes |= HAS_NULL_KEYS
            bits = sum(1 << index for index, key in enumerate(some_keys) if key is not None)
            columns.append(bits.to_bytes((len(some_keys) + 7) // 8, "little"))
        columns += join_column([b"" if key is None else key for key in some_keys])
    data += _ZEROS[padding(len(data))]
    version = WHOLE
    if stop - start > 1 and len(data) > BLOCK_BYTES:
        version = BLOCKS
        columns.append(_checks_of(data))
    head = b"".join(chain.from_iterable((part, _ZEROS[padding(len(part))]) for part in columns))
    covered = COVERED_HEADER.pack(
        len(head) + len(data),
        stop - start,
        base_offset,
        append_time,
        lowest,
        highest,
        log_tag,
        attributes,
        version,
        0,
        durable_offset,
    )
    crc = crc32c(head, crc32c(covered))
    if version == WHOLE:
        crc = crc32c(data, crc)
    return lowest, highest, b"".join((PREFIX.pack(FRAME_MAGIC, crc), covered, head, data))


def join_whole(
    values: Iterable[object],
    size_min: int,
    size_max: int,
    timestamp: int,
    base_offset: int,
    append_time: int,
    log_tag: int,
    durable_offset: int,
    /,
) -> tuple[int, bytes] | None:
    """A batch as one frame, with one look at each value: (how many records, its bytes).

    None unless every value is bytes, and of no subclass, there are some, of `size_min` bytes or
    more, and `cut_batch` would make one piece of up to `size_max` bytes of them. All of them get
    the same timestamp and no key; the rest is as for `join_frame`.

    The C kernel has the same function; this is its specification.

    Raises:
        struct.error: a number does not fit its field of the header.
    """
    measured = measure(values)
    if measured is None:
        return None
    plain, ends = measured
    count = len(plain)
    is_one_piece = 0 < count <= PIECE_RECORDS_MAX and ends[-1] + 4 * count <= size_max
    if not is_one_piece or ends[-1] < size_min:
        return None
    fields = base_offset, append_time, log_tag, durable_offset
    return count, join_frame(plain, ends, 0, count, timestamp, None, *fields)[2]


def _checks_of(data: bytes) -> bytes:
    """The running CRC of the values at the end of each block."""
    view = memoryview(data)
    blocks = (view[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES))
    crcs = accumulate(blocks, lambda crc, block: crc32c(block, crc), initial=0)
    return array("I", list(crcs)[1:]).tobytes()
