"""What is left of a frame of version BLOCKS whose head is intact and whose values are not.

Each check in the head is where the CRC of the next block starts, so a bad block says nothing
against those behind it. Lost are the records that have a byte in a bad block; the others are as
good as those of an intact frame.
"""

from bisect import bisect_left, bisect_right
from struct import unpack_from
from typing import NamedTuple

from segstore.format.batch import RecordBatch
from segstore.format.checksum import crc32c
from segstore.format.framelayout import BLOCK_BYTES, lay_out


class Hole(NamedTuple):
    """Bad blocks, and the records they cost.

    Attributes:
        start, stop: where the blocks stand, from the start of the frame.
        offsets: the records that are lost.
    """

    start: int
    stop: int
    offsets: range


class HoledBatch(NamedTuple):
    """A batch and its holes, in order and with a record between any two; at least one."""

    batch: RecordBatch
    holes: tuple[Hole, ...]


def find_holes(batch: RecordBatch) -> HoledBatch:
    """Which records are lost in a frame whose head is intact and whose values are not."""
    frame, header = batch.frame, batch.header
    *_, checks_at, values_at = lay_out(
        frame, header.body_bytes, header.record_count, header.attributes, header.version
    )
    value_offsets = batch.value_offsets
    holes: list[Hole] = []
    crc = 0
    for number, start in enumerate(range(values_at, len(frame), BLOCK_BYTES)):
        stop = min(start + BLOCK_BYTES, len(frame))
        is_intact = crc32c(frame[start:stop], crc) == (
            crc := unpack_from("<I", frame, checks_at + 4 * number)[0]
        )
        if is_intact:
            continue
        # From the first record that ends behind the start of the block to the last one that starts
        # before its end. Offsets that don't rise, a forger's, lead to some range or other.
        first = bisect_right(value_offsets, start - values_at, 1) - 1
        last = bisect_left(value_offsets, stop - values_at, 0, len(batch))
        lost_from, lost_to = batch.base_offset + first, batch.base_offset + max(first, last)
        if holes and lost_from <= holes[-1].offsets.stop:
            before = holes.pop()
            start, lost_from = before.start, before.offsets.start
            lost_to = max(lost_to, before.offsets.stop)
        holes.append(Hole(start, stop, range(lost_from, lost_to)))
    return HoledBatch(batch, tuple(holes))
