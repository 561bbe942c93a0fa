"""Starting a writer: put right what `opening.find` found, and hand over something to append to."""

import errno
import os
from contextlib import nullcontext, suppress
from typing import NamedTuple

from segstore.config import LogConfig
from segstore.disk import FULL, Disk
from segstore.errors import StorageError
from segstore.format.fileheader import KIND_SEGMENT, VERSION, FileHeader, log_tag
from segstore.format.names import OFFSET_MAX
from segstore.log.clock import EngineClock
from segstore.log.consumer import hold_back
from segstore.log.manager import SegmentManager
from segstore.log.opening import (
    Found,
    clear,
    cut_torn,
    find,
    lost_ranges,
    open_tail,
    report_of,
    set_odd_tail_aside,
    set_stray_aside,
)
from segstore.log.report import RecoveryReport
from segstore.log.startoffset import HeldStart, StartOffset
from segstore.log.truncation import (
    begin_truncation,
    check_room,
    finish_truncation,
    may_be_pending,
)
from segstore.log.writer import UNSEALED_COUNT_MAX, LogWriter
from segstore.segment.doorbell import Doorbell
from segstore.segment.recovery import ScannedSegment, scan_segment
from segstore.segment.tail import Tail
from segstore.segment.tailreader import TailReader
from segstore.segment.writer import SegmentWriter

# An append needs no look at how many offsets are left.
_END_OFFSET_MAX = OFFSET_MAX >> 1


class Started(NamedTuple):
    """A writer and what belongs to it."""

    writer: LogWriter
    log_id: bytes
    tail: Tail | None
    tail_reader: TailReader | None
    bell: Doorbell
    start: StartOffset
    clock: EngineClock
    recovery: RecoveryReport


def start_writer(disk: Disk, config: LogConfig, created: int) -> Started:
    """Recover the log in `disk`, or begin a new one; the lock is held.

    Raises:
        OSError: a step failed; opening again goes on from there.
        UnsupportedFormatError: a file is of a later format version; nothing was changed.
    """
    interval = config.index_interval
    tail = Tail.open(disk, write=True)
    finish_truncation(disk, tail)
    found = find(disk, write=True, index_interval_bytes=interval, tail=tail)
    _check_end(disk, max(found.plan.next_offset, found.plan.tail_lost.stop))
    log_id = found.log_id or os.urandom(16)
    lost = lost_ranges(disk, found)
    removed = clear(disk, found)
    cuts = cut_torn(disk, found)
    end_offset = found.plan.next_offset
    segments_durable_offset = min(found.plan.vouch, end_offset)
    catalog = found.catalog.without({segment.base_offset for segment in found.run})
    last_append_time = max(
        [s.stamp.last_append_time for s in catalog.segments if s.stamp is not None]
        + [scanned.state.last_append_time for scanned in found.scanned],
        default=0,
    )
    clock = EngineClock(last_append_time)
    manager = SegmentManager(
        disk,
        log_id,
        catalog,
        segment_size_bytes=config.segment_size,
        segment_age_s=config.segment_age,
        index_interval_bytes=interval,
        now=clock.now,
    )
    start = StartOffset.open(disk, log_id, created, found.start_offset)
    _take_over(disk, found, manager, log_id, created, end_offset, segments_durable_offset)
    cuts += set_odd_tail_aside(disk, found)
    tail = open_tail(disk, found, log_id, created, end_offset)
    bell = Doorbell.create(disk, log_id, created)
    writer = LogWriter(
        manager,
        tail,
        clock,
        log_tag=log_tag(log_id),
        next_offset=end_offset,
        segments_durable_offset=segments_durable_offset,
        tail_durable_offset=0 if tail is None else tail.tail_durable.read() or 0,
        durability=config.durability,
        batch_size_bytes=config.batch_size,
        unsealed_count_max=UNSEALED_COUNT_MAX if config.background else 0,
        bell=bell.word,
        ring=bell.ring,
    )
    if found.reader is not None and found.reader.offsets().stop > segments_durable_offset:
        # After a power cut its register may not say that it promised any of it.
        writer.park_tail()
    elif tail is not None:
        tail.uncache()
    published = None if tail is None else tail.end.read()
    writer.take_over(found.from_tail, 0 if found.reader is None else found.reader.end_position)
    if end_offset < min(found.plan.vouch, writer.written_end):
        writer.sync_segments()  # they were promised there, and are again
    stray = set_stray_aside(disk, found, writer.end_offset)
    if stray is not None:
        cuts.append(stray)
    gives_again = bool(cuts) or (tail is not None and (tail.end.read() or 0) > writer.end_offset)
    if writer.end_offset < found.plan.tail_lost.stop:
        writer.skip(found.plan.tail_lost.stop)
        writer.seal_rolled()  # the seal tells the next opening of the gap, once the tail is void
    if tail is not None and gives_again:
        # Offsets will be given out again. What the tail alone had must survive it first.
        writer.sync_segments()
        tail.void(writer.end_offset)
    if tail is not None:
        # A crash may have come between the last write and this; readers go by it.
        tail.end.advance(writer.written_end)
        if published != end_offset:
            # Readers since then don't believe it, and would not where it is the same again.
            tail.begin_epoch()
    # Also where nothing was cut: what no sync had covered may just not be there.
    with HeldStart(disk) as held, held:
        hold_back(disk, writer.end_offset, created)
    tail_reader = found.reader
    if tail_reader is None and tail is not None:
        tail_reader = TailReader(tail.view, log_tag(log_id))
    recovery = report_of(found, cuts, lost, removed, writer.end_offset)
    return Started(writer, log_id, tail, tail_reader, bell, start, clock, recovery)


def truncate(
    disk: Disk,
    started: Started,
    end_offset: int,
    created: int,
    index_interval_bytes: int,
) -> None:
    """Cut the log back to `end_offset` and go on from there, by the way that opening takes.

    Whoever calls has synced the log and is in `HeldStart` and `LogWriter.exclusively`.

    Raises:
        OSError: before the commit point, nothing has changed; behind it, the writer refuses
            everything, and opening the log again carries the truncation out.
    """
    writer, tail, log_id = started.writer, started.tail, started.log_id
    has_begun = False
    try:
        check_room(disk, log_id, end_offset)
        begin_truncation(disk, log_id, created, end_offset)
        has_begun = True
        writer.manager.close()
        finish_truncation(disk, tail)
        found = find(disk, write=True, index_interval_bytes=index_interval_bytes, tail=tail)
        run = {segment.base_offset for segment in found.run}
        writer.manager.reset(found.catalog.without(run))
        segments_durable_offset = min(writer.segments_durable_offset, end_offset)
        _take_over(
            disk, found, writer.manager, log_id, created, end_offset, segments_durable_offset
        )
        hold_back(disk, end_offset, created)
        writer.rewind(end_offset)
    except BaseException as error:
        # Its file may have its name although the sync behind that failed.
        if has_begun or may_be_pending(disk):
            writer.fail(
                StorageError(
                    getattr(error, "errno", errno.EINTR),
                    f"{disk.path}: a truncation to offset {end_offset} was committed and could not "
                    f"be carried out ({error!r}); close the log and open it again, which does",
                )
            )
        raise


def _check_end(disk: Disk, end_offset: int) -> None:
    """Refuse a log end that only a forged file has: behind it records would get no valid offset."""
    if end_offset > _END_OFFSET_MAX:
        raise StorageError(
            errno.EOVERFLOW,
            f"{disk.path}: a file says that the log ends at offset {end_offset}, where no log gets "
            "to; open it with mode='r' to read what it holds",
        )


def _take_over(
    disk: Disk,
    found: Found,
    manager: SegmentManager,
    log_id: bytes,
    created: int,
    end_offset: int,
    segments_durable_offset: int,
) -> None:
    """Seal what was scanned but for the last, and go on writing there, or in a new segment."""
    plan = found.plan
    recovery_point = 0 if found.tail is None else found.tail.recovery_point.read() or 0
    kept = found.scanned[: plan.keep]
    if plan.cut is not None:
        # Frames behind the cut were counted, and their times must not stay in the index.
        kept[-1] = scan_segment(
            disk,
            kept[-1].state.base_offset,
            log_id,
            recovery_point=0,
            index_interval_bytes=kept[-1].state.index_interval_bytes,
        )
    goes_on = bool(kept) and not plan.new_segment and kept[-1].state.end_offset == end_offset
    ends = [scanned.state.base_offset for scanned in kept[1:]] + [end_offset]
    for number, scanned in enumerate(kept):
        writer = _resume(disk, scanned, manager, log_id, created)
        _prove(writer, segments_durable_offset, recovery_point)
        is_last = number == len(kept) - 1
        # A sealed segment that lost its index looks like one that is written to.
        goes_on = goes_on and not (is_last and writer.is_shared and not scanned.state.is_empty)
        if goes_on and is_last:
            manager.adopt(writer)
        else:
            # Damage at its end may have taken the last frames, but not the offsets they had.
            writer.state.end_offset = ends[number]
            writer.sync()
            manager.add_rolled(writer)
            # Each at once, as many may take more descriptors than there are.
            try:
                manager.seal(manager.release_rolled(manager.unsealed_count), nullcontext())
            except OSError as error:
                # On a full disk they wait: retention and trim, which would free some space, need
                # the log open. And a bad sector is no reason to append nothing.
                if error.errno not in (*FULL, errno.EIO):
                    raise
    if not goes_on:
        manager.start(end_offset)


def _resume(
    disk: Disk, scanned: ScannedSegment, manager: SegmentManager, log_id: bytes, created: int
) -> SegmentWriter:
    header = scanned.header
    if header is None:
        header = FileHeader(KIND_SEGMENT, scanned.state.base_offset, log_id, created)
    writer = SegmentWriter.resume(
        disk, header, scanned.state, index_capacity=manager.index_capacity
    )
    if scanned.header is None or scanned.header.version < VERSION:  # frames of VERSION will follow
        writer.write_header()
    return writer


def _prove(writer: SegmentWriter, segments_durable_offset: int, recovery_point: int) -> None:
    """Have the next sync cover what no sync is known to have covered."""
    state = writer.state
    if state.end_offset > recovery_point:
        # On a full disk a file system that copies blocks may refuse it; the index is but a hint.
        with suppress(OSError):
            writer.rewrite_index()
    if state.end_offset <= segments_durable_offset:
        return
    slot = state.index.slot_of_offset(max(0, segments_durable_offset - writer.base_offset))
    writer.rewrite(state.index.position(slot) if slot >= 0 else 0)
