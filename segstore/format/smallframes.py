"""Frames of one record, as a single append stores them into the tail, and the way back.

    header without its first 8 bytes | value offsets | key offsets, key | value

The kernel has `take_records` a second time; `segstore.format.kernel` picks.
"""

from struct import Struct

from segstore.format.checksum import crc32c
from segstore.format.framelayout import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    HAS_KEYS,
    WHOLE,
    copy_frame,
)
from segstore.format.names import OFFSET_MAX

# The header after its CRC field, then the two offsets of the value; those of a key follow.
PREFIX = Struct("<II")
SMALL = Struct("<IIQqqqIHBBQii")
KEY_OFFSETS = Struct("<ii")
OVERHEAD_BYTES = FRAME_HEADER_BYTES + 8
assert PREFIX.size + SMALL.size == OVERHEAD_BYTES

# Larger ones are few, and any other way will do for them.
SMALL_FRAME_BYTES_MAX = 4096


def take_records(
    view: memoryview,
    position: int,
    offset: int,
    log_tag: int,
    values: list[bytes],
    timestamps: list[int],
    keys: list[bytes | None],
    /,
) -> int:
    """Read frames of one record in a row into columns; the position behind the last of them.

    The first starts at `position` and holds `offset`, and each holds the next. What is no such
    frame, or not intact, or larger than `SMALL_FRAME_BYTES_MAX`, is for whoever calls to judge. The
    bytes may change meanwhile: each frame is copied, and what was checked is what is used.

    Raises:
        ValueError: the view was released.
    """
    while position >= 0 and offset < OFFSET_MAX:
        frame = copy_frame(view, position, offset, SMALL_FRAME_BYTES_MAX)
        record = None if frame is None else _decode(frame, offset, log_tag)
        if frame is None or record is None:
            break
        value, timestamp, key = record
        values.append(value)
        timestamps.append(timestamp)
        keys.append(key)
        position += len(frame)
        offset += 1
    return position


def _decode(frame: bytes, offset: int, log_tag: int) -> tuple[bytes, int, bytes | None] | None:
    """(value, timestamp, key) of a whole frame of one record; None for anything else."""
    if len(frame) < OVERHEAD_BYTES:
        return None
    fields = SMALL.unpack_from(frame, PREFIX.size)
    body_bytes, count, base_offset, _, time, _, tag, attributes, version, _, _, start, size = fields
    if (
        (count, base_offset, tag, version, start) != (1, offset, log_tag, WHOLE, 0)
        or attributes not in (0, HAS_KEYS)
        or body_bytes != len(frame) - FRAME_HEADER_BYTES
        or size < 0
    ):
        return None
    at, key = OVERHEAD_BYTES, None
    if attributes == HAS_KEYS:
        if len(frame) < at + KEY_OFFSETS.size:
            return None
        key_start, key_size = KEY_OFFSETS.unpack_from(frame, at)
        at += KEY_OFFSETS.size
        if key_start != 0 or not 0 <= key_size <= len(frame) - at:
            return None
        key = frame[at : at + key_size]
        at += key_size + (-key_size & 7)
    if at + size + (-size & 7) != len(frame):
        return None
    if PREFIX.unpack_from(frame) != (FRAME_MAGIC, crc32c(frame[PREFIX.size :])):
        return None
    return frame[at : at + size], time, key
