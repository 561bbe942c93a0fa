"""The segments of a log under its one writer: create, roll, seal, look up."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Sequence

from segstore.disk import Disk
from segstore.format.fileheader import KIND_SEGMENT, FileHeader, log_tag
from segstore.format.frame import EncodedFrame
from segstore.format.keyfilter import KeyFilter
from segstore.mutex import Mutex, new_mutex
from segstore.segment.catalog import Catalog, Segment
from segstore.segment.keys import key_filter_of, pause, read_again
from segstore.segment.state import Mark, SegmentState
from segstore.segment.writer import NotWrittenError, SegmentBrokenError, SegmentWriter


class SegmentManager:
    """Rolls and seals segments; whoever calls `write` or `roll` holds the log's append lock.

    A roll only starts a new segment, so that no append waits for a device: the old one is sealed
    later, by `seal`, oldest first.

    Attributes:
        active: the segment that is written to.
        catalog: all segments, replaced as a whole at every change.
        roll_count: how many were rolled since the log was opened.
        is_in_place: whether the log is where it was; another one there has files of the same names.
    """

    def __init__(
        self,
        disk: Disk,
        log_id: bytes,
        catalog: Catalog,
        *,
        segment_size_bytes: int,
        segment_age_s: float,
        index_interval_bytes: int,
        wall_ns: Callable[[], int] = time.time_ns,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        """`now` is the engine's clock, of which the append times are."""
        self._disk = disk
        self._log_id = log_id
        self._segment_size_bytes = segment_size_bytes
        self._segment_age_s = segment_age_s
        self._index_interval_bytes = index_interval_bytes
        self._wall_ns = wall_ns
        self._now = now
        self._catalog_lock = new_mutex()
        self._rolled: list[SegmentWriter] = []
        self.active: SegmentWriter
        self.catalog = catalog
        self.roll_count = 0
        self.is_in_place: Callable[[], bool] = lambda: True

    @property
    def path(self) -> str:
        """The directory of the log, for messages."""
        return self._disk.path

    @property
    def index_capacity(self) -> int:
        """How many index entries a segment has room for."""
        return self._segment_size_bytes // self._index_interval_bytes + 2

    @property
    def room_bytes(self) -> int:
        """How much the active segment still takes before it rolls."""
        return self._segment_size_bytes - self.active.state.size_bytes

    def start(self, base_offset: int) -> None:
        """Create the segment to write to.

        Raises:
            OSError: it can't be created.
        """
        self.adopt(self._create(base_offset))

    def adopt(self, writer: SegmentWriter) -> None:
        """Write to `writer` from now on."""
        self.active = writer
        self.replace(Segment(writer.base_offset, False, 0, None))

    def add_rolled(self, writer: SegmentWriter) -> None:
        """Have `writer` wait for its seal, behind those that wait already."""
        self._rolled.append(writer)
        self.replace(Segment(writer.base_offset, False, 0, None))

    def reset(self, catalog: Catalog) -> None:
        """Forget every segment but those of `catalog`; what was written to is closed."""
        with self._catalog_lock:
            self._rolled = []
            self.catalog = catalog

    def write(self, frames: Sequence[EncodedFrame], append_time: int) -> None:
        """Append frames, all or none, rolling as often as it takes.

        Raises:
            NotWrittenError: they could not be written, and everything is as it was.
            OSError: they may have been written in part; SegmentBrokenError for one.
        """
        if self._fitting(self.active, frames) == len(frames):
            self.active.write(frames, append_time)
        else:
            self._write_rolling(frames, append_time)

    def _write_rolling(self, frames: Sequence[EncodedFrame], append_time: int) -> None:
        mark = self.active.state.mark()
        created: list[SegmentWriter] = []
        writer, waiting = self.active, list(frames)
        try:
            while waiting:
                count = self._fitting(writer, waiting)
                if count == 0:
                    writer = self._create(waiting[0].base_offset)
                    created.append(writer)
                    continue
                writer.write(waiting[:count], append_time)
                del waiting[:count]
        except NotWrittenError:
            self._undo(created, mark)
            raise
        for new in created:
            self._roll_into(new)

    def _undo(self, created: Sequence[SegmentWriter], mark: Mark) -> None:
        """Take back what was written since `mark`, durably.

        Else a power cut could bring refused records back, behind those that came after them.
        """
        try:
            for new in reversed(created):
                new.discard()
            if created:
                self._disk.sync_directory()
            if self.active.state.mark() != mark:
                self.active.cut_back(mark)
        except OSError as error:
            raise SegmentBrokenError(error.errno or errno.EIO, str(error)) from error

    def roll(self) -> bool:
        """Start a new segment, unless the active one is empty; True if it did.

        Raises:
            NotWrittenError: a new one can't be created; the active one goes on.
            OSError: it may be there in part.
        """
        if self.active.state.is_empty:
            return False
        self._roll_into(self._create(self.active.state.end_offset))
        return True

    def is_roll_due(self) -> bool:
        """Whether the first record of the active segment is as old as a segment may get."""
        first = self.active.state.first_append_time
        return first > 0 and self._now() - first >= self._segment_age_s * 10**9

    @property
    def unsealed_count(self) -> int:
        """How many rolled segments wait for their seal."""
        return len(self._rolled)

    def writers(self) -> list[SegmentWriter]:
        """The segments that are not sealed, oldest first: what a sync has to cover."""
        active = self.active  # first: one that is rolled meanwhile is there twice, and not missing
        return [*self._rolled, active]

    def release_rolled(self, count: int) -> list[SegmentWriter]:
        """The `count` oldest of the rolled segments, which have been synced: they can be sealed.

        Not during a sync. What was rolled since that began is none of them: no later sync would
        cover it. Their files are closed, as the seal takes descriptors, which may be short.
        """
        released = self._rolled[:count]
        for writer in released:
            writer.release()
        return released

    def seal(
        self,
        released: Iterable[SegmentWriter],
        lock: Mutex,
        between_bites: Callable[[], None] = pause,
    ) -> None:
        """Seal rolled segments, one caller at a time.

        Each is read first, for up to seconds, in which `between_bites` is called every so often,
        and then sealed under `lock`, which whoever syncs, truncates or closes takes as well; one
        that was dropped meanwhile is not. One with a bad sector stays without a seal, as if it had
        lost its index: those behind it must not wait for it, each time again.

        Raises:
            OSError: a step failed; what was not sealed stays readable and is sealed at the next
                opening.
        """
        failure: OSError | None = None
        for writer in released:
            unread: OSError | None = None
            try:
                state, key_filter = self._read_back(writer, between_bites)
            except OSError as error:
                unread = error
            with lock:
                if writer not in self._rolled:
                    continue
                if unread is None:
                    writer.state = state
                    stamp = writer.seal(key_filter)
                    self.replace(Segment(writer.base_offset, False, stamp.data_bytes, stamp))
                elif unread.errno in (errno.EIO, errno.ENOENT):
                    failure = failure or unread
                else:
                    raise unread
                self._rolled.remove(writer)
        if failure is not None:
            raise failure

    def drop_rolled(self, start_offset: int) -> None:
        """Have rolled segments that end at the log start or below wait for no seal; not in a sync.

        They are about to be removed, and on a full disk there is no room for a seal.
        """
        while self._rolled and self._rolled[0].state.end_offset <= start_offset:
            self._rolled[0].release()
            del self._rolled[0]

    def _read_back(
        self, writer: SegmentWriter, between_bites: Callable[[], None]
    ) -> tuple[SegmentState, KeyFilter | None]:
        """What a seal says of a segment, of which its writer may not know all."""
        tag = log_tag(self._log_id)
        state = writer.state
        if state.is_inherited:
            state = read_again(self._disk, state, tag, between_bites)
        if not state.has_keys:
            return state, None
        return state, key_filter_of(self._disk, writer.base_offset, tag, between_bites)

    def replace(self, segment: Segment) -> None:
        """Put a segment into the catalog, in place of the one with its base offset."""
        with self._catalog_lock:
            self.catalog = self.catalog.with_segment(segment)

    def remove(self, base_offsets: set[int]) -> None:
        """Take segments out of the catalog."""
        with self._catalog_lock:
            self.catalog = self.catalog.without(base_offsets)

    def close(self) -> None:
        """Close every file as it is; nothing waits for a seal any more."""
        for writer in self.writers():
            writer.close()
        self._rolled.clear()

    def _fitting(self, writer: SegmentWriter, frames: Sequence[EncodedFrame]) -> int:
        """How many of the frames go into `writer`; one at least into an empty segment."""
        if writer.is_index_full and not writer.state.is_empty:
            return 0
        size, count = writer.state.size_bytes, 0
        for frame in frames:
            size += len(frame.data)
            if size > self._segment_size_bytes and not (writer.state.is_empty and count == 0):
                break
            count += 1
        return count

    def _create(self, base_offset: int) -> SegmentWriter:
        if not self.is_in_place():
            raise NotWrittenError(errno.ESTALE, "the log was deleted")
        header = FileHeader(KIND_SEGMENT, base_offset, self._log_id, self._wall_ns())
        return SegmentWriter.create(
            self._disk,
            header,
            index_capacity=self.index_capacity,
            index_interval_bytes=self._index_interval_bytes,
        )

    def _roll_into(self, writer: SegmentWriter) -> None:
        self._rolled.append(self.active)
        self.adopt(writer)
        self.roll_count += 1
