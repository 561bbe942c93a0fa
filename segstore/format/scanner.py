"""From bytes to frames: the one way that reading, following, recovery and verifying share.

The scanner holds no file. Its owner feeds it the bytes from `position` on and takes events until
it gets `NEED_DATA`; then it feeds again, from the new `position` and at least `wanted_bytes` of
them. What damage means is for the owner to decide: the scanner only says where the next intact
frame is.

Rule 1: a frame counts only if its checksum holds, it is of this log and its base offset is not
        below the one expected: bytes of an earlier life of the file, or a log stored as a value,
        hold intact frames too.
Rule 2: after damage the next frame is searched for at every aligned position, and never by a
        length that the damage may have touched.
Rule 3: the search is bounded (`SEARCH_BYTES_MAX`), because a file made to be slow could otherwise
        make it check the same bytes once for every position.
"""

from enum import Enum
from typing import Literal, NamedTuple, TypeAlias

from segstore.format.batch import RecordBatch
from segstore.format.buffers import ALIGNMENT_BYTES
from segstore.format.frame import decode_frame
from segstore.format.framelayout import FRAME_HEADER_BYTES, FRAME_MAGIC_BYTES, Invalid, NeedData

SEARCH_BYTES_MAX = 1 << 30

# No segment has room for so many records, so that a frame further away is none of its own (and an
# index entry always has room for its offset).
OFFSET_SPAN_MAX = 1 << 31


class Need(Enum):
    """The type of `NEED_DATA`, so that a checker can tell it from the other events."""

    DATA = "need data"


NEED_DATA: Literal[Need.DATA] = Need.DATA


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
    """

    position: int
    end_position: int
    offset: int
    end_offset: int | None
    reason: str


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
        self._damage_position = position
        self._damage_reason: str | None = None
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
        while self._damage_reason is None or self._find_magic():
            at = self.position - self._data_position
            if at >= len(self._data) and self._damage_reason is None:
                break
            found = decode_frame(self._view, at, self.log_tag)
            if isinstance(found, RecordBatch):
                if found.base_offset == self.expected_offset and self._damage_reason is None:
                    return self._take(found)
                if self.expected_offset <= found.base_offset < self._offset_limit:
                    return self._gap_before(found) or self._take(found)
                found = Invalid(f"frame of offset {found.base_offset}, which can't stand here")
            elif isinstance(found, NeedData):
                if not self._is_last and self._may_search(found.size_bytes):
                    self.wanted_bytes = found.size_bytes
                    return NEED_DATA
                found = Invalid("the frame is cut short")
            self._start_damage(found.reason)
            # Not past the bytes at hand: those that follow are still to be looked at.
            end = self._data_position + len(self._data)
            self.position = min(self.position + ALIGNMENT_BYTES, end)
        self.wanted_bytes = FRAME_HEADER_BYTES
        return self._trailing_damage() or NEED_DATA

    def _start_damage(self, reason: str) -> None:
        if self._damage_reason is None:
            self._damage_position = self.position
            self._damage_reason = reason

    def _may_search(self, size_bytes: int) -> bool:
        """Spend `size_bytes` of what the search may check; frames in order cost nothing."""
        if self._damage_reason is not None:
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
        if self._damage_reason is None and batch.base_offset == self.expected_offset:
            return None
        start = self.position if self._damage_reason is None else self._damage_position
        reason = self._damage_reason or "offsets are missing"
        damage = Damage(start, self.position, self.expected_offset, batch.base_offset, reason)
        self._damage_reason = None
        self.expected_offset = batch.base_offset
        return damage

    def _trailing_damage(self) -> Damage | None:
        """The damage that nothing intact follows; once, when the last bytes were fed."""
        if not self._is_last or self._damage_reason is None:
            return None
        self.position = self._data_position + len(self._data)
        reason, self._damage_reason = self._damage_reason, None
        return Damage(self._damage_position, self.position, self.expected_offset, None, reason)

    def _take(self, batch: RecordBatch) -> Frame:
        size_bytes = len(batch.frame)
        frame = Frame(self.position, size_bytes, batch)
        self.position += size_bytes
        self.expected_offset = batch.end_offset
        return frame
