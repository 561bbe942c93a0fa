"""One record out of a frame of version BLOCKS, for less than the whole frame costs.

First the head of the frame is read, and says which blocks of values hold the record and what their
checks are; then those blocks. Like `columns`, this is the specification and the fallback of a loop
of the C kernel.
"""

from __future__ import annotations

from struct import unpack_from
from typing import TypeAlias

from segstore.format.checksum import crc32c
from segstore.format.framelayout import (
    BLOCK_BYTES,
    BLOCKS,
    BODY_BYTES_MAX,
    CRC_START,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    HAS_KEYS,
    HAS_NULL_KEYS,
    HAS_TIMESTAMPS,
    HEADER,
    KNOWN_ATTRIBUTES,
    RECORD_COUNT_MAX,
    column_item,
    has_key,
    lay_out,
    offsets_end,
)

# (timestamp, key, blocks start, blocks stop, CRC before them, CRC behind them, value start, value
# stop): the blocks stand from start to below stop in the frame, and the value in the blocks.
Place: TypeAlias = tuple[int, bytes | None, int, int, int, int, int, int]


def find_record(data: bytes, log_tag: int | None, offset: int, /) -> Place | int | None:
    """Where the value of a record is, and all else of it, by the head of the frame in `data`.

    `data` starts with the frame. Instead of a place: how many bytes of the frame it takes, where
    they are more than those at hand; or None where the frame has no head with a checksum that
    holds, is of another log, does not have that record, or is not well formed: whoever reads the
    whole frame finds out why.
    """
    if len(data) < FRAME_HEADER_BYTES:
        return None
    (
        magic, crc, body_bytes, count, base_offset, _, time, _, tag, attributes, version, _, _,
    ) = HEADER.unpack_from(data)  # fmt: skip
    index = offset - base_offset
    if (
        magic != FRAME_MAGIC
        or version != BLOCKS
        or attributes & ~KNOWN_ATTRIBUTES
        or log_tag not in (None, tag)
        or not 0 <= index < count <= RECORD_COUNT_MAX
        or body_bytes > BODY_BYTES_MAX
    ):
        return None
    wanted = offsets_end(count, attributes)
    if wanted > len(data):
        return wanted
    try:
        places = lay_out(data, body_bytes, count, attributes, version)
        timestamps_at, validity_at, key_offsets_at, key_data_at, checks_at, values_at = places
        if values_at > len(data):
            return values_at
        if crc32c(memoryview(data)[CRC_START:values_at]) != crc:
            return None
        start, stop = unpack_from("<ii", data, FRAME_HEADER_BYTES + 4 * index)
        value_bytes = FRAME_HEADER_BYTES + body_bytes - values_at
        if not 0 <= start <= stop <= value_bytes:
            return None
        if attributes & HAS_TIMESTAMPS:
            (time,) = unpack_from("<q", data, timestamps_at + 8 * index)
        key = None
        if attributes & HAS_KEYS and (
            not attributes & HAS_NULL_KEYS or has_key(data, index, validity_at)
        ):
            key = column_item(data, index, key_offsets_at, key_data_at, checks_at)
    except ValueError:
        return None
    if start == stop:
        return time, key, values_at, values_at, 0, 0, 0, 0
    first, last = start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES
    before, after = 0, unpack_from("<I", data, checks_at + 4 * last)[0]
    if first:
        (before,) = unpack_from("<I", data, checks_at + 4 * first - 4)
    blocks_start = first * BLOCK_BYTES
    blocks_stop = min((last + 1) * BLOCK_BYTES, value_bytes)
    return (
        time,
        key,
        values_at + blocks_start,
        values_at + blocks_stop,
        before,
        after,
        start - blocks_start,
        stop - blocks_start,
    )
