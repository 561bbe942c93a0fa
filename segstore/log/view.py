"""What readers see of a log: its positions, its segments and its tail, here or across processes.

A `LogView` answers the same questions for the writer's own process (`WriterView`) and for a
reader of a log that another process may be writing (`FileView`), so that there is one reading
code. Nothing here changes a file.
"""

from __future__ import annotations

import time
from typing import Protocol, TypeAlias

from segstore.disk import Disk
from segstore.errors import storage_error, storage_errors
from segstore.format.fileheader import KIND_START, log_tag
from segstore.format.index import OffsetIndex
from segstore.format.names import START, TRUNCATE
from segstore.log.lock import is_writer_there
from segstore.log.opening import Found, find
from segstore.log.startoffset import StartOffset
from segstore.log.writer import LogWriter
from segstore.mutex import new_recursive_mutex
from segstore.segment.catalog import Catalog, Segment, list_segments
from segstore.segment.checkpointfile import CheckpointFile
from segstore.segment.reader import SegmentReader
from segstore.segment.tail import Tail
from segstore.segment.tailreader import TailReader

# A writer that seals, compresses and sweeps all the time can take a file from under a look, and be
# in the middle of a write at each.
FIND_COUNT_MAX = 20
_WRITE_S = 0.001


# (epoch, log start offset, one past the last record in a segment, the segments), each of them as it
# was then or later than those before it.
Glance: TypeAlias = tuple[bytes | int, int, int, Catalog]


class LogView(Protocol):
    """The state of a log as reading needs it.

    Attributes:
        disk: the directory.
        log_tag: what every frame of the log carries; None while the log has no id.
        catalog: the segments; the last one may be growing.
        tail: looks into the tail, or None where there is none.
        open_files_max: how many segments stay open for reading.
    """

    open_files_max: int
    disk: Disk
    log_tag: int | None
    tail: TailReader | None

    @property
    def catalog(self) -> Catalog:
        """The segments as known now."""

    def start_offset(self) -> int:
        """The log start offset."""

    def end_offset(self) -> int:
        """The log end offset."""

    def durable_offset(self) -> int:
        """Every record below it survives power loss."""

    def written_end(self) -> int:
        """One past the last record that stands in a segment."""

    def live_end_offset(self) -> int:
        """The log end offset, looked for on disk where nothing else tells of new records."""

    def epoch(self) -> bytes | int:
        """Changes whenever offsets are given out again."""

    def known_epoch(self) -> bytes | int | None:
        """The epoch of the last look at the segments; None where that was between two."""

    def is_as_found(self) -> bool:
        """Whether no writer has been at work since the opening, so that what it missed is lost."""

    def glance(self) -> Glance:
        """What a point read needs of the segments, in one call."""

    def refresh(self) -> None:
        """Look again which segments there are."""

    def open_segment(self, segment: Segment, *, with_file: bool = True) -> SegmentReader:
        """Open a segment for reading; without its file, what its index says of it."""

    def start_over(self) -> None:
        """Have locks that nobody holds, in the child of a fork."""

    def close(self) -> None:
        """Let go of what the view alone holds."""


class WriterView:
    """The view of the writer's own process."""

    # A quarter of the descriptors that most systems allow. Files that go are closed at once.
    open_files_max = 256

    def __init__(
        self, disk: Disk, writer: LogWriter, tag: int, tail: TailReader | None, start: StartOffset
    ) -> None:
        self.disk = disk
        self.log_tag: int | None = tag
        self.tail = tail
        self._writer = writer
        self._start = start

    @property
    def catalog(self) -> Catalog:
        """The manager's."""
        return self._writer.manager.catalog

    def start_offset(self) -> int:
        """As retention and trim moved it."""
        return self._start.value

    def end_offset(self) -> int:
        """The writer's."""
        return self._writer.end_offset

    def durable_offset(self) -> int:
        """The writer's."""
        return self._writer.durable_offset

    def written_end(self) -> int:
        """The writer's."""
        return self._writer.written_end

    def live_end_offset(self) -> int:
        """The writer's."""
        return self._writer.end_offset

    def epoch(self) -> int:
        """The writer's, which nobody else gives offsets out again beside."""
        return self._writer.rewind_count

    def known_epoch(self) -> int:
        """The writer's: it knows of every change."""
        return self._writer.rewind_count

    def is_as_found(self) -> bool:
        """No: the writer begins a segment behind what is lost."""
        return False

    def glance(self) -> Glance:
        """Without a call for each."""
        writer = self._writer
        return (
            writer.rewind_count,
            self._start.value,
            writer.written_end,
            writer.manager.catalog,
        )

    def refresh(self) -> None:
        """Wait for a truncation under way; the manager knows of every change."""
        self._writer.wait()

    def start_over(self) -> None:
        """The tail's; the writer is the parent's, and refuses."""
        if self.tail is not None:
            self.tail.start_over()

    def close(self) -> None:
        """Nothing: the tail is the writer's."""

    def open_segment(self, segment: Segment, *, with_file: bool = True) -> SegmentReader:
        """With the writer's own index for the segment it writes to."""
        index: OffsetIndex | None = None
        if not segment.is_sealed:
            for writer in self._writer.manager.writers():
                if writer.base_offset == segment.base_offset:
                    index = writer.state.index
        return SegmentReader(
            self.disk,
            segment.base_offset,
            self.log_tag,
            is_compressed=segment.is_compressed,
            stamp=segment.stamp,
            index=index,
            with_file=with_file,
        )


class FileView:
    """The view of a log that nobody, or another process, is writing to; it changes nothing."""

    # Files that were swapped or deleted take up space until the next look at the directory, which
    # may never come where a reader idles.
    open_files_max = 64

    def __init__(self, disk: Disk, *, index_interval_bytes: int) -> None:
        """Read what opening needs.

        Raises:
            OSError: a file can't be read.
            UnsupportedFormatError: a file is of a later format version.
        """
        self.disk = disk
        self._index_interval_bytes = index_interval_bytes
        self._catalog = Catalog()
        self._tail: Tail | None = None
        self._start: CheckpointFile | None = None
        self._is_closed = False
        self._known_epoch: bytes | None = None
        # One look at a time: one that began before a truncation would take the place of a later
        # one. Recursive, as a signal handler may come into the middle of it, and read as well.
        self._refreshing = new_recursive_mutex()
        self._load()

    @property
    def catalog(self) -> Catalog:
        """As of the last refresh."""
        return self._catalog

    def start_offset(self) -> int:
        """As the checkpoint says now, or where the first segment starts.

        Raises:
            StorageError: it can't be read.
        """
        first = self._catalog.segments[0].base_offset if len(self._catalog) else 0
        checkpoint = self._start
        try:
            if checkpoint is None:
                checkpoint = CheckpointFile.open(self.disk, START, KIND_START, write=False)
                self._start = checkpoint
                if self._is_closed:  # meanwhile, in another thread
                    self._start = None
                current = None if checkpoint is None else checkpoint.current
            else:
                current = checkpoint.reload()
                if current is None:  # damaged by now, and the next writer makes another file
                    self._start = None
        except OSError as error:
            raise storage_error(error, f"{self.disk.path} can't be read") from error
        return first if current is None else current.value

    def end_offset(self) -> int:
        """The end of the segments, or of the tail where that goes on or has lost some."""
        self._look_for_tail()
        # The tail first: what is drained out of it meanwhile is in the segments by the second look,
        # so that the end never seems to step back.
        staged = range(0) if self.tail is None else self.tail.offsets()
        end = self.written_end()
        # A gap between them is what a power cut took.
        reached = max(end, staged.stop) if staged.start <= end else end
        if reached < self._lost_end and self.epoch() == self._loaded_epoch:
            return self._lost_end  # which has its offsets still, and the next writer goes on there
        return reached

    def durable_offset(self) -> int:
        """As the writer last published it."""
        self._look_for_tail()
        if self._tail is None:
            return 0
        registers = (self._tail.segments_durable, self._tail.tail_durable)
        return min(max(register.read() or 0 for register in registers), self.end_offset())

    def written_end(self) -> int:
        """What the writer published, unless a power cut made that wrong.

        After a power cut the register may be ahead of the data or behind it, until the next writer
        has recovered the log; then what was found at opening counts, until the register moves.
        """
        published = None if self._tail is None else self._tail.end.read()
        if published is None:
            return self._found_end
        if published == self._distrusted_end and self.epoch() == self._loaded_epoch:
            return self._found_end
        return published

    def live_end_offset(self) -> int:
        """Without a tail to look into, the end is found by scanning again."""
        if self._tail is None:
            self.refresh()
        return self.end_offset()

    def epoch(self) -> bytes:
        """The tail's."""
        return b"" if self._tail is None else self._tail.epoch.token()

    def known_epoch(self) -> bytes | None:
        """As of the last look at the directory."""
        return self._known_epoch

    def is_as_found(self) -> bool:
        """By the tail; without one nothing tells."""
        # Both, as a writer that set segments aside may have come to the same end with others.
        return self._tail is not None and (
            self._tail.end.read() == self._loaded_end and self.epoch() == self._loaded_epoch
        )

    def glance(self) -> Glance:
        """Without a look into the tail."""
        self._look_for_tail()
        epoch = self.epoch()
        return epoch, self.start_offset(), self.written_end(), self._catalog

    def refresh(self) -> None:
        """List the directory again.

        Raises:
            StorageError: a file can't be read.
        """
        with self._refreshing, storage_errors(f"{self.disk.path} can't be read"):
            epoch = self.epoch()
            # A stamp that is known holds only as long as no segment can have been cut.
            known = self._catalog if epoch == self._known_epoch else None
            is_changing = self.disk.size_of(TRUNCATE) is not None
            self._catalog = self._reached(list_segments(self.disk, known).catalog)
            self._known_epoch = None if is_changing else epoch
            if self._tail is None or self.log_tag is None:
                self._load()

    def _look_for_tail(self) -> None:
        """A log that is being made, or whose truncation is pending, gets its tail later."""
        if self._tail is None and not self._is_closed:
            with storage_errors(f"{self.disk.path} can't be read"):
                is_ready = Tail.is_in(self.disk) and self.disk.size_of(TRUNCATE) is None
            if is_ready:
                self.refresh()

    def start_over(self) -> None:
        """The look at the directory, and the tail's."""
        self._refreshing = new_recursive_mutex()
        if self.tail is not None:
            self.tail.start_over()

    def close(self) -> None:
        """Unmap the tail, and drop the checkpoint, which another thread may be reading."""
        self._is_closed = True
        if self._tail is not None:
            self._tail.close()
        self._start = None

    def open_segment(self, segment: Segment, *, with_file: bool = True) -> SegmentReader:
        """By what the files say."""
        return SegmentReader(
            self.disk,
            segment.base_offset,
            self.log_tag,
            is_compressed=segment.is_compressed,
            stamp=segment.stamp,
            with_file=with_file,
        )

    def _load(self) -> None:
        is_writing = False
        for attempt in range(1, FIND_COUNT_MAX + 1):
            tail = Tail.open(self.disk, write=False)
            epoch = b"" if tail is None else tail.epoch.token()
            published = None if tail is None else tail.end.read()
            try:
                found = find(
                    self.disk,
                    write=False,
                    index_interval_bytes=self._index_interval_bytes,
                    tail=tail,
                )
            except FileNotFoundError:  # swapped or deleted since it was listed
                if attempt == FIND_COUNT_MAX:
                    raise
                continue
            if tail is None:
                break
            end = tail.end.read()
            # Else what was durable before a truncation would be missed in the files behind it, or
            # what was drained meanwhile in the tail.
            is_lost = found.plan.new_segment or found.plan.tail_lost
            is_moved = tail.epoch.token() != epoch or (is_lost and end != published)
            # What stands behind the register is a write that is not acknowledged yet, and may be
            # undone; or a power cut left it, and no writer has been here since.
            is_ahead = end is not None and found.plan.next_offset > end
            is_writing = is_ahead and is_writer_there(self.disk)
            if is_writing:
                time.sleep(_WRITE_S)
            elif not is_moved:
                break
        self.found: Found = found
        self._start = None
        self._found_end = found.plan.next_offset
        self._lost_end = found.plan.tail_lost.stop
        self._loaded_epoch = epoch
        self._loaded_end = published
        is_wrong = published != self._found_end and not is_writing
        self._distrusted_end = published if is_wrong else None
        # What the next writer will set aside must not be read meanwhile.
        unkept = found.run[found.plan.keep :]
        self._unkept = {segment.base_offset for segment in unkept}
        self.tail: TailReader | None = found.reader
        self.log_tag: int | None = None if found.log_id is None else log_tag(found.log_id)
        # Behind the rest: without it all is looked for again, as after Ctrl-C in the middle.
        self._tail = found.tail
        self._catalog = self._reached(found.catalog)
        # Where a truncation is pending there is no tail to have it of, and so no stamp is known.
        self._known_epoch = epoch

    def _reached(self, catalog: Catalog) -> Catalog:
        """Without segments that are being made, or that a power cut left and no writer keeps."""
        reached = catalog.up_to(self.written_end())
        if self._tail is None or self.is_as_found():
            return reached.without(self._unkept)
        return reached
