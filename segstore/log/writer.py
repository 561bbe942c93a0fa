"""Appending: the tail, the drain, the two durability levels and the sync that threads share.

Locks, in the order they are taken:
1. the sync turn: whoever waits for `durable` waits here, and the one whose turn it is syncs for
   all.
2. the seal lock: one thread at a time reads what it seals, which nobody else waits for.
3. the device lock: one sync at a time, or the last step of a seal.
4. the append lock: who gives out offsets and writes. No device is waited for under it.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, SupportsIndex

from segstore.config import Durability
from segstore.disk import FULL
from segstore.errors import (
    ConfigError,
    LogClosedError,
    RecordTooLargeError,
    SegstoreError,
    StorageError,
    SyncFailedError,
    once_more,
)
from segstore.format.buffers import AnyBuffer, as_bytes
from segstore.format.cutting import cut_batch
from segstore.format.frame import EncodedFrame, encode_frame
from segstore.format.framelayout import RECORD_BYTES_MAX
from segstore.format.kernel import join_whole, measure
from segstore.log.arguments import (
    checked_timestamp,
    key_column,
    time_column,
    value_column,
    with_ends,
)
from segstore.log.clock import EngineClock
from segstore.log.groupcommit import SyncTurn
from segstore.log.manager import SegmentManager
from segstore.mutex import new_mutex
from segstore.segment.keys import pause
from segstore.segment.tail import FRAMES_POSITION, Tail
from segstore.segment.tailbuffer import STAGED_FRAME_BYTES_MAX, TailBuffer
from segstore.segment.tailreader import Staged
from segstore.segment.writer import NotWrittenError, SegmentBrokenError

# How many rolled segments may wait for their seal before an append seals one itself.
UNSEALED_COUNT_MAX = 8


class LogWriter:
    """The one writer of a log. Every method may be called from any number of threads.

    Attributes:
        manager: the segments.
        sync_count: how many syncs were made.
        rewind_count: how often offsets were given out again.
        written_end: one past the last record that stands in a segment; the tail has those after it.
        wake: called after an append while rolled segments wait for their seal, or the tail for a
            sync.
        owner: kept alive, with its lock and its thread, by whoever keeps the plain append only.
    """

    def __init__(
        self,
        manager: SegmentManager,
        tail: Tail | None,
        clock: EngineClock,
        *,
        log_tag: int,
        next_offset: int,
        segments_durable_offset: int,
        tail_durable_offset: int,
        durability: Durability,
        batch_size_bytes: int,
        unsealed_count_max: int,
        bell: memoryview,
        ring: Callable[[], None],
    ) -> None:
        self.manager = manager
        self.sync_count = 0
        self.owner: object = None
        self._tail = tail
        self._clock = clock
        self._log_tag = log_tag
        self._durability = durability
        self._batch_size_bytes = batch_size_bytes
        self._unsealed_count_max = unsealed_count_max
        self._bell = bell
        self._ring = ring
        self._seal_lock = new_mutex()
        self._device_lock = new_mutex()
        self._sync_turn = SyncTurn()
        self._append_lock = new_mutex()
        # A plain OSError is of a sync that failed, and was interrupted before it could say so.
        self._failure: SegstoreError | OSError | None = None
        self._is_halfway = False
        # Something was stored or written, and what is known here may not say so yet: until the
        # gate closes behind it, or it was undone.
        self._is_unsettled = False
        self._process_id = os.getpid()
        self._durable_offset = max(segments_durable_offset, tail_durable_offset)
        self.written_end = next_offset
        self.rewind_count = 0
        # Where there is no tail, a tail without any room does the same.
        view = tail.view if tail is not None else memoryview(bytearray(FRAMES_POSITION))
        self._tail_bytes = len(view)
        self.buffer = TailBuffer(
            view,
            log_tag,
            self._append_lock,
            self._append_slowly,
            self.append_many,
            bell,
            ring,
        )
        self.buffer.batch_bytes_max = min(STAGED_FRAME_BYTES_MAX, batch_size_bytes)
        self.buffer.next_offset = next_offset
        self.buffer.segments_durable_offset = segments_durable_offset
        self._restart_count = 0
        self._is_parked = False
        self._restart_tail()
        self.buffer.append_time = clock.now()
        self.buffer.is_open = True
        self._gate = _Gate(self)
        self.wake: Callable[[], None] = _nobody

    @property
    def end_offset(self) -> int:
        """The log end offset: one past the last acknowledged record."""
        return self.buffer.next_offset

    @property
    def durable_offset(self) -> int:
        """Every record below it survives power loss."""
        return self._durable_offset

    @property
    def segments_durable_offset(self) -> int:
        """Every record below it survives power loss in a segment, without the tail."""
        return self.buffer.segments_durable_offset

    @property
    def failure(self) -> SegstoreError | None:
        """Why nothing can be written any more, or None."""
        failure = self._failure
        if failure is None or isinstance(failure, SegstoreError):
            return failure
        return self._sync_failure(failure)

    def check(self) -> None:
        """Refuse to go on once the log can't be written to any more.

        Raises:
            SegstoreError: the reason.
        """
        self._check_failure()

    def check_place(self) -> None:
        """Refuse everything once the log was deleted, or another was put in its place.

        Raises:
            StorageError: it was.
        """
        if not self.manager.is_in_place():
            with self._append_lock:
                self.fail(_deleted(self.manager.path))
            self._check_failure()

    def append(
        self,
        value: AnyBuffer,
        *,
        key: AnyBuffer | None = None,
        timestamp: SupportsIndex | None = None,
        durability: Durability | None = None,
    ) -> int:
        """Append one record of any kind; see `Log.append`."""
        level = self._level(durability)
        # As the tail takes it: plain bytes, and no level, because a sync covers the tail.
        offset = self.buffer.append(
            as_bytes(value, "value"),
            key=None if key is None else as_bytes(key, "key"),
            timestamp=None if timestamp is None else checked_timestamp(timestamp),
        )
        if level == "durable":
            self._after_append("durable", offset + 1)
        return offset

    def _append_slowly(
        self,
        value: AnyBuffer,
        *,
        key: AnyBuffer | None = None,
        timestamp: SupportsIndex | None = None,
        durability: Durability | None = None,
    ) -> int:
        """What the tail leaves to others: what is not plain, or wrong, or finds no room in it."""
        if (
            durability is not None
            or type(value) is not bytes
            or (key is not None and type(key) is not bytes)
        ):
            return self.append(value, key=key, timestamp=timestamp, durability=durability)
        size = len(value) + (0 if key is None else len(key))
        if size > RECORD_BYTES_MAX:
            raise RecordTooLargeError(size, RECORD_BYTES_MAX)
        if timestamp is not None:
            timestamp = checked_timestamp(timestamp)
        with self._append_lock, self._gate:
            at = time.time_ns() if timestamp is None else timestamp
            base_offset = self.buffer.next_offset
            keys: list[bytes | None] | None = None if key is None else [key]
            ends = [0, len(value)]
            frames = self._frames(base_offset, [value], at, keys, ends)
            self._append_frames(frames, ends, [value], [at], keys)
        self._after_append("written", base_offset + 1)
        return base_offset

    # Whoever calls with the wrong arguments is told so here, and called it by this name.
    _append_slowly.__qualname__ = "Log.append"

    def append_many(
        self,
        values: Iterable[AnyBuffer],
        *,
        keys: Iterable[AnyBuffer | None] | None = None,
        timestamps: Iterable[SupportsIndex] | None = None,
        durability: Durability | None = None,
    ) -> range:
        """Append records together; see `Log.append_many`."""
        if type(values) is list and values and keys is None and timestamps is None:
            level = self._level(durability)
            offsets = self._append_whole(values)
            if offsets is not None:
                self._after_append(level, offsets.stop)
                return offsets
        plain, ends = value_column(values)
        count = len(ends) - 1  # of `plain` too, unless another thread changes it
        plain_keys = None if keys is None else key_column(keys, count)
        if timestamps is not None:
            timestamps = time_column(timestamps, count)
        level = self._level(durability)
        if not count:
            return range(end := self.end_offset, end)  # one look: another thread may append
        with self._append_lock, self._gate:
            at: int | Sequence[int] = time.time_ns() if timestamps is None else timestamps
            base_offset = self.buffer.next_offset
            frames = self._frames(base_offset, plain, at, plain_keys, ends)
            self._append_frames(frames, ends, plain, at, plain_keys)
        self._after_append(level, base_offset + count)
        return range(base_offset, base_offset + count)

    append_many.__qualname__ = "Log.append_many"  # as above

    def _append_whole(self, values: list[Any]) -> range | None:
        """Append a batch of bytes that is one frame, and not a small one; None for any other."""
        if join_whole is None:
            return None
        buffer = self.buffer
        with self._append_lock, self._gate:
            at = time.time_ns()
            base_offset = buffer.next_offset
            joined = join_whole(
                values,
                buffer.batch_bytes_max + 1,
                self._batch_size_bytes,
                at,
                base_offset,
                buffer.append_time,
                self._log_tag,
                buffer.segments_durable_offset,
            )
            if joined is None:
                return None
            count, data = joined
            self._drain()
            self._write([EncodedFrame(data, base_offset, count, at, at, False)])
            buffer.next_offset = self.written_end
        return range(base_offset, base_offset + count)

    def take_over(self, staged: Staged, end_position: int) -> None:
        """Write to a segment what the tail of an earlier writer held, up to a position in it.

        On a full disk it stays in the tail, as if it had just been appended: retention and trim,
        which would free some space, need the log open.

        Raises:
            StorageError: it can't be written for another reason; it is still in the tail.
        """
        if not staged.values:
            return
        with self._append_lock, self._gate:
            has_keys = staged.keys.count(None) < len(staged.keys)
            frames = self._frames(
                self.written_end,
                staged.values,
                staged.timestamps,
                staged.keys if has_keys else None,
            )
            try:
                self._write(frames)
            except StorageError as error:
                if self._is_unsettled or error.errno not in FULL:
                    raise
                self.buffer.stage(staged.values, staged.timestamps, staged.keys)
                self.buffer.position = end_position
                self.buffer.limit = self._tail_bytes  # behind that there is room
            self.buffer.next_offset = self.written_end + self.buffer.staged_count

    def park_tail(self) -> None:
        """Have the tail not begun anew, nor synced instead of the segments, before these have been.

        It holds durably, or may, what they don't. To sync them where that comes up would have
        whoever appends wait for the device.
        """
        self._is_parked = True
        self.buffer.limit = FRAMES_POSITION

    def skip(self, end_offset: int) -> None:
        """Go on at a higher offset, in a new segment: those before it were promised, and are gone.

        Raises:
            StorageError: it can't be created.
        """
        with self._append_lock, self._gate:
            self._drain()
            self.manager.active.state.end_offset = end_offset
            self.written_end = self.buffer.next_offset = end_offset
        self.roll()

    def drain(self) -> int:
        """Write what is staged in the tail to the active segment; the end offset reached.

        Raises:
            StorageError: it can't be written; it stays in the tail.
        """
        with self._append_lock, self._gate:
            self._drain()
            return self.written_end

    def sync(self, offset: int | None = None, *, with_tail: bool = False) -> int:
        """Make every record below `offset` (by default all) durable; the durable offset reached.

        `with_tail` leaves in the tail, durably, what does not fill a frame yet.

        Raises:
            SyncFailedError: a sync failed now or earlier; nothing is acknowledged any more.
            StorageError: the tail can't be drained.
        """
        target = self.end_offset if offset is None else offset
        has_turn = False
        # Whoever sets others free may have looked before a truncation, after which `target` is of
        # another record. And what a truncation took itself never becomes durable.
        while self._durable_offset < target and not has_turn:
            self._check_failure()  # the child of a fork would wait for a thread that it has not
            try:
                has_turn = self._sync_turn.take(target)
                if has_turn:
                    with self._device_lock:
                        if self._durable_offset < target and not (with_tail and self._sync_tail()):
                            self._sync_drained(with_index=False, with_tail=with_tail)
            finally:
                try:
                    self._sync_turn.pass_on(self._durable_offset)
                finally:  # an interrupt of the one leaves it to the other
                    self._sync_turn.pass_on(self._durable_offset)
        return self._durable_offset

    def sync_segments(self, offset: int | None = None) -> None:
        """Make the segments durable without the tail, unless they are up to `offset`; indexes, too.

        Raises:
            SyncFailedError, StorageError: as `sync`.
        """
        self._check_failure()  # as there
        if offset is not None and self.buffer.segments_durable_offset >= offset:
            return
        with self._device_lock:
            self._sync_drained(with_index=True)

    def roll(self) -> bool:
        """Start a new segment unless the active one is empty; True if it did.

        Raises:
            StorageError: it can't be created.
        """
        with self._append_lock, self._gate:
            self._drain()
            self._is_unsettled = True
            try:
                return self.manager.roll()
            except OSError as error:
                self._is_unsettled = not isinstance(error, NotWrittenError)
                raise self._storage_error(error, "a new segment can't be created") from error

    def seal_rolled(self, between_bites: Callable[[], None] = pause) -> int:
        """Seal the segments that had been rolled at the time of the call; how many there were.

        `between_bites` is called every so often, as it may take seconds where there are many keys.

        Raises:
            SyncFailedError: a sync failed; nothing is acknowledged any more.
            StorageError: the index of a segment can't be written; it is sealed another time.
        """
        with self._seal_lock:
            with self._device_lock:
                self._check_failure()
                if not self.manager.unsealed_count:
                    return 0
                self.check_place()
                # The tail stays: to drain it may take a new segment, and so descriptors that only
                # the seal gives back.
                synced_count = self._sync_segments(with_index=False, drains=False)
                released = self.manager.release_rolled(synced_count)
            try:
                self.manager.seal(released, self._device_lock, between_bites)
            except OSError as error:
                raise self._storage_error(error, "a segment can't be sealed") from error
            except (ImportError, MemoryError) as error:
                # Not enough descriptors for what hashes the keys, or memory for all of them. Each
                # step can be done again, and no record depends on it.
                raise StorageError(
                    errno.EAGAIN,
                    f"{self.manager.path}: a segment can't be sealed, and is another time: "
                    f"{error!r}",
                ) from error
            except BaseException:
                self._fail_halfway()
                raise
        return len(released)

    def vouch(self) -> None:
        """Have the tail say, durably, up to where the segments are; until then a seal may alone.

        Raises:
            SyncFailedError: a sync failed; nothing is acknowledged any more.
        """
        with self._device_lock:
            self._check_failure()
            self._sync_segments(with_index=False, drains=False)
            if self._tail is not None:
                self._bring(self._tail.sync)

    def drop_rolled(self, start_offset: int) -> None:
        """Seal no segment any more that ends at the log start offset or below."""
        with self._device_lock:
            self.manager.drop_rolled(start_offset)

    def tick(self) -> None:
        """What the clock asks for: the sync of `sync_interval`, and the roll by age.

        Raises:
            StorageError: a step failed.
        """
        # First, as there may be no room for a new segment.
        if self._recovery_point() < self.end_offset:
            self.sync_segments()
        if self.manager.is_roll_due():
            self.roll()

    def exclusively(self, work: Callable[[], object]) -> None:
        """Have something done while nothing is appended, rolled, synced or sealed.

        Raises:
            SegstoreError: the log can't be written to any more.
        """
        # Not in a generator: whoever keeps the error of an interrupt in one would keep the locks.
        with self._device_lock, self._append_lock, self._gate:
            work()

    def wait(self) -> None:
        """Wait until nobody is in `exclusively`."""
        with self._append_lock:
            pass

    def rewind(self, end_offset: int) -> None:
        """Go on from a lower end offset; whoever calls is in `exclusively` and cut the files."""
        self.written_end = end_offset
        self._durable_offset = min(self._durable_offset, end_offset)
        self.buffer.next_offset = end_offset
        self.buffer.segments_durable_offset = self._durable_offset
        self._is_parked = False
        self._restart_tail()
        # Last: whoever sees it changed sees nothing of before, and whoever doesn't looks again.
        self.rewind_count += 1

    def fail(self, failure: SegstoreError) -> None:
        """Refuse everything from now on."""
        self.buffer.is_open = False
        self._failure = failure

    def close(self) -> None:
        """Drain, sync, and close every file, in whatever state the log is; a second call is fine.

        Raises:
            StorageError: the last drain failed. What was acknowledged is still in the tail and the
                files, and opening the log again goes on from there.
            SyncFailedError: a sync failed now or earlier.
        """
        if self._is_foreign() or isinstance(self._failure, LogClosedError):
            return
        try:
            with self._append_lock:
                is_halfway = self._gate.is_entered and self._failure is None
            if is_halfway:
                self._fail_halfway()
            if self._is_halfway:  # what is known here may be wrong; the files are right
                with self._device_lock:
                    for writer in self.manager.writers():
                        self._bring(writer.sync)
            else:
                self.sync_segments()
            if self._tail is not None:
                self._bring(self._tail.sync)
        except StorageError as error:
            if self._failure is not None or error.errno not in FULL:
                raise
            raise StorageError(
                error.errno,
                f"{self.manager.path}: the log was closed on a full disk; what was acknowledged is "
                "in its tail, and opening it again goes on from there",
            ) from error
        finally:
            with self._device_lock, self._append_lock:
                self.fail(LogClosedError("the log was closed; open it again to append"))
                self.manager.close()
                self.buffer.release()
                if self._tail is not None:
                    self._tail.close()
            # If this thread was interrupted in a sync, the others learn of it here.
            self._sync_turn.pass_on(self._durable_offset)

    def abandon(self) -> None:
        """Refuse everything from now on: for the child of a fork, which has this thread only."""
        self.buffer.is_open = False
        # A thread that was left behind in the parent may have these for ever. They can't be asked:
        # one that a thread had just waited for only says so once the thread goes on.
        self._seal_lock = new_mutex()
        self._device_lock = new_mutex()
        self._append_lock = new_mutex()
        self._failure = _foreign()

    def check_owner(self) -> None:
        """Refuse to go on in the child of a fork.

        Raises:
            LogClosedError: this is one.
        """
        if self._is_foreign():
            raise _foreign()

    def _append_frames(
        self,
        frames: list[EncodedFrame],
        ends: Sequence[int],
        values: list[bytes],
        timestamps: int | Sequence[int],
        keys: list[bytes | None] | None,
    ) -> None:
        """Stage a small frame, write anything else; the records count from then on."""
        buffer = self.buffer
        frame = frames[0].data
        # By the values as they were measured, too: those of more bytes are not copied, and what
        # another thread made of them meanwhile may be less.
        size = max(len(frame), ends[-1])
        if len(frames) == 1 and size <= min(STAGED_FRAME_BYTES_MAX, self._batch_size_bytes):
            if buffer.position + size > buffer.limit:
                self._drain()
            if buffer.position + size <= buffer.limit:
                times = [timestamps] * len(values) if isinstance(timestamps, int) else timestamps
                self._is_unsettled = True
                buffer.store(frame)
                buffer.stage(values, list(times), keys)
                buffer.next_offset += len(values)
                return
        self._drain()
        self._write(frames)
        buffer.next_offset = self.written_end

    def _drain(self) -> None:
        buffer = self.buffer
        if not buffer.staged_count:
            return
        has_keys = buffer.has_keys
        frames = []
        for start, stop in cut_batch(buffer.ends(), self._batch_size_bytes):
            base_offset = self.written_end + start
            lowest, highest, data = buffer.join_frame(start, stop, base_offset)
            frames.append(EncodedFrame(data, base_offset, stop - start, lowest, highest, has_keys))
        self._write(frames)
        self._restart_tail()
        self._is_unsettled = False  # whatever becomes of what follows

    def _restart_tail(self) -> None:
        """Empty the tail, and let it take no more than the active segment still has room for.

        So a segment rolls when it is due, and not up to a tail's worth of records later.
        """
        buffer = self.buffer
        buffer.restart()
        self._restart_count += 1
        if self._is_parked or self._durable_offset > buffer.segments_durable_offset:
            self.park_tail()
        else:
            room = max(self.manager.room_bytes, self._batch_size_bytes)
            buffer.limit = min(self._tail_bytes, FRAMES_POSITION + room)

    def _write(self, frames: list[EncodedFrame]) -> None:
        """Frames to the segments; then, and not before, tell other processes of them."""
        append_time = self.buffer.append_time
        self._is_unsettled = True
        try:
            self.manager.write(frames, append_time)
        except SegmentBrokenError as error:
            self._failure = StorageError(
                error.errno,
                f"{self.manager.path}: a failed write could not be undone ({error.strerror}); "
                "close the log and open it again",
            )
            raise once_more(self._failure) from error
        except OSError as error:
            self._is_unsettled = not isinstance(error, NotWrittenError)
            raise self._storage_error(error, "the records can't be written") from error
        last = frames[-1]
        self.written_end = last.base_offset + last.record_count
        if self._tail is not None:
            self._tail.end.advance(self.written_end)

    def _sync_drained(self, *, with_index: bool, with_tail: bool = False) -> None:
        """Drain and sync the segments; the device lock is held.

        On a full disk, for one, what was staged is synced where it is: power may be lost before
        there is room. With the tail that is enough, as an append that raises must not have its
        records in the log.
        """
        try:
            self._sync_segments(with_index=with_index)
        except StorageError:
            if self._failure is not None:
                raise
            self._sync_segments(with_index=with_index, drains=False)
            if not self._sync_tail(even_full=True) or not with_tail:
                raise

    def _sync_tail(self, *, even_full: bool = False) -> bool:
        """Sync the tail instead, if that is enough and no frame is full; the device lock is held.

        The device has less to do than for a file that grows, as the tail is overwritten in place;
        and the records still get to the segments in full frames. `even_full` asks for no room, and
        has it synced also where that is no promise.
        """
        if self._tail is None:
            return False
        buffer = self.buffer
        with self._append_lock, self._gate:
            target, restart_count = buffer.next_offset, self._restart_count
            is_full = not even_full and (
                buffer.position >= FRAMES_POSITION + self._batch_size_bytes
            )
            if is_full or self.written_end > buffer.segments_durable_offset:
                return False
        self._bring(self._tail.sync)
        with self._append_lock, self._gate:
            # An append has drained it, and stored over it; or after a failed sync of an earlier
            # process the cache may hold pages of it marked clean that the device never got.
            if self._restart_count != restart_count or self._is_parked:
                return False
            # First: once it is known here, another thread may acknowledge a record on the strength
            # of it. And behind the gate, as an interrupt between the two would leave a promise of
            # which nobody here knows.
            self._tail.tail_durable.advance(target)
            self._durable_offset = target
        self.sync_count += 1
        return True

    def _sync_segments(self, *, with_index: bool, drains: bool = True) -> int:
        """Drain, then sync outside the append lock; the device lock is held.

        `drains` is False where it is enough that the segments are synced as they are. Returns how
        many of the rolled segments it covered: meanwhile another append may roll one.
        """
        if with_index:  # which is every so often: a look at the name of a file at each sync adds up
            self.check_place()
        with self._append_lock, self._gate:
            if drains:
                self._drain()
            target = self.written_end
            writers = self.manager.writers()
            rolled_count = self.manager.unsealed_count
        for writer in writers:
            self._bring(partial(writer.sync, with_index=with_index))
        self.sync_count += 1
        self.buffer.segments_durable_offset = target
        self._durable_offset = max(self._durable_offset, target)  # the tail may have more
        with self._append_lock:
            if self._is_parked and not self.buffer.staged_count:
                self._is_parked = False
                self._restart_tail()
        if self._tail is not None:
            self._tail.segments_durable.advance(target)
            if with_index:
                self._tail.recovery_point.advance(target)
        return rolled_count

    def _recovery_point(self) -> int:
        if self._tail is None:
            return self._durable_offset
        return self._tail.recovery_point.read() or 0

    def _after_append(self, level: Durability, end_offset: int) -> None:
        try:
            if self._bell[0]:
                self._ring()
        except ValueError:  # another thread has closed the log since: whoever waits looks by itself
            pass
        if level == "durable":
            self.sync(end_offset, with_tail=True)
        unsealed_count = self.manager.unsealed_count
        if unsealed_count or self._is_parked:
            self.wake()
            # The append has done its part: an error here is for the next call that meets it.
            with suppress(StorageError):
                if unsealed_count > self._unsealed_count_max:
                    self.seal_rolled()
                elif self._is_parked and not self._unsealed_count_max:  # and nobody to wake
                    self.sync_segments()

    def _frames(
        self,
        base_offset: int,
        values: Sequence[bytes],
        timestamps: int | Sequence[int],
        keys: Sequence[bytes | None] | None,
        ends: Sequence[int] | None = None,
    ) -> list[EncodedFrame]:
        """Cut a batch into frames of about `batch_size` that are much the same size."""
        if ends is None:
            values, ends = with_ends(values)
        columns = [ends]
        if keys is not None:
            measured = measure(keys) or measure([key or b"" for key in keys])
            assert measured is not None
            columns.append(measured[1])
        return [
            encode_frame(
                base_offset + start,
                values,
                timestamps,
                keys,
                append_time=self.buffer.append_time,
                log_tag=self._log_tag,
                durable_offset=self.buffer.segments_durable_offset,
                start=start,
                stop=stop,
                ends=ends,
            )
            for start, stop in cut_batch(columns, self._batch_size_bytes)
        ]

    def _level(self, durability: Durability | None) -> Durability:
        if durability is None:
            return self._durability
        if durability not in ("written", "durable"):
            raise ConfigError(f"durability is 'written' or 'durable', not {durability!r}")
        return durability

    def _check_failure(self) -> None:
        failure = self.failure
        if failure is None:
            if not self._is_foreign():
                return
            failure = _foreign()
        if failure is not self._failure:
            self.fail(failure)
        raise once_more(failure)

    def _is_foreign(self) -> bool:
        return os.getpid() != self._process_id

    def _storage_error(self, error: OSError, what: str) -> StorageError:
        advice = (
            "free some space (retention and trim still work) and append again"
            if error.errno in FULL
            else "nothing was acknowledged"
        )
        why = error.strerror or repr(error)
        number = error.errno or errno.EIO
        return StorageError(number, f"{self.manager.path}: {what}: {why}; {advice}")

    def _fail_halfway(self) -> None:
        self._is_halfway = True
        with self._append_lock:
            self.fail(_interrupted(self.manager.path))

    def _bring(self, sync: Callable[[], object]) -> None:
        """Bring something to the device; the device lock is held, or the log is being closed."""
        try:
            sync()
        except OSError as error:
            # Before any call, in which a Ctrl-C that came while the device was slow to fail would
            # have it forgotten: the next sync would say yes.
            self._failure = error
            raise once_more(self._sync_failed(error)) from error

    def _sync_failed(self, error: OSError) -> SyncFailedError:
        failure = self._sync_failure(error)
        # Under the lock, because an append under way in another thread opens the tail at its end.
        with self._append_lock:
            self.fail(failure)
        return failure

    def _sync_failure(self, error: OSError) -> SyncFailedError:
        return SyncFailedError(
            error.errno or errno.EIO,
            f"{self.manager.path}: a sync failed ({error.strerror or repr(error)}), so what the "
            f"disk holds above offset {self._durable_offset} is unknown and nothing more is "
            "acknowledged; close the log and open it again",
        )


def _nobody() -> None:
    """Who seals what was rolled where there is no background thread: the append, a little later."""


def _foreign() -> LogClosedError:
    return LogClosedError(
        "the log belongs to the parent of this process; open it here with mode='r' to read, "
        "or in the parent only to write"
    )


def _deleted(path: str) -> StorageError:
    return StorageError(
        errno.ESTALE,
        f"{path}: the log was deleted while it was open, or another one put in its place, so that "
        "what was appended since is nowhere; close it and open it again",
    )


class _Gate:
    """Shut in front of the plain append, which may not look at the lock (the kernel's).

    ``with lock, gate``: nobody else gives out offsets or writes. The lock is not taken in here: an
    interrupt can come between any two steps in Python, and nobody would let go of it (`mutex`).
    """

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self.is_entered = False

    def __enter__(self) -> None:
        writer = self._writer
        writer._check_failure()
        if self.is_entered:
            writer._is_halfway = True
            writer.fail(_interrupted(writer.manager.path))
            writer._check_failure()
        buffer = writer.buffer
        buffer.is_open = False
        # Of whatever is written now. A record from the tail so gets the time of its drain:
        # never one before its append, which after an idle day would make it a day old.
        buffer.append_time = writer._clock.now()
        self.is_entered = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *_: object
    ) -> None:
        if kind is None or issubclass(kind, Exception):
            writer = self._writer
            if kind is None:
                writer._is_unsettled = False
            elif writer._is_unsettled and writer._failure is None:
                # A RecursionError, for one, or what a signal handler raised.
                writer._is_halfway = True
                writer.fail(_interrupted(writer.manager.path, error))
            self.is_entered = False
            writer.buffer.is_open = writer._failure is None


def _interrupted(path: str, error: BaseException | None = None) -> StorageError:
    why = "by Ctrl-C, or by an error such as a MemoryError" if error is None else f"by {error!r}"
    return StorageError(
        errno.EINTR,
        f"{path}: an append or a sync was interrupted halfway ({why}); what was acknowledged is "
        "safe. Close the log and open it again",
    )
