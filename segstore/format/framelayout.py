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
    timestamps     int64 x count              only with HAS_TIMESTAMPS, else all are `min time`
    key validity   1 bit a record, LSB first  only with HAS_NULL_KEYS
    key offsets    int32 x (count + 1)        only with HAS_KEYS
    key bytes                                 only with HAS_KEYS
    value checks   u32 x blocks               only in version BLOCKS
    value bytes

Version WHOLE: the CRC covers every byte after itself. Version BLOCKS, for frames of several
records and more than one block of values: it covers all but the value bytes (the head of the
frame), and these have checks of their own. Check i is the CRC-32C of the value bytes, padding
included, up to the end of block i. So one record costs the head and its blocks, each check being
where the next CRC starts, and a whole frame costs two CRCs, because the last check is that of all
value bytes.

The durable offset says that every record below it had been fsynced before this frame was written:
it is what tells a torn tail from damage.
"""

from struct import Struct, unpack_from
from typing import NamedTuple

from segstore.format.buffers import Buffer, padding

FRAME_HEADER_BYTES = 64
FRAME_MAGIC = 0x4D524653  # b"SFRM"; not zero, so that zeroed space is never a frame
FRAME_MAGIC_BYTES = FRAME_MAGIC.to_bytes(4, "little")

# Do not change: these numbers are on disk. Attribute bits 3 (headers) and 4 (explicit offsets, for
# key compaction) are reserved.
WHOLE = 1
BLOCKS = 2
HAS_TIMESTAMPS = 1 << 0
HAS_KEYS = 1 << 1
HAS_NULL_KEYS = 1 << 2
KNOWN_ATTRIBUTES = HAS_TIMESTAMPS | HAS_KEYS | HAS_NULL_KEYS

# Smaller blocks make a point read no faster (what it reads is a page of the cache either way), and
# cost every append a call each.
BLOCK_BYTES = 4096

# What can be written can be read: both sides enforce the same limits.
RECORD_BYTES_MAX = 16 * 1024 * 1024
BODY_BYTES_MAX = 2 * RECORD_BYTES_MAX
FRAME_BYTES_MAX = FRAME_HEADER_BYTES + BODY_BYTES_MAX
RECORD_COUNT_MAX = 1 << 20
TIMESTAMP_MIN, TIMESTAMP_MAX = -(2**63), 2**63 - 1

HEADER = Struct("<IIIIQqqqIHBBQ")
PREFIX = Struct("<II")
COVERED_HEADER = Struct("<IIQqqqIHBBQ")  # the part of the header that the CRC covers
CRC_START = PREFIX.size
_PEEK = Struct("<IIIIQ")
assert HEADER.size == FRAME_HEADER_BYTES
assert COVERED_HEADER.size == FRAME_HEADER_BYTES - CRC_START


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


class NeedData(NamedTuple):
    """The bytes end too early; it takes `size_bytes` from the start of the frame to go on."""

    size_bytes: int


MISMATCH = "checksum mismatch"  # the reason of what is damaged, most often


class Invalid(NamedTuple):
    """There is no intact frame here, and `reason` says which check failed."""

    reason: str


def lay_out(
    data: Buffer, body_bytes: int, record_count: int, attributes: int, version: int
) -> tuple[int, int, int, int, int, int]:
    """Where the columns of a frame start, by its offsets.

    (Timestamps, key validity, key offsets, key bytes, value checks, value bytes.) `data` starts
    with the frame and holds it up to `offsets_end`, at least. Nothing is believed: what the numbers
    say has to fit the size of the body.

    Raises:
        ValueError: it does not.
    """
    # What `& -8` rounds up to is written out here, because a call costs more than the sum.
    position = FRAME_HEADER_BYTES + (4 * record_count + 4 + 7 & -8)
    timestamps_at = position
    if attributes & HAS_TIMESTAMPS:
        position += 8 * record_count
    validity_at = key_offsets_at = key_data_at = position
    if attributes & HAS_KEYS:
        if attributes & HAS_NULL_KEYS:
            position += (record_count + 7) // 8 + 7 & -8
        key_offsets_at = position
        position += 4 * record_count + 4 + 7 & -8
        key_data_at = position
        position += last_offset(data, key_offsets_at, record_count) + 7 & -8
    value_bytes = last_offset(data, FRAME_HEADER_BYTES, record_count) + 7 & -8
    checks_at = position
    if version == BLOCKS:
        position += 4 * -(-value_bytes // BLOCK_BYTES) + 7 & -8
    if position + value_bytes != FRAME_HEADER_BYTES + body_bytes:
        raise ValueError("columns don't add up to the size of the frame")
    return timestamps_at, validity_at, key_offsets_at, key_data_at, checks_at, position


def offsets_end(record_count: int, attributes: int) -> int:
    """How many bytes of a frame `lay_out` takes, at least: up to the last of its offsets."""
    end = FRAME_HEADER_BYTES + 4 * (record_count + 1)
    if attributes & HAS_KEYS:
        end += padding(end) + 4 * (record_count + 1)
        if attributes & HAS_TIMESTAMPS:
            end += 8 * record_count
        if attributes & HAS_NULL_KEYS:
            end += (record_count + 7) // 8 + 7 & -8
    return end


def column_item(data: Buffer, index: int, offsets_at: int, data_at: int, end: int) -> bytes:
    """One item of a column whose bytes start at `data_at` and stop at `end` at the latest.

    Raises:
        ValueError: the offsets of the item don't rise, or lead behind the end.
    """
    start, stop = unpack_from("<ii", data, offsets_at + 4 * index)
    if not 0 <= start <= stop <= end - data_at:
        raise ValueError("column offsets don't rise from 0")
    return bytes(data[data_at + start : data_at + stop])


def has_key(data: Buffer, index: int, validity_at: int) -> bool:
    """Whether the record with that index has a key, by the validity column."""
    return bool(data[validity_at + index // 8] >> index % 8 & 1)


def last_offset(data: Buffer, offsets_at: int, record_count: int) -> int:
    """How many bytes a column has, by the last of its offsets.

    Raises:
        ValueError: it is negative, or not at hand.
    """
    at = offsets_at + 4 * record_count
    if at + 4 > len(data):
        raise ValueError("columns reach past the end of the frame")
    last: int = unpack_from("<i", data, at)[0]
    if last < 0:
        raise ValueError("a column has a negative size")
    return last


def has_magic(view: memoryview, at: int) -> bool:
    """Whether something that starts as frames do is there.

    Raises:
        ValueError: the view was released.
    """
    return len(view) - at >= 4 and unpack_from("<I", view, at)[0] == FRAME_MAGIC


def peek_header(view: memoryview, at: int) -> tuple[int, int, int] | None:
    """(size in bytes, base offset, record count) as a header claims, unchecked; None for none."""
    if len(view) - at < FRAME_HEADER_BYTES:
        return None
    magic, _, body_bytes, record_count, base_offset = _PEEK.unpack_from(view, at)
    if magic != FRAME_MAGIC:
        return None
    return FRAME_HEADER_BYTES + body_bytes, base_offset, record_count


def copy_frame(
    view: memoryview, at: int, base_offset: int | None = None, size_bytes_max: int | None = None
) -> bytes | None:
    """The bytes of what claims to be a frame (with that base offset), unchecked; None for none.

    A copy, because what lies in a mapping may change between a look at it and the next.

    Raises:
        ValueError: the view was released.
    """
    claimed = peek_header(view, at)
    if claimed is None:
        return None
    size_bytes, claimed_offset, _ = claimed
    limit = len(view) - at if size_bytes_max is None else min(size_bytes_max, len(view) - at)
    if size_bytes > limit or base_offset not in (None, claimed_offset):
        return None
    return bytes(view[at : at + size_bytes])
