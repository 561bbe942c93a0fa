"""A number that must survive a power cut at any moment: two slots, written in turn.

    0              512                       1024                      1536
    +--------------+-------------------------+-------------------------+
    | file header  | slot 0, one sector      | slot 1, one sector      |
    +--------------+-------------------------+-------------------------+

    slot:  | crc32c u32 | zero u32 | sequence u64 | value u64 | time i64 ns | lost count u64 |

The slot with the higher sequence whose CRC holds counts. A write goes to the other one, so a torn
write leaves the last. Slots are overwritten in place because that works on a full disk, where the
retention that would free it has to move the log start first; write aside and rename would not.
"""

from struct import Struct
from typing import NamedTuple

from segstore.format.buffers import Buffer
from segstore.format.checksum import crc32c
from segstore.format.names import OFFSET_MAX

SLOT_BYTES = 512
CHECKPOINT_BYTES = 3 * SLOT_BYTES

_SLOT = Struct("<IIQQqQ472x")
_CRC_START = 4
assert _SLOT.size == SLOT_BYTES


SEQUENCE_MAX = 2**63 - 1


class Checkpoint(NamedTuple):
    """What a slot holds.

    Attributes:
        sequence: rises by one with every write, to `SEQUENCE_MAX` at most.
        value: the offset: the log start offset, or a consumer's committed offset.
        time: when it was written, in ns since the epoch; information only.
        lost_count: how many records a consumer lost to retention in all.
    """

    sequence: int
    value: int
    time: int
    lost_count: int = 0


def encode_slot(checkpoint: Checkpoint) -> bytes:
    """The 512 bytes of a slot."""
    crc = crc32c(_SLOT.pack(0, 0, *checkpoint)[_CRC_START:])
    return _SLOT.pack(crc, 0, *checkpoint)


def slot_position(sequence: int) -> int:
    """Where the slot with that sequence goes in the file."""
    return SLOT_BYTES * (1 + sequence % 2)


def decode_slots(data: Buffer) -> Checkpoint | None:
    """The newest intact slot of a whole checkpoint file, or None."""
    return max(intact_slots(data), default=None)


def intact_slots(data: Buffer) -> list[Checkpoint]:
    """The intact slots of a whole checkpoint file."""
    found = []
    for position in (SLOT_BYTES, 2 * SLOT_BYTES):
        raw = bytes(data[position : position + SLOT_BYTES])
        if len(raw) == SLOT_BYTES:
            crc, _, *fields = _SLOT.unpack(raw)
            checkpoint = Checkpoint._make(fields)
            is_possible = 0 < checkpoint.sequence <= SEQUENCE_MAX
            is_possible &= checkpoint.value <= OFFSET_MAX
            if is_possible and crc == crc32c(raw[_CRC_START:]):
                found.append(checkpoint)
    return found
