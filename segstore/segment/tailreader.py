"""Looking into a tail that somebody, here or in another process, is storing into."""

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from segstore.format import kernel
from segstore.format.batch import Record, RecordBatch
from segstore.format.buffers import ALIGNMENT_BYTES
from segstore.format.frame import decode_frame, encode_frame
from segstore.format.framelayout import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC_BYTES,
    HEADER,
    FrameHeader,
    copy_frame,
    has_magic,
)
from segstore.format.names import OFFSET_MAX
from segstore.mutex import new_mutex
from segstore.segment.tail import FRAMES_POSITION

_FIRST_BODY_AT = FRAMES_POSITION + FRAME_HEADER_BYTES


class Staged(NamedTuple):
    """The records of a tail as columns, one item a record, from `base_offset` on.

    `first_header` is that of the first frame in the tail, and empty where there are no records.
    """

    base_offset: int
    values: list[bytes]
    timestamps: list[int]
    keys: list[bytes | None]
    first_header: bytes = b""

    @property
    def end_offset(self) -> int:
        """One past the offset of the last record."""
        return self.base_offset + len(self.values)

    @property
    def offsets(self) -> range:
        """The offsets of the records."""
        return range(self.base_offset, self.end_offset)

    def since(self, offset: int, stop: int = OFFSET_MAX) -> "Staged":
        """The records from `offset` to below `stop`; none where the first of them is missing."""
        first = offset - self.base_offset
        if first < 0:
            return Staged(offset, [], [], [])
        last = stop - self.base_offset
        values, times, keys = self.values, self.timestamps, self.keys
        return Staged(
            offset, values[first:last], times[first:last], keys[first:last], self.first_header
        )

    def records(self) -> Iterable[Record]:
        """The records."""
        keys = self._some_keys()
        times = array("q", self.timestamps)
        count = len(self.values)
        return kernel.iter_records(Record, self.base_offset, times, keys, self.values, count)

    def batch(self) -> RecordBatch:
        """The records as one batch, which says of itself what the first frame in the tail does."""
        first = FrameHeader._make(HEADER.unpack(self.first_header))
        data = encode_frame(
            self.base_offset,
            self.values,
            self.timestamps,
            self._some_keys(),
            append_time=first.append_time,
            log_tag=first.log_tag,
            durable_offset=first.durable_offset,
        ).data
        return RecordBatch(memoryview(data), FrameHeader._make(HEADER.unpack_from(data)))

    def _some_keys(self) -> list[bytes | None] | None:
        return None if self.keys.count(None) == len(self.keys) else self.keys


NO_RECORDS = Staged(0, [], [], [])


class TailReader:
    """Looks into a tail that a writer, here or in another process, is storing into.

    Every frame is copied out and checked before it is believed, so that a store under way or a
    tail used again reads as "not there" and never as a wrong record. What was found stays at hand
    until the tail is used again: a frame is checked once, and a look that finds nothing new costs
    the same however many frames there are.

    Attributes:
        end_position: one past the last frame known.
    """

    def __init__(self, view: memoryview, log_tag: int) -> None:
        self.view = view
        self._log_tag = log_tag
        self.start_over()

    def start_over(self) -> None:
        """Know nothing, and have a lock that nobody holds: in the child of a fork, too."""
        self._lock = new_mutex()  # of all that follows
        self._forget()

    def get(self, offset: int, stop: int = OFFSET_MAX) -> Staged | None:
        """The records from `offset` to below `stop`; None where the first is not there."""
        with self._lock:
            self._catch_up(stop)
            found = self._known.since(offset, stop)
        return found if found.values else None

    def record(self, offset: int) -> Record | None:
        """One record, or None where the tail doesn't have it."""
        with self._lock:
            self._catch_up(offset + 1)
            known = self._known
            index = offset - known.base_offset
            if not 0 <= index < len(known.values):
                return None
            return Record(offset, known.timestamps[index], known.keys[index], known.values[index])

    def offsets(self) -> range:
        """The offsets in the tail, drained ones included; empty at 0 when it is."""
        with self._lock:
            self._catch_up()
            return self._known.offsets

    def read_all(self) -> Staged:
        """Every record in the tail."""
        with self._lock:
            self._catch_up()
            return self._known.since(self._known.base_offset)

    def _forget(self) -> None:
        # Of this round, so far; and nothing made anew, for which there may be no memory.
        self._known = NO_RECORDS
        self.end_position = FRAMES_POSITION

    def _catch_up(self, stop: int = OFFSET_MAX) -> None:
        """Learn of the frames stored since the last look, unless all below `stop` are known.

        A round that was started again begins with another header, which has another offset or,
        after a truncation, another time of append.
        """
        try:
            known = self._known
            if known.first_header:
                if bytes(self.view[FRAMES_POSITION:_FIRST_BODY_AT]) != known.first_header:
                    self._forget()
                elif stop <= known.end_offset or not has_magic(self.view, self.end_position):
                    return
                else:
                    self._take_small_frames()
            while has_magic(self.view, self.end_position) and self._take_frame():
                self._take_small_frames()
        except ValueError:  # the log was closed, which drained the tail: the segments have it all
            self._forget()
        except BaseException:  # no memory, or a signal: the columns may not go together
            self._forget()
            raise

    def _take_small_frames(self) -> None:
        """Those in a row that hold one record each, which a tail is full of."""
        known = self._known
        self.end_position = kernel.take_records(
            self.view,
            self.end_position,
            known.end_offset,
            self._log_tag,
            known.values,
            known.timestamps,
            known.keys,
        )

    def _take_frame(self) -> bool:
        """Any other frame, or the first; False if there is none."""
        known = self._known
        expected = known.end_offset if known.first_header else None
        frame = copy_frame(self.view, self.end_position, expected)
        found = None if frame is None else decode_columns(frame, self._log_tag)
        # Something else may have been stored between the look at the header and the copy.
        if frame is None or found is None or expected not in (None, found[0]):
            return False
        base_offset, values, timestamps, keys = found
        if expected is None:
            self._known = known = Staged(base_offset, [], [], [], frame[:FRAME_HEADER_BYTES])
        known.values.extend(values)
        known.timestamps.extend(timestamps)
        known.keys.extend(keys)
        self.end_position += len(frame)
        return True


Columns: TypeAlias = tuple[int, Sequence[bytes], Sequence[int], Sequence[bytes | None]]


def decode_columns(frame: bytes, log_tag: int) -> Columns | None:
    """(base offset, values, timestamps, keys) of a frame; None where it is not intact, or not all.

    More than all of it is none either: a frame that was replaced by a shorter one while it was
    copied would hide those behind.

    Raises:
        UnsupportedFormatError: the frame is intact, and of a later format version.
    """
    batch = decode_frame(memoryview(frame), 0, log_tag)
    if not isinstance(batch, RecordBatch):
        return None
    if batch.header.body_bytes != len(frame) - FRAME_HEADER_BYTES:
        return None
    try:
        return batch.base_offset, batch.values(), batch.timestamps, batch.keys()
    except ValueError:
        return None


def stray_offset(reader: TailReader, log_tag: int, end_offset: int) -> int | None:
    """The lowest offset at or above `end_offset` that some frame in the tail seems to hold.

    Intact or not: a frame that is torn, damaged, or cut off from the log by one that is. None
    where the tail holds nothing of the kind, so that its bytes can't be taken for new ones.
    """
    # What is known to be below the end needs no second look.
    is_below = reader.offsets().stop <= end_offset
    start = reader.end_position if is_below else FRAMES_POSITION
    data = bytes(reader.view[start:])
    # With the tag, because a value may hold the frames of another log.
    tag = log_tag.to_bytes(4, "little")
    found = []
    at = 0
    while (at := data.find(FRAME_MAGIC_BYTES, at)) >= 0:
        if at % ALIGNMENT_BYTES == 0 and data[at + 48 : at + 52] == tag:
            offset = int.from_bytes(data[at + 16 : at + 24], "little")
            if offset >= end_offset:
                found.append(offset)
        at += 1
    # Damage to one of these marks themselves: the checksum holds once they are put right.
    if len(data) >= FRAME_HEADER_BYTES:
        mended = bytearray(data)
        mended[:4] = FRAME_MAGIC_BYTES
        mended[16:24] = end_offset.to_bytes(8, "little")
        mended[48:52] = tag
        if isinstance(decode_frame(memoryview(mended), 0, log_tag), RecordBatch):
            found.append(end_offset)
    return min(found, default=None)


def read_tail(tail: TailReader | None) -> Staged:
    """What is in the tail, if there is one; to be asked for before the segments are looked at.

    What is drained later is in these then. The other way round a busy writer drains it between the
    two looks.
    """
    return NO_RECORDS if tail is None else tail.read_all()
