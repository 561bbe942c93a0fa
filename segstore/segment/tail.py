"""The tail: a small mapped file that holds the newest records until they fill a frame.

    0              64                   4096
    +--------------+--------------------+---------+---------+-----+
    | file header  | registers          | frame   | frame   | ... |   1 MiB in all
    +--------------+--------------------+---------+---------+-----+

    register, 32 bytes: two copies of | value u64 | its complement u64 |, written in turn
    at 64: the end offset of the segments, at 96: the durable offset, at 128: the recovery point,
    at 160: the epoch, which rises whenever offsets are given out again

A store into a shared mapping is in the page cache at once, so a record in the tail survives the
process without a system call. The tail is drained into the active segment as full frames, and
then used again from its start.

Rule 1: the file is allocated before it is mapped and never changes its size.
Rule 2: frames follow one another in the file as their offsets do. What an earlier round left
        behind has lower offsets, so it can't be taken for new. A word of zeros behind each
        frame, stored before the frame counts, says the same of values that hold frames.
Rule 3: giving offsets out a second time (`truncate`, or recovery after it cut) voids the tail
        first, because rule 2 rests on offsets that only rise.
Rule 4: a register is one aligned 8-byte store, and what it says is true whenever it says it:
        durable is stored after the sync returned, end after the write returned.
"""

import threading
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, repeat
from operator import countOf
from time import time_ns
from typing import Any, NamedTuple, TypeAlias

from segstore.disk import Disk, Mapping, open_anew
from segstore.errors import LogClosedError
from segstore.format import kernel
from segstore.format.batch import Record, RecordBatch
from segstore.format.buffers import ALIGNMENT_BYTES, Buffer
from segstore.format.checksum import crc32c
from segstore.format.fileheader import (
    FILE_HEADER_BYTES,
    KIND_TAIL,
    FileHeader,
    decode_file_header,
    encode_file_header,
)
from segstore.format.frame import decode_frame, encode_frame
from segstore.format.framelayout import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    FRAME_MAGIC_BYTES,
    HAS_KEYS,
    HEADER,
    TIMESTAMP_MAX,
    TIMESTAMP_MIN,
    WHOLE,
    FrameHeader,
    copy_frame,
    has_magic,
)
from segstore.format.names import OFFSET_MAX, TAIL, temporary
from segstore.format.smallframes import KEY_OFFSETS, OVERHEAD_BYTES, PREFIX, SMALL

TAIL_BYTES = 1 << 20
FRAMES_POSITION = 4096
_FIRST_BODY_AT = FRAMES_POSITION + FRAME_HEADER_BYTES
# Frames up to this size are staged here, larger ones go straight to the segment.
STAGED_FRAME_BYTES_MAX = 32 * 1024
# A batch of more records does not take the short way: what the long one costs is little for each.
BATCH_COUNT_MAX = 512

_END_AT = FILE_HEADER_BYTES
_DURABLE_AT = _END_AT + 32
_RECOVERY_POINT_AT = _DURABLE_AT + 32
_EPOCH_AT = _RECOVERY_POINT_AT + 32
_ALL_ONES = 2**64 - 1

_pack_prefix = PREFIX.pack
_pack_small = SMALL.pack
_ZEROS = tuple(bytes(n) for n in range(8))
_ZERO_WORD = bytes(ALIGNMENT_BYTES)


class Register:
    """One number in the tail's header that other processes and the next open can rely on."""

    def __init__(self, view: memoryview, at: int) -> None:
        self._words = view[at : at + 32].cast("Q")
        self._newest: tuple[int, int] | None = None  # what `advance` stored last, and in which copy

    def read(self) -> int | None:
        """The number, or None when neither copy is whole.

        Raises:
            LogClosedError: the tail was closed.
        """
        try:
            first, first_mark, second, second_mark = self._words.tolist()
        except ValueError:  # released in another thread
            raise LogClosedError() from None
        is_second_whole = second ^ second_mark == _ALL_ONES and second <= OFFSET_MAX
        if first ^ first_mark != _ALL_ONES or first > OFFSET_MAX:
            return second if is_second_whole else None
        return max(first, second) if is_second_whole else first

    def token(self) -> bytes:
        """Something that changes when the number does, at the price of one copy."""
        try:
            return self._words.tobytes()
        except ValueError:
            raise LogClosedError() from None

    def advance(self, value: int) -> None:
        """Store a higher number; a crash in between leaves the last one."""
        if self._newest is None:
            current = self.read()
            self._newest = (
                -1 if current is None else current,
                0 if self._words[0] == current else 2,
            )
        current, turn = self._newest
        if value != current:
            turn ^= 2
            words = self._words
            words[turn] = value
            words[turn + 1] = value ^ _ALL_ONES
            self._newest = (value, turn)

    def set(self, value: int) -> None:
        """Store any number, lower ones too, in both copies."""
        for turn in (0, 2):
            self._words[turn] = value
            self._words[turn + 1] = value ^ _ALL_ONES
        self._newest = None

    def release(self) -> None:
        """Let go of the mapping."""
        self._words.release()


class Tail:
    """The tail file, opened and mapped."""

    def __init__(self, mapping: Mapping, header: FileHeader | None) -> None:
        """`header` is None where it is damaged: the frames say themselves whose they are."""
        self._mapping = mapping
        self.log_id = None if header is None else header.log_id
        self.view = mapping.view
        self.end = Register(self.view, _END_AT)
        self.durable = Register(self.view, _DURABLE_AT)
        self.recovery_point = Register(self.view, _RECOVERY_POINT_AT)
        self.epoch = Register(self.view, _EPOCH_AT)
        self._registers = (self.end, self.durable, self.recovery_point, self.epoch)

    @staticmethod
    def is_in(disk: Disk) -> bool:
        """Whether the log has a tail of the right size.

        Raises:
            OSError: that can't be told.
        """
        return disk.size_of(TAIL) == TAIL_BYTES

    @classmethod
    def open(cls, disk: Disk, *, write: bool) -> "Tail | None":
        """The tail of the log, or None where there is none of the right size.

        Raises:
            UnsupportedFormatError: it is of a later format version.
            OSError: it can't be read.
        """
        if not cls.is_in(disk):
            return None
        file = disk.open(TAIL, write=write)
        try:
            header = decode_file_header(file.read(FILE_HEADER_BYTES, 0), KIND_TAIL)
            if write:  # a copy may have holes, and a store into one on a full disk is SIGBUS
                file.allocate(TAIL_BYTES)
            return cls(file.map(TAIL_BYTES), header)
        finally:
            file.close()

    @classmethod
    def create(cls, disk: Disk, log_id: bytes, created: int, end_offset: int) -> "Tail":
        """A new, empty tail in place of any other, durably.

        Raises:
            OSError: the blocks can't be allocated; nothing is left behind.
        """
        name = temporary(TAIL)
        file = open_anew(disk, name)
        try:
            file.allocate(TAIL_BYTES)
            header = FileHeader(KIND_TAIL, 0, log_id, created)
            file.write([encode_file_header(header)], 0)
            tail = cls(file.map(TAIL_BYTES), header)
            for register in (tail.end, tail.durable, tail.recovery_point):
                register.set(end_offset)
            tail.epoch.set(1)
            tail.sync()
            file.sync()
        except OSError:
            disk.unlink(name)
            raise
        finally:
            file.close()
        disk.rename(name, TAIL)
        disk.sync_directory()
        return tail

    def mend_header(self, log_id: bytes, created: int) -> None:
        """Write the header anew where it is damaged."""
        if self.log_id is None:
            self.log_id = log_id
            header = FileHeader(KIND_TAIL, 0, log_id, created)
            self.view[:FILE_HEADER_BYTES] = encode_file_header(header)

    def void(self, end_offset: int) -> None:
        """Forget every frame and lower every register, durably, before offsets are given again."""
        size = len(self.view) - FRAMES_POSITION
        self.view[FRAMES_POSITION:] = bytes(size)
        for register in (self.end, self.durable, self.recovery_point):
            register.set(min(end_offset, register.read() or 0))
        self.epoch.advance((self.epoch.read() or 0) + 1)
        self.sync()

    def sync(self) -> None:
        """Bring the tail to the device."""
        self._mapping.sync()

    def close(self) -> None:
        """Unmap."""
        for register in self._registers:
            register.release()
        self._mapping.close()


class PythonTailBuffer:
    """The small append: a frame of few records stored into the tail, and staged for the drain.

    This is the fourth of the loops that decide what a record costs; the C kernel has the same
    class, and `TailBuffer` is the one in use. The plain call (bytes, the log's own durability) is
    answered here, and everything else by `append_slowly` and `append_many_slowly`.

    Whoever changes the attributes holds `lock` and has set `is_open` to False meanwhile.

    Attributes:
        is_open: False sends every append to `append_slowly`, which knows why.
        next_offset: the log end offset.
        position: where the next frame goes.
        limit: where the frames have to end, at the end of the tail or before.
        batch_bytes_max: how large a frame of several records may be.
        staged_count: how many records are staged for the drain.
        has_keys: whether any of them has a key.
        append_time, durable_offset: what goes into the headers of the frames.
    """

    def __init__(
        self,
        view: memoryview,
        log_tag: int,
        lock: Any,
        append_slowly: Callable[..., int],
        append_many_slowly: Callable[..., range],
        bell: memoryview,
        ring: Callable[[], None],
    ) -> None:
        """`view` is the whole tail, `bell` one u32 that is not zero while somebody waits."""
        self._view = view
        self._log_tag = log_tag
        self._lock = lock
        self._append_slowly = append_slowly
        self._append_many_slowly = append_many_slowly
        self._bell = bell
        self._ring = ring
        self.limit = len(view)
        self.batch_bytes_max = 0
        self.is_open = False
        self.next_offset = 0
        self.position = FRAMES_POSITION
        self._values: list[bytes] = []
        self._timestamps: list[int] = []
        self._keys: dict[int, bytes] = {}  # by the places of their values
        self.append_time = 0
        self.durable_offset = 0

    def append(
        self,
        value: bytes,
        *,
        key: bytes | None = None,
        timestamp: int | None = None,
        durability: str | None = None,
    ) -> int:
        """Append one record and return its offset; see `Log.append`."""
        is_plain = (
            durability is None
            and (key is None or type(key) is bytes)
            and (
                timestamp is None
                or (type(timestamp) is int and TIMESTAMP_MIN <= timestamp <= TIMESTAMP_MAX)
            )
        )
        # Asked before the lock too: in the child of a fork, nobody may ever let go of it.
        if is_plain and type(value) is bytes and self.is_open:
            with self._lock:
                position = self.position
                size = len(value)
                pad = -size & 7
                data, attributes = value, 0
                if key is not None:
                    columns = KEY_OFFSETS.pack(0, len(key)) + key + _ZEROS[-len(key) & 7]
                    data, attributes = columns + value, HAS_KEYS
                end = position + OVERHEAD_BYTES + len(data) + pad
                if self.is_open and end <= self.limit:
                    time = time_ns() if timestamp is None else timestamp
                    offset = self.next_offset
                    body = (
                        _pack_small(
                            end - position - FRAME_HEADER_BYTES,
                            1,
                            offset,
                            self.append_time,
                            time,
                            time,
                            self._log_tag,
                            attributes,
                            WHOLE,
                            0,
                            self.durable_offset,
                            0,
                            size,
                        )
                        + data
                        + _ZEROS[pad]
                    )
                    frame = _pack_prefix(FRAME_MAGIC, crc32c(body)) + body
                    # As `store`, whose call would be a twentieth of all this.
                    view = self._view
                    if end + ALIGNMENT_BYTES <= len(view):
                        view[end : end + ALIGNMENT_BYTES] = _ZERO_WORD
                    else:
                        view[end:] = bytes(len(view) - end)
                    values, timestamps = self._values, self._timestamps
                    place = len(values)
                    try:
                        if key is not None:
                            self._keys[place] = key
                        values.append(value)
                        timestamps.append(time)
                    except BaseException:  # no memory, or a signal behind a call
                        del values[place:], timestamps[place:]
                        self._keys.pop(place, None)
                        raise
                    # No call from here on: no signal comes between the frame and its offset.
                    view[position:end] = frame
                    self.position = end
                    self.next_offset = offset + 1
                    if self._bell[0]:
                        self._ring()
                    return offset
        return self._append_slowly(value, key=key, timestamp=timestamp, durability=durability)

    def append_many(
        self,
        values: Sequence[bytes],
        *,
        keys: Sequence[bytes | None] | None = None,
        timestamps: Sequence[int] | None = None,
        durability: str | None = None,
    ) -> range:
        """Append records together and return their offsets; see `Log.append_many`."""
        if durability is None and type(values) is list and self.is_open:
            offsets = self._append_batch(values, keys, timestamps)
            if offsets is not None:
                return offsets
        return self._append_many_slowly(
            values, keys=keys, timestamps=timestamps, durability=durability
        )

    def _append_batch(self, values: Any, keys: Any, timestamps: Any) -> range | None:
        """A small and plain batch; None for any other."""
        values = values.copy()  # which nobody else changes
        count = len(values)
        if not 0 < count <= BATCH_COUNT_MAX or countOf(map(type, values), bytes) != count:
            return None
        if keys is not None:
            if type(keys) is not list:
                return None
            keys = keys.copy()
            if len(keys) != count:
                return None
            null_count = countOf(map(type, keys), type(None))
            if countOf(map(type, keys), bytes) + null_count != count:
                return None
            if sum(map(len, filter(None, keys))) > self.batch_bytes_max:
                return None
            if null_count == count:
                keys = None
        times: list[int] | None = None
        if timestamps is not None:
            if type(timestamps) is not list:
                return None
            times = timestamps.copy()
            if len(times) != count or countOf(map(type, times), int) != count:
                return None
            if min(times) < TIMESTAMP_MIN or max(times) > TIMESTAMP_MAX:
                return None
        if sum(map(len, values)) > self.batch_bytes_max:
            return None
        with self._lock:
            offset, position, place = self.next_offset, self.position, len(self._values)
            times = [time_ns()] * count if times is None else times
            frame = kernel.join_frame(
                values,
                None,
                0,
                count,
                times,
                keys,
                offset,
                self.append_time,
                self._log_tag,
                self.durable_offset,
            )[2]
            end = position + len(frame)
            if not self.is_open or len(frame) > self.batch_bytes_max or end > self.limit:
                return None
            offsets = range(offset, offset + count)
            view = self._view
            zeros = bytes(min(ALIGNMENT_BYTES, len(view) - end))
            view[end : end + len(zeros)] = zeros
            try:
                self.stage(values, times, keys)
            except BaseException:  # as in `append`
                del self._values[place:], self._timestamps[place:]
                for index in range(place, place + count):
                    self._keys.pop(index, None)
                raise
            # No call from here on, as there.
            view[position:end] = frame
            self.position = end
            self.next_offset = offsets.stop
            if self._bell[0]:
                self._ring()
            return offsets

    def store(self, frame: Buffer) -> None:
        """Put a frame behind the last; whoever calls stages its records and counts them."""
        view = self._view
        end = self.position + len(frame)
        if end + ALIGNMENT_BYTES <= len(view):
            view[end : end + ALIGNMENT_BYTES] = _ZERO_WORD
        else:
            view[end:] = bytes(len(view) - end)
        view[self.position : end] = frame
        self.position = end

    @property
    def staged_count(self) -> int:
        """How many records the next drain writes."""
        return len(self._values)

    @property
    def has_keys(self) -> bool:
        """Whether any of them has a key."""
        return bool(self._keys)

    def stage(
        self,
        values: list[bytes],
        timestamps: list[int],
        keys: list[bytes | None] | None,
        /,
    ) -> None:
        """Keep records for the drain whose frame was stored; all of them or none.

        Raises:
            ValueError: there are not as many timestamps or keys as values.
            TypeError: a timestamp is not an int.
            OverflowError: one does not fit 64 bits.
        """
        count = len(values)
        if len(timestamps) != count or (keys is not None and len(keys) != count):
            raise ValueError("there must be as many timestamps and keys as values")
        times = array("q", timestamps)
        if keys is not None:
            places = enumerate(keys, len(self._values))
            self._keys.update((place, key) for place, key in places if key is not None)
        self._timestamps += times
        self._values += values

    def ends(self) -> tuple[Sequence[int], ...]:
        """How many bytes the first 0, 1, 2 ... staged values take, and the keys if any."""
        columns = [map(len, self._values)]
        if self._keys:
            places = range(len(self._values))
            columns.append(map(len, map(self._keys.get, places, repeat(b""))))
        return tuple(list(accumulate(sizes, initial=0)) for sizes in columns)

    def join_frame(self, start: int, stop: int, base_offset: int, /) -> tuple[int, int, bytes]:
        """The frame of the staged records from `start` to below `stop`, as the other `join_frame`.

        Raises:
            ValueError: they are not staged.
        """
        count = self.staged_count
        if not 0 <= start < stop <= count:
            raise ValueError(f"there are no records {start} to {stop} among {count}")
        values = self._values[start:stop]
        keys = list(map(self._keys.get, range(start, stop))) if self._keys else None
        return kernel.join_frame(
            values,
            None,
            0,
            stop - start,
            self._timestamps[start:stop],
            keys,
            base_offset,
            self.append_time,
            self._log_tag,
            self.durable_offset,
        )

    def release(self) -> None:
        """Let go of the mapping, for good; `is_open` is False."""
        self._view = memoryview(b"")

    def restart(self) -> None:
        """Start again at the beginning, with nothing staged: all of it was drained."""
        self.position = FRAMES_POSITION
        self._values = []
        self._timestamps = []
        self._keys = {}


TailBuffer: type[PythonTailBuffer] = (
    PythonTailBuffer if kernel.compiled is None else kernel.compiled.TailBuffer
)


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
        records: Iterable[Record] = kernel.iter_records(
            Record, self.base_offset, times, keys, self.values
        )
        return records

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
        self._lock = threading.Lock()  # of all that follows
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
        """Every record in the tail, in one pass over it."""
        with self._lock:
            self._forget()
            self._catch_up()
            return self._known.since(self._known.base_offset)

    def _forget(self) -> None:
        self._known = Staged(0, [], [], [])  # of this round, so far
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
    known_end = reader.offsets().stop
    # What is known to be below the end needs no second look.
    start = reader.end_position if known_end <= end_offset else FRAMES_POSITION
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
    if known_end in (0, end_offset) and len(data) >= FRAME_HEADER_BYTES:
        body_bytes = int.from_bytes(data[8:12], "little")
        mended = bytearray(data[: FRAME_HEADER_BYTES + body_bytes])
        mended[:4] = FRAME_MAGIC_BYTES
        mended[16:24] = end_offset.to_bytes(8, "little")
        mended[48:52] = tag
        if isinstance(decode_frame(memoryview(mended), 0, log_tag), RecordBatch):
            found.append(end_offset)
    return min(found, default=None)
