"""Columns to the bytes of a frame: the checks of the blocks, the header and its checksum."""

from array import array
from collections.abc import Sequence
from itertools import accumulate, chain, repeat
from operator import sub

from segstore.format.buffers import Buffer, padding
from segstore.format.checksum import crc32c
from segstore.format.columns import join_column, join_times, pack_offsets
from segstore.format.framelayout import (
    BLOCK_BYTES,
    BLOCKS,
    COVERED_HEADER,
    FRAME_MAGIC,
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
    base_offset: int,
    append_time: int,
    log_tag: int,
    durable_offset: int,
    /,
) -> tuple[int, int, bytes]:
    """The frame of records without keys: (lowest timestamp, highest timestamp, its bytes).

    It holds the values from `start` to below `stop`, of which the first gets `base_offset`, and
    the timestamps at the same places unless all are the same. `ends` is what `measure` gave for
    these values, or None. `timestamps` is one number, or has an item for each value.

    The C kernel has the same function; this is its specification.

    Raises:
        TypeError: a value is not bytes, a bytearray or a contiguous memoryview; a timestamp is
            not an int.
        OverflowError: the values are over 2 GiB together; a timestamp does not fit 64 bits.
        ValueError: there are timestamps, but none at these places.
        struct.error: a number does not fit its field of the header.
    """
    if ends is None:
        offsets, data = join_column(values[start:stop])
    else:
        data = b"".join(values[start:stop])
        places = ends[start : stop + 1]
        if start:
            places = list(map(sub, places, repeat(places[0])))
        offsets = pack_offsets(places)
    return assemble_frame(
        offsets,
        data,
        start,
        stop,
        timestamps,
        (),
        0,
        base_offset,
        append_time,
        log_tag,
        durable_offset,
    )


def assemble_frame(
    offsets: Buffer,
    data: bytes,
    start: int,
    stop: int,
    timestamps: int | Sequence[int],
    key_columns: Sequence[Buffer],
    attributes: int,
    base_offset: int,
    append_time: int,
    log_tag: int,
    durable_offset: int,
) -> tuple[int, int, bytes]:
    """A frame out of the columns of its values and keys: as `join_frame`, which says the rest.

    `offsets` and `data` are the column of the values; `attributes` says what `key_columns` are.

    Raises:
        TypeError, OverflowError, ValueError, struct.error: as for `join_frame`.
    """
    columns = [offsets]
    if isinstance(timestamps, int):
        lowest = highest = timestamps
    else:
        lowest, highest, times = join_times(timestamps[start:stop])
        if lowest != highest:
            attributes |= HAS_TIMESTAMPS
            columns.append(times)
    columns += key_columns
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


def _checks_of(data: bytes) -> bytes:
    """The running CRC of the values at the end of each block."""
    view = memoryview(data)
    blocks = (view[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES))
    crcs = accumulate(blocks, lambda crc, block: crc32c(block, crc), initial=0)
    return array("I", list(crcs)[1:]).tobytes()
