"""The small append: into the tail, and to where the drain takes it from."""

from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate, repeat
from operator import countOf
from time import time_ns
from typing import Any

from segstore.format import kernel
from segstore.format.buffers import ALIGNMENT_BYTES, Buffer
from segstore.format.checksum import crc32c
from segstore.format.framelayout import (
    CRC_START,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    HAS_KEYS,
    TIMESTAMP_MAX,
    TIMESTAMP_MIN,
    WHOLE,
)
from segstore.format.smallframes import KEY_OFFSETS, OVERHEAD_BYTES, PREFIX, SMALL
from segstore.segment.tail import FRAMES_POSITION

# Frames up to this size are staged here, larger ones go straight to the segment.
STAGED_FRAME_BYTES_MAX = 32 * 1024
# A batch of more records does not take the short way: what the long one costs is little for each.
BATCH_COUNT_MAX = 512

_pack_prefix = PREFIX.pack
_pack_small = SMALL.pack
_ZEROS = tuple(bytes(n) for n in range(8))
_ZERO_WORD = bytes(ALIGNMENT_BYTES)


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
        append_time, segments_durable_offset: what goes into the headers of the frames. Below that
            offset every record is durable in the segments, and not in the tail only.
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
        self.segments_durable_offset = 0

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
                end = position + OVERHEAD_BYTES + size + pad
                if key is not None:
                    end += KEY_OFFSETS.size + len(key) + (-len(key) & 7)
                if self.is_open and end <= self.limit:
                    data, attributes = value, 0
                    if key is not None:  # whose size fits its field now
                        columns = KEY_OFFSETS.pack(0, len(key)) + key + _ZEROS[-len(key) & 7]
                        data, attributes = columns + value, HAS_KEYS
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
                            self.segments_durable_offset,
                            0,
                            size,
                        )
                        + data
                        + _ZEROS[pad]
                    )
                    prefix = _pack_prefix(FRAME_MAGIC, crc32c(body))
                    # As `store`, whose call would be a twentieth of all this.
                    view = self._view
                    if end + ALIGNMENT_BYTES <= len(view):
                        view[end : end + ALIGNMENT_BYTES] = _ZERO_WORD
                    else:
                        view[end:] = bytes(len(view) - end)
                    body_at = position + CRC_START
                    view[position:body_at] = _ZERO_WORD
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
                    view[body_at:end] = body
                    view[position:body_at] = prefix
                    self.position = end
                    self.next_offset = offset + 1
                    if self._bell[0]:
                        self._ring()
                    return offset
        return self._append_slowly(value, key=key, timestamp=timestamp, durability=durability)

    # Whoever calls with the wrong arguments is told so here, and called it by this name.
    append.__qualname__ = "Log.append"

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

    append_many.__qualname__ = "Log.append_many"  # as above

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
                self.segments_durable_offset,
            )[2]
            end = position + len(frame)
            if not self.is_open or len(frame) > self.batch_bytes_max or end > self.limit:
                return None
            offsets = range(offset, offset + count)
            prefix, body, body_at = frame[:CRC_START], frame[CRC_START:], position + CRC_START
            view = self._view
            zeros = bytes(min(ALIGNMENT_BYTES, len(view) - end))
            view[end : end + len(zeros)] = zeros
            view[position:body_at] = _ZERO_WORD
            try:
                self.stage(values, times, keys)
            except BaseException:  # as in `append`
                del self._values[place:], self._timestamps[place:]
                for index in range(place, place + count):
                    self._keys.pop(index, None)
                raise
            # No call from here on, as there.
            view[body_at:end] = body
            view[position:body_at] = prefix
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
        # The magic of whatever had the place before goes first, and the new one comes last: what a
        # kill in between leaves behind would look like a damaged record under either.
        body_at = self.position + CRC_START
        view[self.position : body_at] = _ZERO_WORD
        view[body_at:end] = frame[CRC_START:]
        view[self.position : body_at] = frame[:CRC_START]
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
            self.segments_durable_offset,
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
