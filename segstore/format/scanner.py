"""From bytes to frames: the one way that reading, following, recovery and verifying share.

The scanner holds no file. Its owner feeds it the bytes from `position` on and takes events until
it gets `NEED_DATA`; then it feeds again, from the new `position` and at least `wanted_bytes` of
them. What damage means is for the owner to decide: the scanner only says where the next intact
frame is.

Rule 1: a frame counts only if its checksum holds, it is of this log and its base offset is not
        below the one expected: bytes of an earlier life of the file, or a log stored as a value,
        hold intact frames too.
        A frame with an intact head and bad blocks of values is damage, which says what of it can
        be read.
Rule 2: after damage the next frame is searched for at every aligned position, and never by a
        length that the damage may have touched.
Rule 3: the search is bounded (`SEARCH_BYTES_MAX`), because a file made to be slow could otherwise
        make it check the same bytes once for every position.
"""

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from segstore.format.batch import RecordBatch
from segstore.format.buffers import ALIGNMENT_BYTES
from segstore.format.frame import decode_frame
from segstore.format.framelayout import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC_BYTES,
    MISMATCH,
    NeedData,
)
from segstore.format.salvage import Hole, HoledBatch

SEARCH_BYTES_MAX = 1 << 30

# No segment has room for so many records, so that a frame further away is none of its own (and an
# index entry always has room for its offset).
OFFSET_SPAN_MAX = 1 << 31


class Need(Enum):
    """The type of `NEED_DATA`, so that a checker can tell it from the other events."""

    DATA = "need data"


NEED_DATA: Literal[Need.DATA] = Need.DATA


if TYPE_CHECKING:
    Parts: TypeAlias = tuple["RecordBatch | Damage", ...]
else:  # a forward reference would be compiled at every import
    Parts = tuple


class Frame(NamedTuple):
    """An intact frame and where it stands."""

    position: int
    size_bytes: int
    batch: RecordBatch


class Damage(NamedTuple):
    """Bytes that are no frame, or offsets that no frame holds, before the next intact frame.

    Attributes:
        position: where the bytes start.
        end_position: where the next intact frame starts, or the end of the file.
        offset: the first offset that is missing.
        end_offset: the base offset of the next intact frame (equal to `offset` if none is
            missing), or None where no intact frame follows.
        reason: which check failed at `position`.
        parts: of one frame whose head is intact, what can be read as slices of its batch, and
            between them the damage that can't; for any other damage, empty.
    """

    position: int
    end_position: int
    offset: int
    end_offset: int | None
    reason: str
    parts: Parts = ()

    @property
    def lost(self) -> "tuple[Damage, ...]":
        """What can't be read: the damage itself, or those of its parts."""
        return tuple(part for part in self.parts if isinstance(part, Damage)) or (self,)


def readable(event: Frame | Damage) -> tuple[RecordBatch, ...]:
    """The batches that an event gives, which for damage are the parts that can be read."""
    if isinstance(event, Frame):
        return (event.batch,)
    return tuple(part for part in event.parts if isinstance(part, RecordBatch))


Event: TypeAlias = Frame | Damage | Literal[Need.DATA]


class Scanner:
    """Turns the bytes of one segment into frames and damage, in order.

    Attributes:
        position: where the bytes of the next `feed` have to start.
        wanted_bytes: how many of them it takes, at least, to get further.
        expected_offset: the offset that comes next.
    """

    def __init__(self, log_tag: int | None, expected_offset: int, position: int) -> None:
        """`position` is where the frame with `expected_offset` should start.

        `log_tag` None takes frames of any log (where nothing is left that names ours).
        """
        self.log_tag = log_tag
        self.expected_offset = expected_offset
        self._offset_limit = expected_offset + OFFSET_SPAN_MAX
        self.position = position
        self.wanted_bytes = FRAME_HEADER_BYTES
        self._data = b""
        self._view = memoryview(self._data)
        self._data_position = position
        self._is_last = False
        # Begun, its end not found yet; and position and first offset of its last part, if it has
        # parts.
        self._damage: Damage | None = None
        self._open_hole: tuple[int, int] | None = None
        self._search_bytes_left = SEARCH_BYTES_MAX

    def feed(self, data: bytes, *, is_last: bool = False) -> None:
        """Hand over the bytes from `position` on; they replace what was fed before.

        `is_last` says that nothing follows them, so that a frame which ends behind them is torn
        and not merely incomplete.
        """
        self._data = data
        self._view = memoryview(data)
        self._data_position = self.position
        self._is_last = is_last

    def skip_to(self, position: int, reason: str) -> None:
        """Take the bytes up to `position` for damage, because they could not even be read."""
        self._start_damage(reason)
        self.position = position
        self.feed(b"")

    def next(self) -> Event:
        """The next event; `NEED_DATA` after the last.

        Raises:
            UnsupportedFormatError: an intact frame is of a later format version.
        """
        while self._damage is None or self._find_magic():
            at = self.position - self._data_position
            if at >= len(self._data) and self._damage is None:
                break
            found = decode_frame(self._view, at, self.log_tag)
            batch, holes = found if isinstance(found, HoledBatch) else (found, ())
            if isinstance(batch, RecordBatch):
                if self.expected_offset <= batch.base_offset < self._offset_limit:
                    event = self._gap_before(batch) or self._take(batch, holes)
                    if event is not None:
                        return event
                    continue
                reason = f"frame of offset {batch.base_offset}, which can't stand here"
            elif isinstance(batch, NeedData):
                if not self._is_last and self._may_search(batch.size_bytes):
                    self.wanted_bytes = batch.size_bytes
                    return NEED_DATA
                reason = "the frame is cut short"
            else:
                reason = batch.reason
            self._start_damage(reason)
            # Not past the bytes at hand: those that follow are still to be looked at.
            end = self._data_position + len(self._data)
            self.position = min(self.position + ALIGNMENT_BYTES, end)
        self.wanted_bytes = FRAME_HEADER_BYTES
        return self._trailing_damage() or NEED_DATA

    def _start_damage(self, reason: str) -> Damage:
        """Damage from the position on, unless some was begun before."""
        if self._damage is None:
            at = self.position
            self._damage = Damage(at, at, self.expected_offset, None, reason)
        return self._damage

    def _may_search(self, size_bytes: int) -> bool:
        """Spend `size_bytes` of what the search may check; frames in order cost nothing."""
        if self._damage is not None:
            self._search_bytes_left -= size_bytes
        return self._search_bytes_left > 0

    def _find_magic(self) -> bool:
        """Move to the next aligned magic; False when the bytes at hand have no more."""
        at = self.position - self._data_position
        while self._search_bytes_left > 0:
            at = self._data.find(FRAME_MAGIC_BYTES, at)
            if at < 0:
                break
            if (self._data_position + at) % ALIGNMENT_BYTES == 0:
                self.position = self._data_position + at
                size_bytes = int.from_bytes(self._data[at + 8 : at + 12], "little")
                return self._may_search(min(size_bytes, len(self._data) - at))
            at += 1
        # Aligned bytes that could still grow into a magic stay for the next feed.
        end = self._data_position + len(self._data)
        self.position = max(self.position, end - end % ALIGNMENT_BYTES)
        return False

    def _gap_before(self, batch: RecordBatch) -> Damage | None:
        """The damage, or the hole in the offsets, that ends where `batch` starts; once."""
        if self._damage is None and batch.base_offset == self.expected_offset:
            return None
        damage = self._end_damage(self._start_damage("offsets are missing"), batch.base_offset)
        self.expected_offset = batch.base_offset
        return damage

    def _trailing_damage(self) -> Damage | None:
        """The damage that nothing intact follows; once, when the last bytes were fed."""
        if not self._is_last or self._damage is None:
            return None
        self.position = self._data_position + len(self._data)
        return self._end_damage(self._damage, None)

    def _end_damage(self, damage: Damage, end_offset: int | None) -> Damage:
        """What was begun as `damage`: it ends at the position, and where `end_offset` says."""
        parts = damage.parts
        if self._open_hole is not None:
            start, offset = self._open_hole
            parts += (Damage(start, self.position, offset, end_offset, damage.reason),)
        self._damage = self._open_hole = None
        return damage._replace(end_position=self.position, end_offset=end_offset, parts=parts)

    def _take(self, batch: RecordBatch, holes: Sequence[Hole]) -> Frame | Damage | None:
        """The frame at the position, or the damage to it; None if its end is to be searched for."""
        position = self.position
        size_bytes = len(batch.frame)
        if not holes:
            self.position = position + size_bytes
            self.expected_offset = batch.end_offset
            return Frame(position, size_bytes, batch)
        offset = batch.base_offset
        parts: list[RecordBatch | Damage] = []
        for hole in holes:
            start, lost = position + hole.start, hole.offsets
            if offset < lost.start:
                parts.append(batch.slice(offset, lost.start))
            offset = lost.stop
            if hole.stop == size_bytes:
                # Bytes may be missing or too many in it, so that the next frame is not where this
                # one says: rule 2.
                self._damage = self._start_damage(MISMATCH)._replace(parts=tuple(parts))
                self._open_hole = start, lost.start
                self.position = start
                self.expected_offset = lost.start
                return None
            stop = position + hole.stop
            parts.append(Damage(start, stop, lost.start, lost.stop, MISMATCH))
        if offset < batch.end_offset:
            parts.append(batch.slice(offset, batch.end_offset))
        self.position = end = position + size_bytes
        self.expected_offset = batch.end_offset
        return Damage(position, end, batch.base_offset, batch.end_offset, MISMATCH, tuple(parts))
