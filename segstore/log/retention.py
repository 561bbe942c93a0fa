"""Retention: whole segments from the head, when a policy says that they have to go.

Rule 1: age is that of the last append by the engine's clock, never a record's timestamp or a
        file's time.
Rule 2: all policies are asked together, head first, and the first segment that none wants gone
        ends the pass. A second pass right after finds nothing.
Rule 3: the log start offset moves durably, then the files go, lowest first. What an interruption
        leaves below the start offset goes in the next pass.
Rule 4: nothing a registered consumer still needs goes while `waits_for_consumers`, unless the log
        is over its hard size. None is registered between the look at them and rule 3.
"""

import os
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from segstore.disk import Disk
from segstore.format.fileheader import FILE_HEADER_BYTES
from segstore.format.scanner import readable
from segstore.log.clock import EngineClock
from segstore.log.manager import SegmentManager
from segstore.log.startoffset import HeldStart, StartOffset
from segstore.segment.catalog import Catalog, Segment
from segstore.segment.reader import SegmentReader
from segstore.segment.rewrite import remove_files
from segstore.segment.state import SegmentState

Reason = Literal["age", "size", "records", "trimmed"]

# How long a pass waits for a registration or commits under way. They take syncs, and the thread
# that makes the pass has others to make.
HELD_S_MAX = 1.0

_NS_PER_S = 1_000_000_000


class SweptSegment(NamedTuple):
    """A segment that went, or would go.

    Attributes:
        base_offset, end_offset: its offsets, the second one past the last.
        size_bytes: of its data file.
        reasons: which policies wanted it gone; "trimmed" is what lies below the log start offset.
        path: of its data file.
    """

    base_offset: int
    end_offset: int
    size_bytes: int
    reasons: tuple[Reason, ...]
    path: str


class SweepReport(NamedTuple):
    """What a pass of retention did, or would do.

    Attributes:
        dry_run: nothing was changed.
        segments: what went, oldest first.
        start_offset: the log start offset after it.
        record_count: how many records went (those below the log start offset had gone before).
        size_bytes: how many bytes of data files went.
        lost_by_consumer: records that registered consumers had not committed, by consumer; not
            empty only over the hard size, or where retention does not wait for them.
        held_by: the consumers whose committed offsets kept segments that a policy wanted gone.
    """

    dry_run: bool
    segments: tuple[SweptSegment, ...]
    start_offset: int
    record_count: int
    size_bytes: int
    lost_by_consumer: Mapping[str, int]
    held_by: tuple[str, ...]


class RetentionSweeper:
    """Finds and removes expired segments; one pass at a time."""

    def __init__(
        self,
        disk: Disk,
        manager: SegmentManager,
        start: StartOffset,
        clock: EngineClock,
        committed: Callable[[], Mapping[str, int]],
        durable_offset: Callable[[], int],
        let_go: Callable[[int], None],
        *,
        age_s: float | None,
        size_bytes: int | None,
        record_count: int | None,
        waits_for_consumers: bool,
        hard_size_bytes: int | None,
    ) -> None:
        """`committed` gives the committed offset of every registered consumer.

        `durable_offset` is below what the segments are durable; `let_go` has nobody write any more
        to those that end at an offset or below.
        """
        self._disk = disk
        self._manager = manager
        self._start = start
        self._clock = clock
        self._committed = committed
        self._durable_offset = durable_offset
        self._let_go = let_go
        self._age_s = age_s
        self._size_bytes = size_bytes
        self._record_count = record_count
        self._waits_for_consumers = waits_for_consumers
        self._hard_size_bytes = hard_size_bytes
        self._times_read: dict[int, int] = {}

    @property
    def has_work(self) -> bool:
        """Whether a pass may find anything: there is a policy, or a trim was interrupted."""
        limits = (self._age_s, self._size_bytes, self._record_count)
        if any(limit is not None for limit in limits):
            return True
        catalog = self._manager.catalog
        first_end = catalog.end_offset(0) if len(catalog) > 1 else None
        return first_end is not None and first_end <= self._start.value

    def is_active_expired(self) -> bool:
        """Whether the last record of the active segment is over the retention age."""
        state = self._manager.active.state
        return not state.is_empty and self._is_expired(state.last_append_time)

    def sweep(self, *, dry_run: bool, as_if_rolled: bool = False) -> SweepReport:
        """One pass.

        `as_if_rolled` plans a dry run as if the active segment had been rolled and sealed.

        Raises:
            OSError: a step failed; what is left goes in the next pass.
        """
        report, expired = self._plan(dry_run, as_if_rolled)
        if dry_run or not expired:
            return report
        if self._waits_for_consumers:
            with HeldStart(self._disk, HELD_S_MAX) as held, held:
                # Once more, with those that were registered meanwhile.
                report, expired = self._plan(dry_run, as_if_rolled)
                self._start.move(report.start_offset, self._clock.now())
        else:
            self._start.move(report.start_offset, self._clock.now())
        self._let_go(report.start_offset)
        self.remove(expired)
        return report

    def remove(self, segments: list[Segment]) -> None:
        """Remove segments below the log start offset, lowest first.

        Raises:
            OSError: a file can't be removed.
        """
        removed: set[int] = set()
        try:
            for segment in segments:
                # Plain and compressed, as a swap may have failed between the two.
                remove_files(self._disk, segment.base_offset)
                removed.add(segment.base_offset)
                self._times_read.pop(segment.base_offset, None)
        finally:  # what could not be removed stays known, for the next pass
            self._manager.remove(removed)
        self._disk.sync_directory()

    def _plan(self, dry_run: bool, as_if_rolled: bool) -> tuple[SweepReport, list[Segment]]:
        manager = self._manager
        # Before the catalog, which has the size of one that is sealed meanwhile.
        unsealed = {writer.base_offset: writer.state for writer in manager.writers()}
        catalog = manager.catalog
        end_offset = manager.active.state.end_offset
        durable_offset = self._durable_offset()
        sizes = [
            unsealed[s.base_offset].size_bytes if s.base_offset in unsealed else s.data_bytes
            for s in catalog.segments
        ]
        size = sum(sizes)
        candidates = catalog.segments[:-1]
        if as_if_rolled:
            candidates = catalog.segments
            size += FILE_HEADER_BYTES  # of the segment that would follow
        committed: Mapping[str, int] | None = None  # a listing of the directory: only if need be
        start = self._start.value
        swept: list[SweptSegment] = []
        expired: list[Segment] = []
        held: tuple[str, ...] = ()
        for number, segment in enumerate(candidates):
            segment_end = catalog.end_offset(number)
            if segment_end is None:
                segment_end = end_offset
            # Rolled and not sealed yet: a full disk may have no room for the seal.
            is_settled = segment.base_offset not in unsealed or segment_end <= durable_offset
            if not is_settled and not as_if_rolled:
                break
            reasons = self._reasons(catalog, unsealed, number, segment_end, size, end_offset, start)
            if not reasons:
                break
            if committed is None:
                committed = self._committed()
            needed = min(committed.values(), default=end_offset)
            is_needed = segment_end > needed and reasons != ("trimmed",)
            if is_needed and self._waits_for_consumers and not self._is_over_hard_size(size):
                held = tuple(sorted(n for n, offset in committed.items() if offset < segment_end))
                break
            path = os.path.join(self._disk.path, segment.data_name)
            swept.append(
                SweptSegment(segment.base_offset, segment_end, sizes[number], reasons, path)
            )
            expired.append(segment)
            size -= sizes[number]
            start = max(start, segment_end)
        lost = {
            name: start - max(offset, self._start.value)
            for name, offset in sorted((committed or {}).items())
            if offset < start and self._start.value < start
        }
        report = SweepReport(
            dry_run,
            tuple(swept),
            start,
            start - self._start.value,
            sum(s.size_bytes for s in swept),
            lost,
            held,
        )
        return report, expired

    def _reasons(
        self,
        catalog: Catalog,
        unsealed: Mapping[int, SegmentState],
        number: int,
        segment_end: int,
        size: int,
        end_offset: int,
        start: int,
    ) -> tuple[Reason, ...]:
        if segment_end <= self._start.value:
            return ("trimmed",)
        reasons: list[Reason] = []
        if self._age_s is not None and self._is_expired(
            self._last_append_time(catalog, unsealed, number)
        ):
            reasons.append("age")
        if self._size_bytes is not None and size > self._size_bytes:
            reasons.append("size")
        if self._record_count is not None and end_offset - start > self._record_count:
            reasons.append("records")
        return tuple(reasons)

    def _last_append_time(
        self, catalog: Catalog, unsealed: Mapping[int, SegmentState], number: int
    ) -> int:
        """Of a segment: by its stamp, or by its frames where the stamp is lost.

        Where no frame is intact either, it is at most that of the segment behind it.
        """
        segment = catalog.segments[number]
        if segment.base_offset in unsealed:
            return unsealed[segment.base_offset].last_append_time
        if segment.stamp is not None:
            return segment.stamp.last_append_time
        found = self._times_read.get(segment.base_offset)
        if found is None:
            found = self._times_read[segment.base_offset] = self._read_last_append_time(segment)
        return found or self._last_append_time(catalog, unsealed, number + 1)

    def _read_last_append_time(self, segment: Segment) -> int:
        reader = SegmentReader(
            self._disk,
            segment.base_offset,
            None,
            is_compressed=segment.is_compressed,
            stamp=None,
        )
        events = reader.events_unindexed(reads_on=True)  # retention goes on past a bad sector
        times = (batch.header.append_time for event in events for batch in readable(event))
        return max(times, default=0)

    def _is_expired(self, append_time: int) -> bool:
        if self._age_s is None:
            return False
        return self._clock.now() - append_time > self._age_s * _NS_PER_S

    def _is_over_hard_size(self, size: int) -> bool:
        return self._hard_size_bytes is not None and size > self._hard_size_bytes
