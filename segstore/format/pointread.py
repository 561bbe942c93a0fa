"""One record out of a frame of version BLOCKS, for less than the whole frame costs.

The head of the frame says which blocks of values hold a record and what their checks are. It is
worth keeping: the next record of the frame then takes its blocks alone. Like `columns`, this is the
specification and the fallback of loops of the C kernel.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, TypeAlias

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

# (the bytes of the frame up to the values, base offset, record count, lowest timestamp, attributes,
# value bytes, where the columns start as `lay_out` tells).
Head: TypeAlias = tuple[bytes, int, int, int, int, int, tuple[int, int, int, int, int, int]]

# As functions, because a point read is made of some twenty calls and no more.
_offset_pair = Struct("<ii").unpack_from
_check = Struct("<I").unpack_from
_two_checks = Struct("<II").unpack_from
_timestamp = Struct("<q").unpack_from


def decode_head(data: bytes, log_tag: int | None, /) -> Head | int | None:
    """The head of the frame that `data` starts with, its checksum checked.

    Instead of a head: how many bytes of the frame it takes, where they are more than those at hand;
    or None where the frame has no head with a checksum that holds, is of another log, or is not
    well formed: whoever reads the whole frame finds out why.
    """
    if len(data) < FRAME_HEADER_BYTES:
        return None
    (
        magic, crc, body_bytes, count, base_offset, _, time, _, tag, attributes, version, _, _,
    ) = HEADER.unpack_from(data)  # fmt: skip
    if (
        magic != FRAME_MAGIC
        or version != BLOCKS
        or attributes & ~KNOWN_ATTRIBUTES
        or log_tag not in (None, tag)
        or not 0 < count <= RECORD_COUNT_MAX
        or body_bytes > BODY_BYTES_MAX
    ):
        return None
    wanted = offsets_end(count, attributes)
    if wanted > len(data):
        return wanted
    try:
        columns = lay_out(data, body_bytes, count, attributes, version)
    except ValueError:
        return None
    values_at = columns[-1]
    if values_at > len(data):
        return values_at
    if crc32c(memoryview(data)[CRC_START:values_at]) != crc:
        return None
    value_bytes = FRAME_HEADER_BYTES + body_bytes - values_at
    return data[:values_at], base_offset, count, time, attributes, value_bytes, columns


def read_record(
    read: Callable[[int, int], bytes],
    descriptor: int | None,  # noqa: ARG001 - what the kernel reads from instead
    places: Sequence[int],
    heads: Sequence[Head | None],
    first_offset: int,
    offset: int,
    record_type: Any,
    /,
) -> Any | int | None:
    """One record of a segment that starts at `first_offset`, by the head of its frame.

    `places` has ``relative offset << 32 | position`` for each entry of the index, and `heads` the
    heads that are kept of the frames there, as far as it goes. `read` takes a size and a position,
    and `record_type` is a NamedTuple of offset, timestamp, key and value.

    Instead of a record: the number of the entry that leads to it where no head of that is kept; or
    None where its frame does not have the offset, a block's check does not hold, a column is not
    well formed, or no entry leads to it.

    Raises:
        Exception: what `read` raises.
    """
    slot = bisect_right(places, offset - first_offset << 32 | 0xFFFFFFFF) - 1
    if slot < 0:
        return None
    head = heads[slot] if slot < len(heads) else None
    if head is None:
        return slot
    position = places[slot] & 0xFFFFFFFF
    data, base_offset, count, time, attributes, value_bytes, columns = head
    index = offset - base_offset
    if not 0 <= index < count:
        return None
    start, stop = _offset_pair(data, FRAME_HEADER_BYTES + 4 * index)
    if not 0 <= start <= stop <= value_bytes:
        return None
    key = None
    if attributes:
        timestamps_at, validity_at, key_offsets_at, key_data_at, checks_at, _ = columns
        if attributes & HAS_TIMESTAMPS:
            (time,) = _timestamp(data, timestamps_at + 8 * index)
        if attributes & HAS_KEYS and (
            not attributes & HAS_NULL_KEYS or has_key(data, index, validity_at)
        ):
            try:
                key = column_item(data, index, key_offsets_at, key_data_at, checks_at)
            except ValueError:
                return None
    if start == stop:
        return tuple.__new__(record_type, (offset, time, key, b""))
    first, last = start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES
    checks_at, values_at = columns[4], columns[5]
    if 0 < first == last:  # as below, with a call less
        before, after = _two_checks(data, checks_at + 4 * first - 4)
    else:
        before = _check(data, checks_at + 4 * first - 4)[0] if first else 0
        (after,) = _check(data, checks_at + 4 * last)
    blocks_start, blocks_stop = first * BLOCK_BYTES, (last + 1) * BLOCK_BYTES
    if blocks_stop > value_bytes:
        blocks_stop = value_bytes
    blocks = read(blocks_stop - blocks_start, position + values_at + blocks_start)
    if crc32c(blocks, before) != after:
        return None
    value = blocks[start - blocks_start : stop - blocks_start]
    # As in `iter_records`: `record_type` itself is a function in Python.
    return tuple.__new__(record_type, (offset, time, key, value))
